"""The report of a run: one page, made only from the files in its folder.

An interrupted run therefore has one too, and `python -m ssl_jax.report --run R` makes that of an
old run.
"""

import contextlib
import datetime
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ssl_jax.core import atomic, paths, progress, stop
from ssl_jax.core import config as config_lib
from ssl_jax.core import rows as rows_lib
from ssl_jax.core.progress import clock_text
from ssl_jax.core.types import Method, Tree
from ssl_jax.data.base import Corpus
from ssl_jax.engine import environment, log
from ssl_jax.evals import (
    compare,
    speaker_verification,
    split_scores,
    transcribe,
    unit_quality,
)
from ssl_jax.reports import examples as examples_lib
from ssl_jax.reports import html, meanings, metrics, plots

FILE = "report.html"
EVERY = 60.0  # seconds between two reports if there is no evaluation
Rows = list[dict[str, Any]]


@contextlib.contextmanager
def updated(
    workdir: Path,
    config: ConfigDict,
    method: Method,
    params: Tree,
    corpus: Corpus,
    logger: log.Logger,
    **more: Any,
) -> Iterator[None]:
    """Keeps the report of a run up to date while its block trains, and records how it ended.

    params: abstract. more: fields of the row that records the start, such as step and total. Only
    the first process writes. A report that fails is logged, and does not stop training.
    """
    environment.began(workdir, **more)
    with progress.Waiting("drawing examples for the report"):
        given = (workdir, config, method, params, corpus)
        _or_log(examples_lib.FILE, lambda: examples_lib.write(*given))
    written = time.monotonic()

    def update(step: int, found: Mapping[str, float]) -> None:
        nonlocal written
        evaluated = any(not name.startswith("train/") for name in found)
        if evaluated or time.monotonic() - written > EVERY:
            refresh(workdir)
            written = time.monotonic()

    logger.listen(update)
    how, full = "done", False
    try:
        yield
    except BaseException as error:
        full = bool(atomic.full(error))  # a full disk: writing would fail again
        words = str(error).splitlines() or [""]
        ended = isinstance(error, SystemExit)
        how = stop.by() if ended else f"{type(error).__name__}: {words[0]}"
        raise
    finally:
        if not full:
            environment.ended(workdir, how)
            logger.flush()
            refresh(workdir)


def origin(config: ConfigDict, source: str) -> dict[str, Any]:
    """Returns the config file that a config was made from, and its values of the keys that differ;
    {} if the file is not known."""
    if not source:
        return {}
    pairs = config_lib.diff(config_lib.load(source), config)
    return {"source": source, "changed": {key: repr(old) for key, (old, _) in pairs.items()}}


def refresh(folder: Path) -> None:
    """Writes report.html again after the folder changed; logs an error."""
    _or_log(FILE, lambda: write(folder))


def _or_log(name: str, work: Callable[[], object]) -> None:
    """Does the work on the first process; logs an error, which must not stop training."""
    if jax.process_index() != 0:
        return
    try:
        work()
    except Exception as error:
        log.notify(f"cannot write {name}: {type(error).__name__}: {error}")


def write(folder: str | Path, bands: metrics.Bands | None = None) -> Path:
    """Writes report.html of a run folder and returns its path.

    bands: reference curves, drawn with those of the run. Raises FileNotFoundError for a folder
    that is not a run folder.
    """
    folder = paths.of(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} is not a run folder: it has no config.json. Pass the --workdir of "
            f"`python -m ssl_jax.train`"
        )
    atomic.write_text(folder / FILE, environment.without_people(page(folder, bands)))
    return folder / FILE


def page(folder: Path, bands: metrics.Bands | None = None) -> str:
    """Returns the page of a run folder."""
    config = config_lib.of_file(folder / "config.json")
    path = folder / "metrics.jsonl"
    rows = log.read(path) if path.is_file() else []
    found, story = metrics.series(rows), environment.read(folder)
    evaluation = _json(folder / "evaluation.json")
    streams = "".join(map(_stream, sorted(folder.glob("evaluation-*.json"))))
    if bands:
        bands = metrics.of_modality(bands, config.data.get("modality", "audio"), "--reference")
    sections = {
        "Curves": metrics.curves(found, bands, meanings.of_validation(config)),
        "Collapse": metrics.collapse(found, evaluation.get("health", {})),
        "Examples and masks": _examples(folder),
        "Probes": _probes(found, evaluation) + streams,
        "Time": metrics.speed(found) + _scopes(_json(folder / "scopes.json")),
        "Config": _config(config, story),
        "Environment": _environment(folder, rows, story),
    }
    lead = _lead(folder, config, rows, story, found)
    return html.page(paths.absolute(folder).name, sections, lead)


