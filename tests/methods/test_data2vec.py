"""Properties of data2vec: what the student sees, what the teacher is, what the metrics show."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from method_cases import quick_jit, tiny

from ssl_jax.core import tree as tree_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.methods import data2vec

# waveforms take twice as long to compile; their oracle is in the fast tests
FAMILIES = (pytest.param("audio", marks=pytest.mark.slow), "kws")


class Forward:
    """A compiled loss that also returns predictions and targets, with a given mask.

    `mask` (B, S) takes the place of the random one when given; `noise` is added to the local
    frames under it.
    """

    def __init__(self, setup):
        self.setup = setup
        self.size = jax.eval_shape(setup.method.features, setup.params, setup.batch).mask.shape[1]
        self.compiled = quick_jit(self._run)

    def __call__(self, params=None, extra=None, batch=None, step=0, mask=None, noise=0.0):
        s = self.setup
        by_hand = mask is not None
        mask = np.zeros((4, self.size), bool) if mask is None else mask
        params, extra = params or s.params, extra or s.extra
        return self.compiled(params, extra, batch or s.batch, step, by_hand, mask, noise)

    def _run(self, params, extra, batch, step, by_hand, mask, noise):
        seen, masks, losses = {}, data2vec.masks, data2vec.losses
        span_mask, smooth_l1 = masks.span_mask, losses.smooth_l1
        frontend = data2vec.Data2Vec._frontend

        def chosen(keys, lengths, size, *rest):
            real = jnp.arange(size) < lengths[:, None]
            return jnp.where(by_hand, mask & real, span_mask(keys, lengths, size, *rest))

        def record(predictions, targets, beta):
            seen.update(predictions=predictions, targets=targets)
            return smooth_l1(predictions, targets, beta)

        def disturbed(self, params, batch, keys=None):
            x, valid = frontend(self, params, batch, keys)
            return x + noise * (mask & valid)[..., None], valid

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(masks, "span_mask", chosen)
            patch.setattr(losses, "smooth_l1", record)
            patch.setattr(data2vec.Data2Vec, "_frontend", disturbed)
            out = self.setup.loss(params, extra, batch, step=step)
        return seen["predictions"], seen["targets"], out


@pytest.fixture(scope="module", params=FAMILIES)
def forward(request):
    # the decay rises fast enough for steps to differ in float32
    return Forward(tiny(f"data2vec/{request.param}", {"ema.anneal": 10}))


def value(out, name):
    total, count = out.metrics[name]
    return float(total / count)


def test_targets_do_not_depend_on_the_mask(forward):
    first, targets, out = forward(step=0)
    second, same, _ = forward(step=1)
    np.testing.assert_array_equal(targets, same)
    assert np.abs(first - second).max() > 1e-3
    assert 0.1 < value(out, "masked_share") < 0.7


def test_masked_local_frames_do_not_reach_the_predictions(forward):
    mask = np.random.default_rng(1).random((4, forward.size)) < 0.5
    mask[3] = False  # a row of weight 0, where nothing is masked
    clean, targets, _ = forward(mask=mask)
    noisy, other_targets, _ = forward(mask=mask, noise=3.0)
    np.testing.assert_array_equal(clean, noisy)
    assert np.abs(targets - other_targets).max() > 1e-2


def test_rows_of_weight_zero_and_padding_change_nothing(forward):
    batch = forward.setup.batch
    noise = np.random.default_rng(2).integers(-9000, 9000, batch["audio"].shape, np.int16)
    garbage = np.arange(noise.shape[1]) >= np.asarray(batch["audio_len"])[:, None]
    garbage[3] = True
    other = {
        **batch,
        "audio": jnp.where(garbage, noise, batch["audio"]),
        "audio_len": batch["audio_len"].at[3].set(700),
        "id": batch["id"].at[3].set(99),
    }
    out, changed = forward()[2], forward(batch=other)[2]
    np.testing.assert_allclose(changed.loss, out.loss, rtol=1e-5)
    for name, pair in out.metrics.items():
        np.testing.assert_allclose(changed.metrics[name], pair, rtol=1e-4, err_msg=name)


def test_each_collapse_shows_in_its_own_metric(forward):
    params, extra = forward.setup.params, forward.setup.extra
    healthy = forward()[2]

    def without(tree, part):
        return tree_lib.map_named(lambda name, x: x * 0 if part in name else x, tree)

    cases = {
        "target_std": {"extra": without(extra, "encoder/")},
        "prediction_std": {"params": without(params, "predictor/kernel")},
        "frontend_std": {"params": without(params, "frontend/projection/kernel")},
    }
    for name, arguments in cases.items():
        assert value(healthy, name) > 0.05, name
        assert value(forward(**arguments)[2], name) < 2e-3, name


def test_metrics_of_agreement_and_decay(forward):
    out = forward(step=0)[2]
    assert -1 <= value(out, "teacher_student_cosine") <= 1
    o = forward.setup.method.update.__self__.options.ema
    expected = o.start + (o.end - o.start) / o.anneal
    np.testing.assert_allclose(value(out, "ema_decay"), expected, rtol=1e-6)


def test_tau_at_the_ends_and_the_middle_of_its_rise():
    method = tiny("data2vec/audio").method
    params, extra = jax.eval_shape(method.init, jax.random.key(0), tiny("data2vec/kws").batch)
    ones = jax.tree.map(lambda x: np.ones(x.shape, np.float32), params)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), extra)
    for step, tau in ((0, 0.999), (15_000, 0.99945), (30_000, 0.9999), (90_000, 0.9999)):
        teacher = quick_jit(method.update)(ones, zeros, jnp.int32(step))["teacher"]["encoder"]
        np.testing.assert_allclose(1 - teacher["norm"]["bias"], tau, atol=1e-6)
        np.testing.assert_array_equal(teacher["positions"]["conv0"]["bias"], 1)
        assert "frontend" not in teacher


@pytest.mark.slow
def test_loss_of_a_new_model_is_near_the_root_of_the_width():
    """Post-norm frames have variance 1; with norms inside the residual it grows with depth."""
    width = 64
    changes = {"encoder.width": width, "encoder.mlp_width": 2 * width}
    setup = tiny("data2vec/audio", changes)
    params, extra = quick_jit(setup.method.init)(jax.random.key(0), setup.batch)
    loss = quick_jit(lambda p, e: setup.loss(p, e).loss)(params, extra)
    # predictions add a third of their variance; averaged layers take some from the targets
    assert 0.7 < loss / width**0.5 < 1.6
    for name, x in tree_lib.named_leaves(extra["teacher"]["encoder"]["blocks"]):
        np.testing.assert_array_equal(
            x, dict(tree_lib.named_leaves(params["encoder"]["blocks"]))[name]
        )


@pytest.mark.slow
def test_sum_and_mean_differ_by_the_masked_tokens_per_clip():
    total = tiny("data2vec/kws", {"loss.examples": 10})
    mean = tiny("data2vec/kws", {"loss.reduction": "mean"})
    summed, averaged = quick_jit(total.loss)(), quick_jit(mean.loss)()
    clips = 3
    expected = averaged.loss * averaged.weight / clips * 10
    np.testing.assert_allclose(summed.loss, expected, rtol=1e-5)
    assert summed.weight == clips


@pytest.mark.parametrize("family", FAMILIES)
def test_augmentation_reaches_the_student_alone(family):
    # otherwise the waveform encoder would cancel any gain
    plain = {"encoder.normalize": False} if family == "audio" else {}
    louder = {**plain, "augment": {"add_noise": {"snr_db": (0.0, 0.0)}}}
    clean, noisy = (Forward(tiny(f"data2vec/{family}", c)) for c in (plain, louder))
    predictions, targets, _ = clean()
    other, same, _ = noisy()
    np.testing.assert_allclose(same, targets, atol=1e-5)
    assert np.abs(predictions - other).max() > 1e-3


def test_overfits_two_clips_against_a_resting_teacher():
    setup = tiny("data2vec/kws", {"loss.reduction": "mean"})
    batch = {k: x[:2] for k, x in setup.batch.items()}
    tx = optax.adam(1e-2)

    def step(state, _):
        params, moments = state
        loss, grads = jax.value_and_grad(lambda p: setup.loss(p, batch=batch).loss)(params)
        updates, moments = tx.update(grads, moments)
        return (optax.apply_updates(params, updates), moments), loss

    start = (setup.params, tx.init(setup.params))
    losses = quick_jit(lambda s: jax.lax.scan(step, s, length=200))(start)[1]
    assert losses[-1] < 0.1 * losses[0]


def test_features_leave_out_the_class_token():
    for family, frames in (("audio", 24), ("kws", 24)):
        setup = tiny(f"data2vec/{family}")
        shapes = jax.eval_shape(setup.method.features, setup.params, setup.batch)
        assert shapes.hidden_states.shape == (3, 4, frames, 16)
        assert shapes.rate == 50
        mask = quick_jit(lambda p, s=setup: s.method.features(p, s.batch).mask)(setup.params)
        assert mask[0].all() and 0 < mask[1].sum() < frames


@pytest.mark.parametrize(
    ("key", "bad", "message"),
    [
        ("targets.layers", 3, "config.method.targets.layers is 3.*use 1 to 2"),
        ("targets.source", "mlp", "config.method.targets.source is 'mlp': use one of ffn, block"),
        ("targets.layer", 3, "config.method.targets.layer does not exist: did you mean"),
        ("loss.reduction", "sum", "config.method.loss.examples is 0"),
        ("ema.end", 1.5, "config.method.ema.end is 1.5"),
        ("augment", {"speed": {}}, "config.method.augment.speed does not work here"),
        ("augment", {"gain": {"db": 3}}, "config.method.augment.gain.db does not exist: use low"),
        ("ema.rules", (("blocks", "average"),), "no teacher rule matches"),
    ],
)
def test_a_wrong_option_is_named(key, bad, message):
    with pytest.raises(ValueError, match=message):
        tiny("data2vec/audio", {key: bad})


def test_augmented_log_mel_reaches_the_student_alone():
    plain = {"encoder.feature": "log_mel"}
    altered = {**plain, "spectral": {"equalize": {"std_db": 6.0}, "warp": {"max_share": 0.2}}}
    clean, other = (Forward(tiny("data2vec/kws", c)) for c in (plain, altered))
    predictions, targets, _ = clean()
    changed, same, _ = other()
    np.testing.assert_allclose(same, targets, atol=1e-5)
    assert np.abs(predictions - changed).max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spectral": {"equalize": {"std_db": 6.0}}}, r"config\.method\.encoder\.feature"),
        ({"spectral": {"shift": {"max_frames": 2}}}, r"config\.method\.spectral\.shift"),
    ],
)
def test_log_mel_that_can_not_be_augmented_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        tiny("data2vec/kws", changes)
