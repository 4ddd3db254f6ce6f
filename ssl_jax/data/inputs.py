"""Turns waveforms, images and texts that a user passes into the arrays that a model reads."""

import functools
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from ssl_jax.core import paths
from ssl_jax.data import tokenizers, transforms
from ssl_jax.data.errors import Unreadable
from ssl_jax.data.readers import audio, pixels

Row = dict[str, np.ndarray]
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


def token_rows(text: str, config: Mapping[str, Any]) -> list[Row]:
    """Returns `<s> text </s>` as blocks {tokens (L,) int32, tokens_len ()}, each with its own <s>.

    A block has config.data.block_tokens tokens; a text that fits is one block. Raises ValueError
    for an empty text and for anything that is not text.
    """
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


def mono16(waveform: Any, rate: int, target: int) -> np.ndarray:
    """Averages channels and resamples: int16 (n,) at the target rate, as the loader yields it."""
    _check_rate(rate)
    x = _mono(np.asarray(waveform))
    if x.dtype == np.int16 and rate == target:
        return x
    x = x.astype(np.float32) / 32768 if x.dtype == np.int16 else x.astype(np.float32)
    return audio.to_int16(x if rate == target else soxr.resample(x, rate, target))


def _check_rate(rate: int | None) -> None:
    try:
        audio.check_rate(rate or 0)
    except Unreadable as error:
        raise ValueError(
            f"rate is {rate}: pass the samples per second of the waveform, such as 16000"
        ) from error


def _mono(x: np.ndarray) -> np.ndarray:
    """Checks a waveform and averages its channels: (n,) or (channels, n) -> (n,)."""
    if not x.size:
        raise ValueError("audio is empty: it has 0 samples")
    if x.ndim > 2 or x.ndim == 0 or (x.ndim == 2 and x.shape[0] > x.shape[1]):
        raise ValueError(f"audio has shape {x.shape}: pass (n,) or (channels, n)")
    if x.dtype != np.int16:
        if not np.issubdtype(x.dtype, np.floating):
            raise ValueError(f"audio is {x.dtype}: pass float in [-1, 1] or int16")
        fault = audio.scale_fault(x)
        if fault:
            raise ValueError(f"audio: {fault}: pass finite float in [-1, 1], or int16")
    if x.ndim == 1:
        return x
    if len(x) == 1:
        return x[0]
    mean = x.mean(0, dtype=np.float32)
    return mean / 32768 if x.dtype == np.int16 else mean


def blocks(source: Any, rate: int | None, target: int) -> Iterator[np.ndarray]:
    """Yields a sound file or a waveform as int16 blocks of about ten seconds at `target` Hz.

    Raises ValueError for an invalid waveform, and for a file that training would not read.
    """
    if isinstance(source, str | Path):
        found = audio.blocks(str(paths.expanded(source)), 10)
        try:
            first, own = next(found, (np.zeros(0, np.float32), 0))
            if not len(first):
                raise Unreadable("empty: no samples can be decoded")
            yield from _resampled(itertools.chain([first], (x for x, _ in found)), own, target)
        except Unreadable as error:
            raise ValueError(f"{source}: {error}") from error
        return
    _check_rate(rate)
    x, size = _mono(np.asarray(source)), 10 * int(rate or 0)
    scale = np.float32(32768 if x.dtype == np.int16 else 1)
    parts = (x[i : i + size].astype(np.float32) / scale for i in range(0, len(x), size))
    yield from _resampled(parts, size // 10, target)


def _resampled(parts: Iterator[np.ndarray], rate: int, target: int) -> Iterator[np.ndarray]:
    """Resamples consecutive mono parts from `rate` to int16 parts at `target` Hz."""
    if rate == target:
        yield from map(audio.to_int16, parts)
        return
    filter_ = soxr.ResampleStream(rate, target, 1, dtype="float32")
    for part in parts:
        yield audio.to_int16(filter_.resample_chunk(part))
    yield audio.to_int16(filter_.resample_chunk(np.zeros(0, np.float32), last=True))
