"""Named random streams: a draw depends on (seed, name, step, example id) and nothing else."""

import zlib

import flax.struct
import jax

IMPL = "threefry2x32"  # named, so that no setting of jax changes what a run draws


@flax.struct.dataclass
class Streams:
    """The randomness of one step.

    `key` is the run's key data (2,) uint32, `step` the number of updates done, `ids` (B,) the
    global example ids. Draws are equal on any number of devices, hosts and micro-batches.
    """

    key: jax.Array
    step: jax.Array
    ids: jax.Array

    def for_step(self, name: str) -> jax.Array:
        """Returns one key for the whole batch, as for dropout."""
        base = jax.random.wrap_key_data(self.key, impl=IMPL)
        return jax.random.fold_in(named(base, name), self.step)

    def for_examples(self, name: str) -> jax.Array:
        """Returns keys (B,), one per example, as for masks, noise and augmentation."""
        key = self.for_step(name)
        return jax.vmap(lambda i: jax.random.fold_in(key, i))(self.ids)


def named(key: jax.Array, name: str) -> jax.Array:
    """Folds a name into a key; equal names give equal keys in every process and version."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def key_data(seed: int) -> jax.Array:
    """Returns the raw key (2,) uint32 of an integer seed, as kept in TrainState."""
    return jax.random.key_data(jax.random.key(seed, impl=IMPL))
