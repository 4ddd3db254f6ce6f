"""How well units match phones: phone purity, cluster purity and PNMI over frames.

HuBERT, 2106.07447, section IV-E: with p(y, z) the share of frames of phone y and unit z,
phone purity is sum_z max_y p(y, z), cluster purity sum_y max_z p(y, z), and PNMI I(y; z) / H(y).
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ssl_jax.core.types import Batch, Features, Tree
from ssl_jax.evals import table
from ssl_jax.evals.baselines import Encoder
from ssl_jax.ops import dsp

SCORES = ("phone_purity", "cluster_purity", "pnmi")


class Counts:
    """Counts of frames by phone and unit for several layers, added recording by recording.

    joint (L, P, U) int64. `segment` is the mean length of runs of equal units in a recording.
    """

    def __init__(self, layers: int, phones: int, units: int):
        """Starts without frames."""
        self.joint = np.zeros((layers, phones, units), np.int64)
        self._runs = np.zeros(layers, np.int64)

    def add(self, phones: np.ndarray, units: np.ndarray) -> None:
        """Adds the frames of a recording: phones (T,), units (L, T)."""
        layers, _, size = self.joint.shape
        if units.shape != (layers, len(phones)):
            raise ValueError(
                f"{len(phones)} phones and units of shape {units.shape}: cut both to one length"
            )
        for joint, own in zip(self.joint, units, strict=True):
            joint += np.bincount(phones * size + own, minlength=joint.size).reshape(joint.shape)
        if len(phones):
            self._runs += 1 + (np.diff(units, axis=1) != 0).sum(1)

    def rows(self, layers: Sequence[int], rate: float) -> list[dict[str, Any]]:
        """Returns for each layer its scores, the number of units in use and their mean duration."""
        return [
            {"layer": layer}
            | scores(joint)
            | {"used": int((joint.sum(0) > 0).sum())}
            | {"segment": float(joint.sum() / max(runs, 1) / rate)}
            for layer, joint, runs in zip(layers, self.joint, self._runs, strict=True)
        ]


def scores(joint: np.ndarray) -> dict[str, float]:
    """Returns SCORES of the counts (P, U) of frames; raises ValueError where there is no frame.

    With a single phone PNMI is 0.
    """
    total = joint.sum()
    if not total:
        raise ValueError(
            "no frame has both a phone and a unit: are the alignments those of this data?"
        )
    p = joint / total
    entropy = _entropy(p.sum(1))
    information = entropy + _entropy(p.sum(0)) - _entropy(p)
    return {
        "phone_purity": float(p.max(0).sum()),
        "cluster_purity": float(p.max(1).sum()),
        "pnmi": float(information / entropy) if entropy > 0 else 0.0,
    }


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def mfcc_encoder(sample_rate: int) -> Encoder:
    """Returns 39 MFCC at 100 frames a second, the first features of HuBERT, as one layer."""
    window, hop = sample_rate * 25 // 1000, sample_rate // 100

    def features(params: Tree, batch: Batch, layers: Sequence[int] | None = None) -> Features:
        del params, layers  # it has one
        found = dsp.kaldi_mfcc(batch["audio"], batch["audio_len"], sample_rate=sample_rate)
        count = dsp.frames(batch["audio_len"], window, hop)
        return Features(found[None], jnp.arange(found.shape[1]) < count[:, None], 100.0)

    return Encoder("MFCC", features, {}, f"kaldi 39 at {sample_rate}")


def report(result: dict[str, Any]) -> str:
    """Returns the evaluation of units as a text table."""
    shown = [
        {"features": row["features"], "layer": str(row["layer"])}
        | {name: table.cell(row[name]) for name in SCORES}
        | {"units used": str(row["used"]), "ms per unit": f"{1000 * row['segment']:.0f}"}
        | ({"ABX error": table.cell(row["abx"])} if "abx" in row else {})
        for row in result["results"]
    ]
    return table.text_table(shown)
