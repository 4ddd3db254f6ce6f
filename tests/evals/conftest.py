"""A toy method and toy features for the evaluations."""

import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.types import Features
from ssl_jax.evals import linear_probe

FIELD, HOP, WIDTH = 40, 16, 6


def toy_features(params, batch):
    """Frames of FIELD samples every HOP; layer 1 also sees one frame on each side."""
    audio = jnp.asarray(batch["audio"], jnp.float32) / 32768
    count = (audio.shape[1] - FIELD) // HOP + 1
    index = np.arange(count)[:, None] * HOP + np.arange(FIELD)
    lengths = jnp.maximum((batch["audio_len"] - FIELD) // HOP + 1, 0)
    mask = jnp.arange(count) < lengths[:, None]
    x = jnp.where(mask[..., None], audio[:, index] @ params["kernel"], 0)
    around = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
    y = jnp.tanh(x + around[:, :-2] - 0.5 * around[:, 2:])
    return Features(jnp.stack([x, y]), mask, 1000 / HOP)


@pytest.fixture(scope="session")
def toy():
    """(features, params): a model of 1000 samples per second with two hidden states."""
    kernel = np.random.default_rng(0).normal(size=(FIELD, WIDTH)).astype(np.float32)
    return toy_features, {"kernel": kernel}


def make_clusters(rows, seed, *, classes=5, layers=3, width=16, spread=0.25):
    """Labelled features (N, L, D): the last layer is separable, the layers below are noise."""
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(0).normal(size=(classes, width))
    labels = rng.integers(0, classes, rows).astype(np.int32)
    x = rng.normal(size=(rows, layers, width)).astype(np.float32)
    x[:, -1] = means[labels] + spread * x[:, -1]
    return x, labels


@pytest.fixture
def clusters():
    """The function that draws a split of one toy task of five classes."""
    return make_clusters


@pytest.fixture
def splits():
    """Train, validation and test of the toy task."""
    return make_clusters(300, 1), make_clusters(150, 2), make_clusters(200, 3)


@pytest.fixture(scope="session")
def grid():
    """A small grid of linear probes; one shape for all tests, so that it is compiled once."""
    return linear_probe.Grid(rates=(0.003, 0.03), seeds=(0, 1), steps=60, batch_size=64)
