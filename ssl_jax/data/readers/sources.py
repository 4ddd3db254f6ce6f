"""Opens the sources that a config names.

    config.data.train.sc = dict(kind="speech_commands", path="data/sc", weight=1.0)

Keys of every kind: `kind`; `path` ("" in valid or test: that of the source of this name in train);
`weight` (how often its rows are drawn: 1.0 = once an epoch);
`row_weight` (how often each row is, in training: a column of numbers, or "balanced" by its labels;
see ssl_jax/data/row_weights.py); `batch_share` (in training, the share of every batch that comes
from this source: all sources name one, or none, and `weight` then stays 1.0);
`label` (the column of the class; by default "label" if there is one); `tags` (instead of a label,
the column of any number of classes, separated by "|"; or several columns, separated by commas,
whose classes are then `column=value`); `target` (one or more columns of numbers to predict; an
empty field is unknown); `transcript` (the column of the text that is spoken, in tokens that
config.data.spelling names; see ssl_jax/data/transcripts.py); `pseudo_labels` (of audio: a store of
transcripts that a model made, whose columns the rows get; see ssl_jax/data/pseudo_labels.py) and
`teacher` (the signature of that model; "": any); `where` (keep rows whose columns have
these values, {"split": "train", "speaker": ("a", "b")}); `part` (lo, hi): keep the rows whose
hashed position in the corpus falls between, so that (0.0, 0.8) and (0.8, 1.0) divide a corpus
permanently. The other keys belong to a kind and are explained at its reader.
"""

import difflib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ssl_jax.core import paths, pulse
from ssl_jax.data import hashing
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import (
    folders,
    image_files,
    l2_arctic,
    lines,
    manifests,
    sounds,
    speechocean762,
    text_files,
    video_files,
)
from ssl_jax.data.readers.base import Items, Recordings, Rows, S, Source, text


def _array_record(path: pathlib.Path, options: dict) -> Rows:
    from ssl_jax.data.readers import records  # only this kind needs the library

    return records.array_record(path, options)


def _array_record_images(path: pathlib.Path, options: dict) -> Items:
    from ssl_jax.data.readers import records  # only this kind needs the library

    return records.array_record_images(path, options)


def _tfds(path: pathlib.Path, options: dict) -> Rows:
    from ssl_jax.data.readers import tfds  # slow to import

    return tfds.tfds(path, options)


def _tfds_images(path: pathlib.Path, options: dict) -> Items:
    from ssl_jax.data.readers import tfds  # slow to import

    return tfds.tfds_images(path, options)


Kind = tuple[Callable[[pathlib.Path, dict], Any], dict[str, Any]]
# kind -> (reader, its own keys and their defaults), for each config.data.modality
AUDIO: dict[str, Kind] = {
    "speech_commands": (folders.speech_commands, {"split": ""}),
    "librispeech": (folders.librispeech, {"splits": ()}),
    "folder": (folders.folder, {}),
    "fairseq_tsv": (manifests.fairseq_tsv, {"labels": (), "rate": 0}),
    "table": (manifests.table, {"root": ""}),
    "kaldi": (manifests.kaldi, {"root": ""}),
    "audioset": (sounds.audioset, {"split": "", "segments": ()}),
    "esc50": (sounds.esc50, {}),
    "fsd50k": (sounds.fsd50k, {"split": ""}),
    "l2_arctic": (l2_arctic.l2_arctic, {"leave_out": ()}),
    "speechocean762": (
        speechocean762.speechocean762,
        {"split": "", "starred": "error", "several": "insert"},
    ),
    "array_record": (_array_record, {}),
    "tfds": (_tfds, {"split": "", "audio": "", "rate": 0}),
}
IMAGE: dict[str, Kind] = {
    "image_folder": (image_files.image_folder, {}),
    "image_tar": (image_files.image_tar, {}),
    "table": (image_files.table, {"root": ""}),
    "array_record": (_array_record_images, {}),
    "tfds": (_tfds_images, {"split": "", "image": ""}),
}
TEXT: dict[str, Kind] = {
    "text_files": (
        text_files.text_files,
        {"pattern": ("*.txt", "*.md", "*.rst"), "documents": "file"},
    ),
    "text_table": (text_files.text_table, {"columns": ()}),
}
VIDEO: dict[str, Kind] = {
    "video_folder": (video_files.video_folder, {}),
    "frame_folder": (video_files.frame_folder, video_files.FPS),
    "table": (video_files.table, {"root": "", **video_files.FPS}),
    "video_list": (video_files.video_list, {"root": "", **video_files.FPS}),
}
KINDS = {"audio": AUDIO, "image": IMAGE, "text": TEXT, "video": VIDEO}
COMMON: dict[str, Any] = {
    "kind": "",
    "path": "",
    "weight": 1.0,
    "row_weight": "",
    "batch_share": 0.0,
    "label": "",
    "tags": "",
    "target": (),
    "transcript": "",
    "where": {},
    "part": (0.0, 1.0),
}
AUDIO_ONLY: dict[str, Any] = {"pseudo_labels": "", "teacher": ""}
ITEMS = {"image": "images", "text": "documents", "video": "videos"}
_PART_SEED = 0x5EED


