"""The random projection that labels patches before there is a model (BEATs, 2212.09058, 3.1).

Nothing of it is trained or stored: all matrices follow from a seed. Where the paper is silent, the
defaults in configs/common.py are those of a public reproduction.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import Array
from ssl_jax.ops import contrast, norms
from ssl_jax.ops.kmeans import HIGHEST
from ssl_jax.ops.patches import normalize_patches


@dataclasses.dataclass(frozen=True)
class RandomOptions:
    """How a patch becomes a code: matrices, norms, and the nearest of random vectors."""

    seed: int
    hidden: int  # width of a first projection, with a LayerNorm behind it; 0: none
    width: int  # of the vectors that are compared
    # of a projected patch: none (as printed) | layer | l2: of the codes too (BEST-RQ, 2202.01855)
    norm: str
    normalize_patches: bool  # first each patch to mean 0 and variance 1, which removes its level

    def __post_init__(self) -> None:
        key = "config.method.random"
        options_lib.choose(f"{key}.norm", self.norm, ("none", "layer", "l2"))
        if self.width < 1 or self.hidden < 0:
            raise ConfigError(
                f"{key}.width is {self.width} and {key}.hidden {self.hidden}: use 1 or more, such "
                f"as 256, and 0 or more, such as 512"
            )


@functools.cache
def _arrays(o: RandomOptions, size: int, codes: int) -> tuple[np.ndarray, ...]:
    """Returns the projections, and the codes (K, C)."""
    widths = (size, *([o.hidden] if o.hidden else []), o.width)
    found = []
    with jax.ensure_compile_time_eval():
        keys = jax.random.split(jax.random.key(o.seed, impl="threefry2x32"), 3)
        for key, rows, columns in zip(keys, widths, widths[1:], strict=False):
            drawn = jax.random.normal(key, (rows, columns))
            found.append(np.asarray(drawn) * np.float32((2 / (rows + columns)) ** 0.5))
        found.append(np.asarray(jax.random.normal(keys[2], (codes, o.width))))
    return tuple(found)


def label(o: RandomOptions, patches: Array, codes: int) -> Array:
    """patches (B, S, P) -> the nearest of `codes` codes of each (B, S) int32."""
    *projections, vectors = _arrays(o, patches.shape[-1], codes)
    x = patches.astype(jnp.float32)
    if o.normalize_patches:
        x = normalize_patches(x)
    for i, matrix in enumerate(projections):
        x = norms.layer_norm(x) if i else x
        x = jnp.matmul(x, matrix, precision=HIGHEST)
    if o.norm == "layer":
        x = norms.layer_norm(x)
    if o.norm == "l2":
        x = contrast.unit(x)
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = jnp.matmul(x, vectors.T, precision=HIGHEST) - 0.5 * jnp.square(vectors).sum(1)
    return near.argmax(-1).astype(jnp.int32)
