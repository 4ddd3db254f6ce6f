"""What a training step of a config takes: measured in turns with others, and predicted."""

import statistics
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np
from ml_collections import ConfigDict

from ssl_jax import train
from ssl_jax.core import config as config_lib
from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core.types import Method
from ssl_jax.engine import optim, step
from ssl_jax.nn import cost


def seconds_per_step(configs: Mapping[str, ConfigDict], rounds: int) -> dict[str, float]:
    """Returns the median seconds of a step of each config of images.

    All are compiled first and then take turns, so that a load on the machine meets all alike.
    """
    steps = {name: _stepper(config) for name, config in configs.items()}
    for run in steps.values():
        run()
        run()
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, run in steps.items():
            start = time.perf_counter()
            run()
            found[name].append(time.perf_counter() - start)
    return {name: round(statistics.median(times), 5) for name, times in found.items()}


def _stepper(config: ConfigDict) -> Callable[[], None]:
    """Returns a function that makes one update of `config` on noise and waits for it."""
    mesh = mesh_lib.make_mesh({"data": 1}, jax.devices()[:1])
    method = train.make_method(config, 0)
    batch = _noise(method, config.data.batch_size)
    shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch.items()}
    params, _ = jax.eval_shape(method.init, jax.random.key(0), shapes)
    tx, schedule = optim.make(
        config.optim,
        params,
        total_steps=1_000,
        to_steps=lambda *_: 1,
        depth=config.method.encoder.depth,
    )
    state, shardings = step.init_state(method, tx, 0, mesh, shapes)
    update = step.make_step(method, tx, schedule)
    compiled = step.compile_step(update, mesh, shardings, (state, shapes))
    placed = jax.device_put(batch, mesh_lib.batch_sharding(mesh))
    held = {"state": state, "totals": compiled.zeros()}

    def run() -> None:
        held["state"], held["totals"], loss = compiled.run(held["state"], held["totals"], placed)
        loss.block_until_ready()

    return run


def _noise(method: Method, rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {"id": np.arange(rows, dtype=np.uint32), "weight": np.ones(rows, np.float32)}
    shape = (rows, *method.batch["image"].shape)
    return {**made, "image": rng.integers(0, 256, shape).astype(np.uint8)}


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
