"""MimCo-style pre-training: its losses apart, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from moco_v3_cases import views

from configs.mimco import image
from ssl_jax.core import config as config_lib
from ssl_jax.core import rng
from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import FROZEN
from ssl_jax.engine import teachers
from ssl_jax.methods import mimco


def make(changes=()):
    config = config_lib.override(image.get_config("toy"), list(changes))
    return mimco.make(config.method, precision="float32", sample_rate=0, num_classes=0)


def shapes(changes=(), rows=4):
    """Returns (params, extra, Output) of a loss as shapes."""
    method, batch = make(changes), views(rows)
    batch = {**batch, "image": batch["image"][:, 0]}
    params, extra = jax.eval_shape(method.init, jax.random.key(0), batch)
    streams = rng.Streams(rng.key_data(0), jnp.int32(0), batch["id"])
    seen = {**extra, FROZEN: teachers.shapes(method)}
    out = jax.eval_shape(lambda p, e: method.loss(p, e, batch, streams, True), params, seen)
    return params, extra, out


def test_each_loss_may_be_left_out():
    params, _, out = shapes(["method.patch.weight=0.0"])
    assert set(params) == {"encoder", "image_head"} and "patch_loss" not in out.metrics
    params, _, out = shapes(["method.image.weight=0.0"])
    assert set(params) == {"encoder", "decoder", "patch_head"}
    assert "image_loss" not in out.metrics


def test_a_running_centre_is_kept():
    _, extra, out = shapes(["method.patch.center=running"])
    assert extra["center"]["mean"].shape == (16, 16)
    assert set(out.extra) == {"center", FROZEN}


def test_what_couples_rows_is_named_with_what_avoids_it():
    assert len(make().couples) == 1
    assert not make(["method.image.loss=cosine"]).couples
    assert make(["method.image.loss=cosine", "method.patch.center=batch"]).couples
    place = make(["method.image.weight=0.0", "method.patch.negatives=place"]).couples
    assert set(place.values()) == {"config.method.patch.negatives='image'"}


def test_positives_are_found_whatever_the_negatives():
    draw = np.random.default_rng(0)
    keys = draw.standard_normal((4, 5, 32)).astype(np.float32)
    base = image.get_config("toy").method.patch.to_dict()
    for negatives in mimco.NEGATIVES:
        o = mimco.PatchOptions(**{**base, "negatives": negatives})
        own = mimco.patch_loss(o, keys, keys, np.ones(4))
        other = mimco.patch_loss(o, keys[:, ::-1], keys, np.ones(4))
        assert own.shape == (4, 5) and own.max() < 0.05 and other[:, 0].min() > 1, negatives


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["method.patch.loss=l1"], "config.method.patch.loss is 'l1': use"),
        (["method.patch.negatives=all"], "config.method.patch.negatives is 'all': use"),
        (["method.patch.center=mean"], "config.method.patch.center is 'mean': use"),
        (["method.image.temperature=0.0"], "config.method.image.temperature is 0.0: use more"),
        (
            ["method.image.weight=0.0", "method.patch.weight=0.0"],
            "use 0 or more, and more than 0 for one of them",
        ),
        (["method.mask_ratio=0.0"], "config.method.mask_ratio is 0.0, which leaves 16 of 16"),
    ],
)
def test_options_that_cannot_be_used(changes, message):
    with pytest.raises(ConfigError, match=message):
        make(changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["method.teachers.teacher=configs/moco_v3/image.py:mini"],
            r"images of 24 x 24 in 6 x 6 patches.* and the student images of 16 x 16 in 4 x 4",
        ),
        (["method.teachers.teacher="], "config.method.teachers.teacher is empty: set it to"),
        (["method.teachers.teacher=configs/mae/spectrogram.py:toy"], "reads audio and audio_len"),
    ],
)
def test_a_teacher_that_does_not_fit(changes, message):
    with pytest.raises(ConfigError, match=message):
        shapes(changes)


def test_a_batch_of_one_has_no_negatives():
    with pytest.raises(ConfigError, match=r"config.data.batch_size is 1, but the negatives of"):
        shapes(rows=1)
