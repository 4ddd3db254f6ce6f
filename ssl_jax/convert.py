"""Converts data and weights, and lists data sets as they are published.

    python -m ssl_jax.convert index --layout fsdd --from free-spoken-digit-dataset --to data/fsdd

    python -m ssl_jax.convert data --from kind=folder path=recordings label=folder --to shards
    python -m ssl_jax.convert data --config configs/data2vec/kws.py --split train --to shards

    python -m ssl_jax.convert import --from WEIGHTS --to runs/hubert
    python -m ssl_jax.convert export --from runs/hubert --to-format transformers --to DIR

`data` writes any source of audio or images (--modality image) losslessly as ArrayRecord shards,
which kind="array_record" reads. After an interruption it continues with the first unfinished shard.

`index` writes the table (index.tsv; for CIFAR-10 train.tar and test.tar) that the programs in
experiments/ read.

`import` makes a run folder from a transformers folder (safetensors, no torch needed) or a .pt file
of fairseq, s3prl, BEATs or LightHuBERT. Load it, evaluate it, fine-tune from it with
config.init_from, or continue its pre-training: `python -m ssl_jax.train --config RUN/config.json
--workdir RUN`. `extract` makes a run of one subnet of LightHuBERT. `export` writes a checkpoint
that transformers or s3prl load, data2vec 2.0 or LightHuBERT in fairseq's format, or BEATs in that
of its authors.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_jax.core import lock, paths, progress, terminal
from ssl_jax.data import shards
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import pixels
from ssl_jax.data.readers.base import Source
from ssl_jax.data.readers.sources import open_items, open_source

LAYOUTS = (
    *("fsdd", "esc50", "esc10", "speechocean762", "timit", "grid", "ljspeech", "librosa"),
    "cifar10",
)


def _pairs(words: Sequence[str]) -> dict[str, Any]:
    """Parses key=value words; a value that is valid JSON is parsed as such, and a.b=v nests."""
    out: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise DataError(f"--from {word!r}: expected key=value, such as kind=folder")
        at = out
        *parents, last = key.split(".")
        for parent in parents:
            at = at.setdefault(parent, {})
        try:
            at[last] = json.loads(value)
        except json.JSONDecodeError:
            at[last] = value
        if last in ("kind", "path", "label") or parents == ["where"]:
            at[last] = value  # these are names, even if they look like numbers
    return out


def _run_data(args: argparse.Namespace) -> None:
    """Opens the sources that the options name, and converts them."""
    if bool(args.config) == bool(args.pairs):
        raise DataError("give either --from key=value ... or --config C --split S")
    if args.config:
        from ssl_jax.core import config as config_lib  # imports ml_collections

        section = config_lib.load(args.config, args.override).data
        if not len(section[args.split]):
            raise DataError(f"config.data.{args.split} names no source to convert")
        configs = {k: section[args.split][k].to_dict() for k in section[args.split]}
        on_bad, share = section.on_bad, section.max_bad_share
        modality = section.get("modality", "audio")
        largest = section.get("max_megapixels", pixels.MAX_MEGAPIXELS)
    else:
        configs, on_bad, share = {"from": _pairs(args.pairs)}, args.on_bad, args.max_bad_share
        modality, largest = args.modality, pixels.MAX_MEGAPIXELS
    sources = _opened({f"{args.split}.{name}": c for name, c in configs.items()}, modality)
    with lock.hold(args.to):
        written = shards.write(
            sources,
            paths.of(args.to),
            shards=args.shards,
            what={"split": args.split, "sources": configs},
            on_bad=on_bad,
            max_bad_share=share,
            max_megapixels=largest,
        )
    print(f"{written} rows in {args.to}: use dict(kind='array_record', path={args.to!r})")


def _opened(named: dict[str, Any], modality: str) -> Sequence[Source]:
    """Opens the sources and prints their size."""
    if modality == "image":
        found = [open_items(name, section, "image") for name, section in named.items()]
        print(f"{sum(map(len, found))} images")
        return found
    if modality != "audio":
        raise DataError(f"config.data.modality={modality!r} has no shards: use its files directly")
    sources = [open_source(name, section) for name, section in named.items()]
    seconds = sum(float((s.samples / np.maximum(s.rates, 1)).sum()) for s in sources)
    print(f"{sum(map(len, sources))} recordings, {seconds / 3600:.2f} hours")
    return sources


def _run_index(args: argparse.Namespace) -> None:
    """Writes the table of a published data set."""
    from ssl_jax.data import published  # only this command needs it

    if args.every < 1:
        raise DataError(f"--every is {args.every}: use 1, for all rows, or more")
    source, target = paths.local(args.source, "--from"), paths.local(args.to or args.source, "--to")
    rows = published.write(args.layout, source, target, args.every)
    print(f"{rows} rows in {target}; licence: {published.LICENCES[args.layout]}")


def _run_import(args: argparse.Namespace) -> None:
    """Makes a run folder from the weights of another library."""
    from ssl_jax.stages import weights  # imports jax

    given = (args.config, args.override)
    step = weights.import_run(args.source, args.to, *given, method=args.method)
    print(
        f"step {step} in {args.to}: use ssl_jax.load({args.to!r}), config.init_from={args.to}, or"
    )
    print(f"python -m ssl_jax.train --config {args.to}/config.json --workdir {args.to}")


def _run_extract(args: argparse.Namespace) -> None:
    """Makes a run of one subnet of a supernet."""
    from ssl_jax.stages import extraction  # imports jax

    step = int(args.step) if args.step.isdigit() else args.step or None
    subnet = extraction.extract_run(args.source, args.to, args.subnet, step)
    print(f"subnet {subnet} in {args.to}: use ssl_jax.load({args.to!r}), or config.init_from")


def _run_export(args: argparse.Namespace) -> None:
    """Writes the weights of a run for another library."""
    from ssl_jax.stages import weights  # imports jax

    step = int(args.step) if args.step.isdigit() else args.step or None
    weights.export_run(args.source, args.to, args.to_format, step, args.family, stream=args.stream)


def _devices() -> str:
    from ssl_jax.engine import hosts  # imports jax

    terminal.no_tpu()
    return hosts.devices()


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    top = argparse.ArgumentParser(
        prog="python -m ssl_jax.convert", description=__doc__.split("\n")[0]
    )
    commands = top.add_subparsers(dest="command", required=True)
    sub = commands.add_parser("data", help="convert any source to ArrayRecord shards")
    sub.add_argument("--from", dest="pairs", nargs="+", metavar="KEY=VALUE", default=[])
    sub.add_argument("--config", default="", help="a config file whose data are converted")
    sub.add_argument("--override", nargs="*", default=[], metavar="a.b=v", help="config overrides")
    sub.add_argument("--split", default="train", choices=("train", "valid", "test"))
    sub.add_argument("--modality", default="audio", choices=("audio", "image"))
    sub.add_argument("--to", required=True, help="the folder to write shards to")
    sub.add_argument("--shards", type=int, default=1)
    sub.add_argument("--on_bad", default="raise", choices=("raise", "skip"))
    sub.add_argument("--max_bad_share", type=float, default=0.01)
    sub.set_defaults(run=_run_data)
    sub = commands.add_parser("index", help="list a data set as it is published, for experiments/")
    sub.add_argument("--layout", required=True, choices=LAYOUTS)
    sub.add_argument("--from", dest="source", required=True, help="the unpacked download")
    sub.add_argument("--to", default="", help="the folder of the table (default: that of --from)")
    sub.add_argument("--every", type=int, default=1, help="keep every n-th row")
    sub.set_defaults(run=_run_index)
    sub = commands.add_parser("import", help="make a run of transformers, fairseq or s3prl weights")
    sub.add_argument("--from", dest="source", required=True, help="a folder or a file")
    sub.add_argument("--to", required=True, help="the run folder to create")
    sub.add_argument("--config", default="", help="the config to train on with (default: its own)")
    sub.add_argument("--override", nargs="*", default=[], metavar="a.b=v", help="config overrides")
    sub.add_argument("--method", default="", help="the module that a .json config may import")
    sub.set_defaults(run=_run_import)
    sub = commands.add_parser("extract", help="make a run of one subnet of a LightHuBERT run")
    sub.add_argument("--from", dest="source", required=True, help="a run folder")
    sub.add_argument("--to", required=True, help="the run folder to create")
    sub.add_argument(
        "--subnet", default="", help="a name, or width/heads/ratios (default: its own)"
    )
    sub.add_argument("--step", default="", help="a saved step, or best (default: the newest)")
    sub.set_defaults(run=_run_extract)
    sub = commands.add_parser(
        "export", help="write the weights of a run in the format of another library"
    )
    sub.add_argument("--from", dest="source", required=True, help="a run folder")
    sub.add_argument("--to", required=True, help="the folder to write")
    sub.add_argument(
        "--to-format",
        default="transformers",
        choices=("transformers", "s3prl", "fairseq", "original"),
    )
    sub.add_argument("--step", default="", help="a saved step, or best (default: the newest)")
    sub.add_argument("--stream", default="", help="which encoder of a run that has several")
    sub.add_argument("--family", default="", help="the model_type, if the encoder fits several")
    sub.set_defaults(run=_run_export)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code."""
    args = parser().parse_args(arguments)
    terminal.forgive()
    try:
        progress.tell(
            _devices() if args.command in ("import", "extract", "export") else terminal.on_cpu()
        )
        args.run(args)
    except KeyboardInterrupt:
        progress.clear()
        progress.tell("Ctrl-C: ended; the same command begins again")
        return 130
    except (ValueError, OSError, lock.Busy) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
