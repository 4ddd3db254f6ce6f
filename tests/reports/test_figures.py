"""Figures, checked by reading back the axes they were drawn on."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest

from ssl_jax.reports import figures


@pytest.fixture
def ax():
    """Axes of a figure that is closed after the test."""
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_units_are_drawn_below_their_spectrogram(ax):
    log_mel = np.random.default_rng(0).normal(size=(100, 8))
    figures.spectrogram(ax, log_mel, 2.0, "a clip")
    figures.units(ax, {"layer 2": (np.array([3, 3, 5, 5, 5, 3]), 3.0)}, 8, numbers=True)
    shown, row = ax.images
    assert shown.get_extent() == [0, 2.0, 0, 8] and shown.get_array().shape == (8, 100)
    left, right, low, high = row.get_extent()
    assert (left, right) == (0, 2.0) and low < high < 0
    colours = row.get_array()[0]
    assert colours[0] == colours[1] == colours[5] != colours[2] == colours[4]
    assert [t.get_text() for t in ax.texts] == ["layer 2", "3", "5", "3"]
    assert [t.get_position()[0] for t in ax.texts[1:]] == pytest.approx([1 / 3, 7 / 6, 11 / 6])
    assert ax.get_xlim() == (0, 2.0) and ax.get_ylim()[0] <= low


def test_phones_are_written_above_their_times(ax):
    figures.spectrogram(ax, np.zeros((10, 4)) + np.arange(10)[:, None], 1.0)
    figures.phones(ax, [(0.0, 0.4, "h"), (0.4, 0.8, "i"), (0.9, 1.2, "cut")], 4)
    assert [(t.get_text(), t.get_position()[0]) for t in ax.texts] == [
        ("h", pytest.approx(0.2)),
        ("i", pytest.approx(0.6)),
    ]


def test_layers_are_means_with_a_band_and_one_layer_is_a_horizontal_line(ax):
    found = {
        "run": {"0": [0.1, 0.3], "1": [0.4, 0.6], "mix": [0.9, 0.9]},
        "log-mel": {"0": [0.25]},
    }
    figures.layers(ax, found, "probe", "accuracy")
    run, raw = ax.lines
    assert run.get_xdata().tolist() == [0, 1]
    assert run.get_ydata().tolist() == pytest.approx([0.2, 0.5])
    assert set(raw.get_ydata()) == {0.25}
    band = ax.collections[0].get_paths()[0].vertices
    assert {0.1, 0.3, 0.4, 0.6} <= set(band[:, 1].round(6).tolist())


def test_principal_components_are_those_of_the_covariance():
    x = np.random.default_rng(0).normal(size=(60, 5)) * [5, 3, 1, 0.5, 0.1] + 7
    found = figures.principal(x, 2)
    values = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    assert found.shape == (60, 2)
    np.testing.assert_allclose(found.var(0, ddof=1), values[:2], rtol=1e-9)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-9)
    assert abs(found[:, 0] @ found[:, 1]) < 1e-6


def test_a_map_names_every_label_at_its_median(ax):
    points = np.array([[0, 0], [2, 0], [4, 9], [10, 10]])
    figures.embedding_map(ax, points, np.array([0, 0, 0, 2]), ["a", "unused", "b"])
    assert [(t.get_text(), *t.get_position()) for t in ax.texts] == [("a", 2, 0), ("b", 10, 10)]
    assert [line.get_xdata().tolist() for line in ax.lines] == [[0, 2, 4], [10]]
