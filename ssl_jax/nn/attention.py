"""The products of attention, and all of it as one fused kernel, on devices that have one.

Axes: B examples, T tokens, H heads, E channels of a head.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from ssl_jax.core import platform
from ssl_jax.core.types import Array


def scores(query: Array, key: Array) -> Array:
    """query (B, Q, H, E), key (B, K, H, E) -> their products (B, H, Q, K) in float32."""
    if platform.name() != "cpu":
        return jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
    # XLA's products on a CPU take up to four times as long where heads are not next to examples
    query, key = query.swapaxes(1, 2), key.swapaxes(1, 2)
    return jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)


def weighted(weights: Array, value: Array) -> Array:
    """weights (B, H, Q, K), value (B, K, H, E) -> sums of the values (B, Q, H, E)."""
    if platform.name() != "cpu":
        return jnp.einsum("bhqk,bkhd->bqhd", weights, value)
    return jnp.einsum("bhqk,bhkd->bhqd", weights, value.swapaxes(1, 2)).swapaxes(1, 2)


def has_kernel(head: int, dtype: jnp.dtype, bias: Array | None, dropout: float) -> bool:
    """Returns whether the device computes such attention in one cuDNN kernel.

    Without it, a GPU moves the scores (B, H, T, T) through its memory in float32 several times.
    The kernel requires half precision, at most 128 channels per head, in multiples of 8, and no
    dropout of the weights. A bias would get no gradient, so it is excluded here. The softmax is in
    float32.
    """
    if platform.name() != "gpu":
        return False
    return dtype == jnp.bfloat16 and bias is None and not dropout and not head % 8 and head <= 128


def in_one_kernel(
    query: Array,
    key: Array,
    value: Array,
    valid: Array,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Array:
    """query, key, value (B, T, H, E), valid (B, T) of the keys -> (B, T, H, E)."""
    tokens = query.shape[1]
    odd = tokens % 2  # the kernel's gradient needs an even number of tokens
    pad = ((0, 0), (0, odd), (0, 0), (0, 0))
    query, key, value = (jnp.pad(x, pad) for x in (query, key, value))
    valid = jnp.pad(valid, ((0, 0), (0, odd)))
    size = tokens + odd
    mask = jnp.broadcast_to(valid[:, None, None, :], (len(valid), 1, size, size))
    if implementation == "cudnn" and jax.default_backend() != "gpu":
        y = _planned(query, key, value, mask)  # without a GPU cuDNN cannot be traced
    else:
        y = jax.nn.dot_product_attention(
            query, key, value, mask=mask, implementation=implementation
        )
    return y[:, :tokens]


@jax.custom_vjp
def _planned(query: Array, key: Array, value: Array, mask: Array) -> Array:
    """The same as two compiled functions, forward and backward, which a plan counts as kernels.

    The backward pass starts from what the cuDNN kernel saves, and recomputes the scores.
    """
    return one_kernel_forward(query, key, value, mask)


def _keep(*given: Array) -> tuple[Array, tuple[Array, ...]]:
    return _planned(*given), given


def _backward(given: tuple[Array, ...], gradient: Array) -> tuple[Array, ...]:
    return *one_kernel_backward(*given, gradient), None


_planned.defvjp(_keep, _backward)


@jax.jit
def one_kernel_forward(query: Array, key: Array, value: Array, mask: Array) -> Array:
    """query, key, value (B, T, H, E), mask (B, 1, T, T) -> (B, T, H, E)."""
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="xla")


@jax.jit
def one_kernel_backward(
    query: Array, key: Array, value: Array, mask: Array, gradient: Array
) -> tuple[Array, ...]:
    """Returns the gradients of query, key and value from that of the output."""

    def forward(*given: Array) -> Array:
        return one_kernel_forward(*given, mask)

    return jax.vjp(forward, query, key, value)[1](gradient)
