"""Frozen features of the splits of a run's data: one vector per clip and layer, kept on disk."""

import dataclasses
import functools
import hashlib
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ssl_jax.core import code, paths
from ssl_jax.core import config as config_lib
from ssl_jax.core import tree as tree_lib
from ssl_jax.core.types import Method, Tree
from ssl_jax.data.corpus import SPLITS
from ssl_jax.data.readers import label_files
from ssl_jax.data.readers.base import Recordings
from ssl_jax.engine import batch_room, log
from ssl_jax.engine import splits as splits_lib
from ssl_jax.evals import baselines, librosa_features
from ssl_jax.evals.baselines import Encoder
from ssl_jax.evals.pool import Pooled, cached, pool, pooler, signature, windowed
from ssl_jax.nn import build

SIGNALS = ("audio", "audio_len", "image", "video", "tokens", "tokens_len")
# keys of a source that name columns of labels, on which no feature depends
TRUTH = ("label", "tags", "target", "transcript")
BASELINES = {"librosa": librosa_features.encoder}
Splits = dict[str, splits_lib.Split]
BAD_SHARE = 0.1  # of the rows of a table of labels, which are left out
WINDOWS = (1, 2, 4, 8, 16)  # per clip of a table of labels; their features are averaged


def most_rows(
    method: Method, params: Tree, config: ConfigDict, devices: int, window: float = 0.0
) -> int:
    """Returns how many examples of the longest bucket a batch of an evaluation may have.

    That of the training recipe is for other machines, where the weights are imported. window:
    seconds of audio in one pass of the encoder (0: the whole clip).
    """
    data = config.data
    longest = data.get("block_tokens") or round(data.buckets[-1] * data.sample_rate)
    example = {
        name: jax.ShapeDtypeStruct((1, *(n or longest for n in spec.shape)), spec.dtype)
        for name, spec in method.batch.items()
    }
    pieces = round(window * data.sample_rate)
    rate = data.sample_rate
    features = windowed(method.features, pieces, rate) if pieces else method.features
    return devices * batch_room.most_rows(features, params, example)


def bounded(config: ConfigDict, most: int) -> ConfigDict:
    """Returns the config with batches of at most `most` examples in the longest bucket."""
    if config.data.batch_size <= most:
        return config
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.batch_size = most
    return config


def check_present(config: ConfigDict) -> None:
    """Raises ValueError if a run's own data are not here, as those of a recipe are not for weights
    of others."""
    for name in config.data.train:
        path = config.data.train[name].get("path", "")
        if not paths.is_remote(path) and not paths.expanded(path).exists():
            raise ValueError(
                f"config.data.train.{name}.path={path!r} does not exist: pass a table of your own "
                f"as --labels labels.csv (docs/data.md), or where it is as "
                f"--config.data.train.{name}.path=FOLDER"
            )


