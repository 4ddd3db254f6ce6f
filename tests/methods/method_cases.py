"""Tiny methods, batches and streams for the tests of the methods."""

import functools
import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core import config as config_lib
from ssl_jax.core import rng
from ssl_jax.core import tree as tree_lib

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = 8000
QUIET = {"dropout": 0.0, "attention_dropout": 0.0, "embed_dropout": 0.0, "layerdrop": 0.0}


class Setup:
    """A method with parameters, a batch of four clips (the last of weight 0), and shorthands."""

    def __init__(self, method, batch):
        self.method, self.batch = method, batch
        shapes = jax.eval_shape(method.init, jax.random.key(0), batch)
        # drawn without compiling anything; the teacher differs from the student
        self.params, self.extra = (_drawn(tree, seed) for seed, tree in enumerate(shapes))

    def streams(self, batch, step=0):
        """Returns the randomness of one step."""
        return rng.Streams(rng.key_data(0), jnp.int32(step), batch["id"])

    def loss(self, params=None, extra=None, batch=None, train=True, step=0):
        """Returns the Output of the loss."""
        batch = self.batch if batch is None else batch
        params = self.params if params is None else params
        extra = self.extra if extra is None else extra
        return self.method.loss(params, extra, batch, self.streams(batch, step), train)


def _drawn(tree, seed):
    """Returns parameters of reasonable size, none of them zero, for a tree of shapes."""
    draw = np.random.default_rng(seed)

    def one(name, x):
        values = draw.standard_normal(x.shape)
        if name.endswith("scale"):
            values = 1 + 0.1 * values
        elif name.endswith("kernel"):
            values = values / np.prod(x.shape[-3:-1] if "conv" in name else x.shape[-2:-1]) ** 0.5
        elif name.endswith("bias"):
            values = 0.1 * values
        return jnp.asarray(values, jnp.float32)

    return tree_lib.map_named(one, tree)


def quick_jit(function):
    """Compiles for a single call: optimizing would take longer than it saves.

    Returns numpy arrays, since every operation on jax arrays would be compiled for its shapes.
    """
    compiled = jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})

    @functools.wraps(function)
    def run(*given):
        return jax.device_get(compiled(*given))

    return run


def make_batch():
    """Returns four examples of each kind, of the toys' length: full, shorter, full, and
    one of weight 0. Row 2 has no label and no target, and units for its first half only."""
    draw = np.random.default_rng(0)
    t = np.arange(SAMPLES) / 16000
    pitch = np.array([220, 330, 450, 610])[:, None]
    audio = np.sin(2 * np.pi * pitch * t * (1 + t)) * 6000
    audio = audio + 600 * draw.standard_normal(audio.shape)
    audio_len = np.array([SAMPLES, 6000, SAMPLES, SAMPLES], np.int32)
    audio[np.arange(SAMPLES) >= audio_len[:, None]] = 0
    units = np.random.default_rng(1).integers(0, 5, (4, 2, 50))
    units[2, :, 24:] = -1
    image = draw.normal(0, 40, (4, 16, 16, 3)) + np.linspace(60, 180, 16)[:, None]
    return {
        "id": jnp.arange(4, dtype=jnp.uint32) + 7,
        "weight": jnp.array([1, 1, 1, 0], jnp.float32),
        "audio": jnp.asarray(audio.astype(np.int16)),
        "audio_len": jnp.asarray(audio_len),
        "units": jnp.asarray(units, jnp.int32),
        "image": jnp.asarray(image.clip(0, 255).astype(np.uint8)),
        "tokens": jnp.asarray(draw.integers(4, 261, (4, 24)), jnp.int32),
        "tokens_len": jnp.array([24, 17, 24, 24], jnp.int32),
        "label": jnp.array([2, 0, -1, 1], jnp.int32),
        "tags": jnp.array([[1, 0, 1], [0, 0, 0], [0, 1, 1], [1, 1, 1]], jnp.float32),
        "target": jnp.array([[2.5], [0.5], [np.nan], [9.0]], jnp.float32),
    }


def tiny(name, changes=None, classes=3):
    """Returns the Setup of the toy of configs/<name>.py without dropout.

    `changes` are dotted keys of config.method and their values.
    """
    config = config_lib.load(str(ROOT / f"configs/{name}.py:toy")).unlock()
    config.method.encoder.update(QUIET)
    for key, value in (changes or {}).items():
        *sections, leaf = key.split(".")
        target = config.method
        for section in sections:
            target = target[section]
        target[leaf] = value
    make = importlib.import_module(f"ssl_jax.methods.{config.method.name}").make
    return Setup(
        make(config.method, precision="float32", sample_rate=16000, num_classes=classes),
        make_batch(),
    )
