"""A chain of augmentations: the order is fixed, and an empty chain changes nothing."""

import jax
import numpy as np
import pytest

from ssl_jax.ops import augment, perturb

KEYS = jax.random.wrap_key_data(np.arange(6, dtype=np.uint32).reshape(3, 2))
AUDIO = np.sin(np.arange(3 * 400, dtype=np.float32).reshape(3, 400) / 9)
LENGTHS = np.array([400, 300, 400])


def chain(options):
    """Runs a chain over the three rows, compiled."""
    run = jax.jit(lambda keys, *clips: perturb.chain(keys, *clips, options))
    return run(KEYS, AUDIO, LENGTHS)


def test_an_empty_chain_is_the_identity():
    audio, lengths = perturb.chain(KEYS, AUDIO, LENGTHS, {})
    assert audio is AUDIO and lengths is LENGTHS


def test_steps_run_in_their_own_order_each_with_its_own_keys():
    gain = {"low_db": -20.0, "high_db": 20.0}
    noise = {"snr_db": (5.0, 5.0)}
    both, _ = chain({"gain": gain, "add_noise": noise})

    def keys(name):
        place = perturb.STEPS.index(name)
        return jax.vmap(lambda key: jax.random.fold_in(key, place))(KEYS)

    @jax.jit
    def by_hand():
        noisy = augment.add_noise(keys("add_noise"), AUDIO, LENGTHS, **noise)
        return augment.gain(keys("gain"), noisy, **gain)

    np.testing.assert_allclose(both, by_hand(), rtol=1e-6)


def test_speed_changes_the_lengths():
    _, lengths = chain({"speed": {"low": 2.0, "high": 2.0}})
    np.testing.assert_array_equal(lengths, [200, 150, 200])


def test_a_wrong_step_or_option_is_named():
    perturb.check({"mix": {"voices": 2}}, "config.method.augment")
    with pytest.raises(ValueError, match=r"c\.echo does not work here: use any of speed"):
        perturb.check({"echo": {}}, "c")
    with pytest.raises(ValueError, match=r"c\.gain\.loud does not exist: use low_db, high_db"):
        perturb.check({"gain": {"loud": 1}}, "c")
