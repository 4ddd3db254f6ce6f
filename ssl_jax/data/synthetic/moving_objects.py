"""Short clips of two objects that move over a moving texture, with exact labels of space and time.

Every motion is periodic, so that where something is in one frame tells nothing about where it goes.
A frame alone tells the class of the larger object (`object`); no frame tells where that moves
(`direction`), how fast (`speed`), which of two faint lights at one place goes on first (`order`),
nor whether the clip is played backwards (`playback`: forwards, objects slow down). The class of
whichever object moves faster (`faster`) needs both.
"""

import colorsys
import io
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ssl_jax.core import atomic

FRAMES, SIDE = 8, 32
SHAPES = (
    "disk",
    "square",
    "triangle",
    "ring",
    "cross",
    "diamond",
    "frame",
    "bars",
    "columns",
    "checks",
)
DIRECTIONS = ("e", "ne", "n", "nw", "w", "sw", "s", "se")
SPEEDS = {"slow": 0.8, "medium": 1.6, "fast": 2.6}  # pixels per frame, on average
ORDERS, PLAYBACKS = ("red_first", "blue_first"), ("forwards", "backwards")
LABELS = ("object", "direction", "speed", "order", "playback", "faster")
LARGE, SMALL = 14, 9  # sides of the objects
LIGHTS = np.array([(255, 40, 40), (40, 80, 255)])
SPOT = 3  # side of a light, which is half of what is seen there
# two slots that leave the first, the middle and the last frames without a light
SLOTS = ((1, 2), (5, 6))
_SLOWING = 0.8  # the first step is longer than the mean by this share, the last one shorter
_KEY = 0xC11B


class Clip(NamedTuple):
    """video (FRAMES, SIDE, SIDE, 3) uint8, and the text of each of LABELS."""

    video: np.ndarray
    labels: dict[str, str]


class Pictures(NamedTuple):
    """What is cut out in place of drawn shapes: images (n, H, W, 3) uint8, and the class of each.

    All classes need two images or more, of SIDE pixels or less a side.
    """

    images: np.ndarray
    classes: tuple[str, ...]


def clip(seed: int, i: int, pictures: Pictures | None = None) -> Clip:
    """Returns clip i of a corpus: a pure function of (seed, i)."""
    rng = np.random.default_rng([_KEY, seed, i])
    names = sorted(set(pictures.classes)) if pictures else list(SHAPES)
    large, small = rng.choice(len(names), 2, replace=False)
    directions = rng.integers(0, 8, 3)
    slower, faster = sorted(rng.choice(3, 2, replace=False))
    large_is_faster, order, backwards = rng.integers(0, 2, 3)
    speeds = list(SPEEDS.values())
    own, other = (faster, slower) if large_is_faster else (slower, faster)
    paths = [
        _path(rng, directions[0], speeds[own], backwards),
        _path(rng, directions[1], speeds[other], backwards),
        _path(rng, directions[2], rng.uniform(0.5, 2.5), backwards),
    ]
    cut = [
        _object(rng, names[large], LARGE, pictures),
        _object(rng, names[small], SMALL, pictures),
    ]
    ground, spot = _texture(rng), rng.integers(0, SIDE - SPOT + 1, 2)
    video = np.stack([_frame(t, ground, paths, cut) for t in range(FRAMES)])
    rows, columns = (slice(at, at + SPOT) for at in spot)
    for slot, times in enumerate(SLOTS):
        lit = video[times, rows, columns].astype(int)
        video[times, rows, columns] = (lit + LIGHTS[(slot + order) % 2]) // 2
    labels = {
        "object": names[large],
        "direction": DIRECTIONS[directions[0]],
        "speed": list(SPEEDS)[own],
        "order": ORDERS[order],
        "playback": PLAYBACKS[backwards],
        "faster": names[large if large_is_faster else small],
    }
    return Clip(video, labels)


