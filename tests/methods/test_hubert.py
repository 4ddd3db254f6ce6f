"""What HuBERT's options and metrics mean; test_hubert_oracle.py tests the objective itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_cases import quick_jit, tiny

from configs import common
from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.methods import hubert
from ssl_jax.nn import build

QUIET = {"encoder.input_dropout": 0.0}


def value(out, name):
    total, count = out.metrics[name]
    return float(total / count)


@pytest.fixture(scope="module")
def setup():
    made = tiny("hubert/audio", QUIET)
    made.batch = {**made.batch, "units": made.batch["units"][:, :1]}
    made.compiled = quick_jit(lambda params, batch: made.loss(params, batch=batch))
    made.out = made.compiled(made.params, made.batch)
    return made


def method(rate, sets=1, **encoder):
    """A Hubert with an encoder of 50 frames per second."""
    section = common.hubert()
    section.encoder.kind = "waveform"
    section.units.update({"classes": (100,) * sets, "rate": float(rate)})
    options = options_lib.read(hubert.Options, section)
    encoder = build.encoder({"kind": "waveform", **encoder}, precision="float32", sample_rate=16000)
    return hubert.Hubert(options, encoder)


@pytest.mark.parametrize(
    ("rate", "labels", "frames", "expected"),
    [
        (50, 10, 5, [0, 1, 2, 3, 4]),
        # MFCC: every second label, whose window coincides with that of the frame
        (100, 10, 5, [0, 2, 4, 6, 8]),
        (75, 10, 5, [0, 1, 3, 4, 6]),
        # the frames after the last label have none: floor(7 / 2) = 3 remain, and one more
        (100, 7, 6, [0, 2, 4, 6, -1, -1]),
    ],
)
def test_a_frame_has_the_label_at_floor_t_times_r(rate, labels, frames, expected):
    units = jnp.arange(labels)[None, None]
    np.testing.assert_array_equal(method(rate).align(units, frames), [[expected]])


def test_windows_of_mfcc_and_of_frames_coincide():
    """16000 samples: 98 labels of 100 Hz and 49 frames, each with a label (spec: 16000 -> 49)."""
    found = method(100).align(jnp.arange(98)[None, None], 49)[0, 0]
    # windows of 400 samples begin every 160, frames of 400 every 320
    np.testing.assert_array_equal(found * 160, np.arange(49) * 320)


def test_metrics_count_frames_and_units(setup):
    out, batch = setup.out, setup.batch
    names = {"masked_accuracy", "unmasked_accuracy", "unit_entropy", "prediction_entropy"}
    assert names < set(out.metrics) and "masked_accuracy_1" not in out.metrics
    masked, real = out.metrics["masked_share"]
    counted = out.metrics["masked_accuracy"][1]
    behind = out.metrics["unmasked_accuracy"][1]
    # row 2 has labels for half of its frames
    assert 0 < counted <= masked and counted + behind == real - 12
    assert out.weight == counted == out.metrics["masked_loss"][1]
    assert 0 <= value(out, "masked_accuracy") <= 1
    assert 0 < value(out, "unit_entropy") <= np.log(8) + 1e-6
    alone = {**batch, "units": jnp.where(batch["units"] >= 0, 3, -1)}
    one = setup.compiled(setup.params, alone)
    np.testing.assert_allclose(value(one, "unit_entropy"), 0, atol=1e-6)
    np.testing.assert_allclose(
        value(out, "loss"),
        value(out, "masked_loss") + 10 * value(out, "feature_penalty"),
        rtol=1e-5,
    )


def test_without_any_label_only_the_penalty_is_left(setup):
    nothing = {**setup.batch, "units": jnp.full_like(setup.batch["units"], -1)}
    out = setup.compiled(setup.params, nothing)
    assert out.weight == 0
    np.testing.assert_allclose(out.loss, 10 * value(out, "feature_penalty"), rtol=1e-6)


def test_units_of_all_sets_are_predicted():
    two = tiny("hubert/audio", {**QUIET, "units.classes": (8, 5), "units.tied": True})
    metrics = jax.eval_shape(two.loss, two.params).metrics
    assert {"masked_accuracy", "masked_accuracy_1", "unit_entropy_1"} < set(metrics)
    assert two.params["head"]["units"].shape == (13, 8)
    assert two.params["head"]["projection"]["kernel"].shape == (16, 8)
    assert two.method.batch["units"].shape == (2, None)
    untied = tiny("hubert/audio", {"units.classes": (8, 5)})
    assert untied.params["head"]["projection"]["kernel"].shape == (16, 16)


def test_initial_values_are_those_of_the_original():
    made = tiny("hubert/audio")

    @quick_jit
    def drawn(key):
        params, extra = made.method.init(key, made.batch)
        assert extra == {}
        return params["mask"]["vector"], params["head"]["units"]

    for values in drawn(jax.random.key(1)):
        assert values.min() >= 0 and values.max() < 1 and 0.3 < values.mean() < 0.7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"units.rate": 25.0}, r"units.rate is 25 labels per second, fewer than the 50 frames"),
        ({"units.classes": ()}, r"units.classes is \(\): use numbers from 2 up"),
        ({"units.classes": (1,)}, r"units.classes is \(1,\)"),
        ({"encoder.kind": "vit"}, "encoder.kind is 'vit': use 'waveform'"),
        ({"head.temperature": 0.0}, "head.temperature 0.0: use 1 or more, such as 256, and above"),
        ({"loss.masked": 0.0}, "loss.masked is 0.0, .* one of the first two above it"),
        ({"loss.penalty": -1.0}, "loss.penalty -1.0: use 0.0 or more"),
    ],
)
def test_bad_options_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        tiny("hubert/audio", {**changes})
