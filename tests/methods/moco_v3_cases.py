"""A tiny MoCo v3 with parameters and statistics that are none of the initial ones."""

import jax.numpy as jnp
import numpy as np
from method_cases import QUIET, ROOT, Setup

from ssl_jax.core import config as config_lib
from ssl_jax.core import tree as tree_lib
from ssl_jax.methods import moco_v3

CONFIG = str(ROOT / "configs/moco_v3/image.py:toy")


def config_of(changes=()):
    """Returns the toy config without dropout; `changes` are overrides of it."""
    config = config_lib.load(CONFIG).copy_and_resolve_references().unlock()
    config.method.encoder.update(QUIET)
    config.method.ema.anneal = 10
    return config_lib.override(config, list(changes))


def views(rows=4, size=16):
    """Returns a batch of two views of images of noise around a slope; the last has weight 0."""
    draw = np.random.default_rng(0)
    slope = np.linspace(60, 180, size)[:, None, None]
    image = draw.normal(0, 30, (rows, 1, size, size, 3)) + slope
    image = image + draw.normal(0, 15, (rows, 2, size, size, 3))
    return {
        "id": jnp.arange(rows, dtype=jnp.uint32) + 7,
        "weight": jnp.ones(rows).at[-1].set(0),
        "image": jnp.asarray(image.clip(0, 255).astype(np.uint8)),
    }


def tiny(changes=(), rows=4):
    """Returns the Setup of a tiny MoCo v3, its running variances positive."""
    config = config_of(changes)
    method = moco_v3.make(config.method, precision="float32", sample_rate=0, num_classes=0)
    setup = Setup(method, views(rows))
    setup.extra = tree_lib.map_named(
        lambda name, x: jnp.abs(x) if name.endswith(("/var", "weight")) else x, setup.extra
    )
    return setup
