"""The splits of a run's data as frozen features: one vector a clip and layer, kept on disk."""

import dataclasses
import functools
import hashlib
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ssl_jax.core import code
from ssl_jax.core import config as config_lib
from ssl_jax.core import tree as tree_lib
from ssl_jax.core.types import Method, Tree
from ssl_jax.data.corpus import SPLITS
from ssl_jax.data.readers import label_files
from ssl_jax.data.readers.base import Recordings
from ssl_jax.engine import log
from ssl_jax.engine import splits as splits_lib
from ssl_jax.evals import baselines
from ssl_jax.evals.baselines import Encoder
from ssl_jax.evals.pool import Pooled, cached, pool, pooler, signature

SIGNALS = ("audio", "audio_len", "image", "tokens", "tokens_len")
# keys of a source that name columns on which no feature depends
TRUTH = ("label", "tags", "target", "transcript")
Splits = dict[str, splits_lib.Split]
WINDOWS = (1, 2, 4, 8, 16)  # of a clip in a table of labels, averaged


def open_splits(config: ConfigDict, folder: Path, devices: int) -> Splits:
    """Opens the splits that config.data names, all with the classes of the training split.

    `folder`: of the run; what can not be read is listed there. Raises ValueError where neither
    validation nor test is named.
    """
    if not len(config.data.valid) and not len(config.data.test):
        raise ValueError("config.data.test names no source, nor does config.data.valid: name one")
    config = config.copy_and_resolve_references()
    with config.unlocked():
        # any machine may judge a run: the batch grows to what its devices divide
        config.data.batch_size = -(-config.data.batch_size // devices) * devices
        config.data.constant_seconds = False
        # frozen features need no frame labels, and other data than the run's have none
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
    """A table of labels, its column of the class, and one whose values no two splits share."""

    path: Path
    column: str = "label"
    group: str = ""


def labelled(config: ConfigDict, labels: Labels, folder: Path) -> tuple[ConfigDict, ConfigDict]:
    """Returns the config with a table of labels as its data, and the options of the probe.

    The rows, with their splits, are written to folder/labels.tsv. The encoder hears windows as long
    as in the run's own data, and averages up to 16 of a clip. Paths may be relative to the
    run's own folders. Raises ValueError as `label_files.read` does, and for a run of no sound.
    """
    if config.data.get("modality", "audio") != "audio":
        raise ValueError("--labels is for runs of sound: name a source in config.data.test instead")
    found = label_files.read(*labels, _folders(config))
    rows = folder / "labels.tsv"
    found.write(rows)
    window = float(config.data.buckets[-1])
    seconds = found.samples / found.rates
    trained = max(s for s, split in zip(seconds, found.splits, strict=True) if split == "train")
    lengths = (*config.data.buckets[:-1], *(n * window for n in WINDOWS))
    # no batch is silence for the most part
    lengths = tuple(n for n in lengths if n < 2 * trained) or (math.ceil(10 * trained) / 10,)
    config = config.copy_and_resolve_references()
    with config.unlocked():
        for split in SPLITS:
            source = {"kind": "table", "path": str(rows), "label": "label"}
            source["where"] = ConfigDict({"split": split})
            named = {"labels": ConfigDict(source)} if split in found.splits else {}
            config.data[split] = ConfigDict(named)
        config.data.update(
            {"buckets": lengths, "classes": (), "labels_per_class": 0, "label_share": 1.0}
        )
    counts = ", ".join(f"{found.splits.count(split)} {split}" for split in SPLITS)
    notes = [*found.notes, f"{counts}: the rows are listed in {rows}"]
    if seconds.max() > lengths[-1] + 0.1:
        notes.append(
            f"of clips longer than {lengths[-1]:g} s, the first {lengths[-1]:g} s are heard"
        )
    for note in notes:
        log.notify(note)
    return config, ConfigDict({"window_seconds": window})


def _folders(config: ConfigDict) -> Sequence[Path]:
    """Returns the folders in which a run's own recordings lie."""
    given = [config.data.train[k].get("path", "") for k in config.data.train]
    paths = [Path(os.path.expanduser(path)) for path in given]
    return [p if p.is_dir() else p.parent for p in paths if str(p) != "."]


def encoders(
    method: Method,
    params: Tree,
    config: ConfigDict,
    step: int,
    train: splits_lib.Split,
    mesh: Mesh,
    window: float = 0.0,
) -> list[Encoder]:
    """Returns a run's encoder, the same untrained, and the raw features of its modality.

    config, step: of the run. train: the split that is probed. window: seconds that an encoder
    hears at once (0: the whole clip).
    """
    data, specs = train.config.data, train.corpus.specs(window or train.corpus.buckets[-1])
    vocabulary = config.method.encoder.get("vocab_size", 0)
    return baselines.encoders(
        method,
        params,
        {name: jax.ShapeDtypeStruct((1, *shape), kind) for name, (shape, kind) in specs.items()},
        baselines.raw_encoder(
            data.get("modality", "audio"), sample_rate=data.sample_rate, vocab_size=vocabulary
        ),
        seed=config.seed,
        key=config_lib.sign(config),
        step=f"{step} {weights(params)}",
        window=round(window * data.sample_rate),
        mesh=mesh,
    )


def pooled(encoder: Encoder, corpora: Splits, mesh: Mesh, folder: Path) -> dict[str, Pooled]:
    """Returns the pooled features of every split, from the cache in `folder` where they are.

    Features do not depend on what is asked of them, so that one cache serves every label column.
    """
    apply = pooler(encoder.features, mesh)

    def compute(name: str, split: splits_lib.Split) -> Pooled:
        given = split.corpus.specs(1.0)
        names = [n for n in SIGNALS if n in given]
        rows = split.in_order(mesh.size, ("id", "weight", "label", *names), mesh)()
        total = -(-len(split.corpus) // split.config.data.batch_size)
        label = f"{encoder.name}, {name}: batch"
        return pool(apply, encoder.params, rows, mesh=mesh, total=total, name=label)

    found = {}
    for name, split in corpora.items():
        about = (name, _names(split), *contents(split))
        key = signature(encoder.name, encoder.key, code.version(), *about)
        kept = cached(folder / "features", key, functools.partial(compute, name, split))
        found[name] = dataclasses.replace(kept, labels=split.corpus.labels[kept.ids])
    return found


def contents(split: splits_lib.Split) -> tuple[int, str, str]:
    """Returns what tells the examples of a split from others; the truth of them is no part."""
    lengths = zlib.crc32(split.corpus.lengths.tobytes())
    return lengths, split.corpus.content, _unlabelled(split.config.data)


def weights(params: Tree) -> str:
    """Returns what changes with any bit of parameters, whatever checkpoint they came from."""
    digest = hashlib.sha256()
    for name, x in tree_lib.named_leaves(jax.device_get(params)):
        x = np.ascontiguousarray(x)
        digest.update(f"{name} {x.dtype} {x.shape}\n".encode())
        digest.update(x.view(np.uint8).data if x.size else b"")
    return digest.hexdigest()


def _names(split: splits_lib.Split) -> int:
    """Returns what changes when a table of the same name lists other recordings."""
    found = 0
    for source in split.corpus.sources:
        if isinstance(source, Recordings):
            text = "\n".join(source.reader.row_key(row) for row in source.rows.tolist())
            found = zlib.crc32(text.encode(), found)
    return found


def _unlabelled(data: ConfigDict) -> str:
    """Signs config.data without what only names the truth of its rows."""
    flat = config_lib.flatten(data)
    if data.label_share == 1 and not data.labels_per_class:  # else labels choose the rows
        of_source = [f"{split}.{name}." for split in SPLITS for name in data[split]]
        truth = {prefix + key for prefix in of_source for key in TRUTH}
        flat = {key: value for key, value in flat.items() if key not in truth}
    return signature(flat)
