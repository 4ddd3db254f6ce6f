"""The label stage: features and clusters turn the recordings of a corpus into a store of units."""

import os
import pathlib
from typing import Any

import numpy as np

from ssl_jax.core import atomic
from ssl_jax.core.progress import Progress
from ssl_jax.data import frame_label_store
from ssl_jax.data.errors import BadFile, DataError
from ssl_jax.data.recordings import AudioCorpus
from ssl_jax.evals.baselines import Encoder
from ssl_jax.evals.extract import Extractor
from ssl_jax.stages.kmeans import Codebook

_BATCH = 64  # recordings that are in memory at once


def write(
    path: str | os.PathLike,
    encoder: Encoder,
    codebook: Codebook,
    layer: int,
    corpus: AudioCorpus,
    *,
    window_s: float,
) -> frame_label_store.UnitStore:
    """Labels whole recordings with the clusters of one layer, and returns the store at `path`.

    window_s: recordings longer than this are processed in overlapping windows. The store records
    the frame rate, the number of clusters and their signature. A complete store is kept and an
    unfinished one continued. Rows that cannot be read, or are shorter than a frame, are left out
    where config.data.on_bad is "skip". Raises DataError if the store at `path` has other clusters,
    or if its recordings have changed since.
    """
    codebook = codebook.only(layer)
    header: dict[str, Any] = {"rate": codebook.rate, "vocab_size": codebook.clusters}
    header["signature"] = f"{codebook.signature}-{layer}"
    if pathlib.Path(path).exists():
        _same_recordings(pathlib.Path(path), corpus)
        return _kept(path, header)
    reader = quantizer(encoder, codebook, corpus.sample_rate, window_s)
    return _written(path, reader, header, corpus)


def write_tokens(
    path: str | os.PathLike,
    tokenizer: Encoder,
    codes: int,
    corpus: AudioCorpus,
    *,
    window_s: float,
) -> frame_label_store.UnitStore:
    """Labels whole recordings with the tokens of a tokenizer; otherwise as `write`.

    tokenizer: its hidden states (1, B, S, 1) are ids below `codes`.
    """
    reader = Extractor(
        tokenizer.features, tokenizer.params, sample_rate=corpus.sample_rate, window_s=window_s
    )
    header: dict[str, Any] = {"rate": corpus.sample_rate / reader.hop * reader.tokens}
    header |= {"vocab_size": codes, "signature": tokenizer.key}
    if pathlib.Path(path).exists():
        _same_recordings(pathlib.Path(path), corpus)
        return _kept(path, header)
    return _written(path, reader, header, corpus)


def _written(
    path: str | os.PathLike, reader: Extractor, header: dict[str, Any], corpus: AudioCorpus
) -> frame_label_store.UnitStore:
    """Labels all recordings, and returns the store."""
    _same_recordings(pathlib.Path(path), corpus)
    with frame_label_store.Writer(path, **header, grid=reader.tokens) as writer:
        todo = [i for i in range(len(corpus)) if corpus.key(i) not in writer]
        done = len(corpus) - len(todo)
        with Progress("labels: recording", len(corpus), done=done) as progress:
            for first in range(0, len(todo), _BATCH):
                rows = todo[first : first + _BATCH]
                for i, labels in read_units(reader, corpus, rows):
                    writer.add(corpus.key(i), labels[0])
                progress.step(len(rows))
    return frame_label_store.open_store(path)


def quantizer(encoder: Encoder, codebook: Codebook, sample_rate: int, window_s: float) -> Extractor:
    """Returns the extractor of the units of recordings, for `read_units`."""
    units = codebook.quantizer(encoder)
    return Extractor(units.features, units.params, sample_rate=sample_rate, window_s=window_s)


def read_units(
    reader: Extractor, corpus: AudioCorpus, rows: list[int]
) -> list[tuple[int, np.ndarray]]:
    """Returns (row, units (L, T) int32) of the rows that can be used; see `read_features`."""
    return [(i, x[..., 0].astype(np.int32)) for i, x in read_features(reader, corpus, rows)]


def read_features(
    reader: Extractor, corpus: AudioCorpus, rows: list[int]
) -> list[tuple[int, np.ndarray]]:
    """Returns (row, hidden states (L, T, D)) of the rows that can be used.

    Raises BadFile for the others, unless config.data.on_bad is "skip".
    """
    clips, used = [], []
    for i in rows:
        try:
            clip = corpus.read(i)
            if len(clip) < reader.field:
                raise BadFile(
                    corpus.where(i),
                    f"too short: {len(clip)} samples, and a frame has {reader.field}; set "
                    f"config.data.min_seconds to {reader.field / reader.sample_rate}",
                )
        except BadFile:
            if corpus.on_bad == "raise":
                raise
            continue
        clips.append(clip)
        used.append(i)
    return list(zip(used, reader.run(clips), strict=True))


def _same_recordings(path: pathlib.Path, corpus: AudioCorpus) -> None:
    """Records next to a store what it labels; raises DataError if that has changed since."""
    note = path.with_name(f"{path.name}.content")
    if not note.exists():
        if not path.exists():  # else the store is of an earlier version, which kept no record
            atomic.write_text(note, corpus.content + "\n")
    elif note.read_text(encoding="utf-8").strip() != corpus.content:
        raise DataError(
            f"{path} holds labels of other recordings: files of {corpus.sources[0].name} have "
            f"changed since; remove it and {note.name}, or use another folder"
        )


def _kept(path: str | os.PathLike, header: dict[str, Any]) -> frame_label_store.UnitStore:
    store = frame_label_store.open_store(path)
    for name, value in header.items():
        if getattr(store, name) != value:
            raise DataError(
                f"{path} holds labels of {name} {getattr(store, name)}, not {value}: remove it, or "
                "use another folder"
            )
    return store
