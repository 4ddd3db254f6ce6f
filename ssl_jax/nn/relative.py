"""Relative positions of patches as in BEiT (2106.08254): a number per head for each offset."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.types import Array


def offsets(grid: tuple[int, int]) -> np.ndarray:
    """Returns the table row of each (query, key) of a class token and a grid, (1 + S, 1 + S).

    Of R rows and C columns in raster order, offset (dr, dc) = query - key has the row
    (dr + R - 1) (2 C - 1) + dc + C - 1. The last three rows of the table are for the class token
    as query, as key, and with itself.
    """
    rows, columns = grid
    place = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1)
    place = place.reshape(-1, 2)
    between = place[:, None] - place[None] + (rows - 1, columns - 1)
    patches = between[..., 0] * (2 * columns - 1) + between[..., 1]
    index = np.pad(patches, ((1, 0), (1, 0)))
    count = table_rows(grid)
    index[0, :], index[:, 0], index[0, 0] = count - 3, count - 2, count - 1
    return index.astype(np.int32)


def table_rows(grid: tuple[int, int]) -> int:
    """Returns the rows of the table: every offset between two patches, and three more."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3


class RelativePositions(nn.Module):
    """A table of biases for the attention scores of all layers, zero at first."""

    grid: tuple[int, int]
    heads: int
    class_token: bool = True

    @nn.compact
    def __call__(self, ids_keep: Array | None = None) -> Array:
        """ids_keep (B, V), or None for all S patches -> (1 or B, H, T, T), the class token first.

        `ids_keep` lists the patches of the input, in their order.
        """
        shape = (table_rows(self.grid), self.heads)
        table = self.param("table", nn.initializers.zeros, shape, jnp.float32)
        index = jnp.asarray(offsets(self.grid))
        if ids_keep is None:
            ids = jnp.arange(len(index))[None]
        else:
            ids = jnp.pad(ids_keep + 1, ((0, 0), (1, 0)))
        if not self.class_token:
            ids = ids[:, 1:]
        chosen = index[ids[:, :, None], ids[:, None, :]]
        return jnp.moveaxis(table[chosen], -1, 1)
