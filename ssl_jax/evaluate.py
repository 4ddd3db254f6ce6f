r"""Evaluates the frozen features of a run by probes, together with the baselines it must beat.

    python -m ssl_jax.evaluate --run runs/d2v [--probe ridge,knn,linear,mlp,few] [--step best] \
        [--baselines librosa] [--config.data.test.sc.path=...]
    python -m ssl_jax.evaluate --run runs/own --labels labels.csv [--root FOLDER] [--label COLUMN] \
        [--group SPEAKER]
    python -m ssl_jax.evaluate --run runs/m2v --protocol configs/music2vec/marble.py:gtzan
    python -m ssl_jax.evaluate --run runs/hubert --protocol configs/hubert/quality.py
    python -m ssl_jax.evaluate --runs 'kws/*'   # what configs and results differ in

The features of every split are computed once per model and cached in RUN/features; of clips longer
than the last of config.data.buckets only the beginning counts. Probes fit on the training split,
choose layer and options on validation (a held-out fifth of training where there is none) and
report test (validation where there is no test). --labels replaces config.data of any run by a table
with the columns path (or text) and label; see ssl_jax/data/readers/label_files.py. --baselines
librosa adds chroma, CQT, tonnetz, onset strength and tempo to the baselines; protocols of music do
so by default, and --baselines '' leaves them out. `mlp` also predicts tags and numbers, where
config.data has them in place of labels. `few` is ridge at 1, 5, 10 and 100 % of the training
labels, over five draws, the same for all features. Features are pooled over time or space to mean
and deviation, of encoders and raw features alike; --config.eval.pool=mean takes the mean alone. A
protocol brings its own data and the options of its
probe; one with a section `units` has no probe: it measures how well the clusters of each layer
match phones. For a run with a head (configs/supervised) the scores of the head on validation and
test come first. A run of configs/ctc is evaluated by its transcripts of validation and test: error
rates, and the worst recordings aligned with their references; a run of
configs/superb/verification.py by its trials. Without --step, heads and transcripts are those of the
last and of the best checkpoint. --stream evaluates other features of a method that has several,
--layers 6,9 these hidden states alone, by number, --subnet a subnet of a run of
configs/lighthubert, by name or as width/heads/ratios. Prints a table and writes
RUN/evaluation.json, or RUN/evaluation-STREAM.json, or RUN/evaluation-SUBNET.json.
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

import ssl_jax
from ssl_jax.core import atomic, paths
from ssl_jax.core import config as config_lib
from ssl_jax.core.mesh import make_mesh
from ssl_jax.engine import held_out, log
from ssl_jax.engine import hosts as hosts_lib
from ssl_jax.engine import setup as start_lib
from ssl_jax.engine import splits as splits_lib
from ssl_jax.evals import compare, split_scores
from ssl_jax.evals import unit_quality as units_lib
from ssl_jax.evals.baselines import Encoder
from ssl_jax.reports import run_report
from ssl_jax.stages import decode, embed, extraction, head
from ssl_jax.stages import probes as probes_stage
from ssl_jax.stages import unit_quality as units_stage
from ssl_jax.sweeps import diff

PROBES = (*compare.PROBES, compare.MLP, compare.FEW)


def run(
    folder: str | Path,
    probes: Sequence[str] = compare.PROBES,
    step: int | str | None = None,
    overrides: Sequence[str] = (),
    protocol: str = "",
    labels: embed.Labels | None = None,
    method: str = "",
    baselines: Sequence[str] | None = None,
    stream: str = "",
    layers: Sequence[int] = (),
    subnet: str = "",
) -> dict[str, Any]:
    """Evaluates a run folder and returns what it writes to evaluation.json.

    overrides: such as "data.test.sc.path=...", of the run's config or the protocol's. method: the
    module of the run's method if it is yours, see `ssl_jax.load`. baselines: some of
    embed.BASELINES beside the usual ones (None: those of the protocol). stream: one of the method,
    with results in evaluation-STREAM.json. layers: hidden states to probe, (): all. subnet: of
    LightHuBERT. Raises ValueError on what does not exist, and on data without labels or a test.
    """
    _check(probes, labels, protocol, layers)
    start = time.monotonic()
    start_lib.use_compilation_cache()
    folder, model = paths.of(folder), _model(folder, step, method, subnet)
    model.method = model.method.of_stream(stream, "--stream").of_layers(layers)
    given = config_lib.load(protocol, overrides, "get_protocol") if protocol else ConfigDict({})
    config = _config(model.config, given, () if protocol else overrides)
    scratch, mesh = paths.scratch(folder), make_mesh({"data": -1})
    if labels:
        config, given = embed.labelled(config, labels, scratch)
    task = None if protocol or labels else _task(model)
    _check_probed(task, given, {"--baselines": baselines, "--layers": layers})
    judged = head.checkpoints(folder, model.config, model.step, model.params, step)
    window = given.get("window_seconds", 0.0)
    most = embed.most_rows(model.method, model.params, config, mesh.size, window)
    if task is not None:
        about = (embed.bounded(config, most), model.classes, mesh, scratch)
        rows = head.each(judged, lambda params: task(model.method, params, *about))
        return _written(folder, {**_about(model, config, start, subnet), "results": rows})
    if not (labels or protocol):
        embed.check_present(config)
    more = given.get("baselines", ()) if baselines is None else baselines
    embed.check_baselines(more, config.data.get("modality", "audio"))
    corpora = embed.open_splits(config, scratch, mesh.size, most)
    own = [] if given or labels else head.rows(judged, model.method, corpora, model.classes, mesh)
    if "units" in given:
        rows, collapse = _units(model, corpora, given, mesh, scratch), dict[str, Any]()
    else:
        chosen = (compare.MLP,) if protocol else probes
        pool = given.get("pool", config.eval.pool)
        encoders = functools.partial(_encoders, model, corpora["train"], window, mesh, more, pool)
        rows, collapse = probes_stage.run_probes(encoders, corpora, given, chosen, mesh, scratch)
    result = {
        "classes": list(corpora["train"].corpus.classes),
        "clips": {name: len(split.corpus) for name, split in corpora.items()},
        "results": rows,
        "health": collapse,
    } | ({"head": own} if own else {})
    return _written(folder, {**_about(model, config, start, subnet), **result})


def _model(folder: str | Path, step: int | str | None, method: str, subnet: str) -> ssl_jax.Model:
    """Returns the model of a run, with the features of a subnet if one is named."""
    model = ssl_jax.load(folder, step, method=method)
    if subnet:
        model.config, model.method = extraction.chosen(model.config, subnet, folder)
    return model


def _check(
    probes: Sequence[str], labels: embed.Labels | None, protocol: str, layers: Sequence[int]
) -> None:
    if any(layer < 0 for layer in layers):
        raise ValueError(
            f"--layers has {min(layers)}: use 0, the input of the first block, or more"
        )
    if labels and protocol:
        raise ValueError("--labels and --protocol each bring their own data: give one of them")
    unknown = [name for name in probes if name not in PROBES]
    if unknown:
        raise ValueError(f"--probe has {unknown}: use some of {','.join(PROBES)}")


def _check_probed(task: Any, given: ConfigDict, options: dict[str, Any]) -> None:
    """Raises ValueError for options that an evaluation without probes, or the probe of a protocol,
    has no use for."""
    for name, value in options.items():
        if value and ("units" in given or task is not None):
            raise ValueError(f"{name} is for probes, and this evaluation has none: leave it out")
    if options["--layers"] and "layers" in given.get("probe", {}):
        raise ValueError("the protocol chooses the layers of its probe itself: leave --layers out")


def _task(model: ssl_jax.Model) -> Callable[..., list[dict[str, Any]]] | None:
    """Returns the evaluation of what a run was fine-tuned for; None where probes evaluate it."""
    if model.method.emissions is not None:
        return decode.transcribe_splits
    return decode.verify_speakers if model.method.embed is not None else None


def _about(model: ssl_jax.Model, config: ConfigDict, start: float, subnet: str) -> dict[str, Any]:
    seconds = round(time.monotonic() - start, 1)
    about = {"step": model.step, "signature": config_lib.sign(config), "seconds": seconds}
    parts = {"stream": model.method.stream, "subnet": subnet}
    return about | {name: part for name, part in parts.items() if part}


def _written(folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    if jax.process_index() == 0:
        atomic.write_json(_file(folder, result), result, indent=2)
        run_report.refresh(folder)
    return result


def _file(folder: Path, result: dict[str, Any]) -> Path:
    part = (result.get("stream") or result.get("subnet", "")).replace("/", "_")
    return folder / (f"evaluation-{part}.json" if part else "evaluation.json")


def _units(
    model: ssl_jax.Model, corpora: embed.Splits, given: ConfigDict, mesh: Mesh, folder: Path
) -> list[dict[str, Any]]:
    """Returns the rows of every layer of the run, of the untrained encoder, and of MFCC."""
    window = given.get("window_seconds", 0.0) or float(corpora["train"].corpus.buckets[-1])
    trained, untrained, _ = _encoders(model, corpora["train"], 0.0, mesh)
    found = (trained, untrained, units_lib.mfcc_encoder(model.sample_rate))
    return units_stage.by_layer(
        found, corpora, given.units, window_s=window, mesh=mesh, folder=folder
    )


def _config(config: ConfigDict, protocol: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """Returns the run's config with overrides, or with the data of a protocol."""
    config = config_lib.override(config, overrides).copy_and_resolve_references()
    if protocol:
        with config.unlocked():
            rate, config.data = config.data.sample_rate, protocol.data
            config.data.sample_rate = rate  # that of the model
    config, notes = held_out.complete(config)
    for note in notes:
        log.notify(note)
    return config


