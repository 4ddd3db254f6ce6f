"""The evaluations of a run while it trains: the hooks that its config.eval asks for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from ssl_jax.core import config as config_lib
from ssl_jax.core.types import Method, TrainState
from ssl_jax.engine import hooks, splits
from ssl_jax.engine import step as step_lib
from ssl_jax.evals import split_scores
from ssl_jax.evals.monitor import Monitor
from ssl_jax.evals.pool import of_encoder


def make(
    config: ConfigDict,
    method: Method,
    mesh: Mesh,
    shardings: TrainState,
    opened: Mapping[str, splits.Split],
    to_steps: Callable[..., int],
) -> list[hooks.Hook]:
    """Returns the hooks of config.eval: validation and monitors every config.eval.every, the test
    split once, after the last step.

    Raises ConfigError where the config names a metric that no evaluation gives.
    """
    found: list[hooks.Hook] = []
    every = to_steps(config.eval.every, "config.eval.every")
    monitors, scores = tuple(config.eval.monitors), config.eval.scores
    multiple = splits.batch_multiple(config, mesh)
    evaluate = step_lib.compile_eval_step(step_lib.make_eval_step(method, mesh), mesh, shardings)

    def evaluate_split(split: splits.Split, how_often: int) -> None:
        rows = split.in_order(multiple, method.batch, mesh)
        found.append((hooks.validation(evaluate, rows, mesh, split.name), how_often))
        if scores:
            spelled = split.corpus.classes, config.data.get("spelling", "")
            scored = split_scores.make(scores, method, rows, mesh, split.name, *spelled)
            found.append((scored, how_often))

    if "test" in opened:
        evaluate_split(opened["test"], 0)
    if "valid" in opened and config.eval.valid:
        evaluate_split(opened["valid"], every)
    if "valid" in opened and monitors:
        read = sorted({*method.batch, "id", "weight", "label"})
        batches = {k: opened[k].in_order(multiple, read, mesh) for k in ("train", "valid")}
        count = len(opened["train"].corpus.classes)
        how = of_encoder(config.eval.pool)
        for stream, names in _by_stream(monitors).items():
            features = method.of_stream(stream, "the stream of config.eval.monitors").features
            given: Any = {**batches, "classes": count, "mesh": mesh, "how": how, "stream": stream}
            found.append((Monitor(names, features, **given), every))
    watched = len(config.data.valid) and (config.eval.valid or monitors)
    if not watched and (monitors or config.checkpoint.best_metric):
        raise config_lib.ConfigError(
            "config.eval.monitors and config.checkpoint.best_metric need an evaluation: name a "
            "source in config.data.valid and keep config.eval.valid=True"
        )
    return found


def _by_stream(monitors: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Returns the names of monitors by stream: "video/ridge" is that of `video`, "ridge" of ""."""
    found: dict[str, tuple[str, ...]] = {}
    for each in monitors:
        stream, _, name = each.rpartition("/")
        found[stream] = (*found.get(stream, ()), name)
    return found
