"""Reads TensorFlow Datasets through `data_source`, without TensorFlow."""

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import io
import os
import pathlib
import threading
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

from ssl_jax.core import atomic, paths, progress, pulse
from ssl_jax.data.errors import DataError, Unreadable
from ssl_jax.data.readers import audio, identity
from ssl_jax.data.readers.base import Items, Rows, Text
from ssl_jax.data.readers.files import fingerprint, save_index

_SPLITS = {"train": "train", "valid": "validation", "test": "test"}
# The version whose audio feature needs, and works with, the patch below.
_VERSION = "4.9."
_LOCK = threading.RLock()
# The classes that a dataset's features.json may name; it could import any module otherwise.
_FEATURES = frozenset(
    f"tensorflow_datasets.core.features.{name}"
    for name in (
        "audio_feature.Audio",
        "bounding_boxes.BBoxFeature",
        "class_label_feature.ClassLabel",
        "dataset_feature.Dataset",
        "feature.Tensor",
        "features_dict.FeaturesDict",
        "image_feature.Image",
        "labeled_image.LabeledImage",
        "scalar.Scalar",
        "sequence_feature.Sequence",
        "tensor_feature.Tensor",
        "text_feature.Text",
        "translation_feature.Translation",
        "translation_feature.TranslationVariableLanguages",
        "video_feature.Video",
    )
)


