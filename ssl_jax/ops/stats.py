"""Collapse diagnostics: deviation over tokens, effective rank, agreement; float32."""

import jax.numpy as jnp

from ssl_jax.core.types import Array


def token_std(y: Array, mask: Array | None = None, eps: float = 1e-6) -> Array:
    """Returns mean over D of sqrt(var over tokens + eps) for y (..., D); near 0 is a collapse.

    `mask` (...) is true at the tokens that count; all rows of the (global) batch are pooled.
    The variance is unbiased, as in fairseq. Constant tokens give sqrt(eps).
    """
    y = y.astype(jnp.float32).reshape(-1, y.shape[-1])
    real = jnp.ones((y.shape[0], 1)) if mask is None else mask.reshape(-1, 1)
    real = real.astype(jnp.float32)
    count = real.sum()
    mean = jnp.where(real > 0, y, 0).sum(0) / jnp.maximum(count, 1)
    square = jnp.where(real > 0, jnp.square(y - mean), 0).sum(0)
    return jnp.sqrt(square / jnp.maximum(count - 1, 1) + eps).mean()


def instance_variance_ratio(y: Array, mask: Array) -> Array:
    """Returns the share of the variance of y (B, S, D) that is not common to all examples, ().

    The mean over positions of var_b(y[b, s]), weighted by their tokens, over var_{b,s}(y[b, s]).
    mask (B, S): the tokens that count. It is 0 for targets that depend on the position alone, a
    collapse that `token_std` does not show, and 1 on average for targets that do not depend on
    it, whatever B (variances are unbiased). Positions with fewer than two tokens do not count; 1
    where no position counts.
    """
    real = mask[..., None].astype(jnp.float32)
    count = real.sum(0)  # (S, 1), examples that have this position
    real = real * (count > 1)
    y = jnp.where(real > 0, y.astype(jnp.float32), 0)
    tokens = real.sum()
    centred = jnp.where(real > 0, y - y.sum(0) / jnp.maximum(count, 1), 0)
    within = (jnp.square(centred).sum(0) / jnp.maximum(count - 1, 1) * real.sum(0)).sum()
    spread = jnp.where(real > 0, y - y.sum((0, 1)) / jnp.maximum(tokens, 1), 0)
    total = jnp.square(spread).sum() * tokens / jnp.maximum(tokens - 1, 1)
    return jnp.where(total > 0, within / jnp.where(total > 0, total, 1), 1.0)


def rankme(features: Array, eps: float = 1e-7) -> Array:
    """Returns the effective rank of features (N, D), from 1 (collapsed) to min(N, D).

    exp of the entropy of the singular values' shares + eps (RankMe, 2210.02885, section 3).
    Compare within one method only; 25,600 rows are enough.
    """
    values = jnp.linalg.svd(features.astype(jnp.float32), compute_uv=False)
    share = values / jnp.maximum(values.sum(), jnp.finfo(jnp.float32).tiny) + eps
    return jnp.exp(-(share * jnp.log(share)).sum())


def cosine(a: Array, b: Array, mask: Array | None = None) -> tuple[Array, Array]:
    """Returns (sum, count) of the cosines of a and b (..., D) over the tokens of `mask` (...).

    A zero vector has cosine 0 with anything.
    """
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    square = (a * a).sum(-1) * (b * b).sum(-1)
    values = jnp.where(square > 0, (a * b).sum(-1) / jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    real = jnp.ones(values.shape, bool) if mask is None else mask
    return jnp.where(real, values, 0).sum(), real.sum().astype(jnp.float32)


def usage_entropy(ids: Array, size: int, mask: Array) -> Array:
    """Returns the entropy, in nats, of how often each of `size` ids is used where `mask` is true.

    ids (...) int, mask (...). From 0 (one id, or none counted) to log(size); exp of it is the
    perplexity.
    """
    counted = mask.reshape(-1).astype(jnp.float32)
    uses = jnp.zeros(size).at[ids.reshape(-1)].add(counted)
    share = uses / jnp.maximum(uses.sum(), 1)
    return -jnp.where(share > 0, share * jnp.log(jnp.where(share > 0, share, 1)), 0).sum()


def used(ids: Array, size: int, mask: Array) -> Array:
    """Returns how many of `size` ids are used where `mask` is true; ids and mask (...)."""
    counted = mask.reshape(-1).astype(jnp.float32)
    uses = jnp.zeros(size).at[ids.reshape(-1)].add(counted)
    return (uses > 0).sum()
