"""Finds numbers of a config out of range: counts below their minimum, seeds over 64 bits."""

from ml_collections import ConfigDict

from ssl_jax.core import config as config_lib
from ssl_jax.core.config import ConfigError

# key: (its least value, what works)
LEAST: dict[str, tuple[int, str]] = {
    "train.accumulate": (1, "1, for whole batches, or more"),
    "checkpoint.keep_last": (1, "1 or more"),
    "data.workers": (0, "0, to read in threads of this process, or more"),
    "data.threads": (0, "2, or 0 to read without threads"),
    "data.batch_size": (1, "1 or more"),
    "data.image_size": (1, "a side in pixels, such as 224"),
    "data.block_tokens": (1, "a number of tokens, such as 512"),
    "data.labels_per_class": (0, "0, for all, or more"),
    "data.keep_mb": (0, "0, to keep none, or more"),
    "data.min_side": (0, "0 or more"),
    "data.min_seconds": (0, "0.0 or more"),
    "data.max_bad_share": (0, "0.0, for none, or more"),
    "guard.stall_seconds": (0, "0.0, to wait for ever, or more"),
    "optim.end_lr": (0, "0.0 or more"),
    "optim.start_factor": (0, "0.0 or more"),
    "optim.end_factor": (0, "0.0 or more"),
}
# durations after which something recurs; eval.every may be 0: after the last step alone
RECURRING = ("log.every", "checkpoint.every")
SEEDS = ("seed", "data.label_seed")
_SEED = 1 << 63


def check(config: ConfigDict) -> None:
    """Raises ConfigError naming the first key that is out of range, and a value that works."""
    flat = config_lib.flatten(config)
    for key, (least, use) in LEAST.items():
        value = flat.get(key)
        if isinstance(value, int | float) and value < least:
            raise ConfigError(f"config.{key} is {value!r}: use {use}")
    for key in RECURRING:
        if not _any_steps(flat.get(key, 1), f"config.{key}"):
            raise ConfigError(f"config.{key} is {flat[key]!r}: use 1 or more, such as '50 steps'")
    for key in SEEDS:
        value = flat.get(key)
        if isinstance(value, int) and not -_SEED <= value < _SEED:
            raise ConfigError(f"config.{key} is {value}: use one of 64 bits, such as 0")


def _any_steps(duration: int | str, key: str) -> int:
    """Returns 0 for an empty duration, whatever its unit."""
    return config_lib.steps(
        duration, batch_size=1, examples=1, seconds_per_step=1.0, total=100, key=key
    )
