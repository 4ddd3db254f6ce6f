"""What a training step of a config takes: measured in turns with others, and predicted."""

import statistics
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from experiments.benchmarks import stepping
from ssl_jax.core import config as config_lib
from ssl_jax.nn import cost


def seconds_per_step(configs: Mapping[str, ConfigDict], rounds: int) -> dict[str, float]:
    """Returns the median seconds of a step of each config of images, timed in turns."""
    runs = {name: stepping.engine_step(config, _noise(config)) for name, config in configs.items()}
    seconds, _ = stepping.in_turns(runs, rounds)
    return {name: round(statistics.median(times), 5) for name, times in seconds.items()}


def _noise(config: ConfigDict) -> dict[str, np.ndarray]:
    """Returns a batch of images as the loader would give it."""
    rng, rows, side = np.random.default_rng(0), config.data.batch_size, config.data.image_size
    made = {"id": np.arange(rows, dtype=np.uint32), "weight": np.ones(rows, np.float32)}
    return {**made, "image": rng.integers(0, 256, (rows, side, side, 3)).astype(np.uint8)}


def flops_per_step(config: ConfigDict) -> float:
    """Returns the operations of one update of a mini config of images by the cost model."""
    method, encoder = config.method, config.method.encoder
    side = encoder.image_size // encoder.patch_size
    tokens, numbers = side * side, 3 * encoder.patch_size**2
    size = {"depth": encoder.depth, "width": encoder.width}
    local = cost.linear_flops(tokens, numbers, encoder.width)
    if method.name == "mae":
        decoder = {"decoder_depth": method.decoder.depth, "decoder_width": method.decoder.width}
        visible = int(tokens * (1 - method.mask_ratio))
        found = cost.mae_flops(tokens, visible, patch_size=numbers, **size, **decoder)
    elif method.name == "data2vec":
        head = cost.linear_flops(tokens, encoder.width, encoder.width)
        found = cost.data2vec_flops(
            tokens, head=head, local=local, prefix=1, own_local=True, **size
        )
    else:
        d = method.decoder
        decoder = cost.decoder_flops(
            tokens, encoder.width, d.dim, d.layers, d.kernel, groups=d.groups, axes=2
        )
        visible = int(tokens * (1 - method.mask.ratio))
        found = cost.data2vec2_flops(
            tokens,
            visible,
            clones=method.clones,
            decoder=decoder,
            local=local,
            prefix=1,
            own_local=True,
            **size,
        )
    return config.data.batch_size * found.total


def to_json(config: ConfigDict) -> dict[str, object]:
    """Returns what a timing depends on, to be part of its stage's signature."""
    flat = config_lib.flatten(config)
    return {k: v for k, v in flat.items() if k.startswith("method.") or k == "data.batch_size"}
