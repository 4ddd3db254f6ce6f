"""A few examples of a run and their masks: examples.npz, and its pictures.

The file is written when a run starts, so that its report needs neither the data nor a checkpoint
later. Masks are those of the first update, sampled by the method's own function, which needs no
parameters.
"""

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ssl_jax.core import atomic, rng
from ssl_jax.core.types import Method, Tree
from ssl_jax.data.base import Corpus
from ssl_jax.data.errors import BadFile
from ssl_jax.data.tokenizers import open_tokenizer
from ssl_jax.ops import dsp
from ssl_jax.ops.patches import first_view
from ssl_jax.reports import html, style

FILE = "examples.npz"
COUNT = {"audio": 4, "image": 6, "text": 3, "video": 4}
VIEWS = {"audio": 3, "image": 4, "text": 2, "video": 2}  # masks shown of one example
COLUMNS, BANDS, SIDE, TOKENS = 640, 80, 224, 400  # limits of a picture and of a text
STRIP = 1120  # pixels of frames side by side
_COLOURS = np.array(style.SOUND)


class Example(NamedTuple):
    """One example: its picture (H, W, 3) uint8 and masks (V, S), or (V, rows, columns) and so on
    of a grid, bool.

    name: its file or row, and its label. seconds: duration of the audio. rate: tokens (or rows of
    a grid) per second. texts: for each view, its spans, and whether each is masked.
    """

    name: str
    picture: np.ndarray
    masks: np.ndarray
    seconds: float
    rate: float
    texts: list[list[tuple[str, bool]]]


def write(workdir: Path, config: ConfigDict, method: Method, params: Tree, corpus: Corpus) -> None:
    """Writes examples.npz: examples spread over a corpus, and their masks.

    params: the abstract parameters of the method.
    """
    kind = config.data.get("modality", "audio")
    kind = "audio" if kind == "pair" else kind  # a method masks both streams and shows its sound
    arrays, ids = _rows(corpus, COUNT[kind])
    if not len(ids):
        return
    masks, rate = _masks(config.seed, method, params, arrays)
    about: list[dict[str, Any]] = []
    stored: dict[str, Any] = {}
    for i, row in enumerate(ids):
        own = {name: value[i] for name, value in arrays.items()}
        mask = masks[i, : VIEWS[kind]]
        example: dict[str, Any] = {"name": _name(corpus, int(row)), "rate": rate, "seconds": 0.0}
        if kind == "text":
            example["texts"], mask = _texts(config, own, mask), mask[:0]
        elif kind == "audio":
            example["seconds"] = float(own["audio_len"]) / config.data.sample_rate
            audio = own["audio"][: own["audio_len"]]
            stored[f"picture{i}"] = _spectrogram(audio, config.data.sample_rate)
        elif kind == "video":
            stored[f"picture{i}"] = _strip(own["video"], mask)
        else:
            step = -(-max(own["image"].shape[-3:-1]) // SIDE)
            stored[f"picture{i}"] = first_view(own["image"][None])[0, ::step, ::step]
        stored[f"mask{i}"] = mask
        about.append(example)
    file = io.BytesIO()
    np.savez_compressed(file, about=np.array(json.dumps(about)), **stored)
    atomic.write_bytes(workdir / FILE, file.getvalue())


def read(workdir: Path) -> list[Example]:
    """Returns the examples of a run folder, or none if it has no examples.npz."""
    path = workdir / FILE
    if not path.is_file():
        return []
    with np.load(io.BytesIO(path.read_bytes())) as stored:
        about, nothing = json.loads(str(stored["about"])), np.zeros((0, 0, 3), np.uint8)
        return [
            Example(
                one["name"],
                stored.get(f"picture{i}", nothing),
                stored[f"mask{i}"],
                one["seconds"],
                one["rate"],
                [[(str(t), bool(h)) for t, h in view] for view in one.get("texts", [])],
            )
            for i, one in enumerate(about)
        ]


def draw(examples: Sequence[Example]) -> str:
    """Returns the examples as HTML: masked parts are grey in sound, and covered in images."""
    longest = max((e.seconds for e in examples), default=0.0)
    figures = []
    for example in examples:
        drawn = _figure(example, max(example.seconds / longest, 0.2) if longest else 1.0)
        wide = example.texts or example.seconds or example.masks.ndim > 3
        figures.append(f'<div class="whole">{drawn}</div>' if wide else drawn)
    return html.grid(figures)


def _figure(example: Example, share: float) -> str:
    """Returns one example; the width of audio is its `share` of the longest."""
    if example.texts:
        drawing = "".join(map(_text, example.texts))
        return html.figure(drawing, example.name)
    height, width = example.picture.shape[:2]
    address = html.png(example.picture)
    size = (width, height)
    if example.seconds:
        size = (round(960 * share), 160 if example.masks.ndim > 2 else 110)
    sound = bool(example.seconds)
    views = [_svg(address, size, _covered(mask, example, size), sound) for mask in example.masks]
    if sound:
        drawing = "".join(views or [_svg(address, size, "")])
        drawing = f'<div style="width:{100 * share:.1f}%">{drawing}</div>'
        return html.figure(drawing, example.name, f"{example.seconds:.2f} s")
    drawing = "".join([_svg(address, size, ""), *views])
    return html.figure(f'<div class="views">{drawing}</div>', example.name)


def _svg(address: str, size: tuple[int, int], covered: str, sound: bool = False) -> str:
    """Returns a picture with its masked parts covered; those of `sound` lose their colour alone."""
    width, height = size
    path = f'<path class="mask" d="{covered}"/>' if covered else ""
    edge = f'<path class="edge" d="{covered}"/>' if covered and sound else ""
    kind = ' class="sound"' if sound else ""
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="example"><g{kind}>'
        f'<image href="{address}" width="{width}" height="{height}" '
        f'preserveAspectRatio="none"/>{path}</g>{edge}</svg>'
    )


