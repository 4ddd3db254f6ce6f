"""The type of matrix products."""

import jax
import jax.numpy as jnp
import pytest

from ssl_jax.core.precision import compute_dtype


def test_named_types():
    assert compute_dtype("float32") == jnp.float32
    assert compute_dtype("bfloat16") == jnp.bfloat16


@pytest.mark.parametrize(("backend", "expected"), [("cpu", "float32"), ("tpu", "bfloat16")])
def test_auto_asks_the_backend(monkeypatch, backend, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert compute_dtype("auto") == jnp.dtype(expected)


@pytest.mark.parametrize("name", ["float16", "fp32", ""])
def test_another_name_is_an_error(name):
    with pytest.raises(ValueError, match=r"config\.precision is .*'bfloat16' or 'float32'"):
        compute_dtype(name)
