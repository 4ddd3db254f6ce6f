"""Masked-prediction learning of speech, music, images and video in JAX.

    model = ssl_jax.load("runs/quickstart/...")
    found = model.features(waveform, rate)
    found.hidden_states[-1]  # (T, D), the output of the last block
    found.times  # (T,), seconds

Importing this package imports neither jax nor anything that needs it; `load` does.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ml_collections import ConfigDict

__all__ = ["Clip", "Clips", "Model", "load"]

Waveform = Any
"""float in [-1, 1] or int16: (n,), or (channels, n), which are averaged."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """Features of one recording.

    hidden_states: the input of the first block, then the output of each; (T, D) float32 each.
    times (T,): the centre of every frame in seconds.
    """

    hidden_states: list[np.ndarray]
    times: np.ndarray


@dataclasses.dataclass(frozen=True)
class Clips(Sequence):
    """Features of several recordings: a sequence of Clip."""

    clips: tuple[Clip, ...]

    @property
    def hidden_states(self) -> list[list[np.ndarray]]:
        """The hidden states of each recording."""
        return [clip.hidden_states for clip in self.clips]

    @property
    def times(self) -> list[np.ndarray]:
        """The frame times of each recording."""
        return [clip.times for clip in self.clips]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, i):
        return self.clips[i]


def load(
    run_folder: str | Path,
    step: int | None = None,
    *,
    window: float | None = None,
    overlap: float | None = None,
    precision: str = "float32",
) -> "Model":
    """Returns the model of a run, from its newest checkpoint or that of `step`.

    A recording longer than `window` seconds (default: the longest bucket of the run's config) is
    processed in windows that give each frame `overlap` seconds of context on either side
    (default: an eighth of the window). A longer window sees more and needs more memory.
    Raises FileNotFoundError for what is no run folder and for a step that was not saved.
    """
    from ssl_jax.core import config as config_lib

    folder = Path(run_folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} is no run folder: it has no config.json. Pass the --workdir of "
            f"`python -m ssl_jax.train`"
        )
    config = config_lib.from_json((folder / "config.json").read_text())
    step = _step(folder, step)
    return Model(config, step, _classes(folder, config), folder, window, overlap, precision)


def _step(folder: Path, step: int | None) -> int:
    steps = sorted(int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit())
    if not steps:
        raise FileNotFoundError(f"{folder} has no complete checkpoint yet")
    if step is not None and step not in steps:
        raise FileNotFoundError(f"{folder} has no checkpoint of step {step}: it has {steps}")
    return steps[-1] if step is None else step


def _classes(folder: Path, config: "ConfigDict") -> tuple[str, ...]:
    path = folder / "classes.json"
    return tuple(json.loads(path.read_text()) if path.is_file() else config.data.classes)


class Model:
    """A trained model. `config`: that of its run; `step`; `classes`: names, () if it has none."""

    def __init__(
        self,
        config: "ConfigDict",
        step: int,
        classes: tuple[str, ...],
        folder: str | Path,
        window: float | None = None,
        overlap: float | None = None,
        precision: str = "float32",
    ):
        """Builds the method that config names and restores its parameters; see `load`."""
        import importlib

        import jax

        from ssl_jax.engine import checkpoint
        from ssl_jax.evals.extract import Extractor

        self.config, self.step, self.classes = config, step, classes
        self.sample_rate = int(config.data.sample_rate)
        self._precision = precision
        module = importlib.import_module(f"ssl_jax.methods.{config.method.name}")
        self.method = module.make(
            config.method,
            precision=precision,
            sample_rate=self.sample_rate,
            num_classes=len(classes),
        )
        self.params = jax.device_put(checkpoint.restore_params(folder, step))
        self._extractor = Extractor(
            _exact(self.method.features, precision),
            self.params,
            sample_rate=self.sample_rate,
            window_s=window or float(config.data.buckets[-1]),
            overlap_s=overlap,
        )
        self._classify: Any = None

    def __repr__(self) -> str:
        return f"ssl_jax.Model({self.config.method.name}, step {self.step})"

    def features(self, waveform: Waveform | list[Waveform], rate: int) -> Any:
        """Returns the Clip of a waveform, or the Clips of a list of waveforms of one rate.

        Any rate is resampled to the model's. A clip's numbers do not depend on what it is batched
        with. Raises ValueError on empty audio, or audio shorter than one frame.
        """
        audio = [_mono16(w, rate, self.sample_rate) for w in _listed(waveform)]
        clips = tuple(self._clip(hidden) for hidden in self._extractor.run(audio))
        return Clips(clips) if isinstance(waveform, list | tuple) else clips[0]

    def stream(self, source: Waveform | str | Path, rate: int | None = None) -> Iterator[Clip]:
        """Yields the features of one long recording piece by piece, in bounded memory.

        source: a sound file, read as it is needed, or a waveform with its rate. The pieces joined
        equal `features`, up to resampling.
        """
        blocks = _blocks(source, rate, self.sample_rate)
        for hidden, times in self._extractor.stream(blocks):
            yield Clip(list(hidden), times)

    def predict(self, waveform: Waveform | list[Waveform], rate: int) -> Any:
        """Returns {class name: probability} of a waveform, or one such for each of a list.

        Probabilities of a long recording are the mean over its windows. Raises ValueError unless
        the run is a supervised classification.
        """
        if self.method.predict is None or self.config.method.get("task") in ("tag", "regress"):
            raise ValueError(
                f"a run of {self.config.method.name!r} has no classifier: fine-tune it with "
                f"configs/supervised, with config.init_from set to this run"
            )
        audio = [_mono16(w, rate, self.sample_rate) for w in _listed(waveform)]
        pieces = [[w.samples for w in self._extractor.windows([a])] for a in audio]
        rows = [row for piece in pieces for row in piece]
        self._classify = self._classify or _classifier(self.method, self._precision)
        found = np.zeros((len(rows), len(self.classes)))
        for group, batch in self._extractor.batches(rows):
            found[group] = np.asarray(self._classify(self.params, batch))[: len(group)]
        clips = np.split(found, np.cumsum([len(piece) for piece in pieces])[:-1])
        named = [dict(zip(self.classes, c.mean(0).tolist(), strict=True)) for c in clips]
        return named if isinstance(waveform, list | tuple) else named[0]

    def _clip(self, hidden: np.ndarray) -> Clip:
        return Clip(list(hidden), self._extractor.times(hidden.shape[1]))


def _listed(waveform: Waveform | list[Waveform]) -> list[Waveform]:
    if isinstance(waveform, list | tuple):
        if not waveform or np.ndim(waveform[0]) == 0:
            raise ValueError("pass a numpy array, or a list of them: not a list of numbers")
        return list(waveform)
    return [waveform]


def _exact(features: Any, precision: str) -> Any:
    """Keeps accelerators from computing float32 products in fewer bits."""
    import jax

    def apply(params: Any, batch: Any) -> Any:
        with jax.default_matmul_precision("highest" if precision == "float32" else "default"):
            return features(params, batch)

    return apply


def _classifier(method: Any, precision: str) -> Any:
    """Returns the jitted (params, batch) -> probabilities (B, classes) of a supervised run."""
    import jax

    def apply(params: Any, batch: Any) -> Any:
        return jax.nn.softmax(method.predict(params, batch))

    return jax.jit(_exact(apply, precision))


def _mono16(waveform: Waveform, rate: int, target: int) -> np.ndarray:
    """Averages channels and resamples: int16 (n,) at the target rate, as the loader has it."""
    import soxr

    from ssl_jax.data import audio

    if not rate or rate <= 0:
        raise ValueError(f"rate is {rate}: pass the samples per second of the waveform")
    x = _mono(np.asarray(waveform))
    if x.dtype == np.int16 and rate == target:
        return x
    x = x.astype(np.float32) / 32768 if x.dtype == np.int16 else x.astype(np.float32)
    return audio.to_int16(x if rate == target else soxr.resample(x, rate, target))


def _mono(x: np.ndarray) -> np.ndarray:
    """Checks a waveform and averages its channels: (n,) or (channels, n) -> (n,)."""
    if not x.size:
        raise ValueError("audio is empty: it has 0 samples")
    if x.ndim > 2 or x.ndim == 0 or (x.ndim == 2 and x.shape[0] > x.shape[1]):
        raise ValueError(f"audio has the shape {x.shape}: pass (n,) or (channels, n)")
    if x.dtype != np.int16:
        if not np.issubdtype(x.dtype, np.floating):
            raise ValueError(f"audio is {x.dtype}: pass float in [-1, 1] or int16")
        peak = np.abs(x).max()
        if not peak <= 4:
            raise ValueError(f"audio reaches {peak}: pass finite float in [-1, 1], or int16")
    if x.ndim == 1:
        return x
    if len(x) == 1:
        return x[0]
    mean = x.mean(0, dtype=np.float32)
    return mean / 32768 if x.dtype == np.int16 else mean


def _blocks(source: Any, rate: int | None, target: int) -> Iterator[np.ndarray]:
    """Yields a sound file or a waveform as int16 blocks of about ten seconds at `target`."""
    import soundfile

    if isinstance(source, str | Path):
        with soundfile.SoundFile(source) as file:
            parts = file.blocks(10 * file.samplerate, dtype="float32", always_2d=True)
            yield from _resampled((part.mean(1) for part in parts), file.samplerate, target)
        return
    x, size = _mono(np.asarray(source)), 10 * int(rate or 0)
    if size <= 0:
        raise ValueError(f"rate is {rate}: pass the samples per second of the waveform")
    scale = np.float32(32768 if x.dtype == np.int16 else 1)
    parts = (x[i : i + size].astype(np.float32) / scale for i in range(0, len(x), size))
    yield from _resampled(parts, size // 10, target)


def _resampled(parts: Iterator[np.ndarray], rate: int, target: int) -> Iterator[np.ndarray]:
    """Turns consecutive mono parts at `rate` into int16 parts at `target`."""
    import soxr

    from ssl_jax.data import audio

    if rate == target:
        yield from map(audio.to_int16, parts)
        return
    filter_ = soxr.ResampleStream(rate, target, 1, dtype="float32")
    for part in parts:
        yield audio.to_int16(filter_.resample_chunk(part))
    yield audio.to_int16(filter_.resample_chunk(np.zeros(0, np.float32), last=True))
