"""Self-supervised learning by masked prediction in JAX, for speech, music, images and video.

    model = ssl_jax.load("runs/quickstart/...")
    found = model.features("a.wav")  # or an array with its rate; or an image or a text
    found.hidden_states[-1]  # (T, D), the output of the last block
    found.times  # (T,), seconds

Importing this package imports neither jax nor anything that needs it; `load` does.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_jax.core import moved

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from ssl_jax.data import inputs

__all__ = ["Clip", "Clips", "Model", "load"]

moved.install()

Waveform = Any
"""A sound file; or float in [-1, 1] or int16, (n,), (n, channels) or (channels, n)."""
Example = Any
"""A Waveform; an image, as (H, W, 3) uint8, uint16 or float in 0..1, a Pillow image or a file; a
video, as its frames (T, H, W, 3), a file or a folder of frames; or a text, or the Path of a text
file."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """Features of one recording, image or text.

    hidden_states: the input of the first block, then the output of every block, or the layers that
    were asked for; (T, D) float32 each.
    times (T,): the centre of every frame in seconds; None for images and texts.
    """

    hidden_states: list[np.ndarray]
    times: np.ndarray | None

    def __repr__(self) -> str:
        frames, width = self.hidden_states[-1].shape
        last = "" if self.times is None or not frames else f", up to {self.times[-1]:.3f} s"
        return f"Clip({len(self.hidden_states)} hidden states of {frames} x {width}{last})"


@dataclasses.dataclass(frozen=True)
class Clips(Sequence):
    """Features of several recordings, images or texts: a sequence of Clip."""

    clips: tuple[Clip, ...]

    @property
    def hidden_states(self) -> list[list[np.ndarray]]:
        """The hidden states of each recording."""
        return [clip.hidden_states for clip in self.clips]

    @property
    def times(self) -> list[np.ndarray | None]:
        """The frame times of each recording."""
        return [clip.times for clip in self.clips]

    def __repr__(self) -> str:
        shown = [repr(clip) for clip in self.clips[:3]] + ["..."] * (len(self) > 3)
        return f"Clips({len(self)}: {', '.join(shown)})"

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, i):
        return self.clips[i]


def load(
    run_folder: str | Path,
    step: int | str | None = None,
    *,
    window: float | None = None,
    overlap: float | None = None,
    precision: str = "float32",
    method: str = "",
) -> "Model":
    """Returns the model of a run, from its newest checkpoint, that of `step`, or the "best" one.

    run_folder: a folder, or the beginning of a run's signature to look up under $SSL_JAX_RUNS
    (default: runs): "3f9a", or "3f9a@" followed by the version of the code that made the run.
    A recording longer than `window` seconds (default: the longest bucket of the run's config) is
    processed in windows that give each frame `overlap` seconds of context on either side
    (default: an eighth of the window). A longer window gives more context and takes more memory.
    "best" goes by the run's config.checkpoint.best_metric. method: the module of the run's method
    if it is your own; a module that only the run folder names is not imported (docs/trust.md).
    Raises FileNotFoundError for a folder that is not a run's and for a step that was not saved,
    ConfigError for a module that was not named, CorruptCheckpoint for a checkpoint that has changed
    since it was written, and ValueError, listing the candidates, if several signatures match.
    """
    from ssl_jax import methods
    from ssl_jax.core import config as config_lib
    from ssl_jax.core import run_lookup

    folder = run_lookup.located(run_folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} is no run folder: it has no config.json. Pass the --workdir of "
            f"`python -m ssl_jax.train`"
        )
    config = config_lib.of_file(folder / "config.json")
    try:
        methods.check(config.method.name, method)
        step = _step(folder, step)
        return Model(config, step, _classes(folder, config), folder, window, overlap, precision)
    except config_lib.ConfigError as error:
        raise config_lib.ConfigError(f"{error}{run_lookup.code_note(folder)}") from error


def _step(folder: Path, step: int | str | None) -> int:
    if step == "best":
        from ssl_jax.engine import checkpoint

        return checkpoint.best_step(folder)
    from ssl_jax.core import run_lookup

    steps = run_lookup.complete_steps(folder)
    if not steps:
        raise FileNotFoundError(f"{folder} has no complete checkpoint yet")
    if step is not None and str(step) not in map(str, steps):
        raise FileNotFoundError(f"{folder} has no checkpoint of step {step}: it has {steps}")
    return steps[-1] if step is None else int(step)


def _classes(folder: Path, config: "ConfigDict") -> tuple[str, ...]:
    path = folder / "classes.json"
    return tuple(
        json.loads(path.read_text(encoding="utf-8")) if path.is_file() else config.data.classes
    )


class Model:
    """A trained model: its run's `config`, its `step` and its `classes` by name, () if none."""

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
        import jax

        from ssl_jax import methods
        from ssl_jax.engine import checkpoint

        self.config, self.step, self.classes = config, step, classes
        self.sample_rate = int(config.data.sample_rate)
        self._precision = precision
        self._told: set[str] = set()
        self.method = methods.find(config.method.name).make(
            config.method,
            precision=precision,
            sample_rate=self.sample_rate,
            num_classes=len(classes),
        )
        self.params = jax.device_put(checkpoint.restore_params(folder, step))
        self.modality = config.data.get("modality", "audio")
        self._window, self._overlap = window or float(config.data.buckets[-1]), overlap
        self._extractors: dict[tuple, Any] = {}
        self._extractor = self._extractor_of()
        self._classify: Any = None
        self._listener: Any = None
        self._tokenizer: Any = None
        self._at = (folder, step)

    def __repr__(self) -> str:
        return f"ssl_jax.Model({self.config.method.name}, step {self.step})"

    def _extractor_of(self, stream: str = "", layers: Sequence[int] | None = None) -> Any:
        """Returns what reads features of a stream, or some layers of it, made once."""
        from ssl_jax.core.types import of_layers
        from ssl_jax.evals.extract import Examples, Extractor

        key = stream, None if layers is None else tuple(layers)
        if key not in self._extractors:
            features = self.method.of_stream(stream, "stream").features
            if layers is not None:
                features = of_layers(features, layers)
            exact = _exact(features, self._precision)
            if self.modality == "audio":
                self._extractors[key] = Extractor(
                    exact,
                    self.params,
                    sample_rate=self.sample_rate,
                    window_s=self._window,
                    overlap_s=self._overlap,
                )
            else:
                self._extractors[key] = Examples(exact, self.params)
        return self._extractors[key]

    def features(
        self,
        example: Example | list[Example],
        rate: int | None = None,
        stream: str = "",
        layers: Sequence[int] | None = None,
    ) -> Any:
        """Returns the Clip of a sound, an image, a video or a text, or the Clips of a list of them.

        rate: the sampling rate of waveforms, which are resampled to the model's; a file has its
        own. Channels are averaged. Floats are not rounded; int16 is read as in training. Images are
        cropped and scaled as in the run's evaluation, and so are the frames (T, H, W, 3) of a
        video, those in its middle. A text gets <s> and </s> around it; one
        longer than the model's context is split into blocks that do not attend to each other. The
        result does not depend on what is batched together. stream: which features of a method that
        has several. layers: the hidden states to return, by number, from the end where negative, in
        the order of depth; the others take no memory. Raises ValueError for an example that is
        empty, too short for one frame, or not of the kind that the run reads, and for a stream or a
        layer that does not exist.
        """
        extractor = self._extractor_of(stream, layers)
        if self.modality == "audio":
            audio = [self._waveform(w, rate) for w in _listed(example)]
            clips = [
                Clip(list(hidden), extractor.times(hidden.shape[1]))
                for hidden in extractor.run(audio)
            ]
        else:
            pieces = [self._rows(item, rate) for item in _listed(example)]
            found = iter(extractor.run([row for rows in pieces for row in rows]))
            # of a text in several blocks, only the first keeps its <s>
            joined = [[next(found)[:, int(i > 0) :] for i, _ in enumerate(rows)] for rows in pieces]
            clips = [Clip(list(np.concatenate(parts, 1)), None) for parts in joined]
        return Clips(tuple(clips)) if isinstance(example, list | tuple) else clips[0]

    def stream(
        self, source: Waveform, rate: int | None = None, layers: Sequence[int] | None = None
    ) -> Iterator[Clip]:
        """Yields the features of one long recording in consecutive parts, in bounded memory.

        source: an audio file, read as needed, or a waveform with its rate. layers: as in
        `features`. The parts joined equal the result of `features`, up to resampling.
        """
        from ssl_jax.data import inputs

        if self.modality != "audio":
            raise ValueError(f"a run on {self.modality}s has no time axis to stream: use features")
        blocks = inputs.blocks(self._sound(source, rate), self.sample_rate)
        for hidden, times in self._extractor_of(layers=layers).stream(blocks):
            yield Clip(list(hidden), times)

    def predict(self, example: Example | list[Example], rate: int | None = None) -> Any:
        """Returns {class or tag: probability} for an example, or a list of these for a list.

        The probabilities of a long recording or text are averaged over its parts. Raises ValueError
        unless the run is a supervised classifier.
        """
        if self.method.predict is None or self.config.method.get("task") == "regress":
            raise ValueError(
                f"a run of {self.config.method.name!r} has no classifier: fine-tune it with "
                f"configs/supervised, with config.init_from set to this run"
            )
        items = _listed(example)
        if self.modality == "audio":
            audio = [self._waveform(w, rate) for w in items]
            pieces: Any = [[w.samples for w in self._extractor.windows([a])] for a in audio]
        else:
            pieces = [self._rows(item, rate) for item in items]
        rows = [row for piece in pieces for row in piece]
        self._classify = self._classify or _classifier(self.method, self._precision)
        # of imported weights, tags have numbers if their file does not name them
        tags = self.method.batch["tags"].shape[0] if "tags" in self.method.batch else 0
        names = self.classes or tuple(map(str, range(tags or 0)))
        found = np.zeros((len(rows), len(names)))
        for group, batch in self._extractor.batches(rows):
            found[group] = np.asarray(self._classify(self.params, batch))[: len(group)]
        clips = np.split(found, np.cumsum([len(piece) for piece in pieces])[:-1])
        named = [dict(zip(names, c.mean(0).tolist(), strict=True)) for c in clips]
        return named if isinstance(example, list | tuple) else named[0]

    def transcribe(self, waveform: Waveform | list[Waveform], rate: int | None = None) -> Any:
        """Returns the transcript of a waveform by a run of configs/ctc or configs/transducer, or
        those of a list.

        `config.eval.decode` sets the decoder: the best path, or a beam search with its language
        model. Long recordings are processed in windows, whose frames are joined before decoding.
        Raises ValueError unless the run transcribes.
        """
        if self.method.emissions is None:
            raise ValueError(
                f"a run of {self.config.method.name!r} does not transcribe: fine-tune it with "
                f"configs/ctc/speech.py, with config.init_from set to this run"
            )
        self._listener = self._listener or _listener(self)
        extract, read = self._listener
        found = extract.run([self._waveform(w, rate) for w in _listed(waveform)])
        texts = [read(self.params, frames[0]) for frames in found]
        return texts if isinstance(waveform, list | tuple) else texts[0]

    def pronounce(
        self,
        waveform: Waveform,
        rate: int | None = None,
        text: str | Sequence[str] = "",
        lexicon: str = "",
    ) -> Any:
        """Returns what was heard in place of each phone of a text: see `evals.pronounce`.

        text: what should be said, or its phones as a list. lexicon: a file in the form of CMUdict
        that gives the phones of words; by default the rules of espeak-ng do. The result is a
        sequence of phones with `canonical`, `heard`, `score`, `start`, `end` and `word`, and prints
        as a table; `reports.pronunciation.draw` makes a picture of it. Raises ValueError unless the
        run is one of CTC on phones, and for a recording that is too short.
        """
        from ssl_jax.evals import pronounce

        spelling = self.config.data.get("spelling", "")
        if self.method.emissions is None or self.method.decoder or spelling != "phones":
            raise ValueError(
                f"a run of {self.config.method.name!r} with config.data.spelling={spelling!r} does "
                f"not judge phones: use one of CTC with config.data.spelling='phones'"
            )
        words = pronounce.as_words(text, self.classes, lexicon)
        self._listener = self._listener or _listener(self)
        extract, _ = self._listener
        (found,) = extract.run([self._waveform(waveform, rate)])
        times = extract.times(found.shape[1])
        step = extract.hop / self.sample_rate
        return pronounce.judge(found[0], words, self.classes, times, step)

    def tokens(self, waveform: Waveform | list[Waveform], rate: int | None = None) -> Any:
        """Returns the discrete tokens (T,) int32 of a sound by a run of a tokenizer, or a list.

        They are in the order of `features`: of patches, all of one step come before those of the
        next. Long recordings are processed in windows. Raises ValueError unless the run has tokens.
        """
        if self.method.tokens is None:
            raise ValueError(
                f"a run of {self.config.method.name!r} has no tokens: load one of "
                f"configs/beats/tokenizer.py"
            )
        self._tokenizer = self._tokenizer or _tokenizer(self, *self._at)
        found = self._tokenizer.run([self._waveform(w, rate) for w in _listed(waveform)])
        ids = [hidden[0, :, 0].astype(np.int32) for hidden in found]
        return ids if isinstance(waveform, list | tuple) else ids[0]

    def _waveform(self, source: Waveform, rate: int | None) -> np.ndarray:
        from ssl_jax.data import inputs

        return inputs.waveform(self._sound(source, rate), self.sample_rate)

    def _sound(self, source: Waveform, rate: int | None) -> "inputs.Sound":
        """Opens a sound; says once what is done to its channels and its rate."""
        from ssl_jax.data import inputs
        from ssl_jax.engine import log

        if isinstance(source, str) and not os.path.isfile(os.path.expanduser(source)):
            raise ValueError(
                f"this run reads audio, and {source!r:.80} is not a file: pass a sound file, or a "
                f"waveform and its rate"
            )
        sound = inputs.open_sound(source, rate)
        note = sound.note(self.sample_rate)
        if note and note not in self._told:
            self._told.add(note)
            log.notify(f"{note} (said once)")
        return sound

    def _rows(self, item: Example, rate: int | None) -> list[dict[str, np.ndarray]]:
        """Returns the model's inputs: a row for an image or clip, one per block for a text."""
        from ssl_jax.data import inputs

        if self.modality == "pair":
            frames, size = self.method.batch["video"].shape[:2]
            own = {"frames": frames, "image_size": size}
            return [inputs.pair_row(item, rate, {**self.config.data, **own})]
        if rate is not None:
            raise ValueError(f"this run reads {self.modality}s, which have no rate: leave it out")
        if self.modality == "image":
            # that of the encoder, as weights of others may come with the data of another size
            size = self.method.batch["image"].shape[-2]  # several views have an axis of their own
            return [inputs.image_row(item, {**self.config.data, "image_size": size})]
        if self.modality == "video":
            frames, size = self.method.batch["video"].shape[:2]
            sizes = {"frames": frames, "image_size": size}
            return [inputs.video_row(item, {**self.config.data, **sizes})]
        return inputs.token_rows(item, self.config.data)


def _listed(example: Example | list[Example]) -> list[Example]:
    if not isinstance(example, list | tuple):
        return [example]
    if not example or isinstance(example[0], int | float | np.number):
        raise ValueError("pass one example or a list of examples, not a list of numbers")
    return list(example)


def _exact(features: Any, precision: str) -> Any:
    """Keeps accelerators from computing float32 products in fewer bits."""
    import jax

    def apply(params: Any, batch: Any) -> Any:
        with jax.default_matmul_precision("highest" if precision == "float32" else "default"):
            return features(params, batch)

    return apply


def _listener(model: Model) -> tuple[Any, Any]:
    """Returns an Extractor of emissions (1, T, E), and a decoder from these to text."""
    from ssl_jax.core.types import Features
    from ssl_jax.evals import transcribe
    from ssl_jax.evals.extract import Extractor

    method = model.method

    def features(params: Any, batch: Any) -> Features:
        # the hidden states are unused, so the compiler does not compute them twice
        found, (log_probs, _) = method.features(params, batch), method.emissions(params, batch)
        return Features(log_probs[None], found.mask, found.rate, found.grid)

    extractor = Extractor(
        _exact(features, model._precision),
        model.params,
        sample_rate=model.sample_rate,
        window_s=float(model.config.data.buckets[-1]),
    )
    return extractor, transcribe.reader(model.config, model.classes, method.decoder)


def _tokenizer(model: Model, folder: str | Path, step: int) -> Any:
    """Returns an Extractor of tokens as hidden states (1, T, 1)."""
    from ssl_jax.engine import checkpoint
    from ssl_jax.evals.extract import Extractor

    def features(given: Any, batch: Any) -> Any:
        return model.method.tokens(*given, batch)

    return Extractor(
        _exact(features, model._precision),
        (model.params, checkpoint.restore_extra(folder, step)),
        sample_rate=model.sample_rate,
        window_s=model._window,
        overlap_s=model._overlap,
    )


def _classifier(method: Any, precision: str) -> Any:
    """Returns the jitted (params, batch) -> probabilities (B, classes) of a supervised run.

    Tags have a probability each, classes one in all.
    """
    import jax

    def apply(params: Any, batch: Any) -> Any:
        outputs = method.predict(params, batch)
        return jax.nn.sigmoid(outputs) if "tags" in method.batch else jax.nn.softmax(outputs)

    return jax.jit(_exact(apply, precision))
