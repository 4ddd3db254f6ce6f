"""Is my curve normal? Overlays a run on reference curves: mean, minimum and maximum over seeds.

    python -m experiments.curves --run RUN --reference experiments/data2vec2/curves.json
    python -m experiments.curves --runs speech=RUN,RUN,RUN [text=RUN,RUN] --save curves.json

Prints, for every metric that both have, where the run stands at their last common step, and draws
a figure. A reference comes from the runs of an experiment: the second line makes one from several
seeds. docs/metrics.md explains each metric.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.core import atomic
from ssl_jax.core import config as config_lib
from ssl_jax.evals import table
from ssl_jax.reports import figures, metrics

# the signs of a healthy run; those that a method does not log are left out
METRICS = ("loss", "target_std", "prediction_std", "frontend_std", "instance_variance_ratio")
METRICS += ("teacher_student_cosine", "masked_accuracy", "contrastive_accuracy", "code_perplexity")

Curves = dict[str, dict[str, list[float]]]
"""metric -> {step, mean, least, most}, each (n,)."""


def of_runs(runs: Sequence[pathlib.Path], metrics: Sequence[str]) -> Curves:
    """Returns the band of each metric over runs of any length; one that no run has is left out."""
    bands = {metric: figures.band(runs, metric) for metric in metrics}
    return {
        metric: {k: np.round(v, 5).tolist() for k, v in band.items()}
        for metric, band in bands.items()
        if band
    }


def keep(path: pathlib.Path, name: str, runs: Sequence[pathlib.Path]) -> dict[str, Curves]:
    """Writes the bands of runs to a curves.json under a name, beside others; returns them all."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known[name] = of_runs(runs, [f"train/{metric}" for metric in METRICS])
    atomic.write_json(path, known, indent=None)
    return known


def compare(run: pathlib.Path, reference: Mapping[str, Curves]) -> list[dict[str, Any]]:
    """Returns a row per reference and metric: the run and the band at their last common step.

    A run of another length is compared at the same step, not at the same fraction of its length.
    """
    rows = []
    for name, of_one in reference.items():
        for metric, band in of_one.items():
            step, value = figures.read_metrics(run, metric)
            if not len(step):
                continue
            at = min(step[-1], band["step"][-1])
            mine = float(np.interp(at, step, value))
            mean, least, most = (
                float(np.interp(at, band["step"], band[k])) for k in ("mean", "least", "most")
            )
            where = "below" if mine < least else "above" if mine > most else "inside"
            rows.append(
                {
                    "reference": name,
                    "metric": metric,
                    "step": f"{at:.0f}",
                    "this run": f"{mine:.3f}",
                    "mean": f"{mean:.3f}",
                    "band": f"{least:.3f} to {most:.3f}",
                    "place": where,
                }
            )
    return rows


def draw(path: pathlib.Path, run: pathlib.Path, reference: Mapping[str, Curves]) -> None:
    """Draws a panel for every metric: the bands, with the run on top."""
    names = list(dict.fromkeys(m for of_one in reference.values() for m in of_one))
    mine = {name: figures.band([run], name) for name in names}

    def panel(metric: str) -> figures.Panel:
        others = {name: of_one[metric] for name, of_one in reference.items() if metric in of_one}
        given = {run.name: mine[metric], **others}
        return lambda ax: figures.bands(ax, given, metric, metric.partition("/")[2])

    figures.draw(path, f"{run.name} and its reference", [panel(m) for m in names if mine[m]])


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, prints the table and writes the figure."""
    parser = argparse.ArgumentParser(prog="python -m experiments.curves", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", type=pathlib.Path, help="a run folder to compare")
    what.add_argument("--runs", nargs="+", metavar="NAME=RUN,RUN", help="seeds for a reference")
    parser.add_argument("--reference", type=pathlib.Path, help="a curves.json")
    parser.add_argument("--save", type=pathlib.Path, help="the reference to write")
    parser.add_argument("--out", type=pathlib.Path, help="the figure; default: RUN/curves.png")
    args = parser.parse_args(argv)
    if (args.reference is None) == (args.save is None) or bool(args.run) != bool(args.reference):
        sys.exit("error: give --run with --reference, or --runs with --save")
    if args.runs:
        save(args.runs, args.save)
    else:
        _compare(args.run, args.reference, args.out or args.run / "curves.png")


def save(named: Sequence[str], out: pathlib.Path) -> None:
    """Writes the bands of runs, given as "name=folder,folder"; exits if one has no metrics."""
    found: dict[str, Curves] = {}
    for text in named:
        name, _, folders = text.partition("=")
        runs = [pathlib.Path(folder) for folder in filter(None, folders.split(","))]
        absent = [run for run in runs if not (run / "metrics.jsonl").is_file()]
        if absent or len(runs) < 2:
            why = f"{absent[0]} is no run folder" if absent else "a band needs two runs or more"
            sys.exit(f"error: --runs {text}: {why}")
        found[name] = of_runs(runs, [f"train/{metric}" for metric in METRICS])
    atomic.write_json(out, found, indent=None)
    print(f"written to {out}")


def _modality(run: pathlib.Path) -> str:
    """Returns what a run reads, "" for a folder of curves without a config."""
    file = run / "config.json"
    return config_lib.of_file(file).data.get("modality", "audio") if file.is_file() else ""


def _compare(run: pathlib.Path, path: pathlib.Path, out: pathlib.Path) -> None:
    """Prints the table that compares a run with a reference, and draws both."""
    for file in (run / "metrics.jsonl", path):
        if not file.is_file():
            sys.exit(f"error: there is no {file}")
    given = json.loads(path.read_text(encoding="utf-8"))
    try:
        reference = dict(metrics.of_modality(given, _modality(run), str(path)))
    except ValueError as error:
        sys.exit(f"error: {error}")
    rows = compare(run, reference)
    if not rows:
        have = sorted({m for of_one in reference.values() for m in of_one})
        sys.exit(f"error: {run} logs none of {', '.join(have)}: is it of another method?")
    print(table.text_table(rows))
    draw(out, run, reference)
    print(f"\nwritten to {out}")


if __name__ == "__main__":
    main()
