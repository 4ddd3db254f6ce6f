"""Collapse diagnostics: deviation and effective rank by layer, and teacher-student agreement.

All are computed from cached pooled features (N, L + 1, D), where N counts the clips of the whole
split over all hosts. A loss can look fine while the front end has collapsed; layer 0 is its output.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.types import Array
from ssl_jax.ops import stats

MAX_ROWS = 25_600


@jax.jit
def _layer_std(features: Array) -> Array:
    return jax.vmap(stats.token_std, in_axes=1)(features)


@jax.jit
def _layer_rank(features: Array) -> Array:
    def one(x: Array) -> Array:
        # R of a QR has the singular values of x, and is small
        return stats.rankme(jnp.linalg.qr(x, mode="r"))

    return jax.lax.map(one, jnp.moveaxis(features, 1, 0))


@jax.jit
def _layer_cosine(student: Array, teacher: Array) -> Array:
    def one(a: Array, b: Array) -> Array:
        total, count = stats.cosine(a, b)
        return total / count

    return jax.vmap(one, in_axes=1)(student, teacher)


def layer_std(features: np.ndarray) -> np.ndarray:
    """Returns (L + 1,): mean over D of the deviation over clips; about 0.001 when collapsed.

    Without clips this and the other diagnostics are NaN.
    """
    return np.asarray(_layer_std(features)) if len(features) else _no_clips(features)


def layer_rank(features: np.ndarray) -> np.ndarray:
    """Returns RankMe (L + 1,) of the first 25,600 clips: 1 when collapsed, at most min(N, D)."""
    return np.asarray(_layer_rank(features[:MAX_ROWS])) if len(features) else _no_clips(features)


def _no_clips(features: np.ndarray) -> np.ndarray:
    return np.full(features.shape[1], np.nan, np.float32)


def layer_cosine(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Returns the mean cosine (L + 1,) between two models' features of the same clips."""
    if student.shape != teacher.shape:
        raise ValueError(f"features {student.shape} and {teacher.shape} belong to different clips")
    return np.asarray(_layer_cosine(student, teacher)) if len(student) else _no_clips(student)


def report(
    features: np.ndarray, teacher: np.ndarray | None = None, layers: Sequence[int] = ()
) -> dict[str, float]:
    """Returns names such as "std/layer3", "rankme/layer3", "teacher_cosine/layer3" -> value.

    layers: the numbers of the layers; () from 0 on.
    """
    layers = layers or range(features.shape[1])
    parts = {"std": layer_std(features), "rankme": layer_rank(features)}
    if teacher is not None:
        parts["teacher_cosine"] = layer_cosine(features, teacher)
    return {
        f"{k}/layer{i}": float(v)
        for k, values in parts.items()
        for i, v in zip(layers, values, strict=True)
    }
