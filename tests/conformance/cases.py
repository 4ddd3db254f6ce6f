"""The cases of the conformance tests: each config, each method, and batches made for it."""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core import config as config_lib
from ssl_jax.core import rng, tree
from ssl_jax.core.types import FROZEN, Batch, Method, Spec
from ssl_jax.engine import optim, teachers

ROOT = Path(__file__).resolve().parents[2]
CLASSES = 4
# of methods with several configs, the one that compiles fastest
FAST = ("configs/data2vec/kws.py", "configs/data2vec2/image.py", "configs/supervised/kws.py")
# the encoder is that of data2vec; wav2vec 2.0 compiles slowest of all
SLOW = (
    "configs/best_rq/speech.py",
    "configs/beats/audio.py",
    "configs/beats/tokenizer.py",
    "configs/ctc/speech.py",
    "configs/distill/image.py",
    "configs/dmae/image.py",
    "configs/hubert/audio.py",
    "configs/lighthubert/speech.py",
    "configs/mavil/clips.py",
    "configs/mimco/image.py",
    "configs/moco_v3/image.py",
    "configs/mvd/video.py",
    "configs/superb/verification.py",
    "configs/supervised/video.py",
    "configs/transducer/speech.py",
    "configs/videomae/video.py",
    "configs/wav2vec2/audio.py",
    "configs/wav2vec2/conformer.py",
    "configs/wav2vec2/log_mel.py",
)


def config_paths() -> list[str]:
    """Returns every config file that defines a run, as `configs/<method>/<name>.py`."""
    return [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "configs").glob("*/**/*.py"))
        if "def get_config" in path.read_text()
    ]


def distinct_paths() -> list[str]:
    """Returns one config for each method, kind of encoder and kind of block: the others of a
    method lay out and save the same parameters by the same code."""
    seen: dict[tuple, str] = {}
    for path in config_paths():
        method = load(path, "toy").method
        encoder = method.get("encoder", {})
        seen.setdefault((method.name, encoder.get("kind"), encoder.get("blocks")), path)
    return list(seen.values())


def method_names() -> list[str]:
    """Returns the modules of ssl_jax/methods that can be named in `config.method.name`."""
    return [
        path.stem
        for path in sorted((ROOT / "ssl_jax" / "methods").glob("*.py"))
        if "\ndef make(" in path.read_text()
    ]


def load(path: str, arg: str = "") -> Any:
    """Returns a config of the repository, or its tiny form with arg 'toy'."""
    return config_lib.load(str(ROOT / path) + (f":{arg}" if arg else ""))


def toy_params() -> list:
    """Returns one parameter per config; one config per method is in the fast tests."""
    seen = {load(path, "toy").method.name for path in FAST}
    out = []
    for path in config_paths():
        method = load(path, "toy").method.name
        quick = path in FAST or (method not in seen and path not in SLOW)
        seen.add(method)
        marks = [] if quick else [pytest.mark.slow]
        out.append(pytest.param(path, marks=marks, id=path))
    return out


