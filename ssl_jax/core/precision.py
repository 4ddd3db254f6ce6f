"""The types in which a run computes."""

import jax.numpy as jnp

from ssl_jax.core import platform


def compute_dtype(name: str) -> jnp.dtype:
    """Returns the type of matrix products; parameters, softmax, norms and losses stay float32.

    'auto' is bfloat16 on an accelerator and float32 on CPU, which has no bfloat16 units.
    """
    if name == "auto":
        name = "float32" if platform.name() == "cpu" else "bfloat16"
    if name not in ("float32", "bfloat16"):
        raise ValueError(f"config.precision is {name!r}: use 'auto', 'bfloat16' or 'float32'")
    return jnp.dtype(name)
