"""One probe on one kind of features as a row, and the rows of run and baselines as a table."""

from collections.abc import Mapping
from typing import Any

from ssl_jax.evals import knn, probe, ridge, table
from ssl_jax.evals.pool import Pooled
from ssl_jax.evals.split import held_out

PROBES = ("ridge", "knn", "linear")


def row(features: str, name: str, splits: Mapping[str, Pooled], classes: int) -> dict[str, Any]:
    """Runs one of PROBES -> {features, probe, layer, selection, test}: accuracies, one per seed.

    splits: labelled features of train, valid, test. Layer and options are chosen on valid and
    test is reported; without test, valid is, and a fifth of train chooses. Raises ValueError
    with neither.
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
    else:
        if select is None:
            out = held_out(train[1])
            train, select = [(train[0][rows], train[1][rows]) for rows in (~out, out)]
        grid = probe.probe(train, select, test, classes=classes)
        rate, place = grid.best()
        layer, tested = grid.layers[place], grid.chosen().tolist()
        selection = grid.select[:, rate, place].tolist()
    return {
        "features": features,
        "probe": name,
        "layer": layer,
        "selection": selection,
        "test": tested,
    }


def report(result: dict[str, Any]) -> str:
    """Returns the tables of an evaluation as text."""
    shown = [
        {
            "features": row["features"],
            "probe": row["probe"],
            "layer": "mix" if row["layer"] == probe.MIX else str(row["layer"]),
            "selection": table.cell(row["selection"]),
            "test": table.cell(row["test"]),
        }
        for row in result["results"]
    ]
    layers = [
        {"features": name, "layer": key.rpartition("layer")[2]}
        | {k: f"{values[f'{k}/{key}']:.3f}" for k in ("std", "rankme")}
        for name, values in result["health"].items()
        for key in [k.partition("/")[2] for k in values if k.startswith("std/")]
    ]
    return f"{table.text_table(shown)}\n\n{table.text_table(layers)}"
