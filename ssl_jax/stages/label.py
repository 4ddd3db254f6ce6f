"""The label stage: every row of a corpus through features and clusters into a store of units."""

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

_LOT = 64  # rows whose sound is in memory at once


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

    window_s: the longest piece that is heard at once; longer recordings are heard in windows that
    overlap. The store has the rate and the number of the clusters, and their signature; a store
    that is there is kept, and one that was not finished is gone on with. Rows that cannot be
    read, or hold no frame, are left out where config.data.on_bad is "skip". Raises DataError for a
    store of other clusters at `path`, and for one of files that have changed since.
    """
    book = codebook.only(layer)
    header: dict[str, Any] = {"rate": book.rate, "vocab_size": book.clusters}
    header["signature"] = f"{book.signature}-{layer}"
    _same_recordings(pathlib.Path(path), corpus)
    if pathlib.Path(path).exists():
        return _kept(path, header)
    reader = units(encoder, book, corpus.sample_rate, window_s)
    with frame_label_store.Writer(path, **header) as writer:
        todo = [i for i in range(len(corpus)) if corpus.key(i) not in writer]
        done = len(corpus) - len(todo)
        progress = Progress("labels: recording", len(corpus), done=done)
        for first in range(0, len(todo), _LOT):
            lot = todo[first : first + _LOT]
            for i, labels in read_lot(reader, corpus, lot):
                writer.add(corpus.key(i), labels[0])
            progress.step(len(lot))
    progress.close()
    return frame_label_store.open_store(path)


def units(encoder: Encoder, codebook: Codebook, sample_rate: int, window_s: float) -> Extractor:
    """Returns what turns recordings into units, for `read_lot`."""
    quantizer = codebook.quantizer(encoder)
    return Extractor(
        quantizer.features, quantizer.params, sample_rate=sample_rate, window_s=window_s
    )


def read_lot(
    reader: Extractor, corpus: AudioCorpus, rows: list[int]
) -> list[tuple[int, np.ndarray]]:
    """Returns (row, units (L, T) int32) of the rows that can be used; raises BadFile otherwise."""
    return [(i, x[..., 0].astype(np.int32)) for i, x in hear(reader, corpus, rows)]


def hear(reader: Extractor, corpus: AudioCorpus, rows: list[int]) -> list[tuple[int, np.ndarray]]:
    """Returns (row, hidden states (L, T, D)) of the rows that can be used; raises BadFile."""
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
    """Notes what is labelled beside a store; raises DataError where that has changed since."""
    note = path.with_name(f"{path.name}.content")
    if not note.exists():
        if not path.exists():  # else of an earlier version, which kept no note
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
