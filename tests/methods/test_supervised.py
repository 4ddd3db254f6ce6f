"""Classification against a literal computation, and what must not count or change."""

import data2vec_literal as literal
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from mae_cases import ENCODERS
from method_cases import ROOT, Setup, make_batch, quick_jit, tiny

from configs import common
from ssl_jax.core import config as config_lib
from ssl_jax.core import tree as tree_lib
from ssl_jax.methods import supervised

PLAIN = {"spec_augment.time_masks": 0, "spec_augment.freq_masks": 0}


def gradient_of(setup, **arguments):
    return quick_jit(jax.grad(lambda p: setup.loss(p, **arguments).loss))(setup.params)


def test_loss_and_accuracy_equal_the_literal_ones():
    setup = tiny("supervised/kws", PLAIN)
    params = {n: np.asarray(x, np.float64) for n, x in tree_lib.named_leaves(setup.params)}
    encoder = {k.removeprefix("encoder/"): v for k, v in params.items()}
    losses, right = [], 0
    for i in (0, 1):  # row 2 has no label, row 3 no weight
        clip = np.asarray(setup.batch["audio"][i, : setup.batch["audio_len"][i]])
        x = literal.keyword_frames(encoder, clip)
        pooled = literal.encode_keyword(encoder, x)[0][-1].mean(0)
        pooled = (pooled - pooled.mean()) / np.sqrt(pooled.var() + 1e-5)
        pooled = pooled * params["head/norm/scale"] + params["head/norm/bias"]
        logits = pooled @ params["head/classifier/kernel"] + params["head/classifier/bias"]
        logs = logits - np.log(np.exp(logits).sum())
        truth = np.full(3, 0.1 / 2)
        truth[setup.batch["label"][i]] = 0.9
        losses.append(-(truth * logs).sum())
        right += logits.argmax() == setup.batch["label"][i]
    out = quick_jit(setup.loss)()
    np.testing.assert_allclose(out.loss, np.mean(losses), rtol=1e-5)
    assert out.weight == 2
    assert out.metrics["accuracy"] == (right, 2)


def test_rows_without_label_or_weight_change_nothing():
    setup = tiny("supervised/kws", PLAIN)
    loss = quick_jit(lambda batch: setup.loss(batch=batch).loss)
    batch = setup.batch
    noise = np.random.default_rng(0).integers(-9000, 9000, (2, 8000), np.int16)
    other = {**batch, "audio": batch["audio"].at[2:].set(noise)}
    np.testing.assert_allclose(loss(other), loss(batch), rtol=1e-6)
    nothing = {**batch, "weight": jnp.zeros(4)}
    assert loss(nothing) == 0


@pytest.mark.slow
def test_noise_of_training_is_absent_from_evaluation():
    setup = tiny("supervised/kws", {"augment": {"gain": {"low_db": -9.0, "high_db": 9.0}}})
    loss = quick_jit(lambda step: setup.loss(step=step).loss)
    evaluate = quick_jit(lambda step: setup.loss(step=step, train=False).loss)
    assert abs(loss(0) - loss(1)) > 1e-4
    assert evaluate(0) == evaluate(1)


@pytest.mark.slow
def test_spec_augment_hides_coefficients_in_training_alone():
    """With stripes as wide as the clip, every clip looks the same in training."""
    changes = {"spec_augment.time_width": 2000, "spec_augment.time_masks": 60}
    changes |= {"spec_augment.freq_masks": 0, "label_smoothing": 0.0}
    setup = tiny("supervised/kws", changes)
    full = {**setup.batch, "audio_len": jnp.full(4, 8000), "label": jnp.zeros(4, jnp.int32)}

    def each(train):
        rows = [{k: x[i : i + 1] for k, x in full.items()} for i in range(3)]
        return jnp.stack([setup.loss(batch=row, train=train).loss for row in rows])

    deaf, hearing = quick_jit(lambda: (each(True), each(False)))()
    np.testing.assert_allclose(deaf, deaf[0], rtol=1e-4)
    assert np.ptp(hearing) > 1e-2


def test_a_frozen_encoder_gets_no_gradient():
    gradient = gradient_of(tiny("supervised/kws", {"frozen": True}))
    assert all((g == 0).all() for g in jax.tree.leaves(gradient["encoder"]))
    assert all((g != 0).any() for g in jax.tree.leaves(gradient["head"]))


def test_encoder_has_the_paths_and_shapes_of_pre_training():
    for name in ("kws", "audio"):
        pretrained = tiny(f"data2vec/{name}").params["encoder"]
        tuned = tiny("supervised/kws", {**PLAIN, "encoder": _encoder(name)}).params["encoder"]
        shapes = jax.tree.map(lambda x, y: x.shape == y.shape, pretrained, tuned)
        assert all(jax.tree.leaves(shapes))


def _encoder(name):
    return config_lib.load(str(ROOT / f"configs/data2vec/{name}.py:toy")).method.encoder


def test_overfits_two_clips():
    setup = tiny("supervised/kws", {**PLAIN, "label_smoothing": 0.0})
    batch = {k: x[:2] for k, x in setup.batch.items()}
    tx = optax.adam(1e-2)

    def step(state, _):
        params, moments = state
        loss, grads = jax.value_and_grad(lambda p: setup.loss(p, batch=batch).loss)(params)
        updates, moments = tx.update(grads, moments)
        return (optax.apply_updates(params, updates), moments), loss

    start = (setup.params, tx.init(setup.params))
    losses = quick_jit(lambda s: jax.lax.scan(step, s, length=60))(start)[1]
    assert losses[0] > 0.1
    assert losses[-1] < 0.02