def _covered(mask: np.ndarray, example: Example, size: tuple[int, int]) -> str:
    """Returns the path of the masked parts of a picture of `size` (width, height).

    mask: (S,) along time; (rows, columns) of an image, or of a spectrogram, whose rows are times
    and whose columns are frequencies from low to high; (steps, rows, columns) of a video, whose
    picture has its frames side by side.
    """
    width, height = size
    if example.seconds:
        step = width / (example.seconds * example.rate)
        cells = mask.reshape(len(mask), -1).T[::-1]
    else:
        cells = mask if mask.ndim == 2 else np.concatenate(mask, axis=1)
        step = width / cells.shape[1]
    tall = height / len(cells)
    parts = []
    for y, line in enumerate(cells):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(np.int8), [0]])))
        for first, last in zip(edges[::2], edges[1::2], strict=True):
            left, right = (min(edge * step, width) for edge in (first, last))
            if right > left:
                wide = right - left
                parts.append(f"M{left:.1f} {y * tall:.1f}h{wide:.1f}v{tall:.1f}h{-wide:.1f}z")
    return "".join(parts)


def _text(spans: Sequence[tuple[str, bool]]) -> str:
    tags = (
        f'<span class="{"masked" if masked else "visible"}">{html.text(span)}</span>'
        for span, masked in spans
    )
    return f'<p class="tokens">{"".join(tags)}</p>'


