"""Tiny masked autoencoders of images and of spectrograms, with batches for them."""

import jax.numpy as jnp
import numpy as np
from method_cases import Setup, make_batch
from ml_collections import ConfigDict

from configs import common
from ssl_jax.methods import mae

BLOCKS = {"depth": 2, "width": 16, "heads": 2, "mlp_width": 32}
ENCODERS = {
    "image": {"kind": "vit", "image_size": 16, "patch_size": 4, **BLOCKS},
    "spectrogram": {"kind": "spectrogram", "num_mels": 16, "patch": (4, 8), **BLOCKS},
}


def config_of(kind, changes=None, **encoder):
    """Returns config.method of a tiny MAE; `changes` are keys of it, `encoder` of its encoder."""
    config = common.mae()
    config.encoder = ConfigDict({**ENCODERS[kind], **encoder})
    config.decoder = ConfigDict({**BLOCKS, "depth": 1})
    config.update(changes or {})
    return config


def make(config):
    """Returns the Method of config.method."""
    return mae.make(config, precision="float32", sample_rate=16000, num_classes=0)


def pictures(rows=4, size=16):
    """Returns a batch of images of noise around a slope; the last has weight 0."""
    draw = np.random.default_rng(0)
    image = draw.normal(0, 30, (rows, size, size, 3)) + np.linspace(60, 180, size)[:, None]
    return {
        "id": jnp.arange(rows, dtype=jnp.uint32) + 7,
        "weight": jnp.ones(rows).at[-1].set(0),
        "image": jnp.asarray(image.clip(0, 255).astype(np.uint8)),
    }


def tiny(kind, changes=None, **encoder):
    """Returns the Setup of a tiny masked autoencoder."""
    method = make(config_of(kind, changes, **encoder))
    batch = pictures() if kind == "image" else make_batch()
    return Setup(method, {name: batch[name] for name in method.batch})
