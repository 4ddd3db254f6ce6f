import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.ops.mix import MixOptions, mix, mix_audio, soft_targets

CLASSES = 5
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 10, 3)).astype(np.uint8)
LABELS = np.array([0, 1, 2, 3, 4, 0])
NOTHING = common.supervised().mix.to_dict()


@functools.cache
def compiled(options):
    """The draws of a Beta distribution take seconds to compile: once per set of options."""
    return jax.jit(functools.partial(mix, options=options), static_argnums=3)


def run(seed=0, labels=LABELS, smoothing=0.0, **options):
    call = compiled(MixOptions(**(NOTHING | options)))
    key, images = jax.random.key(seed), jnp.asarray(IMAGES)
    out = call(key, images, jnp.asarray(labels), CLASSES, smoothing=smoothing)
    return [np.asarray(x) for x in out]


def partner_shares(targets):
    """Returns the share (B,) of each row's own label, where its partner's differs."""
    return np.array([targets[i, LABELS[i]] for i in range(1, 5)])


def test_nothing_is_mixed_by_the_values_of_the_configs():
    images, targets = run()
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(targets, np.eye(CLASSES)[LABELS])


def test_mixup_weighs_images_as_their_labels():
    for seed in range(3):
        images, targets = run(seed, mixup=0.8)
        share = partner_shares(targets)
        assert images.dtype == np.float32 and np.ptp(share) < 1e-6 and 0 < share[0] < 1
        expected = IMAGES * share[0] + IMAGES[::-1] * (1 - share[0])
        np.testing.assert_allclose(images, expected, atol=1e-3)
        np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)


def test_cutmix_pastes_a_window_of_the_stated_area():
    sizes = []
    for seed in range(8):
        images, targets = run(seed, cutmix=1.0)
        own = (images == IMAGES).all((0, 3))
        other = (images == IMAGES[::-1]).all((0, 3))
        assert (own ^ other).all()
        rows, columns = np.flatnonzero(other.any(1)), np.flatnonzero(other.any(0))
        assert other.sum() == len(rows) * len(columns)
        np.testing.assert_allclose(partner_shares(targets), own.mean(), atol=1e-6)
        sizes.append(other.mean())
    assert len(set(sizes)) > 3


def test_examples_draw_for_themselves_and_how_often():
    options = MixOptions(0.8, 1.0, prob=0.6, switch_prob=0.25, mode="example")
    images = jax.random.uniform(jax.random.key(0), (2000, 6, 6, 1))
    labels = jnp.tile(jnp.array([0, 1]), 1000)
    mixed, targets = compiled(options)(jax.random.key(2), images, labels, 2)
    same = np.asarray(mixed == images).mean((1, 2, 3))
    other = np.asarray(mixed == images[::-1]).mean((1, 2, 3))
    blended = (same == 0) & (other < 1)
    assert abs(blended.mean() - 0.6 * 0.75) < 0.04
    assert ((same + other)[~blended] > 0.999).all()
    own = np.asarray(targets[jnp.arange(2000), labels])
    np.testing.assert_allclose(own[~blended], same[~blended], atol=1e-5)
    # a Beta distribution of two equal parameters a has the variance 1 / (4 (2 a + 1))
    share = own[blended]
    assert abs(share.mean() - 0.5) < 0.02 and abs(share.var() - 1 / (4 * 2.6)) < 0.01


def test_all_frames_of_a_clip_are_mixed_alike():
    options = MixOptions(**(NOTHING | {"mixup": 0.8, "cutmix": 1.0, "mode": "example"}))
    frames = jnp.asarray(IMAGES)
    clips = jnp.stack([frames, frames[:, ::-1]], 1)
    mixed, targets = compiled(options)(jax.random.key(2), clips, jnp.asarray(LABELS), CLASSES)
    one, same = run(2, mixup=0.8, cutmix=1.0, mode="example")
    np.testing.assert_allclose(mixed[:, 0], one, atol=1e-4)
    np.testing.assert_array_equal(targets, same)
    where = (np.asarray(mixed) != np.asarray(clips)).any(-1)
    assert mixed.shape == clips.shape and where[:, 1].any()


def test_rows_without_a_label_are_left_alone():
    labels = LABELS.copy()
    labels[1] = -1
    for options in ({"mixup": 0.8}, {"cutmix": 1.0}):
        images, targets = run(labels=labels, **options)
        np.testing.assert_array_equal(images[[1, 4]], IMAGES[[1, 4]])
        np.testing.assert_array_equal(targets[[1, 4]], [np.zeros(5), np.eye(5)[4]])
        assert (images[[0, 2]] != IMAGES[[0, 2]]).any()


def test_smoothing_is_spread_over_all_classes():
    _, targets = run(smoothing=0.1)
    np.testing.assert_allclose(targets[2], [0.02, 0.02, 0.92, 0.02, 0.02], atol=1e-6)
    hard = soft_targets(jnp.array([-1, 0]), 2)
    np.testing.assert_array_equal(hard, [[0, 0], [1, 0]])
    _, targets = run(mixup=0.8, smoothing=0.1)
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)


def test_errors_name_the_key():
    cases = [
        ({"mode": "pair"}, r"config.method.mix.mode is 'pair': use one of batch, example"),
        ({"mixup": -1.0}, r"config.method.mix.mixup is -1.0: use 0 or more"),
        ({"prob": 1.5}, r"config.method.mix.prob is 1.5: use 0 to 1"),
        ({"alpha": 1.0}, r"config.method.mix.alpha does not exist"),
    ]
    for section, message in cases:
        with pytest.raises(ConfigError, match=message):
            options_lib.read(MixOptions, NOTHING | section, "config.method.mix")


def test_clips_are_mixed_with_any_other_row_and_tags_are_added():
    draw = np.random.default_rng(0)
    audio = draw.standard_normal((6, 50)).astype(np.float32)
    lengths = np.array([50, 50, 30, 50, 50, 50])
    audio = np.where(np.arange(50) < lengths[:, None], audio, 0)
    tags = np.eye(6, 8, dtype=np.float32)
    tags[:, 7] = 1  # one that all rows have
    known = np.array([1, 1, 1, 1, 1, 0], bool)
    options = MixOptions(**(NOTHING | {"mixup": 10.0, "prob": 0.5, "mode": "example"}))
    call = jax.jit(functools.partial(mix_audio, options=options))
    changed, partners = 0, set()
    for seed in range(20):
        mixed, targets = map(np.asarray, call(jax.random.key(seed), audio, lengths, tags, known))
        np.testing.assert_allclose(targets[:, 7], 1, atol=1e-6)  # shared labels sum to 1
        np.testing.assert_array_equal(mixed[5], audio[5])
        for row in range(5):
            own = targets[row, row]
            others = np.flatnonzero(targets[row, :6] * (np.arange(6) != row))
            if not len(others):
                np.testing.assert_array_equal(mixed[row], audio[row])
                continue
            (other,) = others
            assert other != 5, "a row that does not count is mixed into none"
            assert own + targets[row, other] == pytest.approx(1) and 0.1 < own < 0.9
            expected = own * audio[row] + (1 - own) * audio[other]
            np.testing.assert_allclose(
                mixed[row], np.where(np.arange(50) < lengths[row], expected, 0), atol=1e-5
            )
            changed += 1
            partners.add((row, other))
    assert 25 < changed < 65 and len(partners) > 12  # of 100, half, less those of row 5