def _encoders(
    model: ssl_jax.Model,
    train: splits_lib.Split,
    window: float,
    mesh: Mesh,
    more: Sequence[str] = (),
    pool: str = "mean_std",
) -> list[Encoder]:
    """Returns the encoders to evaluate, if the data have what the method reads."""
    signals = [name for name in model.method.batch if name in embed.SIGNALS]
    splits_lib.check_names(train.corpus, signals, "train")
    about = (model.method, model.params, model.config, model.step)
    return embed.encoders(*about, train, mesh, window, more, pool)


def _number(text: str) -> int:
    if not text.strip().isdigit():
        raise ValueError(f"--layers has {text!r}: use numbers from 0, such as 6,9")
    return int(text)


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, evaluates the run and prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m ssl_jax.evaluate", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", help="the --workdir of a train command")
    which.add_argument("--runs", help="'kws/*': compares runs without evaluating them")
    parser.add_argument("--probe", default=",".join(compare.PROBES), help="some of the default")
    parser.add_argument("--baselines", help="librosa, or '' (default: those of the protocol)")
    parser.add_argument("--protocol", default="", help="configs/x.py:task with get_protocol")
    parser.add_argument("--labels", default="", help="a table with a header: path,label")
    parser.add_argument("--label", default="label", help="the column of --labels with the class")
    parser.add_argument("--group", default="", help="a column whose values no two splits share")
    parser.add_argument("--root", default="", help="the folder of the files that --labels names")
    parser.add_argument("--stream", default="", help="one of those of a method that has several")
    parser.add_argument("--layers", default="", help="hidden states to probe: 6,9 (default: all)")
    parser.add_argument("--subnet", default="", help="of LightHuBERT: name or width/heads/ratios")
    parser.add_argument("--step", help="a saved step, or best (default: the newest)")
    parser.add_argument("--method", default="", help="the run's own method module, to be imported")
    hosts_lib.add_flags(parser)
    args, overrides = parser.parse_known_args(argv)
    about = (args.label, args.group, args.root)
    labels = embed.Labels(Path(args.labels), *about) if args.labels else None
    probes = args.probe.split(",")
    more = None if args.baselines is None else [x for x in args.baselines.split(",") if x]
    with hosts_lib.session(args):
        try:
            if args.runs:
                print(diff.text(diff.expand(args.runs)))
                return
            layers = [_number(x) for x in args.layers.split(",") if x]
            given = (args.protocol, labels, args.method, more, args.stream, layers, args.subnet)
            result = run(args.run, probes, args.step, overrides, *given)
        except (ValueError, FileNotFoundError) as error:
            sys.exit(f"error: {error}")
    if jax.process_index() == 0:
        _print_tables(result, args.run)


def _print_tables(result: dict[str, Any], folder: str) -> None:
    """Prints the tables, and where they are kept."""
    if result.get("head"):
        print(split_scores.report(result["head"]) + "\n")
    print(run_report.reporter(result)(result))
    print(f"\nwritten to {_file(paths.of(folder), result)}")


if __name__ == "__main__":
    main()
