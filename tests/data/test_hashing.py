import numpy as np

from ssl_jax.data import hashing


def test_the_mixer_is_splitmix64():
    # The first outputs of SplitMix64 from state 0, as published with the generator.
    assert [int(hashing.mix(n)) for n in (0,)] == [0xE220A8397B1DCDAF]


def test_permutations_are_permutations_and_differ():
    a, b = hashing.permutation(1000, 1, 2), hashing.permutation(1000, 1, 3)
    assert sorted(a) == sorted(b) == list(range(1000))
    assert (a == b).mean() < 0.02
    np.testing.assert_array_equal(a, hashing.permutation(1000, 1, 2))
    # Neighbouring values do not correlate with their positions.
    assert abs(np.corrcoef(a, np.arange(1000))[0, 1]) < 0.1


def test_uniform_is_flat_and_depends_on_every_part():
    draws = hashing.uniform(7, np.arange(20000), 3)
    counts = np.histogram(draws, 10, (0, 1))[0]
    assert abs(counts - 2000).max() < 250
    assert (draws != hashing.uniform(7, np.arange(20000), 4)).all()
    assert (draws != hashing.uniform(-7, np.arange(20000), 3)).all()
