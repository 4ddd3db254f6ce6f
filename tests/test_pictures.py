"""The pictures of the experiments are drawn from what was kept of their runs."""

import matplotlib

matplotlib.use("Agg")
import numpy as np
import pytest

from experiments import pictures, results
from experiments.kws import claims as kws_claims
from experiments.kws import protocol
from ssl_jax.evals import table
from ssl_jax.reports import figures


def test_every_picture_of_an_experiment_can_be_drawn_again():
    known = pictures.found()
    there = {p for p in results.HERE.rglob("*.png") if p.parent.name != "scaling"}
    assert there == set(known)


def test_each_is_made_of_panels_with_data(monkeypatch):
    drawn = {}

    def draw(path, title, panels, size=None):
        drawn[path] = sum(panel is not None for panel in panels)

    monkeypatch.setattr(figures, "draw", draw)
    known = pictures.found()
    for make in known.values():
        make()
    assert set(drawn) == set(known) and min(drawn.values()) >= 2


def test_a_clip_is_kept_in_8_bits():
    log_mel = np.random.default_rng(0).normal(size=(12, 5))
    kept = pictures.clip(log_mel, np.array([True, False, True]), 0.04)
    assert kept["mask"] == [1, 0, 1] and kept["seconds_per_token"] == 0.04
    found = pictures.log_mel(kept)
    low, high = np.percentile(log_mel, (2, 99.8))
    np.testing.assert_allclose(found / 255 * (high - low) + low, log_mel.clip(low, high), atol=0.02)
    assert pictures.masked(None, "t") is None


def test_an_unknown_picture_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        pictures.main([str(tmp_path / "a.png")])
    assert "use some of experiments/data2vec2/results.png, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("gains", "sure"),
    [
        ((0.04, 0.05, 0.06), "chance alone does not explain it"),
        ((-0.04, 0.05, 0.02), "it may be chance"),
        ((0.05,), ""),
    ],
)
def test_the_quickstart_says_what_was_learned_and_how_sure_it_is(gains, sure):
    found = {"scratch": [0.5] * len(gains), "pretrained": [0.5 + gain for gain in gains]}
    (made,) = kws_claims.quickstart(found | {"options": {"labels_per_class": 50}})
    text = protocol.conclusion(made, 50, 1)
    assert text.startswith("With 50 labels per word, the pre-trained model reaches a test accuracy")
    mean, half = table.interval(gains)
    ahead = sum(gain > 0 for gain in gains)
    end = "One seed shows no spread, so nothing is known about chance: the gain is +0.050."
    if sure:
        end = (
            f"Pre-training is ahead in {ahead} of 3 seeds, and the gain is {mean:+.3f} ± "
            f"{half:.3f} (95 % interval, paired by seed): {sure}, and all seeds share one "
            f"pre-training."
        )
    assert text.endswith(f". {end}")
