"""Turns waveforms, images, videos and texts that a user passes into the arrays of a model."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soxr
from PIL import Image

from ssl_jax.core import paths
from ssl_jax.data import tokenizers, transforms, videos
from ssl_jax.data.errors import Unreadable
from ssl_jax.data.readers import audio, pixels, video_decoding

Row = dict[str, np.ndarray]
# more columns than this are no channels but a matrix of something else
CHANNELS = 64
FRAMES_PER_SECOND = 25.0  # of frames without a rate; a clip counts frames, not seconds
_tokenizer = functools.cache(tokenizers.open_tokenizer)


def image_row(image: Any, config: Mapping[str, Any]) -> Row:
    """Returns {image: (H, W, 3) uint8}, an image after the evaluation transforms of config.data.

    image: a file, pixels as `pixels.from_array` takes them, or a Pillow image. Raises ValueError
    for anything else, and for a file that is not an image.
    """
    where = str(image) if isinstance(image, str | Path) else "the image"
    try:
        if isinstance(image, str | Path):
            data = paths.expanded(image).read_bytes()
            decoded = pixels.decode(data, config.get("max_megapixels", pixels.MAX_MEGAPIXELS))
        elif hasattr(image, "getexif"):
            decoded = pixels.rgb(image)
        else:
            decoded = pixels.from_array(np.asarray(image))
        steps = transforms.build(config["eval_transforms"], "config.data.eval_transforms")
        return {"image": transforms.apply(steps, decoded, 0, config["image_size"])}
    except Unreadable as error:
        raise ValueError(f"{where}: {error}") from error


def video_row(video: Any, config: Mapping[str, Any]) -> Row:
    """Returns {video: (T, H, W, 3) uint8}, a clip as in the evaluation of config.data.

    video: a file, a folder of frames, or frames as `pixels.from_array` takes them, with an axis of
    time in front. Raises ValueError for anything else, and for a file that is not a video.
    """
    sampling = videos.sampling_of(config)
    return {"video": _frames_at(video, lambda found: sampling.times(found, -1), config)}


def _frames_at(
    video: Any, times: Sequence[float] | Callable[[Any], Sequence[float]], config: Mapping[str, Any]
) -> np.ndarray:
    """Returns the frames of a video at some seconds, (T, H, W, 3) uint8, after the evaluation
    transforms; beyond its end, the last one."""
    where = str(video) if isinstance(video, str | Path) else "the video"
    rate = config["fps"] or FRAMES_PER_SECOND
    steps = transforms.build(config["eval_transforms"], "config.data.eval_transforms")
    try:
        with _opened(video, rate) as found:
            chosen = times(found) if callable(times) else times
            last = max(0.0, found.seconds - 0.5 / found.rate)
            images = found.frames([min(time, last) for time in chosen])
        clip = [transforms.apply(steps, image, 0, config["image_size"]) for image in images]
    except Unreadable as error:
        raise ValueError(f"{where}: {error}") from error
    return np.stack(clip)


@contextlib.contextmanager
def _opened(video: Any, rate: float) -> Iterator[Any]:
    """Opens a file or a folder of frames, or wraps frames in memory."""
    if isinstance(video, str | Path):
        with video_decoding.opened(str(paths.expanded(video)), rate) as found:
            yield found
        return
    frames = np.asarray(video)
    if frames.ndim != 4 or not len(frames):
        raise ValueError(f"the clip has shape {frames.shape}: pass its frames, (T, H, W, 3)")
    yield Frames(frames, rate)


def pair_row(pair: Any, rate: int | None, config: Mapping[str, Any]) -> Row:
    """Returns {audio, audio_len, video} of the first seconds of a clip, as in evaluation.

    pair: a file with both streams, or {"audio": a file or a waveform at `rate`, "video": what
    `video_row` takes}. Sound that is shorter than a clip is padded. Raises ValueError.
    """
    sound, video = (pair["audio"], pair["video"]) if isinstance(pair, dict) else (pair, pair)
    samples = waveform(open_sound(sound, rate), config["sample_rate"])
    if samples.dtype != np.int16:
        samples = audio.to_int16(samples)
    size = round(config["buckets"][-1] * config["sample_rate"])
    padded = np.zeros(size, np.int16)
    padded[: len(samples)] = samples[:size]
    count = np.array(min(len(samples), size), np.int32)
    seconds = config["buckets"][-1]
    # the whole seconds, whatever the rate: one frame of each of equal parts
    times = [(k + 0.5) * seconds / config["frames"] for k in range(config["frames"])]
    return {"audio": padded, "audio_len": count, "video": _frames_at(video, times, config)}


class Frames(NamedTuple):
    """Frames in memory (N, H, W, 3) uint8 as a video."""

    held: np.ndarray
    rate: float

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.held) / self.rate

    def frames(self, times: Sequence[float]) -> list[Image.Image]:
        """Returns the frame at each time."""
        return [pixels.from_array(self.held[int(time * self.rate)]) for time in times]


def token_rows(text: str | Path, config: Mapping[str, Any]) -> list[Row]:
    """Returns `<s> text </s>` as blocks {tokens (L,) int32, tokens_len ()}, each with its own <s>.

    text: a Path is that of a UTF-8 file. A block has config.data.block_tokens tokens; a text that
    fits is one block. Raises ValueError for an empty text and for anything that is not text.
    """
    text = paths.expanded(text).read_text(encoding="utf-8") if isinstance(text, Path) else text
    if not isinstance(text, str) or not text:
        raise ValueError(f"pass text that is not empty, or a list of texts: not {text!r:.40}")
    tokenizer, length = _tokenizer(config["tokenizer"]), config["block_tokens"]
    special = tokenizer.special
    ids = np.append(tokenizer.encode([text])[0], special.eos)
    rows = []
    for start in range(0, len(ids), length - 1):
        piece = ids[start : start + length - 1]
        tokens = np.full(length, special.pad, np.int32)
        tokens[0], tokens[1 : 1 + len(piece)] = special.bos, piece
        rows.append({"tokens": tokens, "tokens_len": np.array(1 + len(piece), np.int32)})
    return rows


class Sound(NamedTuple):
    """An opened sound: mono float32 blocks of about ten seconds, their rate, and its channels.

    form: what makes a model's input of float samples, which for an int16 array is int16, as in
    training, and else float32 that was never rounded.
    """

    parts: Iterator[np.ndarray]
    rate: int
    channels: int
    form: Callable[[np.ndarray], np.ndarray]

    def note(self, target: int) -> str:
        """Returns what is done to the channels and the rate, "" if nothing."""
        parts = [f"{self.channels} channels are averaged"] if self.channels > 1 else []
        if self.rate != target:
            parts.append(f"{self.rate} Hz is resampled to the model's {target} Hz")
        return " and ".join(parts)


def open_sound(source: Any, rate: int | None = None) -> Sound:
    """Opens a sound file, or a waveform as (n,), (n, channels) or (channels, n), float or int16.

    Raises ValueError for an invalid waveform, and for a file that training would not read. Samples
    beyond full scale are clipped, as in training.
    """
    if isinstance(source, str | Path):
        parts, own, channels = _file(source)
        if rate and rate != own:
            raise ValueError(f"rate is {rate}, but {source} has {own} Hz: leave it out for a file")
        return Sound(parts, own, channels, _limited)
    size = 10 * _checked(rate)
    x = np.asarray(source)
    mono, channels = _mono(x)
    scale = np.float32(32768 if mono.dtype == np.int16 else 1)
    pieces = (mono[i : i + size].astype(np.float32) / scale for i in range(0, len(mono), size))
    return Sound(pieces, size // 10, channels, audio.to_int16 if x.dtype == np.int16 else _limited)


def waveform(sound: Sound, target: int) -> np.ndarray:
    """Returns the complete sound (n,) at `target` Hz, int16 or float32 in [-1, 1]."""
    x = np.concatenate(list(sound.parts))
    return sound.form(x if sound.rate == target else soxr.resample(x, sound.rate, target))


def blocks(sound: Sound, target: int) -> Iterator[np.ndarray]:
    """Yields the sound in blocks at `target` Hz; joined, they are `waveform`, up to resampling."""
    if sound.rate == target:
        yield from map(sound.form, sound.parts)
        return
    filter_ = soxr.ResampleStream(sound.rate, target, 1, dtype="float32")
    for part in sound.parts:
        yield sound.form(filter_.resample_chunk(part))
    yield sound.form(filter_.resample_chunk(np.zeros(0, np.float32), last=True))


def _file(path: str | Path) -> tuple[Iterator[np.ndarray], int, int]:
    """Returns (mono float32 blocks of a sound file, its rate, its channels)."""
    file = str(paths.expanded(path))
    try:
        channels = audio.channels(file)
        found = audio.blocks(file, 10)
        first, own = next(found, (np.zeros(0, np.float32), 0))
        if not len(first):
            raise Unreadable("empty: no samples can be decoded")
    except Unreadable as error:
        raise ValueError(f"{path}: {error}") from error
    return _named(path, itertools.chain([first], (x for x, _ in found))), own, channels


def _named(path: str | Path, parts: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields the parts of a file; an error while decoding them names the file."""
    try:
        yield from parts
    except Unreadable as error:
        raise ValueError(f"{path}: {error}") from error


