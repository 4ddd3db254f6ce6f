"""Probes and collapse diagnostics of a model while it trains."""

from collections.abc import Callable, Sequence
from operator import length_hint
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ssl_jax.core import progress
from ssl_jax.core.types import TrainState, Tree
from ssl_jax.evals import collapse, knn, ridge
from ssl_jax.evals.pool import Batches, FeaturesFn, Pooled, means, pool, pooler
from ssl_jax.ops import ema

NAMES = ("ridge", "knn", "collapse")


class Monitor:
    """A hook of the loop: monitor(step, state) -> {"monitor/ridge/accuracy": 0.8, ...}.

    names: of config.eval.monitors. `ridge` and `knn` fit on the labelled training rows, choose
    layer, penalty and k on a held-out fifth of them, and score the validation rows; `collapse`
    gives the deviation and effective rank of each layer on validation, and the cosine to the
    teacher's, if `state.extra` holds a "teacher". train, valid: called anew each time, return an
    iterable of host batches (this host's rows). Features are compiled once. how: mean or mean_std,
    by which features are pooled for the probes; `collapse` sees the means. stream: whose features
    these are, and the second part of the names of the metrics.
    """

    def __init__(
        self,
        names: Sequence[str],
        features: FeaturesFn,
        *,
        train: Callable[[], Batches],
        valid: Callable[[], Batches],
        classes: int,
        mesh: Mesh | None = None,
        how: str = "mean",
        stream: str = "",
    ):
        unknown = [name for name in names if name not in NAMES]
        if unknown:
            raise ValueError(f"config.eval.monitors has {unknown}: use some of {list(NAMES)}")
        probes = [name for name in names if name != "collapse"]
        if probes and classes < 2:
            raise ValueError(
                f"config.eval.monitors has {probes}, which need two or more classes, and the data "
                f"has {classes}: name a label column in config.data, or use ('collapse',)"
            )
        self.names, self.train, self.valid = tuple(names), train, valid
        self.classes, self.mesh = classes, mesh
        self.how, self._apply = how, pooler(features, mesh, how)
        self.prefix = f"monitor/{stream}/" if stream else "monitor/"

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        """Returns the metrics by name; transfers are intended here, so the guard is lifted."""
        del step
        with jax.transfer_guard("allow"):
            params, teacher = state.params, _teacher(state)
            valid = self._pool(params, self.valid, "validation")
            found: dict[str, float] = {}
            if "collapse" in self.names:
                other = None
                if teacher is not None:
                    other = self._means(self._pool(teacher, self.valid, "teacher"))
                with progress.Waiting("monitor, collapse"):
                    found |= collapse.report(self._means(valid), other)
            if "ridge" in self.names or "knn" in self.names:
                train = self._pool(params, self.train, "training")
                found |= self._probes(train.labelled(), valid.labelled())
        return {f"{self.prefix}{name}": value for name, value in found.items()}

    def _pool(self, params: Tree, batches: Callable[[], Batches], what: str) -> Pooled:
        about: dict[str, Any] = {"name": f"monitor, {what}", "total": length_hint(batches)}
        return pool(self._apply, params, batches(), mesh=self.mesh, **about)

    def _means(self, pooled: Pooled) -> np.ndarray:
        return means(pooled.features, self.how)

    def _probes(self, train: Pooled, valid: Pooled) -> dict[str, float]:
        fitted, tested = (train.features, train.labels), (valid.features, valid.labels)
        found: dict[str, float] = {}
        for name, module in (("ridge", ridge), ("knn", knn)):
            if name in self.names:
                with progress.Waiting(f"monitor, {name}"):
                    scores = module.probe(fitted, tested, classes=self.classes)
                found[f"{name}/accuracy"] = float(scores.test[scores.layer])
                found[f"{name}/layer"] = float(scores.layer)
                for layer, value in enumerate(scores.test):
                    found[f"{name}/accuracy_layer{layer}"] = float(value)
        return found


def _teacher(state: TrainState) -> Tree | None:
    """Returns the teacher's parameters, with the parts that it shares with the student."""
    teacher = state.extra.get("teacher")
    if teacher is None:
        return None
    return ema.merge(teacher, {name: state.params[name] for name in teacher})
