"""A row for each probe and encoder, and the rows of run and baselines as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.core import progress
from ssl_jax.evals import few_labels, knn, linear_probe, mlp_probe, ridge, table
from ssl_jax.evals.pool import Pooled, held_out

PROBES = ("ridge", "knn", "linear")
MLP = "mlp"  # the only probe that also predicts tags and numbers; see `mlp_row`
FEW = "few"  # ridge with few labels; see `few_rows`


def rows(
    features: str,
    probes: Sequence[str],
    splits: Mapping[str, Pooled],
    fields: Mapping[str, Mapping[str, np.ndarray]],
    *,
    classes: int,
    task: mlp_probe.Task | None,
    options: mlp_probe.Options,
) -> list[dict[str, Any]]:
    """Returns a row per probe. fields: split -> {tags, target: (n, C) by id}; `task`: of MLP."""
    out = []
    for name in probes:
        with progress.Waiting(f"{features}: {name} probe"):
            if name == MLP and task is not None:
                truths = {s: _truth(pooled, fields[s], task.kind) for s, pooled in splits.items()}
                out.append(mlp_row(features, truths, task, options))
            else:
                labelled = {s: pooled.labelled() for s, pooled in splits.items()}
                few = few_rows(features, labelled, classes) if name == FEW else []
                out += few or [row(features, name, labelled, classes)]
    return out


def _truth(pooled: Pooled, fields: Mapping[str, np.ndarray], kind: str) -> mlp_probe.Split:
    """Returns the features of the rows whose label is known, and those labels."""
    if kind == "label":
        known = pooled.labelled()
        return known.features, known.labels
    truth = fields["tags" if kind == "slots" else kind][pooled.ids]
    real = ~np.isnan(truth).all(-1)
    return pooled.features[real], truth[real]


def row(features: str, name: str, splits: Mapping[str, Pooled], classes: int) -> dict[str, Any]:
    """Runs one of PROBES -> {features, probe, layer, selection, test, layers}: one value per seed.

    Values are accuracies; `layers` has those of the test split by layer, each at its own options.
    splits: labelled features of train, valid, test. Layer and options are chosen on valid and
    reported on test; without test they are chosen on a fifth of train and reported on valid.
    Raises ValueError with neither.
    """
    pairs = {split: (p.features, p.labels) for split, p in splits.items()}
    train, test = pairs["train"], pairs.get("test", pairs.get("valid"))
    if test is None:
        raise ValueError("config.data.test names no source, nor does config.data.valid")
    select = pairs.get("valid") if "test" in pairs else None
    if name != "linear":
        scores = {"ridge": ridge, "knn": knn}[name].probe(
            train, test, classes=classes, select=select
        )
        layer = scores.layer
        selection, tested = [float(scores.select[layer])], [float(scores.test[layer])]
        layers = {n: [float(value)] for n, value in enumerate(scores.test)}
    else:
        if select is None:
            out = held_out(train[1])
            train, select = [(train[0][rows], train[1][rows]) for rows in (~out, out)]
        grid = linear_probe.probe(train, select, test, classes=classes)
        rate, place = grid.best()
        layer, tested = grid.layers[place], grid.chosen().tolist()
        selection = grid.select[:, rate, place].tolist()
        layers = {n: values.tolist() for n, values in grid.by_layer().items()}
    return {
        "features": features,
        "probe": name,
        "layer": layer,
        "selection": selection,
        "test": tested,
        "layers": {layer_name(n): values for n, values in layers.items()},
    }


def few_rows(features: str, splits: Mapping[str, Pooled], classes: int) -> list[dict[str, Any]]:
    """Returns a row as of `row` for each share of the training labels: one value per draw.

    The split that chooses layer and penalties keeps all its labels: valid, or without it a fifth of
    train, which is then never drawn.
    """
    pairs = {split: (p.features, p.labels) for split, p in splits.items()}
    train, test = pairs["train"], pairs.get("test", pairs.get("valid"))
    if test is None:
        raise ValueError("config.data.test names no source, nor does config.data.valid")
    select = pairs.get("valid") if "test" in pairs else None
    if select is None:
        out = held_out(train[1])
        train, select = [(train[0][rows], train[1][rows]) for rows in (~out, out)]
    made = []
    for share, scores in few_labels.probe(train, select, test, classes=classes).items():
        layer = few_labels.best_layer(scores)
        layers = {
            layer_name(n): [float(s.test[n]) for s in scores] for n in range(len(scores[0].test))
        }
        made.append(
            {
                "features": features,
                "probe": f"ridge, {share:.0%} of labels",
                "layer": layer,
                "selection": [float(s.select[layer]) for s in scores],
                "test": layers[layer_name(layer)],
                "layers": layers,
            }
        )
    return made


def mlp_row(
    features: str,
    splits: Mapping[str, mlp_probe.Split],
    task: mlp_probe.Task,
    options: mlp_probe.Options,
) -> dict[str, Any]:
    """Runs the MLP probe; splits as in `row`, with the labels of the task.

    In addition to the keys of `row`: score (the name of the score in selection and test), scores
    (the test values of each), layers (the test values of every layer at its best rate), rate.
    """
    train, test = splits["train"], splits.get("test", splits.get("valid"))
    if test is None:
        raise ValueError("config.data.test names no source, nor does config.data.valid")
    if "test" in splits and "valid" in splits:
        select = splits["valid"]
    else:
        one = np.zeros(len(train[0]), np.int32)
        out = held_out(train[1] if task.kind == "label" else one)
        train, select = [(train[0][rows], train[1][rows]) for rows in (~out, out)]
    grid = mlp_probe.probe(train, select, test, task=task, options=options)
    rate, place = grid.best()
    tested = grid.chosen(grid.test)
    return {
        "features": features,
        "probe": MLP,
        "layer": grid.layers[place],
        "selection": grid.chosen(grid.select)[grid.first],
        "test": tested[grid.first],
        "score": grid.first,
        "scores": tested,
        "layers": {layer_name(n): values for n, values in grid.by_layer().items()},
        "rate": grid.rates[rate],
    }


def numbered(row: dict[str, Any], layers: Sequence[int]) -> dict[str, Any]:
    """Returns a row whose layers have their numbers in the encoder, of which `layers` were asked
    for; () for all."""
    if not layers:
        return row
    known = {**dict(enumerate(layers)), linear_probe.MIX: linear_probe.MIX}
    names = {layer_name(place): layer_name(number) for place, number in known.items()}
    by_layer = {names[name]: values for name, values in row["layers"].items()}
    return {**row, "layer": known[row["layer"]], "layers": by_layer}


def layer_name(layer: int) -> str:
    """Returns the name of a layer in a table: its number, or "mix"."""
    return "mix" if layer == linear_probe.MIX else str(layer)


def shown(results: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Returns the rows of an evaluation as text cells."""
    return [
        {
            "features": row["features"],
            "probe": row["probe"],
            "layer": layer_name(row["layer"]),
            "selection": table.cell(row["selection"]),
            "test": table.cell(row["test"]),
        }
        | {name: table.cell(values) for name, values in row.get("scores", {}).items()}
        for row in results
    ]


def report(result: dict[str, Any]) -> str:
    """Returns the tables of an evaluation as text."""
    layers = [
        {"features": name, "layer": key.rpartition("layer")[2]}
        | {k: table.cell(values[f"{k}/{key}"]) for k in ("std", "rankme")}
        for name, values in result["health"].items()
        for key in [k.partition("/")[2] for k in values if k.startswith("std/")]
    ]
    return f"{table.text_table(shown(result['results']))}\n\n{table.text_table(layers)}"
