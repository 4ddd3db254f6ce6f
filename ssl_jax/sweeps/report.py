"""The report of a sweep: a CSV, a ranking with intervals over seeds, and a page with plots."""

import csv
import dataclasses
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.core import atomic
from ssl_jax.core.config import ConfigError, Value, suggest
from ssl_jax.engine import log
from ssl_jax.evals import table
from ssl_jax.reports import html, metrics, plots, run_report
from ssl_jax.sweeps import run_folders, sweep
from ssl_jax.sweeps.sweep import Run

LOWER = ("loss", "wer", "cer", "per", "eer", "error", "perplexity")
"""Last words of metric names for which lower is better; for all others higher is better."""
DRAWN = html.SERIES  # the number of groups in a plot, best first
CURVES = ("train/loss", "train/accuracy")  # drawn in addition to the metric, if present


@dataclasses.dataclass(frozen=True)
class Result:
    """The outcome of a run. rows: those of metrics.jsonl; error: the reason if it failed."""

    run: Run
    state: str
    error: str
    code: tuple[str, ...]
    rows: list[dict[str, Any]]

    def last(self, metric: str) -> float:
        """Returns the last value of a metric, NaN if there is none or it is null.

        A null is a score over nothing, and no earlier value stands in for it.
        """
        found = [row[metric] for row in self.rows if metric in row]
        return float(found[-1]) if found and found[-1] is not None else math.nan


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ only in seeds or folds. values: those they share; scores: of those done."""

    values: dict[str, Value]
    results: list[Result]
    scores: list[float]

    @property
    def mean(self) -> float:
        """The mean score, NaN if there is none."""
        return table.interval(self.scores)[0] if self.scores else math.nan


def collect(found: Sequence[Run]) -> list[Result]:
    """Returns the result of each run so far."""
    results = []
    for run in found:
        file = run.folder / "metrics.jsonl"
        rows = log.read(file) if file.is_file() else []
        state, why = run_folders.state(run.folder), run_folders.failure(run.folder)
        results.append(Result(run, state, why, run_folders.code(run.folder), rows))
    return results


def is_seed(name: str) -> bool:
    """Returns whether a key is averaged over: a seed, such as seed or data.label_seed, or the folds
    of a source, data.train.<name>.where.fold."""
    last = name.split(".")[-1]
    return last == "seed" or last.endswith("_seed") or name.endswith(".where.fold")


def choose(results: Sequence[Result], metric: str = "", best: str = "") -> tuple[str, str]:
    """Returns the metric to rank by, and whether its "max" or "min" is best.

    The default is that of config.checkpoint, else the loss. Raises ConfigError for a metric that
    no run has, unless no run has any metric.
    """
    known = sorted({name for r in results for row in r.rows for name in row} - {"step", "time"})
    checkpoint = results[0].run.config.get("checkpoint", {})
    own = checkpoint.get("best_metric", "")
    if not metric:
        metric = next((m for m in (own, "valid/loss", "train/loss") if m in known), "")
    if known and metric not in known:
        raise ConfigError(f"--metric {metric or 'is not given'}: {suggest(metric, known)}")
    if not best and metric == own:
        best = checkpoint.get("best_mode", "")
    lower = not metric or metric.split("/")[-1].split("_")[-1] in LOWER
    return metric or "train/loss", best or ("min" if lower else "max")


def rank(results: Sequence[Result], metric: str, best: str) -> list[Group]:
    """Returns the runs grouped over seeds, best mean first; groups without a score are last.

    The score of a run is the last value of `metric`; unfinished runs have none.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        values = {n: v for n, v in result.run.values.items() if not is_seed(n)}
        groups.setdefault(repr(values), []).append(result)
    found = []
    for members in groups.values():
        values = {n: v for n, v in members[0].run.values.items() if not is_seed(n)}
        scores = [r.last(metric) for r in members if r.state == "done"]
        found.append(Group(values, members, [s for s in scores if math.isfinite(s)]))
    sign = -1 if best == "max" else 1
    return sorted(found, key=lambda g: (not g.scores, sign * g.mean if g.scores else 0.0))


