"""Tiny data2vec 2.0 models of the three modalities."""

import jax
import numpy as np
from method_cases import QUIET, ROOT, Setup, make_batch

from ssl_jax.core import config as config_lib
from ssl_jax.methods import data2vec2

KINDS = ("image", "audio", "text")


def tiny(kind, changes=None):
    """Returns the Setup of the toy of configs/data2vec2 without dropout.

    `changes` are dotted keys of config.method and their values.
    """
    config = config_lib.load(str(ROOT / f"configs/data2vec2/{kind}.py:toy")).unlock()
    config.method.encoder.update(QUIET)
    config.method.decoder.input_dropout = 0.0
    for key, value in (changes or {}).items():
        *sections, leaf = key.split(".")
        target = config.method
        for section in sections:
            target = target[section]
        target[leaf] = value
    method = data2vec2.make(config.method, precision="float32", sample_rate=16000, num_classes=0)
    batch = make_batch()
    return Setup(method, {name: batch[name] for name in method.batch})


def drawn(setup, step=0):
    """Returns the draws of a step: order (B, M, S), hidden (B, M, S), noise (B, M, S, D)."""
    method, batch = setup.method.loss.__self__, setup.batch

    @jax.jit
    def draw(params, batch):
        x, valid = data2vec2.encoder_lib.frontend(method.encoder, params["encoder"], batch)
        streams = setup.streams(batch, step)
        order, hidden = method._mask(streams, valid & (batch["weight"] > 0)[:, None])
        return order, hidden, method._noise(streams, x), valid

    order, hidden, noise, valid = map(np.asarray, draw(setup.params, batch))
    views = (len(valid), method.options.clones)
    order, hidden, noise = (a.reshape(*views, *a.shape[1:]) for a in (order, hidden, noise))
    return order, hidden, noise, valid