def _lead(folder: Path, config: ConfigDict, rows: Rows, story: Rows, found: metrics.Series) -> str:
    """Returns the summary: method, progress, how the run ended, the last values."""
    signature = folder / "signature.txt"
    sign = (
        signature.read_text(encoding="utf-8").strip()
        if signature.is_file()
        else config_lib.sign(config)
    )
    starts = [row for row in story if row["event"] == "start"]
    total = starts[-1].get("total", "?") if starts else "?"
    step = rows[-1]["step"] if rows else 0
    how = story[-1].get("how", "") if story else ""
    state = how or ("running or killed" if starts else "")
    bad = how not in ("", "done", "SIGTERM", "Ctrl-C")
    kind = "bad" if bad else "soft"
    facts = [f"{config.method.name}", f"step {step} of {total}", *_spent(rows, story)]
    if "train/teacher_turnover" in found:
        facts.append(f"teacher turnover {found['train/teacher_turnover'][1][-1]:.3g}")
    words = " · ".join([*facts, f"run {sign}"])
    status = f' · <b class="{kind}">{html.text(state)}</b>' if state else ""
    table = html.details("last values", html.table(metrics.last(found)))
    low = starts[-1].get("low_turnover", "") if starts else ""
    warning = f'<p class="bad">{html.text(low)}</p>' if low else ""
    return f'<p class="soft">{html.text(words)}{status}</p>{warning}{table}'


def _examples(folder: Path) -> str:
    examples = examples_lib.read(folder)
    if not examples:
        return f'<p class="soft">No {examples_lib.FILE}: a run writes it at its start.</p>'
    masked = any(e.masks.any() or any(m for view in e.texts for _, m in view) for e in examples)
    note = (
        "Grey or covered: the masks of the first update, sampled by the method's own function."
        if masked
        else "The method masks nothing."
    )
    return f'<p class="soft">{note}</p>{examples_lib.draw(examples)}'


def _probes(found: metrics.Series, evaluation: Mapping[str, Any]) -> str:
    parts = [metrics.probes(found)]
    results, judged = evaluation.get("results", []), evaluation.get("head", [])
    if judged:
        parts.append(f"<h3>The head of the run</h3>{html.table(split_scores.shown(judged))}")
    if results:
        parts.append(f"<p>Evaluated at step {html.text(evaluation.get('step', '?'))}.</p>")
        if "probe" in results[0]:
            parts.append(html.table(compare.shown(results)))
            groups: dict[str, dict[str, Any]] = {}
            for row in results:
                groups.setdefault(row["probe"], {})[row["features"]] = row["test"]
            parts.append(html.grid([plots.points(groups, "test scores of probes")]))
        else:
            parts.append(f"<pre>{html.text(reporter(evaluation)(evaluation))}</pre>")
    if not any(parts):
        return (
            '<p class="soft">No probes have run. To compare this run with a random encoder and raw '
            "features, run <code>python -m ssl_jax.evaluate --run</code> with this folder. To "
            "probe during training, set <code>config.eval.monitors=('ridge', 'knn')</code>.</p>"
        )
    return "".join(parts)


def _stream(file: Path) -> str:
    """Returns the evaluation of one stream of the features of a run, or of one subnet."""
    found = _json(file)
    kind = "subnet" if "subnet" in found else "stream"
    name = html.text(found.get(kind, "?"))
    return f"<h3>{kind.capitalize()} {name}</h3>{_probes({}, found)}"


def reporter(result: Mapping[str, Any]) -> Callable[[Any], str]:
    """Returns the function that formats an evaluation of this kind as text."""
    first = result["results"][0] if result["results"] else {}
    modules = {"pnmi": unit_quality, "worst": transcribe, "eer": speaker_verification}
    module: Any = next((m for key, m in modules.items() if key in first), compare)
    return module.report


