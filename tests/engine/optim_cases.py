"""A tiny encoder with a head, and runs of its optimizer; for the tests of engine.optim."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs import common
from ssl_jax.core import config as config_lib
from ssl_jax.core import tree
from ssl_jax.engine import optim

DEPTH, STEPS = 3, 20
NAMES = (
    "classifier/bias",
    "classifier/kernel",
    "encoder/blocks/mlp/bias",
    "encoder/blocks/mlp/kernel",
    "encoder/cls",
    "encoder/final_norm/scale",
    "encoder/frontend/kernel",
    "encoder/positions",
    "mask",
)


def arrays(seed: int) -> dict:
    """Returns parameters, or gradients, of a tiny encoder of 3 blocks with a head."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        "classifier": {"bias": normal(2), "kernel": normal(4, 2)},
        "encoder": {
            "blocks": {"mlp": {"bias": normal(DEPTH, 4), "kernel": normal(DEPTH, 4, 4)}},
            "cls": normal(4),
            "final_norm": {"scale": normal(4)},
            "frontend": {"kernel": normal(5, 4)},
            "positions": normal(6, 4),
        },
        "mask": normal(4),
    }


def section(**changes):
    """Returns config.optim with some keys changed."""
    config = common.optim()
    config.update({"lr": 0.1, "schedule": "constant"} | changes)
    return config


def to_steps(duration) -> int:
    facts = {"batch_size": 4, "examples": 40, "seconds_per_step": 4.0, "total": STEPS}
    return config_lib.steps(duration, **facts)


def make(config, params=None, depth: int = DEPTH):
    params = arrays(0) if params is None else params
    return optim.make(config, params, total_steps=STEPS, to_steps=to_steps, depth=depth)


def run(config, count: int = 3, gradients=arrays) -> tuple[list[dict], object]:
    """Returns (parameters by name before and after each update, last optimizer state)."""
    params = arrays(0)
    tx, _ = make(config, params)
    state = tx.init(params)
    update = jax.jit(tx.update)
    seen = [dict(tree.named_leaves(params))]
    for i in range(count):
        updates, state = update(gradients(i + 1), state, params)
        params = optax.apply_updates(params, updates)
        seen.append(dict(tree.named_leaves(params)))
    return [{n: np.asarray(x) for n, x in p.items()} for p in seen], state


def named(tree_of) -> dict[str, np.ndarray]:
    return {n: np.asarray(x, np.float64) for n, x in tree.named_leaves(tree_of)}
