"""What a result must beat: the same probe on raw features, and on an encoder that never trained."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ssl_jax.core.types import Array, Batch, Features, Method, Tree


def mean_std(frames: Array, mask: Array) -> Array:
    """Pools frames (B, T, F) over real ones into their mean and deviation: (B, 2 F) float32.

    Deviation is biased; a clip without a real frame gives zeros.
    """
    frames = jnp.where(mask[..., None], frames, 0).astype(jnp.float32)
    count = jnp.maximum(mask.sum(1), 1)[:, None].astype(jnp.float32)
    mean = frames.sum(1) / count
    spread = jnp.where(mask[..., None], frames - mean[:, None], 0)
    return jnp.concatenate([mean, jnp.sqrt(jnp.square(spread).sum(1) / count)], -1)


def raw_features(
    frames_of: Callable[[Batch], tuple[Array, Array]], rate: float = 1.0
) -> Callable[[Tree, Batch], Features]:
    """Returns a `features(params, batch)` whose one layer is `mean_std` of raw frames.

    frames_of(batch) -> (frames (B, T, F), mask (B, T)), such as log-mel. Since pooling is done,
    each clip has a single frame; `params` is not used.
    """

    def features(params: Tree, batch: Batch) -> Features:
        del params
        pooled = mean_std(*frames_of(batch))
        return Features(pooled[None, :, None], jnp.ones((len(pooled), 1), bool), rate)

    return features


def random_encoder(method: Method, seed: int, batch: Batch) -> Tree:
    """Returns untrained parameters of the method, from a seed that no run's default uses."""
    return jax.jit(lambda key: method.init(key, batch)[0])(jax.random.key(seed + 1_000_003))