@dataclasses.dataclass(frozen=True)
class Examples:
    """Reads rows of a prepared dataset; `key` names its audio feature."""

    name: str
    source: Any
    key: str
    rate: int

    def where(self, row: int) -> str:
        """Names the dataset and row."""
        return f"{self.name}, row {row + 1}"

    def row_key(self, row: int) -> str:
        """Returns a permanent name of the row: its split and number."""
        return f"{self.name.rpartition(' ')[2]}@{row}"

    def places(self) -> identity.Places:
        """Returns the dataset and split, and the number of each row."""
        return _places(self.name, len(self.source))

    def read(
        self, row: int, start: int, stop: int, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, int]:
        """Returns native samples [start, stop) of a row as int16 and the rate."""
        value = _example(self.source, row)[self.key]
        if isinstance(value, bytes):
            return audio.read(io.BytesIO(value), start, stop, out)
        return _pcm(np.asarray(value)[start:stop]), self.rate


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Reads images of a prepared dataset; `key` names its image feature."""

    name: str
    source: Any
    key: str

    def where(self, row: int) -> str:
        """Names the dataset and row."""
        return f"{self.name}, row {row + 1}"

    def places(self) -> identity.Places:
        """Returns the dataset and split, and the number of each row."""
        return _places(self.name, len(self.source))

    def image(self, row: int) -> bytes | np.ndarray:
        """Returns the bytes of the encoded image, or the pixels of an unencoded feature."""
        value = _example(self.source, row)[self.key]
        return value if isinstance(value, bytes) else np.asarray(value)


def tfds(path: pathlib.Path, options: dict) -> Rows:
    """Opens a prepared dataset folder, such as .../speech_commands/0.0.3, in ArrayRecord format.

    Options: `split` (default: the split of the config), `audio` the audio feature (default: the
    only one), `rate` in Hz if the dataset does not state it. Columns are the scalar features, with
    class labels as names. The first opening reads every row for its length.
    """
    library = _library()
    builder, split = _opened(library, path, options)
    features = builder.info.features
    key = _feature(path, features, options, "audio", library.features.Audio)
    source = builder.as_data_source(split=split)
    rate = options["rate"] or getattr(features[key], "sample_rate", None) or 0
    scalars = [k for k in features if k != key and features[k].shape == ()]
    found = _scan(path, split, source, key, rate, scalars)
    columns = {k: _named(features[k], found[f"column/{k}"]) for k in scalars}
    if not found["rates"].any():  # single rows without a rate are broken, and raise when read
        raise DataError(f"{path} does not state its sample rate: add it in Hz, as in rate=16000")
    reader = Examples(f"{path} {split}", source, key, rate)
    return Rows(reader, found["samples"], found["rates"], columns)


def tfds_images(path: pathlib.Path, options: dict) -> Items:
    """Opens a prepared dataset folder of images, such as .../cifar10/3.0.2, as `tfds` does.

    Option `image` names the image feature (default: the only one). The first opening reads the
    scalar features and decodes no image.
    """
    library = _library()
    builder, split = _opened(library, path, options)
    features = builder.info.features
    key = _feature(path, features, options, "image", library.features.Image)
    decoders = {key: library.decode.SkipDecoding()}
    source = builder.as_data_source(split=split, decoders=decoders)
    scalars = [k for k in features if k != key and features[k].shape == ()]
    found = _scan(path, split, source, "", 0, scalars)
    columns = {k: _named(features[k], found[f"column/{k}"]) for k in scalars}
    return Items(Pictures(f"{path} {split}", source, key), len(source), columns)


def _opened(library: Any, path: pathlib.Path, options: dict) -> tuple[Any, str]:
    """Returns the builder of a prepared dataset and the name of its split."""
    try:
        with _known_features(library.features.FeatureConnector, path):
            builder = library.builder_from_directory(str(paths.fetched(path)))
    except DataError:
        raise
    except Exception as e:  # the library raises many types for an unknown folder
        raise DataError(f"{path} is not a prepared TFDS dataset: {e}") from e
    split = _SPLITS.get(options["split"], options["split"])
    if split not in builder.info.splits:
        raise DataError(f"{path} has no split {split!r}: it has {list(builder.info.splits)}")
    if builder.info.file_format.value != "array_record":
        raise DataError(
            f"{path} has the file format {builder.info.file_format.value}: prepare it as "
            "array_record"
        )
    return builder, split


@contextlib.contextmanager
def _known_features(connector: Any, path: pathlib.Path) -> Iterator[None]:
    """Restricts the feature classes that the library instantiates to the known ones."""
    before = connector.__dict__["cls_from_name"]
    find = connector.cls_from_name

    def known(cls: type, name: str) -> type:
        del cls
        if name not in _FEATURES:
            raise DataError(
                f"{path} names the feature class {name!r}, which is not one of TFDS's own and is "
                f"not imported: prepare the dataset with features such as Audio, Image and Text"
            )
        return find(name)

    with _LOCK:
        connector.cls_from_name = classmethod(known)
        try:
            yield
        finally:
            connector.cls_from_name = before


def _places(name: str, total: int) -> identity.Places:
    """Returns the places of the rows of "folder split": in its info, as rows have no files."""
    folder, _, split = name.rpartition(" ")
    names = [os.path.join(folder, "dataset_info.json")]
    first = int.from_bytes(hashlib.blake2b(split.encode(), digest_size=3).digest(), "little") << 32
    return identity.Places(names, np.zeros(total, np.int64), first + np.arange(total))


def _library() -> Any:
    """Imports TFDS and lets its audio feature be built without TensorFlow."""
    feature: Any
    try:
        library = importlib.import_module("tensorflow_datasets")
        feature = importlib.import_module("tensorflow_datasets.core.features.audio_feature")
    except ImportError as e:
        raise DataError(
            f"kind='tfds' needs more packages ({e}): pip install tensorflow-datasets "
            "importlib_resources pillow"
        ) from e
    if not library.__version__.startswith(_VERSION):
        raise DataError(
            f"kind='tfds' is tested with tensorflow-datasets {_VERSION}x, this is "
            f"{library.__version__}: pip install 'tensorflow-datasets==4.9.10'"
        )

    def without_tensorflow(self, file_format, np_dtype, shape):
        self._file_format, self._np_dtype, self._shape = file_format, np_dtype, shape
        self._dtype = np.dtype(np_dtype)
        self._channels = shape[1] if len(shape) > 1 else 1

    feature._AudioDecoder.__init__ = without_tensorflow
    if importlib.util.find_spec("tensorflow") is None:
        # The names of types that the module needs for audio stored as encoded bytes.
        names = {"string": np.object_, "uint8": np.uint8, "int16": np.int16, "int32": np.int32}
        feature.tf = types.SimpleNamespace(**names)
    return library


def _files(path: pathlib.Path) -> list[str]:
    """Returns the files of a dataset, or of a local copy of one in an object store."""
    return sorted(str(p) for p in paths.fetched(path).rglob("*") if p.is_file())


def _feature(path: pathlib.Path, features: Any, options: dict, option: str, kind: type) -> str:
    """Returns the name of the feature that an option names, or of the only one of its kind."""
    wanted, keys = options[option], [k for k in features if isinstance(features[k], kind)]
    if wanted and wanted not in features:
        raise DataError(f"{path} has no feature {option}={wanted!r}: it has {list(features)}")
    if not wanted and len(keys) != 1:
        raise DataError(f"{path} has the {option} features {keys}: name one as {option}='...'")
    return wanted or keys[0]


def _scan(
    path: pathlib.Path, split: str, source: Any, key: str, rate: int, scalars: list[str]
) -> dict[str, np.ndarray]:
    """Reads every row once for samples, rates and scalar columns; cached while no file changes.

    key: the audio feature, or "" if there are no lengths.
    """
    parts = (split, key, rate, len(source), fingerprint(_files(path)), audio.MEASURED_BY)
    sign = hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
    index = paths.cache() / f"tfds-{sign}.npz"
    kept = atomic.read_arrays(index, ())
    if kept is not None:
        return kept
    out: dict[str, list] = {"samples": [], "rates": [], **{f"column/{k}": [] for k in scalars}}
    for row in pulse.along(progress.along(range(len(source)), f"measuring rows of {split}")):
        try:
            example = _example(source, row)
        except Unreadable as e:
            raise DataError(f"{path} {split}, row {row + 1}: {e}") from e
        if key:
            value = example[key]
            encoded = isinstance(value, bytes)
            samples, own = audio.header(io.BytesIO(value)) if encoded else (len(value), rate)
            out["samples"].append(samples)
            out["rates"].append(own)
        for k in scalars:
            out[f"column/{k}"].append(example[k])
    arrays = {k: np.array(v) for k, v in out.items()}
    arrays["samples"] = arrays["samples"].astype(np.int64)
    arrays["rates"] = arrays["rates"].astype(np.int32)
    save_index(index, **arrays)
    return arrays


def _example(source: Any, row: int) -> dict[str, Any]:
    """Returns a row; raises Unreadable where its shard is missing, cut off or broken."""
    try:
        return source[row]
    except (ValueError, RuntimeError, OSError) as e:
        raise Unreadable(f"broken record: {e}; prepare or copy the dataset again") from e


def _named(feature: Any, values: np.ndarray) -> np.ndarray:
    """Turns class numbers into names, and bytes into text."""
    if hasattr(feature, "int2str"):
        return np.array([feature.int2str(int(v)) if v >= 0 else "" for v in values], Text)
    if values.dtype.kind == "S":
        return np.array([v.decode() for v in values.tolist()], Text)
    return values


def _pcm(value: np.ndarray) -> np.ndarray:
    """Returns raw samples (n,) or (n, channels) as mono int16; floats have full scale 1.0, and
    integers must fit 16 bits. Raises Unreadable for others."""
    if value.dtype.kind == "f":
        return audio.to_int16(value.mean(axis=1) if value.ndim > 1 else value)
    if value.size and (value.min() < -32768 or value.max() > 32767):
        raise Unreadable(f"reaches {np.abs(value).max()}, which exceeds 16 bits")
    return (np.rint(value.mean(axis=1)) if value.ndim > 1 else value).astype(np.int16)
