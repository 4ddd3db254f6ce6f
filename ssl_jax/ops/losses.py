"""Losses and their means; float32, elementwise, so that the caller chooses the reduction."""

import jax
import jax.numpy as jnp

from ssl_jax.core.types import Array


def smooth_l1(prediction: Array, target: Array, beta: float) -> Array:
    """Returns 0.5 d^2 / beta where |d| < beta, else |d| - beta / 2, elementwise.

    beta 0 is the squared error d^2, without the 0.5 (data2vec, 2202.03555).
    """
    error = prediction.astype(jnp.float32) - target.astype(jnp.float32)
    if beta == 0:
        return jnp.square(error)
    size = jnp.abs(error)
    return jnp.where(size < beta, 0.5 * jnp.square(error) / beta, size - 0.5 * beta)


def masked_mean(values: Array, mask: Array) -> tuple[Array, Array]:
    """Returns (mean of `values` weighted by `mask`, sum of `mask`); an empty mean is 0.

    `mask` is bool or weights >= 0 of the same shape. Values of weight 0 may be NaN.
    """
    if values.shape != mask.shape:
        raise ValueError(f"values {values.shape} and mask {mask.shape} must have the same shape")
    mask = mask.astype(jnp.float32)
    weight = mask.sum()
    total = (jnp.where(mask > 0, values.astype(jnp.float32), 0) * mask).sum()
    return total / jnp.where(weight > 0, weight, 1), weight


def mean_of(pair: tuple[Array, Array]) -> Array:
    """Returns sum / count of a (sum, count) pair; an empty mean is 0."""
    total, count = pair
    return total / jnp.where(count > 0, count, 1)


def cross_entropy(
    logits: Array, labels: Array, smoothing: float = 0.0, spread: str = "uniform"
) -> Array:
    """Returns -sum_c q_c log p_c for logits (..., C) and labels (...) int -> (...).

    q is 1 - smoothing at the label. spread="uniform" divides `smoothing` among all C classes,
    "others" among the C - 1 other classes (as in data2vec-KWS). A negative label gives 0.
    """
    classes = logits.shape[-1]
    truth = jax.nn.one_hot(labels, classes)
    if spread == "uniform":
        target = truth * (1 - smoothing) + smoothing / classes
    elif spread == "others":
        target = truth * (1 - smoothing) + (1 - truth) * smoothing / max(1, classes - 1)
    else:
        raise ValueError(f"label smoothing spread is {spread!r}: use 'uniform' or 'others'")
    return jnp.where(labels >= 0, soft_cross_entropy(logits, target), 0)


def soft_cross_entropy(logits: Array, targets: Array) -> Array:
    """Returns -sum_c q_c log p_c for logits (..., C) and class probabilities q (..., C)."""
    return -(targets * jax.nn.log_softmax(logits.astype(jnp.float32))).sum(-1)


def soft_divergence(logits: Array, targets: Array, temperature: float) -> Array:
    """Returns T^2 sum_c q_c (log q_c - log p_c), p and q the softmax of logits / T and targets / T,
    both (..., C).

    The factor keeps the size of the gradient at every temperature T (Hinton et al., 1503.02531).
    """
    p, q = (jax.nn.log_softmax(x.astype(jnp.float32) / temperature) for x in (logits, targets))
    return temperature**2 * (jnp.exp(q) * (q - p)).sum(-1)


def binary_cross_entropy(logits: Array, targets: Array) -> Array:
    """Returns -q log p - (1 - q) log(1 - p), p = sigmoid(logits), elementwise; q in [0, 1]."""
    logits = logits.astype(jnp.float32)
    return jnp.maximum(logits, 0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def accuracy(logits: Array, labels: Array, weight: Array | None = None) -> tuple[Array, Array]:
    """Returns (sum, count) of correct predictions from logits (..., C); labels < 0 do not count."""
    real = (labels >= 0).astype(jnp.float32)
    weight = real if weight is None else real * weight
    right = (logits.argmax(-1) == labels).astype(jnp.float32)
    return (right * weight).sum(), weight.sum()