def write(folder: Path, count: int, seed: int, pictures: Pictures | None = None) -> Path:
    """Writes clips 0 to `count` as folders of PNG frames, and index.tsv; returns `folder`.

    What is there already stays if it was made by the same call, and is made anew otherwise. The
    frames of clip 3 are 000003/00.png and so on; index.tsv has the columns path and LABELS.
    """
    names = sorted(set(pictures.classes)) if pictures else list(SHAPES)
    request = {"count": count, "seed": seed, "classes": names, "version": 2}
    done = folder / "DONE"
    if done.is_file() and done.read_text(encoding="utf-8") == _text(request):
        return folder
    part = folder.with_name(f"{folder.name}.part")
    for old in (part, folder):
        shutil.rmtree(old, ignore_errors=True)
    lines = ["\t".join(("path", *LABELS))]
    for i in range(count):
        made, name = clip(seed, i, pictures), f"{i:06d}"
        (part / name).mkdir(parents=True)
        for t, frame in enumerate(made.video):
            (part / name / f"{t:02d}.png").write_bytes(_png(frame))
        lines.append("\t".join((name, *(made.labels[label] for label in LABELS))))
    atomic.write_text(part / "index.tsv", "\n".join(lines) + "\n")
    atomic.write_text(part / "DONE", _text(request))
    part.rename(folder)
    return folder


def _text(request: dict) -> str:
    return "\n".join(f"{key} {value}" for key, value in request.items()) + "\n"


def _png(frame: np.ndarray) -> bytes:
    packed = io.BytesIO()
    Image.fromarray(frame).save(packed, "PNG", compress_level=1)
    return packed.getvalue()


def _path(rng: np.random.Generator, direction: int, speed: float, backwards: int) -> np.ndarray:
    """Returns rows and columns (FRAMES, 2) of a motion that slows down, or speeds up backwards."""
    angle = direction * np.pi / 4
    steps = speed * (1 + _SLOWING * np.linspace(1, -1, FRAMES - 1))
    steps = steps[::-1] if backwards else steps
    along = np.concatenate([[0.0], np.cumsum(steps)])[:, None]
    return rng.uniform(0, SIDE, 2) + along * np.array([-np.sin(angle), np.cos(angle)])


def _frame(
    t: int,
    ground: np.ndarray,
    paths: list[np.ndarray],
    cut: list[tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
    """Returns frame t (SIDE, SIDE, 3) uint8: the ground, and the objects over it."""
    large, small, under = (np.round(path[t]).astype(int) for path in paths)
    frame = np.roll(ground, under, (0, 1)).copy()
    for (pixels, inside), at in zip(cut, (large, small), strict=True):
        rows, columns = ((at[k] + np.arange(len(pixels))) % SIDE for k in (0, 1))
        place = np.ix_(rows, columns)
        frame[place] = np.where(inside[..., None], pixels, frame[place])
    return frame


def _texture(rng: np.random.Generator) -> np.ndarray:
    """Returns a periodic ground (SIDE, SIDE, 3) uint8 of a few waves in dull colours."""
    y, x = np.mgrid[:SIDE, :SIDE] * (2 * np.pi / SIDE)
    ground = np.full((SIDE, SIDE, 3), 110.0)
    for _ in range(5):
        waves = rng.integers(-4, 5, 2)
        wave = np.sin(waves[0] * y + waves[1] * x + rng.uniform(0, 2 * np.pi))
        ground += wave[..., None] * rng.uniform(-22, 22, 3)
    return (ground + rng.normal(0, 4, ground.shape)).clip(0, 255).astype(np.uint8)


def _object(
    rng: np.random.Generator, name: str, side: int, pictures: Pictures | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels (side, side, 3) of an object of a class, and which of them it covers."""
    if pictures:
        known = np.flatnonzero(np.asarray(pictures.classes) == name)
        image = Image.fromarray(pictures.images[rng.choice(known)])
        pixels = np.asarray(image.resize((side, side), Image.Resampling.BOX))
        return pixels, np.ones((side, side), bool)
    hue, light = rng.uniform(0, 1), rng.uniform(0.7, 1.0)
    colour = 255 * np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.3, 1.0), light))
    pixels = colour + rng.normal(0, 14, (side, side, 3))
    return pixels.clip(0, 255).astype(np.uint8), _shape(name, side)


def _shape(name: str, side: int) -> np.ndarray:
    """Returns the pixels (side, side) that a shape covers, bool."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side * 2 - 1
    far, near = np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
    radius = np.hypot(x, y)
    cells = (np.arange(side) * 4 // side) % 2 == 0
    return {
        "disk": radius < 0.95,
        "square": far < 0.85,
        "triangle": abs(x) < (y + 1) / 2,
        "ring": (radius < 1) & (radius > 0.55),
        "cross": near < 0.3,
        "diamond": abs(x) + abs(y) < 1,
        "frame": far > 0.6,
        "bars": np.broadcast_to(cells[:, None], (side, side)),
        "columns": np.broadcast_to(cells, (side, side)),
        "checks": cells[:, None] ^ cells,
    }[name]