def ranking(groups: Sequence[Group], metric: str) -> list[dict[str, Any]]:
    """Returns the table: rank, shared values, mean with 95 % interval, and number of runs."""
    short = sweep.short_names(groups[0].values)
    rows = []
    for i, group in enumerate(groups):
        row: dict[str, Any] = {"rank": i + 1 if group.scores else "-"}
        row |= {short[name]: value for name, value in group.values.items()}
        over = any(r.state == "done" for r in group.results)
        row[metric] = _cell(group.scores) if group.scores or not over else table.NONE
        states = [r.state for r in group.results if r.state != "done"]
        words = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
        row["runs"] = f"{len(group.scores)} of {len(group.results)}" + (words and f", {words}")
        rows.append(row)
    return rows


def _linked(groups: Sequence[Group], metric: str) -> list[dict[str, Any]]:
    """Returns the table with a column of links to the reports of each group's runs."""
    rows = ranking(groups, metric)
    for row, group in zip(rows, groups, strict=True):
        links = [link for r in group.results if isinstance(link := _link(r.run), html.Markup)]
        row["reports"] = html.Markup(" ".join(links)) if links else "–"
    return rows


def _cell(scores: Sequence[float]) -> str:
    if not scores:
        return "-"
    mean, half = table.interval(scores)
    return f"{mean:.4g}" if math.isnan(half) else f"{mean:.4g} ± {half:.2g}"


def notes(root: Path, results: Sequence[Result]) -> list[str]:
    """Returns notes on failures, changed code, and run folders that are not of this sweep."""
    lines = [f"run {r.run.index} ({r.run.label}) failed: {r.error}" for r in results if r.error]
    by_code: dict[str, list[int]] = {}
    for r in results:
        if r.code:
            by_code.setdefault(" then ".join(r.code), []).append(r.run.index)
    if len(by_code) > 1:
        which = "; ".join(f"{c} made runs {_listed(i)}" for c, i in by_code.items())
        lines.append(f"the code changed between the runs: {which}")
    strangers = sweep.strangers(root, [r.run for r in results])
    if strangers:
        names = _listed(p.name for p in strangers)
        lines.append(
            f"{len(strangers)} run folders are of another version of this sweep and not in this "
            f"report; they are kept: {names}"
        )
    return lines


def _listed(items: Iterable[object]) -> str:
    words = [str(item) for item in items]
    return ", ".join(words[: run_folders.MANY]) + (", ..." if len(words) > run_folders.MANY else "")


def write_csv(path: Path, results: Sequence[Result]) -> None:
    """Writes every row of all metrics.jsonl, with the run's number, signature and values."""
    names = list(results[0].run.values)
    metrics = sorted({k for r in results for row in r.rows for k in row} - {"step", "time"})
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["run", "signature", "state", *names, "step", "time", *metrics])
    for r in results:
        about = [r.run.index, r.run.signature, r.state, *(r.run.values[n] for n in names)]
        for row in r.rows:
            writer.writerow([*about, *(row.get(k) for k in ("step", "time", *metrics))])
    atomic.write_text(path, file.getvalue())


def page(
    title: str,
    results: Sequence[Result],
    groups: Sequence[Group],
    metric: str,
    best: str,
    remarks: Sequence[str],
) -> str:
    """Returns the page: the ranking, notes, plots, and every run."""
    counts = {s: sum(r.state == s for r in results) for s in run_folders.STATES}
    words = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    way = "higher is better" if best == "max" else "lower is better"
    lead = f"<p>{len(results)} runs: {words}. Ranked by the last {html.text(metric)}; {way}.</p>"
    sections = {
        "Ranking": html.table(_linked(groups, metric), marked=[0] if groups[0].scores else [])
    }
    if remarks:
        sections["Notes"] = "".join(f'<p class="bad">{html.text(line)}</p>' for line in remarks)
    sections["Plots"] = _plots(groups, metric)
    sections["Runs"] = html.table([_about(r, metric) for r in results])
    return html.page(title, sections, lead)


def _about(result: Result, metric: str) -> dict[str, Any]:
    short = sweep.short_names(result.run.values)
    values = {short[n]: v for n, v in result.run.values.items()}
    found = {metric: result.last(metric), "state": result.state}
    code = {"code": " then ".join(result.code) or "–"}
    return {"run": _link(result.run), "signature": result.run.signature} | values | found | code


