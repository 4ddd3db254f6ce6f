"""How many examples fit: estimated from the arrays of a program, without running it."""

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.types import Features
from ssl_jax.engine import batch_room

EXAMPLE = {"x": jax.ShapeDtypeStruct((1, 10), "float32")}
PARAMS = {"w": jax.ShapeDtypeStruct((10, 1000), "float32")}


def features(params, batch):
    """Two hidden states of 10 numbers by way of a wide one, and an array that nobody uses."""
    wide = batch["x"] @ (params["w"] * 2)  # 4000 bytes a row; the product of weights has 40,000
    unused = jnp.repeat(wide, 100, axis=1)
    del unused
    hidden = jnp.stack([batch["x"], wide @ params["w"].T])
    return Features(hidden[:, :, None], jnp.ones((len(wide), 1), bool), 1.0)


def test_the_largest_array_and_the_hidden_states_count_and_weights_do_not():
    per_row = batch_room.bytes_per_row(features, PARAMS, EXAMPLE)
    assert per_row == batch_room.LARGEST * 4000 + 2 * 10 * 4


def test_rows_fill_the_room_and_one_always_fits(monkeypatch):
    monkeypatch.setattr(batch_room, "room", lambda: 121_000)
    assert batch_room.most_rows(features, PARAMS, EXAMPLE) == 121_000 // 12_080
    monkeypatch.setattr(batch_room, "room", lambda: 100)
    assert batch_room.most_rows(features, PARAMS, EXAMPLE) == 1


def test_loops_are_looked_into():
    def scanned(params, batch):
        def step(carry, _):
            return jnp.repeat(carry, 200, axis=1)[:, :10], None

        return features(params, {"x": jax.lax.scan(step, batch["x"], np.arange(3))[0]})

    per_row = batch_room.bytes_per_row(scanned, PARAMS, EXAMPLE)
    assert per_row == batch_room.LARGEST * 8000 + 2 * 10 * 4