def _scopes(about: Mapping[str, Any]) -> str:
    """Returns the table of scopes.json: the time of the traced steps by scope."""
    if not about:
        return (
            '<p class="soft">To see the time of a step by scope, train with '
            "<code>config.log.profile='100:110'</code>.</p>"
        )
    step = float(about["step"])
    ways = {name: dict(each) for name, each in about["scopes"].items() if sum(each.values())}
    ways |= {"data wait": {"": about["data_wait"]}, "idle": {"": about["idle"]}}
    rows: list[dict[str, object]] = []
    for name, each in ways.items():
        total = sum(each.values())
        cells = {f"{way}, ms": f"{ms:.3f}" for way, ms in each.items() if way}
        share = f"{total / step:.1%}" if step else "0"
        rows.append({"scope": name, **cells, "both, ms": f"{total:.3f}", "share": share})
    rows.append({"scope": "step", "both, ms": f"{step:.3f}", "share": "100%"})
    title = html.text(f"Mean of steps {about['first']} to {about['last']}, per device")
    return f"<h3>{title}</h3>{html.table(rows)}"


def _config(config: ConfigDict, story: Rows) -> str:
    """Returns all keys, with those that differ from the config file highlighted."""
    starts = [row for row in story if row["event"] == "start"]
    source, changed = "", None
    if starts:
        source, changed = starts[-1].get("source", ""), starts[-1].get("changed")
    rows: list[dict[str, object]] = []
    marked = []
    for key, value in config_lib.flatten(config).items():
        row: dict[str, object] = {"key": key, "value": repr(value)}
        if changed and key in changed:
            marked.append(len(rows))
            row[f"default of {source}"] = changed[key]
        rows.append(row)
    note = ""
    if changed is not None:
        note = f"<p>{len(marked)} keys differ from {html.text(source)}.</p>"
        note += html.table([rows[i] for i in marked]) if marked else ""
    return note + html.details(f"all {len(rows)} keys", html.table(rows, marked), changed is None)


def _environment(folder: Path, rows: Rows, story: Rows) -> str:
    if not story:
        return f'<p class="soft">No {environment.FILE}: a run writes it at its start.</p>'
    found: list[dict[str, object]] = []
    for row in story:
        when = datetime.datetime.fromtimestamp(row["time"], datetime.UTC)
        found.append({"event": row["event"], "time": f"{when:%Y-%m-%d %H:%M:%S} UTC"})
        if row["event"] == "start":
            found[-1] |= {"what": f"from step {row.get('step', '?')}: {row['command']}"}
        else:
            found[-1] |= {"what": row["how"]}
    last_start = [row for row in story if row["event"] == "start"][-1]
    return (
        f"<p>{''.join(_spent(rows, story))}</p>{html.table(found)}<h3>Machine</h3>"
        + html.table([{"": k, " ": v} for k, v in _machine(last_start).items()])
        + _files(folder)
    )


def _spent(rows: Rows, story: Rows) -> list[str]:
    """Returns the time of all starts together, as one text; none if no start was recorded."""
    if not story:
        return []
    last = rows[-1]["time"] if rows else story[-1]["time"]
    return [f"{clock_text(environment.seconds(story, last))} in total"]


def _machine(row: Mapping[str, Any]) -> dict[str, object]:
    packages = ", ".join(f"{k} {v}" for k, v in row["packages"].items())
    return {
        "devices": f"{row['devices']} x {row['device']} ({row['platform']})",
        "processes": row["processes"],
        "machine": f"{row['system']}, {row['cores']} cores",
        "Python": row["python"],
        "packages": packages,
        "code": f"{row['code']}" + (f", commit {row['commit']}" if row["commit"] else ""),
    }


def _files(folder: Path) -> str:
    """Returns the parameters, the skipped rows and the clipped rows."""
    parts = []
    parameters = folder / "parameters.txt"
    if parameters.is_file():
        text = parameters.read_text(encoding="utf-8")
        parts.append(html.details("parameters", f"<pre>{html.text(text)}</pre>"))
    for path in sorted([*folder.glob("skipped*.jsonl"), *folder.glob("clipped*.jsonl")]):
        rows = rows_lib.read(path, {"id": int}, log.notify)
        if rows:
            clipped = path.name.startswith("clipped")
            what = "recordings clipped at full scale" if clipped else "files that could not be used"
            title = f"{len(rows)} rows of {path.name}: {what}"
            parts.append(html.details(title, html.table(rows[:200])))
    return "".join(parts)


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
