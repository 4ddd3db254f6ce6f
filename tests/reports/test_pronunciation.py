"""The picture of a pronunciation."""

import math

import matplotlib.image
import numpy as np

from ssl_jax.evals.pronounce import Phone
from ssl_jax.reports import pronunciation


def test_a_mistake_is_red(tmp_path):
    sound = (3000 * np.random.default_rng(0).normal(size=8000)).astype(np.int16)
    good = [Phone("DH", "DH", 0.9, 0.0, 0.2, "the"), Phone("AH", "AH", 0.7, 0.2, 0.4, "the")]
    bad = [good[0]._replace(heard="D", score=0.3), good[1], Phone("", "T", math.nan, 0.4, 0.5, "")]
    for name, found in (("good", good), ("bad", bad)):
        pronunciation.draw(tmp_path / f"{name}.png", sound, 16000, found, "the")
    shown = [matplotlib.image.imread(tmp_path / f"{name}.png")[..., :3] for name in ("good", "bad")]
    red = np.array([209, 73, 91]) / 255
    good_red, bad_red = ((np.abs(x - red) < 0.02).all(-1).mean() for x in shown)
    assert good_red == 0 and bad_red > 0.003
