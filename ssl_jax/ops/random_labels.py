"""Labels of a random projection quantizer (BEST-RQ, Chiu et al., 2202.01855); nothing is trained.

Axes: B examples, S frames, F features of a frame, K codebooks, C codes of each, W width of a code.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.types import Array


@functools.cache
def tables(
    seed: int, features: int, width: int, codes: int, books: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the projections (K, F, W), Xavier-uniform, and codes (K, C, W) of length 1, float32.

    They depend on the arguments alone, so that no checkpoint holds them.
    """
    draw = np.random.default_rng(seed)
    bound = (6 / (features + width)) ** 0.5
    projection = draw.uniform(-bound, bound, (books, features, width))
    vectors = draw.standard_normal((books, codes, width))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return projection.astype(np.float32), vectors.astype(np.float32)


def label(x: Array, projection: np.ndarray, vectors: np.ndarray) -> Array:
    """x (B, S, F) float32 -> the nearest code of each frame once both have length 1, (B, K, S).

    Of vectors of equal length, the nearest is the one with the largest product, whatever the length
    of the frame. Products are in full precision: a label must not depend on the device.
    """
    exact = jax.lax.Precision.HIGHEST
    projected = jnp.einsum("bsf,kfw->bksw", x.astype(jnp.float32), projection, precision=exact)
    return jnp.einsum("bksw,kcw->bksc", projected, vectors, precision=exact).argmax(-1)