def _checked(rate: int | None) -> int:
    try:
        audio.check_rate(rate or 0)
    except Unreadable as error:
        raise ValueError(
            f"rate is {rate}: pass the samples per second of the waveform, such as 16000"
        ) from error
    return int(rate or 0)


def _mono(x: np.ndarray) -> tuple[np.ndarray, int]:
    """Checks a waveform and averages its channels -> (n,), and how many it has.

    The shorter axis of (n, channels) or (channels, n) has the channels.
    """
    if not x.size:
        raise ValueError("audio is empty: it has 0 samples")
    if x.ndim > 2 or x.ndim == 0 or (x.ndim == 2 and min(x.shape) > CHANNELS):
        raise ValueError(f"audio has shape {x.shape}: pass (n,), (n, channels) or (channels, n)")
    if x.dtype != np.int16:
        if not np.issubdtype(x.dtype, np.floating):
            raise ValueError(f"audio is {x.dtype}: pass float in [-1, 1] or int16")
        fault = audio.scale_fault(x)
        if fault:
            raise ValueError(f"audio: {fault}: pass finite float in [-1, 1], or int16")
    if x.ndim == 1:
        return x, 1
    axis = int(np.argmin(x.shape))
    if x.shape[axis] == 1:
        return x.reshape(-1), 1
    mean = x.mean(axis, dtype=np.float32)
    return (mean / 32768 if x.dtype == np.int16 else mean), x.shape[axis]


def _limited(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -1.0, 1.0)
