"""Turns data into other layouts.

    python -m ssl_jax.convert data --from kind=folder path=recordings label=folder --to shards
    python -m ssl_jax.convert data --config configs/data2vec/kws.py --split train --to shards

Writes any source as ArrayRecord shards, without loss; read them by kind="array_record". A run
that was interrupted goes on with the first shard that is not finished.
"""

import argparse
import hashlib
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tqdm

from ssl_jax.data import records
from ssl_jax.data.errors import Bad, BadFile, BadTally, DataError
from ssl_jax.data.source import Recordings
from ssl_jax.data.sources import open_source

_SIGNATURE = "convert.json"


def data(
    sources: Sequence[Recordings],
    to: pathlib.Path,
    *,
    shards: int,
    what: Any,
    on_bad: str = "raise",
    max_bad_share: float = 0.01,
) -> int:
    """Writes every row of the sources as ArrayRecord shards and returns how many rows it wrote.

    what: what the sources were opened from; a folder begun for something else is refused.
    on_bad: "skip" leaves out files that cannot be decoded and lists them in <to>/skipped.jsonl.
    """
    total = sum(len(s) for s in sources)
    if not 1 <= shards <= total:
        raise DataError(f"--shards is {shards}: use 1 to {total}, the number of rows")
    names = sorted({name for s in sources for name in s.columns} - {"audio", "samples", "rate"})
    _sign(to, {"what": what, "rows": total, "shards": shards, "columns": names})
    tally = BadTally(max_bad_share, total, to / "skipped.jsonl")
    borders = np.linspace(0, total, shards + 1).astype(int)
    with tqdm.tqdm(total=total, desc=f"writing {to}", unit="row", delay=2) as bar:
        for shard in range(shards):
            path = to / f"data-{shard:05d}-of-{shards:05d}{records.SUFFIX}"
            ids = range(borders[shard], borders[shard + 1])
            if path.exists():
                bar.update(len(ids))
                continue
            rows = _rows(sources, ids, names, tally if on_bad == "skip" else None, bar)
            records.write_shard(path, rows, names)
    return total - len(tally)


def _rows(
    sources: Sequence[Recordings], ids: range, names: list[str], tally: BadTally | None, bar: tqdm.tqdm
) -> Iterator[tuple[np.ndarray, int, dict[str, str]]]:
    """Yields audio (n,) int16, rate and columns of the rows; `tally` None: bad files raise."""
    first = np.cumsum([0] + [len(s) for s in sources])
    for i in ids:
        k = int(np.searchsorted(first, i, "right")) - 1
        source, row = sources[k], int(i - first[k])
        bar.update()
        try:
            audio, rate = source.read(row)
            if not len(audio):
                raise BadFile(source.where(row), "empty: 0 samples")
        except BadFile as e:
            if tally is None:
                raise
            tally.add([Bad(i, e.where, e.reason)])
            continue
        values = {n: str(source.columns[n][row]) if n in source.columns else "" for n in names}
        yield audio, rate, values


def _sign(to: pathlib.Path, request: dict) -> None:
    """Notes what the folder holds; raises DataError if it was begun for something else."""
    text = json.dumps(request, sort_keys=True, default=str)
    sign = hashlib.sha256(text.encode()).hexdigest()[:16]
    note = to / _SIGNATURE
    to.mkdir(parents=True, exist_ok=True)
    if note.exists() and json.loads(note.read_text())["signature"] != sign:
        raise DataError(f"--to {to} was begun with other options, see {note}: use a new folder")
    if not note.exists() and any(to.glob(f"*{records.SUFFIX}")):
        raise DataError(f"--to {to} holds other shards: use a new folder")
    note.write_text(json.dumps({"signature": sign, **json.loads(text)}, indent=1))


def _pairs(words: Sequence[str]) -> dict[str, Any]:
    """Reads key=value words; values are JSON where they can be, and a.b=v nests."""
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
            at[last] = value  # these are names, even where they look like numbers
    return out


def _run_data(args: argparse.Namespace) -> None:
    """Opens what the options name and converts it."""
    if bool(args.config) == bool(args.pairs):
        raise DataError("give either --from key=value ... or --config C --split S")
    if args.config:
        from ssl_jax.core import config as config_lib  # imports ml_collections

        section = config_lib.load(args.config, args.override).data
        if not len(section[args.split]):
            raise DataError(f"config.data.{args.split} names no source to convert")
        configs = {k: section[args.split][k].to_dict() for k in section[args.split]}
        on_bad, share = section.on_bad, section.max_bad_share
    else:
        configs, on_bad, share = {"from": _pairs(args.pairs)}, args.on_bad, args.max_bad_share
    sources = [open_source(f"{args.split}.{name}", c) for name, c in configs.items()]
    seconds = sum(float((s.samples / np.maximum(s.rates, 1)).sum()) for s in sources)
    print(f"{sum(map(len, sources))} recordings, {seconds / 3600:.2f} hours")
    written = data(
        sources,
        pathlib.Path(args.to),
        shards=args.shards,
        what={"split": args.split, "sources": configs},
        on_bad=on_bad,
        max_bad_share=share,
    )
    print(f"{written} rows in {args.to}: use dict(kind='array_record', path={args.to!r})")


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    top = argparse.ArgumentParser(
        prog="python -m ssl_jax.convert", description=__doc__.split("\n")[0]
    )
    commands = top.add_subparsers(dest="command", required=True)
    sub = commands.add_parser("data", help="any source to ArrayRecord shards")
    sub.add_argument("--from", dest="pairs", nargs="+", metavar="KEY=VALUE", default=[])
    sub.add_argument("--config", default="", help="a config file whose data is converted")
    sub.add_argument("--override", nargs="*", default=[], metavar="a.b=v", help="of the config")
    sub.add_argument("--split", default="train", choices=("train", "valid", "test"))
    sub.add_argument("--to", required=True, help="the folder of the shards")
    sub.add_argument("--shards", type=int, default=1)
    sub.add_argument("--on_bad", default="raise", choices=("raise", "skip"))
    sub.add_argument("--max_bad_share", type=float, default=0.01)
    sub.set_defaults(run=_run_data)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code."""
    args = parser().parse_args(arguments)
    try:
        args.run(args)
    except DataError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