def open_splits(config: ConfigDict, folder: Path, devices: int, most: int = 0) -> Splits:
    """Opens the splits that config.data names, all with the classes of the training split.

    folder: that of the run, where unreadable files are listed. most: that of `most_rows`, a
    multiple of devices (0: any number); where it reduces the batch, shorter buckets have more rows,
    as many seconds. Raises ValueError where neither validation nor test is named.
    """
    if not len(config.data.valid) and not len(config.data.test):
        raise ValueError("config.data.test names no source, nor does config.data.valid: name one")
    config = config.copy_and_resolve_references()
    with config.unlocked():
        # any machine may evaluate a run: round the batch up to a multiple of its devices
        size = -(-config.data.batch_size // devices) * devices
        config.data.batch_size = min(size, most or size)
        config.data.constant_seconds = 0 < most < size
        # frozen features need no frame labels, and data other than the run's have none
        if "units" in config.data:
            config.data.units = ConfigDict({})
    found: Splits = {}
    for name in SPLITS:
        if len(config.data[name]):
            classes = found["train"].corpus.classes if found else None
            found[name] = splits_lib.open_split(config, folder / "features", name, classes)
    splits_lib.check_apart(*found.values())
    return found


class Labels(NamedTuple):
    """A table of labels, its class column, a column whose values no two splits share, and the
    folder of its files, where they lie elsewhere."""

    path: Path
    column: str = "label"
    group: str = ""
    root: str = ""


def labelled(config: ConfigDict, labels: Labels, folder: Path) -> tuple[ConfigDict, ConfigDict]:
    """Returns the config with a table of labels as its data, and the options of the probe.

    The rows, with their splits, are written to folder/labels.tsv; texts to folder/labels.csv. Clips
    are cut into windows as long as in the run's own data, and up to 16 windows of a clip are
    averaged; none is too short. Paths may be relative to labels.root, to the run's own folders and
    to the working folder. Raises ValueError as `label_files.read` does.
    """
    modality = config.data.get("modality", "audio")
    folders = [*([Path(labels.root)] if labels.root else _folders(config)), Path.cwd()]
    found = label_files.read(*labels[:3], folders, modality=modality)
    rows = folder / ("labels.csv" if modality == "text" else "labels.tsv")
    found.write(rows)
    source: dict[str, Any] = {"kind": "table", "path": str(rows), "label": "label"}
    if modality == "text":
        source |= {"kind": "text_table", "columns": ("text",)}
    config = config.copy_and_resolve_references()
    with config.unlocked():
        for split in SPLITS:
            own = ConfigDict({**source, "where": ConfigDict({"split": split})})
            config.data[split] = ConfigDict({"labels": own} if split in found.splits else {})
        config.data.update({"classes": (), "labels_per_class": 0, "label_share": 1.0})
        config.data.update({"on_bad": "skip", "max_bad_share": BAD_SHARE})
    counts = ", ".join(f"{found.splits.count(split)} {split}" for split in SPLITS)
    notes = [*found.notes, f"{counts}: the rows are listed in {rows}"]
    given = ConfigDict({})
    if modality == "audio":
        given.window_seconds = _windows(config, found, notes)
    for note in notes:
        log.notify(note)
    return config, given


def _windows(config: ConfigDict, found: label_files.Labelled, notes: list[str]) -> float:
    """Sets the buckets for labelled recordings of any length; returns the seconds of a window."""
    window = float(config.data.buckets[-1])
    assert found.samples is not None and found.rates is not None
    seconds = found.samples / found.rates
    trained = max(s for s, split in zip(seconds, found.splits, strict=True) if split == "train")
    lengths = (*config.data.buckets[:-1], *(n * window for n in WINDOWS))
    # no bucket so long that most of its batches would be padding
    lengths = tuple(n for n in lengths if n < 2 * trained) or (math.ceil(10 * trained) / 10,)
    with config.unlocked():
        config.data.update({"buckets": lengths, "min_seconds": 0.0})
    if seconds.max() > lengths[-1] + 0.1:
        notes.append(
            f"of clips longer than {lengths[-1]:g} s, only the first {lengths[-1]:g} s are used"
        )
    return window


def _folders(config: ConfigDict) -> list[Path]:
    """Returns the folders of a run's own recordings."""
    given = [config.data.train[k].get("path", "") for k in config.data.train]
    found = [Path(os.path.expanduser(path)) for path in given]
    return [p if p.is_dir() else p.parent for p in found if str(p) != "."]


def encoders(
    method: Method,
    params: Tree,
    config: ConfigDict,
    step: int,
    train: splits_lib.Split,
    mesh: Mesh,
    window: float = 0.0,
    more: Sequence[str] = (),
    pool: str = "mean_std",
    only: str = "",
) -> list[Encoder]:
    """Returns a run's encoder, the same untrained, and the raw features of its modality.

    config, step: of the run. train: the split that is probed. window: seconds of audio in one pass
    of an encoder (0: the whole clip). more: further baselines, some of BASELINES. pool: one of
    `pool.KINDS`. only: the name of one, further baselines aside ('': all).
    """
    data, specs = train.config.data, train.corpus.specs(window or train.corpus.buckets[-1])
    sections = build.sections(config.method).values()
    vocabulary = max((section.get("vocab_size", 0) for section in sections), default=0)
    found = baselines.encoders(
        method,
        params,
        {name: jax.ShapeDtypeStruct((1, *shape), kind) for name, (shape, kind) in specs.items()},
        baselines.raw_encoder(
            data.get("modality", "audio"), sample_rate=data.sample_rate, vocab_size=vocabulary
        ),
        seed=config.seed,
        key=f"{config_lib.sign(config)} {method.stream}".strip(),
        step=f"{step} {weights(params)}",
        window=round(window * data.sample_rate),
        sample_rate=data.sample_rate,
        mesh=mesh,
        pool=pool,
        only=only,
    )
    return found + [BASELINES[name](data.sample_rate) for name in more]


def check_baselines(names: Sequence[str], modality: str) -> None:
    """Raises ValueError for baselines that do not exist, or are not of the modality."""
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise ValueError(f"--baselines has {unknown}: use some of {','.join(BASELINES)}")
    if names and modality != "audio":
        raise ValueError(f"--baselines is for audio, not for data of kind {modality}: leave it out")


def pooled(encoder: Encoder, corpora: Splits, mesh: Mesh, folder: Path) -> dict[str, Pooled]:
    """Returns the pooled features of every split, cached in `folder`.

    Features do not depend on the labels, so one cache serves every label column.
    """
    apply = pooler(encoder.features, mesh, encoder.pool)

    def compute(name: str, split: splits_lib.Split) -> Pooled:
        given = split.corpus.specs(1.0)
        names = [n for n in SIGNALS if n in given]
        batches = split.in_order(mesh.size, ("id", "weight", "label", *names), mesh)
        rows = batches() if encoder.prepare is None else map(encoder.prepare, batches())
        label = f"{encoder.name}, {name}: batch"
        return pool(apply, encoder.params, rows, mesh=mesh, total=len(batches), name=label)

    found = {}
    for name, split in corpora.items():
        about = (name, _names(split), *contents(split))
        key = signature(encoder.name, encoder.key, encoder.pool, code.version(), *about)
        kept = cached(folder / "features", key, functools.partial(compute, name, split))
        found[name] = dataclasses.replace(kept, labels=split.corpus.labels[kept.ids])
        if encoder.name == baselines.THIS_RUN:
            _tell_missing(kept, split)
    return found


def _tell_missing(kept: Pooled, split: splits_lib.Split) -> None:
    """Says how many rows of a split have no features, and how many have no frame."""
    left_out, rows = len(split.corpus) - len(kept), f"rows of config.data.{split.name}"
    if left_out > 0:
        log.notify(f"{left_out} {rows} cannot be used and are left out: see {split.tally.path}")
    empty = np.flatnonzero(~kept.features.any((1, 2)))
    if len(empty):
        where = split.corpus.where(int(kept.ids[empty[0]]))
        log.notify(
            f"{len(empty)} {rows} are shorter than one frame and have zeros as features, the first "
            f"is {where}"
        )


def contents(split: splits_lib.Split) -> tuple[int, str, str]:
    """Returns what identifies the examples of a split, without their labels."""
    lengths = zlib.crc32(split.corpus.lengths.tobytes())
    return lengths, split.corpus.content, _unlabelled(split.config.data)


def weights(params: Tree) -> str:
    """Returns a digest of parameters, which any changed bit changes, whatever their checkpoint."""
    digest = hashlib.sha256()
    for name, x in tree_lib.named_leaves(jax.device_get(params)):
        x = np.ascontiguousarray(x)
        digest.update(f"{name} {x.dtype} {x.shape}\n".encode())
        digest.update(x.view(np.uint8).data if x.size else b"")
    return digest.hexdigest()


def _names(split: splits_lib.Split) -> int:
    """Returns a checksum that changes when a table of the same name lists other recordings."""
    found = 0
    for source in split.corpus.sources:
        if isinstance(source, Recordings):
            text = "\n".join(source.reader.row_key(row) for row in source.rows.tolist())
            found = zlib.crc32(text.encode(), found)
    return found


def _unlabelled(data: ConfigDict) -> str:
    """Signs config.data without the keys that only name labels."""
    flat = config_lib.flatten(data)
    if data.label_share == 1 and not data.labels_per_class:  # else labels choose the rows
        of_source = [f"{split}.{name}." for split in SPLITS for name in data[split]]
        truth = {prefix + key for prefix in of_source for key in TRUTH}
        flat = {key: value for key, value in flat.items() if key not in truth}
    return signature(flat)
