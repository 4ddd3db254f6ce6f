"""Tiny tokenizers and models of BEATs over a plain encoder of spectrograms, and their teachers."""

import jax
import numpy as np
from mae_cases import ENCODERS
from method_cases import Setup, _drawn, make_batch
from ml_collections import ConfigDict
from test_mae_oracle import flat, sound_patches

from configs import common
from ssl_jax.core import config as config_lib
from ssl_jax.core.types import FROZEN
from ssl_jax.methods import beats, beats_tokenizer
from ssl_jax.nn import frozen

HEARD = (0, 1, 2)  # the rows of the batch that have a weight
PLAIN = {**ENCODERS["spectrogram"], "class_token": False}
DECODER = {"width": 16, "depth": 1, "heads": 2, "mlp_width": 32, "positions": "sincos"}
CODES = 6


def folder_of(root, place, config_file="mae/spectrogram.py", changes=None):
    """Makes a run folder, as far as a method reads one, of a tiny encoder; returns its path."""
    config = config_lib.load(f"{root}/configs/{config_file}:toy")
    with config.unlocked():
        config.method.encoder = ConfigDict({**PLAIN, "width": 12, **(changes or {})})
    (place / "checkpoints" / "1").mkdir(parents=True)
    (place / "config.json").write_text(config_lib.to_json(config))
    return str(place)


def tokenizer_folder(root, place, method, sample_rate=16000):
    """Makes a run folder, as far as a method reads one, of a tokenizer; returns its path."""
    config = config_lib.load(f"{root}/configs/beats/tokenizer.py:toy")
    with config.unlocked():
        config.method, config.data.sample_rate = ConfigDict(method), sample_rate
    (place / "checkpoints" / "1").mkdir(parents=True)
    (place / "config.json").write_text(config_lib.to_json(config))
    return str(place)


def tokenizer_config(teacher, changes=None, **book):
    """Returns config.method of a tiny tokenizer."""
    config = common.beats_tokenizer()
    config.encoder = ConfigDict(PLAIN)
    config.estimator.update(DECODER)
    config.codebook.update({"codes": CODES, "width": 8, **book})
    config.teachers.teacher = teacher
    config.update(changes or {})
    return config


def model_config(changes=None, **given):
    """Returns config.method of a tiny BEATs."""
    config = common.beats()
    config.encoder = ConfigDict(PLAIN)
    config.predictor.update(DECODER)
    config.units.update({"classes": (CODES,), "rate": 50.0})
    config.random.update({"hidden": 12, "width": 8})
    config.update({**given, **(changes or {})})
    return config


def make(config):
    """Returns the Method of config.method."""
    module = {"beats": beats, "beats_tokenizer": beats_tokenizer}[config.name]
    return module.make(config, precision="float32", sample_rate=16000, num_classes=0)


def setup_of(config):
    """Returns the Setup of a tiny method, with drawn parameters for its teacher."""
    method = make(config)
    batch = make_batch()
    setup = Setup(method, {name: batch[name] for name in method.batch})
    for name, declared in method.frozen.items():
        run = frozen.read(declared.folder, f"config.method.teachers.{name}")
        shapes = jax.eval_shape(
            lambda key, run=run, declared=declared: frozen.init(run, declared, key),
            jax.random.key(0),
        )
        setup.extra = {**setup.extra, FROZEN: {name: _drawn(shapes, 5)}}
    return setup


def examples(batch):
    """Returns the real patches (S, P) of each row that has a weight, float64."""
    return [sound_patches(batch["audio"][i, : batch["audio_len"][i]]) for i in HEARD]


def slopes(literal, params, gradient, skip=()):
    """Returns {parameter: (slope by the gradient, by central differences)} along random ways."""
    draw, h, found = np.random.default_rng(11), 1e-6, {}
    params, gradient = flat(params), flat(gradient)
    for key, x in params.items():
        way = draw.standard_normal(x.shape)
        if not key.startswith(skip or "\0"):
            up, down = (literal({**params, key: x + s * way}) for s in (h, -h))
            found[key] = ((gradient[key] * way).sum(), (up - down) / (2 * h))
    return found


def check_slopes(found, rtol=2e-4):
    """Fails where a gradient is not that of the differences."""
    scale = max(abs(b) for _, b in found.values())
    for key, (a, b) in found.items():
        np.testing.assert_allclose(a, b, rtol=rtol, atol=2e-5 * scale, err_msg=key)
