"""MoCo v3: its recipes, its options beside the published form, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_cases import quick_jit
from moco_v3_cases import config_of, tiny

from configs.moco_v3 import image
from ssl_jax.core import tree as tree_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.engine import step as step_lib
from ssl_jax.methods import moco_v3
from ssl_jax.nn import build, encoder
from ssl_jax.ops import patches, schedules


def make(changes=()):
    method = config_of(changes).method
    return moco_v3.make(method, precision="float32", sample_rate=0, num_classes=0)


def test_the_recipes_are_those_of_the_paper():
    for name, width in (("small", 384), ("base", 768)):
        config = image.get_config(name)
        options = build.settings(config.method.encoder)
        assert (options["width"], options["depth"], options["heads"]) == (width, 12, 12)
        assert config.optim.lr == pytest.approx(2.4e-3) and config.optim.weight_decay == 0.1
        assert config.optim.decay_rules == ((".*", 1.0),)
        first, second = config.data.transforms, config.data.view_transforms.view2
        assert first.gaussian_blur.prob == 1.0 and "solarize" not in first
        assert second.gaussian_blur.prob == 0.1 and second.solarize.prob == 0.2
        for view in (first, second):
            assert view.random_resized_crop.scale == (0.08, 1.0)
            jitter = view.color_jitter
            assert (jitter.saturation, jitter.hue, jitter.prob) == (0.2, 0.1, 0.8)


def test_momentum_rises_as_half_a_cosine():
    decay = schedules.cosine_decay(0.99, 1.0, 10)
    np.testing.assert_allclose([decay(0), decay(5), decay(10)], [0.99, 0.995, 1.0], rtol=1e-6)
    assert float(decay(20)) == 1.0
    # the method counts updates from 1, the schedule from 0
    np.testing.assert_allclose(make().decay(np.arange(1, 3)), [decay(0), decay(1)], rtol=1e-6)


def test_positions_have_the_row_first():
    table, turned = (patches.sincos_table((3, 3), 8, row_first=x) for x in (False, True))
    np.testing.assert_array_equal(turned, np.concatenate([table[:, 4:], table[:, :4]], 1))


def test_initial_values_are_those_of_the_paper():
    made = build.encoder(
        {**image.get_config("base").method.encoder, "width": 64, "heads": 4, "depth": 1},
        precision="float32",
        sample_rate=0,
    )
    params, _ = quick_jit(
        lambda key: encoder.init(made, key, {"image": jnp.zeros((1, 224, 224, 3))})
    )(jax.random.key(0))
    bound = (6 / (64 + 64)) ** 0.5  # of a matrix of its own, not of query, key and value in one
    for name in ("query", "key", "value"):
        assert 0.9 * bound < np.abs(params["blocks"]["attention"][name]["kernel"]).max() < bound
    projection = params["frontend"]["projection"]
    assert not projection["bias"].any() and np.abs(params["cls"]).max() < 1e-5
    assert np.abs(projection["kernel"]).max() < (6 / (3 * 16 * 16 + 64)) ** 0.5


def test_a_queue_starts_empty_and_takes_the_newest_keys():
    plain, queued = tiny(), tiny(["method.queue=6"])
    empty = {"keys": jnp.zeros((6, 8)), "weight": jnp.zeros(6)}
    extra = {**plain.extra, "queue": empty}
    run = quick_jit(lambda extra: queued.loss(plain.params, extra))
    out = run(extra)
    expected = quick_jit(lambda extra: plain.loss(extra=extra))(plain.extra)
    np.testing.assert_allclose(out.loss, expected.loss, rtol=1e-5)
    queue = out.extra["queue"]
    # two views of four images, the last of weight 0: the newest six
    np.testing.assert_array_equal(queue["weight"], np.ones(6))
    np.testing.assert_allclose(np.linalg.norm(queue["keys"], axis=1), np.ones(6), rtol=1e-5)
    assert run({**extra, "queue": queue}).loss > out.loss  # more negatives


def test_an_abstract_batch_will_do_for_initial_values():
    method = make()
    batch = {n: jax.ShapeDtypeStruct((1, *s.shape), s.dtype) for n, s in method.batch.items()}
    params, _ = jax.eval_shape(lambda key: method.init(key, batch), jax.random.key(0))
    assert params["encoder"]["frontend"]["projection"]["kernel"].shape == (48, 16)


def test_an_evaluation_changes_nothing():
    setup = tiny()
    out = quick_jit(lambda extra: setup.loss(extra=extra, train=False))(setup.extra)
    for (name, a), (_, b) in zip(
        tree_lib.named_leaves(out.extra), tree_lib.named_leaves(setup.extra), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=name)


def test_a_stem_of_convolutions_gives_the_patches():
    setup = tiny(
        [
            "method.encoder.stem=convolutions",
            "method.ema.rules=((r'.*','average'),)",
            "method.pool=frames",
        ]
    )
    found = jax.eval_shape(setup.method.features, setup.params, setup.batch)
    assert found.hidden_states.shape == (3, 4, 16, 16)
    names = [name for name, _ in tree_lib.named_leaves(setup.extra["teacher"]["encoder"])]
    assert "frontend/stem/conv1/kernel" in names and "frontend/projection/kernel" in names
    assert np.isfinite(quick_jit(lambda p: setup.loss(p).loss)(setup.params))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["method.pool=max"], "config.method.pool is 'max': use"),
        (["method.encoder.class_token=False"], "class_token is false: use 'frames'"),
        (["method.temperature=0.0"], "config.method.temperature is 0.0: use more than 0"),
        (["method.queue=-1"], "config.method.queue is -1: use 0, or a number of keys"),
        (["method.ema.start=2.0"], "config.method.ema.start is 2.0: use 0 to 1"),
        (["method.head.hidden=0"], "config.method.head.hidden is 0: use 1 or more"),
    ],
)
def test_options_that_cannot_be_used(changes, message):
    with pytest.raises(ConfigError, match=message):
        make(changes)


def test_a_batch_of_one_has_no_negatives():
    setup = tiny(rows=1)
    with pytest.raises(ConfigError, match=r"config.data.batch_size is 1, but the negatives of"):
        jax.eval_shape(setup.loss)


def test_micro_batches_are_refused():
    with pytest.raises(ConfigError, match="MoCo v3 takes its negatives from the other images"):
        step_lib.make_step(make(), None, None, None, accumulate=2)