def open_source(name: str, config: Mapping[str, Any]) -> Recordings:
    """Opens one source of audio.

    name: its path below config.data, such as "train.sc", which appears in errors and sets the
    default of `split` for kinds with official splits. Raises DataError for an unknown kind or key,
    a missing folder, an invalid row of a manifest, and when no row is left.
    """
    key, options = f"config.data.{name}", _options(name, config, "audio")
    rows: Rows = _read(key, options, "audio")
    index = np.arange(len(rows.samples))
    columns = _composed(key, rows.columns, len(index))
    found = rows.reader, index, columns, rows.samples, rows.rates
    source = Recordings(name, *found, cached={"states": rows.states})
    return _select(key, source, options, "recordings")


def open_items(name: str, config: Mapping[str, Any], modality: str) -> Source:
    """Opens one source of images or of text as `open_source` does."""
    key, options = f"config.data.{name}", _options(name, config, modality)
    items: Items = _read(key, options, modality)
    columns = _composed(key, items.columns, items.total)
    source = Source(name, items.reader, np.arange(items.total), columns)
    return _select(key, source, options, ITEMS[modality])


def _read(key: str, options: dict[str, Any], modality: str) -> Any:
    """Returns what the reader of the kind finds."""
    try:
        with pulse.During(f"{key} at {options['path']}"):
            path = _path(key, options["path"])
            return KINDS[modality][options["kind"]][0](path, options)
    except DataError as e:
        raise DataError(f"{key}.path={options['path']!r}: {e}") from e
    except UnicodeDecodeError as e:
        raise DataError(f"{key}.path={options['path']!r}: not UTF-8 text: {e}") from e


def _composed(key: str, columns: dict[str, np.ndarray], n: int) -> dict[str, np.ndarray]:
    """Returns columns of n rows, with text composed (NFC), in which form it is compared."""
    out = {}
    for name, values in columns.items():
        if len(values) != n:
            raise DataError(f"{key}: column {name!r} has {len(values)} rows, but the source {n}")
        if values.dtype.kind == "T":
            found = values.tolist()
            if not all(map(str.isascii, found)):
                values = text([lines.composed(value) for value in found])
        out[lines.composed(name)] = values
    return out


