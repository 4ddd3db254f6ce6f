"""The clips of the MVD experiment: drawn ones, and real ones, as folders of frames."""

import csv
import io
import pathlib

import numpy as np
from PIL import Image

from ssl_jax.core import atomic
from ssl_jax.data.readers import image_files, pixels
from ssl_jax.data.synthetic import moving_objects
from ssl_jax.pipeline import Pipe
from ssl_jax.stages.graph import Stage

SEEDS = {"train": 1, "test": 2}
REAL = ("label", "scene")
SIDE, FRAMES = moving_objects.SIDE, moving_objects.FRAMES


def drawn(pipe: Pipe, split: str) -> Stage:
    """Returns the stage that draws the clips of a split."""
    count, data = pipe.options[split], pipe.options["data"]

    def work(out: pathlib.Path) -> None:
        pictures = _pictures(pathlib.Path(data)) if data else None
        made = moving_objects.write(out / "clips", count, SEEDS[split], pictures)
        for path in made.iterdir():
            path.rename(out / path.name)
        made.rmdir()

    what = {"count": count, "seed": SEEDS[split], "data": data}
    return pipe.stage("data", f"clips-{split}", what, work)


def real(pipe: Pipe, split: str) -> Stage:
    """Returns the stage that shrinks real videos to the frames of the drawn ones."""
    root = pathlib.Path(pipe.options["droid"])

    def work(out: pathlib.Path) -> None:
        lines = ["\t".join(("path", *REAL))]
        with (root / "index.tsv").open(encoding="utf-8", newline="") as file:
            found = [r for r in csv.DictReader(file, delimiter="\t") if r["split"] == split]
        for row in found:
            name = pathlib.Path(row["path"]).stem
            (out / name).mkdir()
            for t, frame in enumerate(_decoded(root / row["path"])):
                packed = io.BytesIO()
                frame.save(packed, "PNG")
                (out / name / f"{t:02d}.png").write_bytes(packed.getvalue())
            lines.append("\t".join((name, *(row[column] for column in REAL))))
        atomic.write_text(out / "index.tsv", "\n".join(lines) + "\n")

    return pipe.stage("data", f"droid-{split}", {"droid": str(root), "side": SIDE}, work)


def arrays(folder: pathlib.Path, count: int = 0) -> tuple[np.ndarray, dict[str, list[str]]]:
    """Returns the clips (N, T, H, W, 3) uint8 of a split, or the first `count`, and their labels
    by column."""
    with (folder / "index.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))[: count or None]
    videos = [
        [np.asarray(Image.open(path)) for path in sorted((folder / row["path"]).glob("*.png"))]
        for row in rows
    ]
    return np.array(videos), {c: [row[c] for row in rows] for c in rows[0] if c != "path"}


def _decoded(path: pathlib.Path) -> list[Image.Image]:
    """Returns FRAMES frames spread over a video, cut to a square and shrunk."""
    import av

    with av.open(str(path)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)]
    width, height = chosen[0].size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    return [f.resize((SIDE, SIDE), Image.Resampling.BOX, box=box) for f in chosen]


def _pictures(folder: pathlib.Path) -> moving_objects.Pictures:
    """Returns the images of train.tar as what objects are cut out of."""
    items = image_files.image_tar(folder / "train.tar", {})
    images = [
        np.asarray(pixels.decode(items.reader.image(i)).resize((SIDE, SIDE)))
        for i in range(items.total)
    ]
    return moving_objects.Pictures(np.stack(images), tuple(items.columns["label"].tolist()))
