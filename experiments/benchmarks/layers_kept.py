"""The memory of the layers that an encoder keeps: all of them, or those that are asked for.

    python -m experiments.benchmarks.layers_kept

Compiles, and never runs, gradients of methods at Base size on 8 images, with their layers in a loop
and full remat. Reports what XLA needs on top of the arguments.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from ssl_jax import methods
from ssl_jax.core import atomic, rng
from ssl_jax.core import config as config_lib
from ssl_jax.core.types import Spec
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.nn.transformer import ALL

ROOT = Path(__file__).resolve().parents[2]
ROWS = 8
METHODS = {"MAE": "mae/image.py:base", "data2vec, images": "data2vec/image.py:base"}


@contextlib.contextmanager
def keeping_all() -> Iterator[None]:
    """Makes encoders return every layer, whatever a method asks for."""
    encode = encoder_lib.encode

    def whole(*given: Any, **options: Any) -> Any:
        return encode(*given[:6], **options | {"layers": ALL})

    with mock.patch.object(encoder_lib, "encode", whole):
        yield


def _config(path: str, changes: tuple[str, ...]) -> Any:
    """Returns a config with its layers in a loop and recomputed in the backward pass."""
    own = ("method.encoder.remat=full", "method.encoder.unroll=False", *changes)
    return config_lib.load(str(ROOT / "configs" / path), own)


def _shapes(reads: Mapping[str, Spec]) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a batch of images."""
    return {k: jax.ShapeDtypeStruct((ROWS, *s.shape), s.dtype) for k, s in reads.items()}


def gradient(path: str, changes: tuple[str, ...] = ()) -> int:
    """Returns the temporary bytes of the gradient of a method's loss."""
    config = _config(path, changes)
    method = methods.find(config.method.name).make(
        config.method, precision="float32", sample_rate=0, num_classes=0
    )
    batch = _shapes(method.batch)
    params, extra = jax.eval_shape(method.init, jax.random.key(0), batch)

    def loss(params: Any, extra: Any, batch: dict) -> jax.Array:
        streams = rng.Streams(rng.key_data(0), jnp.int32(0), batch["id"])
        return method.loss(params, extra, batch, streams, True).loss

    return _bytes(jax.grad(loss), params, extra, batch)


def _bytes(run: Callable, *shapes: Any) -> int:
    found = jax.jit(run).lower(*shapes).compile().memory_analysis()
    return int(found.temp_size_in_bytes)


def measure(changes: tuple[str, ...] = ()) -> dict[str, dict[str, float]]:
    """Returns {method: {"all": MiB with every layer kept, "asked for": with those asked for}}."""
    found = {}
    for name, path in METHODS.items():
        with keeping_all():
            whole = gradient(path, changes)
        found[name] = {"all": _mib(whole), "asked for": _mib(gradient(path, changes))}
        print(f"{name}: {found[name]}", flush=True)
    return found


def rows(report: dict[str, Any]) -> list[dict[str, str]]:
    """Returns the rows of the table in docs/speed.md."""
    return [
        {
            "gradient": name,
            "all layers kept": f"{mib['all']:.0f} MiB",
            "those asked for": f"{mib['asked for']:.0f} MiB",
        }
        for name, mib in report["methods"].items()
    ]


def _mib(size: int) -> float:
    return round(size / 2**20, 1)


def main() -> None:
    """Measures, prints and writes the results."""
    report = {"rows": ROWS, "methods": measure(), "jax": jax.__version__}
    atomic.write_json(Path(__file__).with_suffix(".json"), report)


if __name__ == "__main__":
    main()
