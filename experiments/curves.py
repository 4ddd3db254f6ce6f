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

import matplotlib.pyplot as plt
import numpy as np

from ssl_jax.core import atomic
from ssl_jax.evals import table
from ssl_jax.reports import figures

# the signs of a healthy run; those that a method does not log are left out
METRICS = ("loss", "target_std", "prediction_std", "frontend_std", "instance_variance_ratio")
METRICS += ("teacher_student_cosine", "masked_accuracy", "contrastive_accuracy", "code_perplexity")

Curves = dict[str, dict[str, list[float]]]
"""metric -> {step, mean, least, most}, each (n,)."""


def of_runs(runs: Sequence[pathlib.Path], metrics: Sequence[str]) -> Curves:
    """Returns the band of each metric over runs of equal length; those without it are left out."""
    found: Curves = {}
    for metric in metrics:
        lines = [figures.read_metrics(run, metric) for run in runs]
        if any(not len(step) for step, _ in lines):
            continue
        values = np.stack([v for _, v in lines])
        band = {"step": lines[0][0], "mean": values.mean(0)}
        band |= {"least": values.min(0), "most": values.max(0)}
        found[metric] = {k: np.round(v, 5).tolist() for k, v in band.items()}
    return found


def compare(run: pathlib.Path, reference: Mapping[str, Curves]) -> list[dict[str, Any]]:
    """Returns a row per reference and metric: the run and the band at their last common step.

    A run of another length is compared at the same step, not at the same fraction of its length.
    """
    rows = []
    for name, metrics in reference.items():
        for metric, band in metrics.items():
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
    metrics = list(dict.fromkeys(m for of_one in reference.values() for m in of_one))
    shown = [m for m in metrics if len(figures.read_metrics(run, m)[0])]
    figure, axes = plt.subplots(
        1, len(shown), figsize=(5 * len(shown), 4), layout="constrained", squeeze=False
    )
    for ax, metric in zip(axes[0], shown, strict=True):
        for colour, (name, of_one) in zip(figures.COLOURS[1:], reference.items(), strict=False):
            if metric in of_one:
                bands(ax, of_one[metric], name, colour)
        ax.plot(*figures.read_metrics(run, metric), color=figures.COLOURS[0], label=run.name)
        ax.set(title=metric, xlabel="step")
        ax.legend(frameon=False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def bands(ax: Any, band: Mapping[str, Sequence[float]], name: str, colour: str) -> None:
    """Draws the mean of a reference and its band."""
    ax.plot(band["step"], band["mean"], color=colour, label=name)
    ax.fill_between(band["step"], band["least"], band["most"], color=colour, alpha=0.2, lw=0)


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


def _compare(run: pathlib.Path, path: pathlib.Path, out: pathlib.Path) -> None:
    """Prints the table that compares a run with a reference, and draws both."""
    for file in (run / "metrics.jsonl", path):
        if not file.is_file():
            sys.exit(f"error: there is no {file}")
    reference = json.loads(path.read_text(encoding="utf-8"))
    rows = compare(run, reference)
    if not rows:
        have = sorted({m for of_one in reference.values() for m in of_one})
        sys.exit(f"error: {run} logs none of {', '.join(have)}: is it of another method?")
    print(table.text_table(rows))
    draw(out, run, reference)
    print(f"\nwritten to {out}")


if __name__ == "__main__":
    main()