def _link(run: Run) -> html.Markup | int:
    """Returns the number of a run, as a link to its own report if it has one."""
    if not (run.folder / run_report.FILE).is_file():
        return run.index
    return html.link(str(run.index), f"{run.folder.name}/{run_report.FILE}")


def _plots(groups: Sequence[Group], metric: str) -> str:
    drawn = [g for g in groups if any(r.rows for r in g.results)][:DRAWN]
    more = len(groups) - len(drawn)
    note = f"the best {len(drawn)} of {len(groups)}" if more > 0 else ""
    names = [_named(g, f"#{i + 1}") for i, g in enumerate(drawn)]
    figures = []
    for each in dict.fromkeys((metric, *CURVES)):
        lines = [_curve(g, each, n) for g, n in zip(drawn, names, strict=True)]
        shown = [line for line in lines if line is not None]
        if shown:
            band = "bands from the lowest to the highest seed"
            figures.append(plots.lines(shown, each, note=", ".join(x for x in (note, band) if x)))
    scored = {f"#{i + 1}": {metric: g.scores} for i, g in enumerate(drawn) if g.scores}
    if scored:
        about = "by rank; mean over seeds with 95 % interval, a dot for each seed"
        figures.append(plots.points(scored, f"{metric} at the end", note=about))
    return html.grid(figures) + _parallel(groups, metric)


def _parallel(groups: Sequence[Group], metric: str) -> str:
    short = sweep.short_names(groups[0].values)
    rows = [
        {short[n]: v if isinstance(v, int | float | str) else str(v) for n, v in g.values.items()}
        | ({metric: g.mean} if g.scores else {})
        for g in groups
    ]
    if not short:
        return ""
    axes = [*short.values(), metric]
    return plots.parallel(rows, axes, "Every group of runs", colour=metric, note="mean over seeds")


def _named(group: Group, prefix: str) -> str:
    short = sweep.short_names(group.values)
    return " ".join([prefix, *(f"{short[n]}={html.short(v)}" for n, v in group.values.items())])


def _curve(group: Group, metric: str, name: str) -> plots.Line | None:
    """Returns the mean over the runs of a group that have come so far, None without a value."""
    curves = []
    for result in group.results:
        points = [(r["step"], r[metric]) for r in result.rows if r.get(metric) is not None]
        if points:
            curves.append((np.array([x for x, _ in points]), np.array([y for _, y in points])))
    if not curves:
        return None
    steps, mean, least, most = metrics.band(curves)
    if len(curves) == 1:
        return plots.Line(name, steps, mean)
    return plots.Line(name, steps, mean, least, most)


def write(
    root: Path, found: Sequence[Run], metric: str = "", best: str = ""
) -> tuple[list[dict[str, Any]], list[str], str]:
    """Writes metrics.csv and report.html below `root`; returns the ranking, notes and metric.

    Raises ConfigError for a metric that no run has, and where the folder has begun other runs and
    none of these, FileNotFoundError if no run was begun.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no run of the sweep was begun in {root}: give --launch local")
    results = collect(found)
    others = [p for p in sweep.strangers(root, found) if run_folders.state(p) != "waiting"]
    if others and all(result.state == "waiting" and not result.rows for result in results):
        raise ConfigError(
            f"none of these {len(found)} runs was begun in {root}, and {len(others)} others were: "
            f"{sweep.begun_with(root)}, or give --workdir {root} alone. Nothing was written"
        )
    metric, best = choose(results, metric, best)
    groups, remarks = rank(results, metric, best), notes(root, results)
    write_csv(root / "metrics.csv", results)
    atomic.write_text(
        root / "report.html", page(f"Sweep {root.name}", results, groups, metric, best, remarks)
    )
    return ranking(groups, metric), remarks, metric


def print_report(root: Path, found: Sequence[Run], metric: str, best: str) -> None:
    """Writes the report like `write`, and prints the ranking and the notes."""
    rows, remarks, metric = write(root, found, metric, best)
    print("\n".join([table.text_table(rows), *(f"\n{line}" for line in remarks)]))
    print(f"\nranked by {metric}; {root / 'metrics.csv'}  {root / 'report.html'}")