def build(config: Any, module: Any = None) -> Method:
    """Returns the method that a config names, built as the train command builds it."""
    module = module or importlib.import_module(f"ssl_jax.methods.{config.method.name}")
    return module.make(
        config.method,
        precision="float32",
        sample_rate=config.data.sample_rate,
        num_classes=len(config.data.classes) or CLASSES,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Toy:
    """A tiny model of one config: its method, and parameters right after `init`.

    The functions are compiled once for all tests of this process.
    """

    config: Any
    method: Method
    samples: int
    params: Any
    extra: Any

    @functools.cached_property
    def features(self) -> Callable:
        """The jitted features(params, batch) of the method."""
        return jax.jit(self.method.features)

    @functools.cached_property
    def gradients(self) -> Callable:
        """(params, extra, batch, streams) -> (Output, gradients of params and extra), jitted."""

        def loss(params, extra, batch, streams):
            output = self.method.loss(params, extra, batch, streams, True)
            return output.loss, output

        grad = jax.grad(loss, argnums=(0, 1), has_aux=True, allow_int=True)
        return jax.jit(lambda *args: grad(*args)[::-1])

    def batch(self, rows: int, seed: int = 0) -> Batch:
        """Returns `rows` examples of the method's inputs; the last is four fifths as long."""
        return make_batch(self.method, rows, self.samples, seed)

    def streams(self, batch: Batch, step: int = 0) -> rng.Streams:
        """Returns the randomness of one step over a batch."""
        return rng.Streams(key=rng.key_data(3), step=jnp.int32(step), ids=batch["id"])

    def optimizer(self) -> tuple:
        """Returns (optimizer, schedule) of the config, for a run of a hundred steps."""
        depth = depth_of(self.params)
        return optim.make(
            self.config.optim, self.params, total_steps=100, to_steps=_to_steps, depth=depth
        )


def _to_steps(duration: int | str) -> int:
    return config_lib.steps(
        duration, batch_size=4, examples=40, seconds_per_step=4.0, total=100, key="a duration"
    )


def depth_of(params: Any) -> int:
    """Returns the number of stacked blocks, or 1 if there are none."""
    blocks = [x for name, x in tree.named_leaves(params) if name.startswith("encoder/blocks/")]
    return len(blocks[0]) if blocks else 1


@functools.cache
def toy(path: str) -> Toy:
    """Builds the tiny form of a config once for all tests of this process."""
    shapes = abstract_toy(path)
    init = jax.jit(shapes.method.init)
    params, extra = init(jax.random.key(0), shapes.batch(2))
    extra = with_teachers(extra, teachers.fresh(shapes.method))
    return dataclasses.replace(shapes, params=params, extra=extra)


def abstract_toy(path: str) -> Toy:
    """Returns the tiny form of a config, with shapes in place of its parameters."""
    return abstract_toy_of(load(path, "toy"))


def abstract_toy_of(config: Any, module: Any = None) -> Toy:
    """Returns the model of a tiny config; module: that of a method outside the package."""
    method, samples = build(config, module), longest(config)
    batch = abstract_batch(method, 2, samples)
    params, extra = jax.eval_shape(method.init, jax.random.key(0), batch)
    return Toy(config, method, samples, params, with_teachers(extra, teachers.shapes(method)))


def with_teachers(extra: Any, found: Any) -> Any:
    """Returns `extra` as a loss sees it, with frozen teachers if there are any."""
    return {**extra, FROZEN: found} if found else extra


def make_batch(method: Method, rows: int, samples: int, seed: int) -> Batch:
    """Returns a batch of the method's declared inputs as numpy arrays, so that a test that changes
    one compiles nothing for it."""
    makers = {
        "id": lambda spec, noise: np.arange(rows) + 7,
        "weight": lambda spec, noise: np.ones(rows),
        "audio": lambda spec, noise: _tones(rows, samples, noise),
        "audio_len": lambda spec, noise: _lengths(rows, samples),
        "image": lambda spec, noise: _pictures(rows, spec.shape, noise),
        "video": lambda spec, noise: _clips(rows, spec.shape, noise),
        "tokens": lambda spec, noise: noise.integers(5, 250, (rows, spec.shape[0] or samples)),
        "tokens_len": lambda spec, noise: _lengths(rows, _block(method) or samples),
        "transcript": lambda spec, noise: _transcript(rows, noise),
        "transcript_len": lambda spec, noise: _spoken(rows),
        # 100 labels a second of 16 kHz, as there are of MFCC; runs of a few
        "units": lambda spec, noise: _runs(rows, spec.shape[0], samples // 160, noise),
        "label": lambda spec, noise: np.arange(rows) % CLASSES,
        "tags": lambda spec, noise: noise.integers(0, 2, (rows, *spec.shape)),
        "target": lambda spec, noise: noise.normal(size=(rows, *spec.shape)),
    }
    missing = set(method.batch) - set(makers)
    assert not missing, f"conformance can not make {missing} yet: add it to make_batch"
    noise = np.random.default_rng(seed)
    return {
        name: np.asarray(makers[name](spec, noise)).astype(spec.dtype)
        for name, spec in method.batch.items()
    }


def length_key(batch: Batch) -> tuple[str, str] | None:
    """Returns the names of the signal and of its length, or None if all examples have one size."""
    pairs = (("audio", "audio_len"), ("tokens", "tokens_len"))
    return next((pair for pair in pairs if pair[1] in batch), None)


def _lengths(rows: int, longest: int) -> np.ndarray:
    """Returns full lengths, except that the last is four fifths of that."""
    length = np.full((rows,), longest)
    length[-1] = longest * 4 // 5
    return length


def _spoken(rows: int) -> np.ndarray:
    return _lengths(rows, 5)


def _transcript(rows: int, noise: np.random.Generator) -> np.ndarray:
    """Returns five units a row, four in the last; unit 0 is the blank."""
    units = noise.integers(1, CLASSES, (rows, 5))
    return np.where(np.arange(5) < _spoken(rows)[:, None], units, -1)


def _block(method: Method) -> int | None:
    return method.batch["tokens"].shape[0]


def _tones(rows: int, samples: int, noise: np.random.Generator) -> np.ndarray:
    time = np.arange(samples) / samples
    pitch = 40 * (1 + np.arange(rows))[:, None]
    audio = 3000 * np.sin(2 * np.pi * pitch * time) + noise.normal(0, 600, (rows, samples))
    return audio * (np.arange(samples) < _lengths(rows, samples)[:, None])


def _runs(rows: int, sets: int, size: int, noise: np.random.Generator) -> np.ndarray:
    """Returns classes (rows, sets, size), each repeated for five labels."""
    return noise.integers(0, CLASSES, (rows, sets, -(-size // 5))).repeat(5, axis=2)[..., :size]


def _pictures(rows: int, shape: tuple, noise: np.random.Generator) -> np.ndarray:
    """Returns waves whose colour, direction and frequency differ by row, with some noise."""
    if len(shape) == 4:  # views: the same waves, with noise of their own
        waves = [_pictures(rows, shape[1:], np.random.default_rng(0)) for _ in range(shape[0])]
        return (np.stack(waves, 1) + noise.normal(0, 10, (rows, *shape))).clip(0, 255)
    height, width, channels = shape
    y, x = np.mgrid[:height, :width]
    angle = np.arange(rows)[:, None, None] + noise.uniform(0, 0.5)
    wave = np.sin((np.cos(angle) * x + np.sin(angle) * y) * (1 + angle) * 2 * np.pi / width)
    colour = noise.uniform(20, 100, (rows, 1, 1, channels))
    picture = 128 + colour * wave[..., None] + noise.normal(0, 10, (rows, *shape))
    return picture.clip(0, 255)


def _clips(rows: int, shape: tuple, noise: np.random.Generator) -> np.ndarray:
    """Returns the waves of `_pictures`, which move by a pixel from frame to frame."""
    picture = _pictures(rows, shape[1:], noise)
    return np.stack([np.roll(picture, step, axis=2) for step in range(shape[0])], 1)


def abstract_batch(method: Method, rows: int, samples: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a batch, without allocating it."""

    def shape(spec: Spec) -> tuple[int, ...]:
        return (rows, *(samples if n is None else n for n in spec.shape))

    return {k: jax.ShapeDtypeStruct(shape(s), jnp.dtype(s.dtype)) for k, s in method.batch.items()}


def longest(config: Any) -> int:
    """Returns the samples of a config's longest bucket, or the tokens of a block of text."""
    if config.data.modality == "text":
        return config.data.block_tokens
    return round(config.data.buckets[-1] * config.data.sample_rate)


def close(a: Any, b: Any, atol: float, rtol: float = 0.0) -> None:
    """Fails with the path of the leaf unless two trees are close."""
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        np.testing.assert_allclose(
            np.asarray(x, np.float64),
            np.asarray(y, np.float64),
            atol=atol,
            rtol=rtol,
            err_msg=jax.tree_util.keystr(path),
        )
