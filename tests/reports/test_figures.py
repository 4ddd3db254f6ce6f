"""Figures, checked by reading back the axes they were drawn on."""

import json

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import page_checks
import pytest

from ssl_jax.reports import figures, style


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
    assert run.get_xdata().tolist() == [0, 1] == ax.get_xticks().tolist()
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


def write_run(folder, points):
    folder.mkdir(parents=True)
    rows = [json.dumps({"step": k, "train/loss": v}) + "\n" for k, v in points.items()]
    (folder / "metrics.jsonl").write_text("".join(rows))
    return folder


def test_a_figure_has_no_empty_panel_and_no_legend_over_data(tmp_path, monkeypatch):
    runs = {n: [write_run(tmp_path / n, {1: 3.0, 2: 9.0})] for n in ("a", "b", "c")}
    scores = {f"group {i}": {n: [0.1, 0.2, 0.9] for n in runs} for i in range(4)}
    panels = [
        lambda ax: figures.points(ax, scores, "scores", "accuracy"),
        None,
        lambda ax: figures.curves(ax, runs, "train/loss", "loss", "loss"),
        lambda ax: figures.layers(ax, {n: {"0": [1.0], "1": [2.0]} for n in runs}, "by layer", "x"),
        lambda ax: figures.pairs(ax, {"x": [1.0, 2.0], "y": [2.0, 2.5]}, "pairs", "x"),
    ]
    closed = []
    monkeypatch.setattr(figures.plt, "close", closed.append)
    monkeypatch.setattr(style, "DPI", 40)
    figures.draw(tmp_path / "a.png", "all", panels)
    (figure,) = closed
    monkeypatch.undo()
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        *("scores", "loss", "by layer", "pairs")
    ]
    boxes = [ax.get_position() for ax in figure.axes]
    assert len({round(box.x0, 2) for box in boxes}) == len({round(b.y0, 1) for b in boxes}) == 2
    for ax in figure.axes[:3]:
        legend, title = ax.get_legend().get_window_extent(), ax._left_title.get_window_extent()
        assert legend.y0 >= ax.bbox.y1 - 2 and title.y0 >= legend.y1 - 2
        assert legend.x1 <= ax.bbox.x1 + 40
    plt.close(figure)


def test_points_show_means_intervals_every_seed_and_what_is_below_zero(ax):
    figures.points(ax, {"a": {"x": [0.1, 0.3], "y": [-0.5]}, "b": {"x": [0.2]}}, "t", "score")
    means = [line for line in ax.lines if line.get_marker() == "o" and len(line.get_ydata()) == 1]
    assert [m.get_ydata()[0] for m in means] == pytest.approx([0.2, -0.5, 0.2])
    (dots,) = [line for line in ax.lines if line.get_marker() == "."]
    assert sorted(dots.get_ydata()) == [0.1, 0.3] and len(ax.containers) == 1
    assert ax.get_ylim()[0] < -0.5 and any(line.get_linestyle() == "--" for line in ax.lines)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["x", "y"]


def test_one_group_has_its_series_side_by_side_and_no_legend(ax):
    figures.points(ax, {"g": {"first": [1.0, 2.0], "second": [3.0]}}, "t", "score")
    assert [t.get_text() for t in ax.get_xticklabels()] == ["first", "second"]
    assert ax.get_legend() is None


def test_a_mask_takes_the_colour_and_leaves_the_energy(ax):
    log_mel = np.add.outer(np.arange(8.0), np.arange(4.0))
    figures.masked_spectrogram(ax, log_mel, np.array([0, 1, 1, 0]), 0.5, "t")
    picture = np.asarray(ax.images[0].get_array())  # (M, T, 3)
    grey = (np.ptp(picture, axis=-1) < 1e-9).all(0)
    assert grey.tolist() == [False] * 2 + [True] * 4 + [False] * 2
    assert (np.diff(picture[:, 2:6, 0], axis=0) > 0).all()  # louder is lighter, under the mask too
    assert ax.get_ylim()[0] < 0 and min(ax.get_yticks()) >= 0


def test_neighbouring_units_differ_in_colour_and_equal_ones_do_not():
    row = np.random.default_rng(0).integers(0, 60, 400)
    colours = figures._unit_colours(row)
    changes = row[1:] != row[:-1]
    assert (colours[1:] != colours[:-1])[changes].all()
    assert all(len(set(colours[row == unit])) == 1 for unit in set(row.tolist()))
    assert set(colours.tolist()) == set(range(16))


def test_curves_of_unequal_length_and_of_one_point(ax, tmp_path):
    long, short = ({1: 4.0, 2: 2.0, 3: 1.0}, {2: 0.0})
    runs = [write_run(tmp_path / n, p) for n, p in (("long", long), ("short", short))]
    figures.curves(ax, {"both": runs, "one": runs[1:], "none": []}, "train/loss", "t", "loss")
    both, one = ax.lines
    assert both.get_xdata().tolist() == [1, 2, 3] and both.get_ydata().tolist() == [4, 1, 1]
    assert one.get_marker() == "o" and one.get_ydata().tolist() == [0.0]


def test_a_page_says_what_was_learned_and_links_to_its_runs(tmp_path):
    figures.plt.imsave(tmp_path / "a.png", np.zeros((4, 4)))
    runs = {"scratch": [tmp_path / "s<0"], "pretrained": [tmp_path / "p-0", tmp_path / "p-1"]}
    path = tmp_path / "report.html"
    figures.page(path, "t", tmp_path / "a.png", "numbers", "next", "It was <learned>.", runs)
    page = page_checks.check(path)
    assert "It was <learned>." in page.words
    links = [a["href"] for tag, a in page.tags if tag == "a" and "report.html" in a["href"]]
    assert links == ["s<0/report.html", "p-0/report.html", "p-1/report.html"]