def _options(name: str, config: Mapping[str, Any], modality: str) -> dict[str, Any]:
    """Checks the keys of one source and fills in the defaults."""
    key, kinds = f"config.data.{name}", KINDS[modality]
    given = {k: config[k] for k in config}
    kind = given.get("kind")
    if kind not in kinds:
        other = [m for m, found in KINDS.items() if kind in found]
        hint = f", or set config.data.modality to {other[0]!r}" if other else ""
        raise DataError(f"{key}.kind is {kind!r}: use one of {', '.join(kinds)}{hint}")
    own = AUDIO_ONLY if modality == "audio" else {}
    known = {**COMMON, **own, **kinds[kind][1]}
    for unknown in sorted(set(given) - set(known)):
        near = difflib.get_close_matches(unknown, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(
            f"{key}.{unknown} is not a key of kind {kind!r}: use {', '.join(sorted(known))}{hint}"
        )
    out = {**known, **given}
    if isinstance(out["target"], str):
        out["target"] = tuple(filter(None, [out["target"]]))
    for option, default in known.items():
        if not _same_type(out[option], default):
            raise DataError(f"{key}.{option} is {out[option]!r}: use a value like {default!r}")
    if out["weight"] <= 0:
        raise DataError(f"{key}.weight is {out['weight']}: use a positive number, such as 1.0")
    if not 0 <= out["batch_share"] <= 1:
        raise DataError(
            f"{key}.batch_share is {out['batch_share']}: use a share of the batch, such as 0.1"
        )
    if "split" in known and not out["split"]:
        out["split"] = name.split(".")[0]
    return out


def _same_type(value: Any, default: Any) -> bool:
    if isinstance(default, dict):
        return isinstance(value, Mapping) or hasattr(value, "items")
    if isinstance(default, tuple):
        return isinstance(value, (tuple, list))
    if isinstance(default, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, type(default)) and not isinstance(value, bool)


def _path(key: str, given: str) -> pathlib.Path:
    path = paths.expanded(given)
    if not paths.is_remote(path):
        path = paths.of(paths.on_disk(str(path)))
    if not given or not path.exists():
        raise DataError(
            f"{key}.path={given!r} does not exist (looked from {pathlib.Path.cwd()}): "
            f"give the corpus as --{key}.path=/path/to/corpus"
        )
    return path


def _hint(options: dict) -> str:
    return f"for split={options['split']!r}" if options.get("split") else "that can be read"


def _select(key: str, source: S, options: dict, what: str) -> S:
    """Keeps the `part` of the rows that match `where`; raises DataError if none is left."""
    if not len(source):
        raise DataError(f"{key}.path={options['path']!r} has no {what} {_hint(options)}")
    for column, wanted in options["where"].items():
        column = lines.composed(column)
        values = source.columns.get(column)
        if values is None:
            names = ", ".join(sorted(source.columns))
            raise DataError(f"{key}.where.{column} is not a column: use one of {names}")
        wanted = wanted if isinstance(wanted, (tuple, list)) else (wanted,)
        keep = np.any([values == _like(w, values) for w in wanted], axis=0)
        if not keep.any():
            found = sorted({str(v) for v in values})[:8]
            raise DataError(f"{key}.where.{column}={wanted}: no row is left; it has {found}")
        source = source if keep.all() else source.take(np.flatnonzero(keep))
    low, high = options["part"]
    if not 0 <= low < high <= 1:
        raise DataError(f"{key}.part is {(low, high)}: use shares such as (0.0, 0.8)")
    if (low, high) == (0, 1):
        return source
    n = len(source)
    order = hashing.permutation(n, _PART_SEED)
    kept = np.sort(order[_cut(low, n) : _cut(high, n)])
    if not len(kept):
        raise DataError(
            f"{key}.part={(low, high)} leaves none of its {n} rows: use a wider part, such as "
            f"(0.0, 0.5) for train and (0.5, 1.0) for valid"
        )
    return source.take(kept)


def _cut(share: float, n: int) -> int:
    """Returns how many of n rows come before a share of them; on each side is one or more."""
    cut = round(share * n)
    return min(max(cut, 1), n - 1) if 0 < share < 1 and n > 1 else cut


def _like(value: Any, column: np.ndarray) -> Any:
    """Returns a wanted value in the type of a column, so that 3 matches the text "3"."""
    return lines.composed(str(value)) if column.dtype.kind == "T" else value
