"""Fills the tables and numbers of the pages from the results files: python -m experiments.tables"""

import functools
import itertools
import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import address, claims, methods, miniatures, results
from experiments.beats import page as beats
from experiments.benchmarks import elastic_step, layers_kept, recipes, tokens
from experiments.benchmarks import page as speed
from experiments.dmae import page as dmae
from experiments.lighthubert import page as lighthubert
from experiments.markdown import markdown
from experiments.mimco import page as mimco
from experiments.mvd import page as mvd
from experiments.noisy_student import page as students
from experiments.scaling import page as scaling
from ssl_jax.core import atomic
from ssl_jax.evals import table

MUSIC_PARTS = ("probes", "ablations")
MUSIC = {"instrument": "accuracy", "pitch": "accuracy", "key": "weighted_key", "tempo": "r2"}
# the goal for "speed-up over the better torch" on CPU


def arms(first: str, groups: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Returns the table of {group: {arm: accuracy of each seed}}: mean, interval and gain."""
    rows = []
    for name, group in groups.items():
        gain = [b - a for a, b in zip(group["scratch"], group["pretrained"], strict=True)]
        row = {first: name} | {arm: table.cell(group[arm]) for arm in results.ARMS}
        rows.append(row | {"gain": table.cell(gain), "seeds": str(len(gain))})
    return markdown(rows)


def quickstart() -> str:
    """Returns the table of the quickstart, with its wall time."""
    found = results.read("quickstart.json")
    o = found["options"]
    name = f"{o['labels_per_class']} labels per word"
    text = arms("test accuracy", {name: {arm: found[arm] for arm in results.ARMS}})
    minutes = found["seconds"] / 60
    return f"{text}\n{minutes:.1f} minutes on {found['cores']} cores ({o['clips']} clips).\n"


def shares() -> str:
    """Returns the table of the keyword experiment by share of labels."""
    return arms("labels", results.read("kws/results.json")["shares"])


def long_spans() -> str:
    """Returns the table of the same experiment with `--mask_length=8`, spans of half a second."""
    return arms("labels", results.read("kws/results_long_spans.json")["shares"])


def speakers() -> str:
    """Returns the table of the keyword experiment by left-out speaker, with their mean."""
    found = results.read("kws/results.json")["speakers"]
    if not found:
        return "Not run for these results.\n"
    means = {arm: [statistics.mean(group[arm]) for group in found.values()] for arm in results.ARMS}
    last = arms("speaker left out", {"over the speakers": means}).splitlines(keepends=True)[-1]
    return arms("speaker left out", found) + last.replace(f"| {len(found)} |", "|  |")


def music(part: str) -> str:
    """Returns the table of a part of the music experiment: "probes" or "ablations"."""
    found, rows = results.read("music2vec/results.json")[part], []
    if not found:
        return "Not run for these results.\n"
    for name, tasks in found.items():
        row = {"features" if part == "probes" else "crop, target": name}
        for task, score in MUSIC.items():
            row[f"{task} ({score.replace('_', ' ')})"] = table.cell(tasks[task][score])
        rows.append(row | {"seeds": str(len(tasks["key"]["accuracy"]))})
    return markdown(rows)


def time_to_accuracy() -> str:
    """Returns the table of seconds to each accuracy, by method of the image experiment."""
    found = results.read("data2vec2/results.json")["levels"]
    rows = []
    for accuracy, by_method in found.items():
        row = {"accuracy": accuracy}
        for name, seconds in by_method.items():
            reached = [s for s in seconds if s is not None]
            short = f"{len(reached)} of {len(seconds)} seeds" if reached else "not reached"
            full = len(reached) == len(seconds)
            row[name] = f"{table.cell(reached, 0)} s" if full else short
        rows.append(row)
    return markdown(rows)


def image_probes() -> str:
    """Returns the table of the last probe of each method and of the baselines."""
    found = results.read("data2vec2/results.json")
    rows = []
    for name, curves in found["curves"].items():
        last = [curve["accuracy"][-1] for curve in curves]
        untrained = table.cell(found["random"][name])
        rows.append({"features": name, "trained": table.cell(last), "untrained": untrained})
    for name in ("pixels", "supervised"):
        trained = table.cell(found["baselines"][name])
        rows.append({"features": name, "trained": trained, "untrained": ""})
    return markdown(rows)


def image_cost() -> str:
    """Returns the table of the cost of an update, measured and predicted, relative to MAE."""
    found = results.read("data2vec2/results.json")
    seconds, flops = found["seconds_per_step"], found["flops_per_step"]
    rows = []
    for name in seconds:
        row = {"method": name, "seconds": f"{seconds[name]:.3f}"}
        row["GFLOP, predicted"] = f"{flops[name] / 1e9:.1f}"
        row["time relative to MAE"] = f"{seconds[name] / seconds['MAE']:.2f}"
        row["predicted, relative to MAE"] = f"{flops[name] / flops['MAE']:.2f}"
        rows.append(row)
    return markdown(rows)


def image_ablations() -> str:
    """Returns the table of ablations of data2vec 2.0."""
    found = results.read("data2vec2/results.json")["ablations"]
    rows = [
        {"data2vec 2.0": name, "accuracy": table.cell(values), "seeds": str(len(values))}
        for name, values in found.items()
    ]
    return markdown(rows)


def audio() -> str:
    """Returns the tables of probes of speech and sounds, and of the folds of ESC-10."""
    found = results.read("data2vec2/results_audio.json")
    rows = [
        {"features": name} | {task: table.cell(values) for task, values in tasks.items()}
        for name, tasks in found["probes"].items()
    ]
    folds = [{"features": n, "ESC-10, folds": table.cell(v)} for n, v in found["folds"].items()]
    return markdown(rows) + ("\n" + markdown(folds) if folds else "")


def text() -> str:
    """Returns the table of the probe for the package of a block of text."""
    found = results.read("data2vec2/results_text.json")
    rows = [
        {"features": name, "accuracy": table.cell(tasks["package"])}
        for name, tasks in found["probes"].items()
    ]
    return f"{markdown(rows)}\nChance: {1 / len(found['packages']):.3f}.\n"


def units(file: str) -> str:
    """Returns the table of unit quality: MFCC, and the best layer of each encoder."""
    rows = []
    for name, layers in results.read(file)["units"].items():
        best = max(layers, key=lambda layer: statistics.mean(layers[layer]["pnmi"]))
        row = {"units of": name, "layer": best if len(layers) > 1 else ""}
        for score in ("pnmi", "phone_purity", "cluster_purity"):
            row[score.replace("_", " ")] = table.cell(layers[best][score])
        rows.append(row | {"seeds": str(len(layers[best]["pnmi"]))})
    return markdown(rows)


def unit_gains(file: str) -> str:
    """Returns the table of the PNMI gain of each iteration at its best layer, paired by seed."""
    best, rows = results.chain(results.read(file)["units"]), []
    for before, after in itertools.pairwise(best):
        gain = [b - a for a, b in zip(best[before], best[after], strict=True)]
        better = f"{sum(g > 0 for g in gain)} of {len(gain)} seeds"
        rows.append({"from": before, "to": after, "PNMI": table.cell(gain), "better in": better})
    return markdown(rows)


def recognition() -> str:
    """Returns the table of phone and digit error rates by pre-training."""
    found, rows = results.read("hubert/results.json")["recognition"], []
    if not found:
        return "Not run for these results.\n"
    for name in next(iter(found.values())):
        row = {"pre-training": name}
        for task, arms in found.items():
            row |= {f"{task}, {s.upper()}": table.cell(v) for s, v in arms[name].items()}
        rows.append(row)
    return markdown(rows)


def wav2vec2() -> str:
    """Returns the table of wav2vec 2.0 as published and with two mistakes of known ports."""
    found = results.read("wav2vec2/results.json")
    rows = []
    for name, metrics in found["arms"].items():
        row = {"wav2vec 2.0": name}
        row[f"codes in use, of {found['codes']}"] = table.cell(metrics["code_perplexity"], 1)
        for key in ("distinct_negatives", "contrastive_accuracy", "contrastive_loss"):
            row[key.replace("_", " ")] = table.cell(metrics[key])
        rows.append(row | {"seeds": str(len(metrics["code_perplexity"]))})
    return markdown(rows)


def curves() -> str:
    """Returns a row per metric of the reference curves, a column per reference."""
    found: dict[str, Any] = {}
    for file in sorted(results.HERE.glob("*/curves.json")):
        named = json.loads(file.read_text(encoding="utf-8"))
        found |= {f"{file.parent.name}, {name}": curve for name, curve in named.items()}
    metrics = list(dict.fromkeys(m for reference in found.values() for m in reference))
    rows = []
    for metric in metrics:
        row = {"metric": f"`{metric}`"}
        for name, reference in found.items():
            row[name] = _band(reference[metric]) if metric in reference else "-"
        rows.append(row)
    return markdown(rows)


def _band(band: Mapping[str, Sequence[float]]) -> str:
    """Returns "first → last (least to most)" of a reference curve."""
    later = len(band["step"]) // 10
    least, most = min(band["least"][later:]), max(band["most"][later:])
    return f"{band['mean'][0]:.3g} → {band['mean'][-1]:.3g} ({least:.3g} to {most:.3g})"


def all_claims() -> str:
    """Returns the table of the claims of all experiments, with gains and verdicts."""
    return markdown(claims.rows(claims.published()))


def once_run(file: str, make: Callable[[], str]) -> Callable[[], str]:
    """Returns a maker of a table that says "Not run yet." while its results file is missing."""
    return lambda: make() if (results.HERE / file).exists() else "Not run yet.\n"


TABLES = {
    "../README.md": {
        "colab": address.colab,
        "status": methods.status,
        "methods": lambda: markdown(methods.table()),
        "clone": address.clone,
        "report": address.report,
        "quickstart": quickstart,
        "benchmarks": speed.benchmarks,
    },
    "../docs/install.md": {"clone": address.clone},
    "../docs/first_hour.md": {"clone": address.clone},
    "../docs/time.md": {
        "programs": lambda: markdown(recipes.programs()),
        "recipes": lambda: markdown(recipes.table()),
        "side_by_side": once_run("benchmarks/side_by_side.json", speed.side_by_side),
    },
    "../docs/speed.md": {
        name: functools.partial(speed.step_vs_torch, f"benchmarks/{file}.json")
        for name, file in (("steps", "step_vs_torch"), ("steps_slower", "step_vs_torch_slower"))
    }
    | {
        "steps_gpu": once_run("benchmarks/step_vs_torch_gpu.json", speed.step_vs_torch_gpu),
        "prediction": once_run("benchmarks/prediction.json", speed.prediction),
        "extraction": once_run("benchmarks/extraction.json", speed.extraction),
        "kmeans": once_run("benchmarks/kmeans.json", speed.kmeans_speed),
        "amortization": once_run("benchmarks/amortization.json", speed.amortization),
        "tokens": once_run("benchmarks/tokens.json", lambda: markdown(tokens.rows())),
        "elastic": once_run(
            "benchmarks/elastic_step.json",
            lambda: markdown(elastic_step.rows(results.read("benchmarks/elastic_step.json"))),
        ),
        "layers": lambda: markdown(layers_kept.rows(results.read("benchmarks/layers_kept.json"))),
    },
    "../docs/faults.md": {"checkpoint": once_run("benchmarks/checkpoint.json", speed.checkpoint)},
    "../docs/metrics.md": {"curves": curves},
    "../docs/claims.md": {"claims": all_claims},
    "data2vec2/README.md": {
        "levels": time_to_accuracy,
        "image_probes": image_probes,
        "image_cost": image_cost,
        "image_ablations": image_ablations,
        "audio": once_run("data2vec2/results_audio.json", audio),
        "text": once_run("data2vec2/results_text.json", text),
    },
    "hubert/README.md": {
        name + end: once_run(file, functools.partial(make, file))
        for end, file in (
            ("", "hubert/results.json"),
            ("_alone", "hubert/results_synthesized.json"),
        )
        for name, make in (("units", units), ("gains", unit_gains))
    }
    | {"recognition": once_run("hubert/results.json", recognition)},
    "scaling/README.md": {
        part: lambda part=part: markdown(scaling.rows(part)) for part in ("weak", "fit", "overhead")
    },
    "beats/README.md": {
        name: once_run("beats/results.json", lambda make=make: markdown(make()))
        for name, make in (("probes", beats.probes), ("tokens", beats.tokens))
    },
    "dmae/README.md": {
        "probes": lambda: markdown(dmae.rows()),
        "few_labels": lambda: markdown(dmae.few_labels()),
    },
    "lighthubert/README.md": {
        name: once_run(lighthubert.FILE, lambda make=make: markdown(make()))
        for name, make in (("arms", lighthubert.arms), ("latency", lighthubert.latency))
    }
    | {"notes": once_run(lighthubert.FILE, lighthubert.notes)},
    "mvd/README.md": {
        name: once_run(mvd.FILE, lambda make=make: markdown(make()))
        for name, make in (("probes", mvd.rows), ("droid", mvd.droid))
    }
    | {"notes": once_run(mvd.FILE, mvd.notes)},
    "mimco/README.md": {"probes": lambda: markdown(mimco.rows())},
    "noisy_student/README.md": {
        f"{name}{end}": once_run(file, lambda make=make, file=file: markdown(make(file)))
        for name, make in (("generations", students.rows), ("labels", students.labels))
        for end, file in students.FILES.items()
    },
    "wav2vec2/README.md": {"codes": wav2vec2},
    "kws/README.md": {"shares": shares, "long_spans": long_spans, "speakers": speakers},
    "music2vec/README.md": {part: functools.partial(music, part) for part in MUSIC_PARTS},
}


def fill(path: Path, name: str, made: str) -> None:
    """Replaces the text between <!-- table:NAME --> and <!-- end:NAME -->."""
    _replace(path, f"<!-- table:{name} -->\n", made, f"<!-- end:{name} -->")


def fill_number(path: Path, name: str, made: str) -> None:
    """Replaces the text within a line between <!-- number:NAME --> and <!-- end -->."""
    _replace(path, f"<!-- number:{name} -->", made, "<!-- end -->")


def _replace(path: Path, start: str, made: str, end: str) -> None:
    text = path.read_text(encoding="utf-8")
    if start not in text or end not in text:
        raise ValueError(f"{path} has no {start.strip()} and {end}: add them")
    atomic.write_text(
        path, re.sub(f"{start}.*?{end}", f"{start}{made}{end}", text, flags=re.DOTALL)
    )


if __name__ == "__main__":
    for file, tables in TABLES.items():
        for name, make in tables.items():
            fill(results.HERE / file, name, make())
    for name, make in miniatures.MINIATURES.items():
        fill_number(results.HERE.parent / "docs" / "methods.md", name, make())
    address.write()