@pytest.mark.parametrize(
    ("changes", "classes", "message"),
    [
        ({}, 1, "training split has 1 classes"),
        ({"pool": "max"}, 3, "config.method.pool is 'max': use one of tokens, frames, cls"),
        ({"smoothing_spread": "all"}, 3, "config.method.smoothing_spread is 'all'"),
        ({"label_smoothing": 1.0}, 3, "config.method.label_smoothing is 1.0"),
        ({"augment": {"echo": {}}}, 3, "config.method.augment.echo does not work here"),
        (
            {"encoder": {"kind": "waveform", "preset": "base"}},
            3,
            "config.method.spec_augment needs spectral features",
        ),
    ],
)
def test_a_wrong_option_is_named(changes, classes, message):
    with pytest.raises(ValueError, match=message):
        tiny("supervised/kws", changes, classes=classes)


@pytest.mark.parametrize(
    "changes",
    [
        {"spectral": {"equalize": {"std_db": 6.0}, "shift": {"max_frames": 2}}},
        {"spec_augment.time_masks": 4, "spec_augment.fill_mean": True},
    ],
)
def test_log_mel_is_augmented_in_training_alone(changes):
    plain = {**PLAIN, "encoder.feature": "log_mel", "label_smoothing": 0.0}
    pair = [tiny("supervised/kws", c) for c in (plain, {**plain, **changes})]
    both = [quick_jit(lambda s=s: (s.loss().loss, s.loss(train=False).loss)) for s in pair]
    (plain, quiet), (altered, same) = (run() for run in both)
    assert same == quiet
    assert abs(altered - plain) > 1e-4


def test_stripes_of_the_mean_are_not_stripes_of_zero():
    stripes = {"spec_augment.time_masks": 4, "encoder.feature": "log_mel"}
    zero, mean = (
        quick_jit(tiny("supervised/kws", {**stripes, "spec_augment.fill_mean": m}).loss)().loss
        for m in (False, True)
    )
    assert abs(zero - mean) > 1e-4


def test_spectral_augmentation_needs_log_mel():
    with pytest.raises(config_lib.ConfigError, match=r"config\.method\.encoder\.feature"):
        tiny("supervised/kws", {"spectral": {"equalize": {"std_db": 6.0}}})


def spectrogram(**changes):
    """A tiny classifier of the tags of clips of half a second, of 12 x 2 patches."""
    config = common.supervised()
    config.update({"encoder": ENCODERS["spectrogram"], "task": "tag", "pool": "frames", **changes})
    method = supervised.make(config, precision="float32", sample_rate=16000, num_classes=5)
    batch = make_batch()
    batch["tags"] = jnp.eye(4, 5)
    return Setup(method, {name: batch[name] for name in method.batch})


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"stripes": {"time": 0.2, "frequency": 0.5}}, 9 * 1),
        ({"mask_ratio": 0.7}, 7),
        ({}, None),
    ],
)
def test_patches_are_hidden_in_training_alone(monkeypatch, changes, kept):
    setup, seen, encode = spectrogram(**changes), [], supervised.encoder_lib.encode

    def spy(encoder, params, x, valid, dropout=None, ids_keep=None, layers=None):
        seen.append(None if ids_keep is None else ids_keep.shape)
        return encode(encoder, params, x, valid, dropout, ids_keep, layers)

    monkeypatch.setattr(supervised.encoder_lib, "encode", spy)
    for train in (True, False):
        jax.eval_shape(lambda train=train: setup.loss(train=train))
    assert seen == [None if kept is None else (4, kept), None]


@pytest.mark.slow
def test_the_recipe_of_sounds_changes_the_loss_in_training_alone():
    stripes = {"time_masks": 1, "time_width": 9, "freq_masks": 1, "freq_width": 5}
    mix = {"mixup": 10.0, "prob": 1.0, "mode": "example"}
    recipe = {"augment": {"roll": {}}, "mix": mix, "spec_augment": stripes}
    setup, plain = (spectrogram(**changes) for changes in (recipe, {}))
    values = quick_jit(
        lambda: [s.loss(train=t).loss for s in (setup, plain) for t in (True, False)]
    )()
    assert values[1] == pytest.approx(values[3], rel=1e-6)
    assert values[2] == pytest.approx(values[3], rel=1e-6)
    assert abs(values[0] - values[1]) > 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mix": {"cutmix": 1.0}}, r"config\.method\.mix\.cutmix cuts images: set it to 0\.0"),
        ({"mask_ratio": 1.0}, r"config\.method\.mask_ratio is 1\.0: use 0\.0 with .*stripes"),
        ({"mask_ratio": 0.5, "stripes": {"time": 0.5}}, r"mask_ratio is 0\.5: use 0\.0 with"),
        ({"task": "regress", "mix": {"mixup": 1.0}}, r"mix mixes labels: use .*task='tag'"),
    ],
)
def test_a_wrong_option_of_the_recipe_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        spectrogram(**changes)


def test_stripes_need_an_encoder_of_a_spectrogram():
    encoder = ENCODERS["image"]
    with pytest.raises(ValueError, match=r"stripes hides .* kind 'vit' does not have: set its"):
        spectrogram(encoder=encoder, stripes={"time": 0.5, "frequency": 0.0})
    with pytest.raises(ValueError, match=r"mix mixes the tags of sounds only: set its mixup"):
        spectrogram(encoder=encoder, mix={"mixup": 0.5})