def _rows(corpus: Corpus, count: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns the arrays of up to `count` usable rows spread over a corpus, and their ids."""
    seconds = corpus.buckets[-1]
    shapes = corpus.shapes(seconds)
    arrays = {name: np.zeros((count, *shape), kind) for name, (shape, kind) in shapes.items()}
    ids: list[int] = []
    tried = np.unique(np.linspace(0, len(corpus) - 1, 4 * count + 1).round().astype(int))
    # every fourth row first, so that a valid row is found near an invalid one
    for i in sorted(tried.tolist(), key=lambda i: np.searchsorted(tried, i) % 4):
        if len(ids) == count:
            break
        (key,) = corpus.keys(np.array([i]), np.zeros(1, np.int64), seconds, None)
        try:
            corpus.refuse(i)
            corpus.fill(i, key, arrays, len(ids))
        except BadFile:  # the run itself counts and reports it
            for array in arrays.values():
                array[len(ids)] = 0
            continue
        ids.append(i)
    found = np.array(ids, np.uint32)
    arrays = {name: value[: len(ids)] for name, value in arrays.items()}
    return {**arrays, "id": found, "weight": np.ones(len(ids), np.float32)}, found


def _masks(
    seed: int, method: Method, params: Tree, arrays: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, float]:
    """Returns the masks of the first update, (B, M, S), or (B, M, rows, columns) and so on of a
    grid, and the tokens (or steps of a grid) per second. M is 0 if the method has no mask."""
    if method.masks is None:
        return np.zeros((len(arrays["id"]), 0, 1), bool), 0.0
    batch: Any = {name: arrays[name] for name in method.batch if name in arrays}
    shapes, draw = jax.eval_shape(method.features, params, batch), method.masks

    def masks(batch: Any) -> jax.Array:
        # the compiler drops everything that reads the parameters
        blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params)
        streams = rng.Streams(rng.key_data(seed), jnp.zeros((), jnp.int32), batch["id"])
        return draw(blank, batch, streams)

    found = np.asarray(jax.jit(masks)(batch))
    return found, shapes.rate if found.ndim > 3 else shapes.token_rate


def _texts(
    config: ConfigDict, row: Mapping[str, np.ndarray], masks: np.ndarray
) -> list[list[tuple[str, bool]]]:
    """Returns the masked and visible spans of each view; one visible span if there is no mask."""
    tokenizer = open_tokenizer(config.data.tokenizer)
    length = min(int(row["tokens_len"]), TOKENS)
    ids, found = row["tokens"][:length], []
    for mask in masks if len(masks) else np.zeros((1, length), bool):
        edges = np.flatnonzero(np.diff(mask[:length])) + 1
        starts = [0, *edges.tolist()]
        spans = zip(starts, [*starts[1:], length], strict=True)
        found.append([(tokenizer.decode(ids[a:b]), bool(mask[a])) for a, b in spans])
    return found


def _name(corpus: Corpus, row: int) -> str:
    """Returns the name of a row's file, without its folder, and its label."""
    name = re.split(r"[/\\]", corpus.where(row))[-1]
    label = int(corpus.labels[row])
    return f"{name}: {corpus.classes[label]}" if 0 <= label < len(corpus.classes) else name


def _strip(video: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """video (T, H, W, 3), mask (V, steps, rows, columns) -> (H, W * steps, 3), the first frame of
    each step side by side, or of all where nothing is masked; thinned out to the width of a page.
    """
    steps = mask.shape[1] if len(mask) else len(video)
    frames = video[:: len(video) // steps]
    thin = -(-frames.shape[2] * steps // STRIP)
    return np.concatenate(list(frames[:, ::thin, ::thin]), axis=1)


def _spectrogram(audio: np.ndarray, rate: int) -> np.ndarray:
    """audio (n,) int16 -> picture (BANDS, T, 3) uint8 of log-mel, low frequencies at the bottom."""
    window, hop = round(0.03 * rate), round(0.01 * rate)
    x = np.pad(audio.astype(np.float32) / 32768, (0, max(window - len(audio), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(x, window)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(window))) ** 2
    log_mel = 10 * np.log10(power @ dsp.slaney_mel(BANDS, window, rate, 0.0, rate / 2) + 1e-10)
    wide = -(-len(log_mel) // COLUMNS)
    starts = np.arange(0, len(log_mel), wide)
    log_mel = np.add.reduceat(log_mel, starts) / np.diff(starts, append=len(log_mel))[:, None]
    top = np.quantile(log_mel, 0.998)
    share = ((log_mel - top + 70) / 70).clip(0, 1).T[::-1]
    places = np.linspace(0, 1, len(_COLOURS))
    return np.stack([np.interp(share, places, c) for c in _COLOURS.T], -1).round().astype(np.uint8)
