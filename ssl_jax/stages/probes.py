"""Probes of the frozen features of several encoders, on the same splits of labelled data."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from ssl_jax.core import options as options_lib
from ssl_jax.evals import collapse, compare, mlp_probe
from ssl_jax.evals.baselines import Encoder
from ssl_jax.evals.pool import means
from ssl_jax.stages import embed


def run_probes(
    encoders: Callable[[], Sequence[Encoder]],
    corpora: embed.Splits,
    given: ConfigDict,
    probes: Sequence[str],
    mesh: Mesh,
    folder: Path,
) -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
    """Returns the rows of every probe on every encoder, and collapse diagnostics of the encoders.

    given: the sections `task` and `probe` of a protocol. Raises ValueError on fewer than two
    classes, before `encoders` is called.
    """
    train = corpora["train"].corpus
    if len(train.classes) < 2 and set(probes) != {compare.MLP}:
        raise ValueError(
            f"config.data.train has {len(train.classes)} classes and a probe needs two or more: "
            f"set config.data.train.<name>.label to the column of the classes"
        )
    task = None
    if compare.MLP in probes:
        task = mlp_probe.task_of(train.classes, train.fields, given.get("task", {}))
    options = options_lib.read(mlp_probe.Options, given.get("probe", {}), "probe")
    fields = {name: split.corpus.fields for name, split in corpora.items()}
    rows, diagnostics = [], {}
    for encoder in encoders():
        pooled = embed.pooled(encoder, corpora, mesh, folder)
        found = compare.rows(
            encoder.name,
            probes,
            pooled,
            fields,
            classes=len(train.classes),
            task=task,
            options=options,
        )
        rows += [compare.numbered(row, encoder.layers) for row in found]
        if encoder.params:
            features = means(pooled.get("valid", pooled["train"]).features, encoder.pool)
            diagnostics[encoder.name] = collapse.report(features, layers=encoder.layers)
    return rows, diagnostics
