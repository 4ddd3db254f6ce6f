"""Opens a split of the data: its sources end to end, with classes and label subsets."""

import functools
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.data import (
    images,
    labels,
    pairs,
    recordings,
    row_weights,
    texts,
    transcripts,
    videos,
)
from ssl_jax.data.base import Corpus
from ssl_jax.data.batch_schedule import BatchSchedule
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers.base import Source

SPLITS = ("train", "valid", "test")
MODALITIES: dict[str, types.ModuleType] = {
    "audio": recordings,
    "image": images,
    "text": texts,
    "video": videos,
    "pair": pairs,
}
_SUCH = {"audio": "folder", "image": "image_folder", "text": "text_files", "video": "video_folder"}
_SUCH |= {"pair": "table"}


def open_split(
    config: Mapping[str, Any], split: str, classes: Sequence[str] | None = None
) -> Corpus:
    """Opens config.data's `split`: train, valid or test.

    classes: the class names in the order of the labels; by default config.data.classes, or the
    sorted labels of the training split. `labels_per_class`, and a `label_share` below 1, keep only
    the chosen labelled rows of the training split. Raises DataError naming the config key or row.
    """
    _check_config(config, split)
    modality = MODALITIES[config.get("modality", "audio")]
    named = {f"{split}.{k}": _source(config, split, k) for k in config[split]}
    sources = modality.open_sources(config, named)
    options = list(named.values())
    columns, tags = labels.class_columns(sources, options), labels.tag_columns(sources, options)
    of_train = functools.partial(_classes_of_train, config)
    spoken = transcripts.columns(sources, options)
    if spoken is None:
        classes = labels.class_names(config, split, classes, columns, tags, of_train)
    else:
        columns = [None] * len(sources)
        classes = transcripts.vocabulary(config, split, classes, spoken, of_train)
    codes = [labels.encode(s, t, classes) for s, t in zip(sources, columns, strict=True)]
    if split == "train":
        kept = labels.chosen(codes, len(classes), config)
        sources = [s.take(k) if len(k) < len(s) else s for s, k in zip(sources, kept, strict=True)]
        codes = [x[k] for x, k in zip(codes, kept, strict=True)]
    found = _fields(config, sources, options, classes)
    drawn: tuple = (None,) * len(sources)
    if split == "train":
        drawn = row_weights.of_sources(sources, options, codes, found["fields"].get("tags"))
    shared = {
        "sources": tuple(sources),
        "weights": tuple(float(o.get("weight", 1.0)) for o in options),
        "row_weights": drawn,
        "batch_shares": _batch_shares(options, split),
        "first": np.cumsum([0] + [len(s) for s in sources]),
        "labels": np.concatenate(codes),
        "classes": classes,
        **found,
        "on_bad": config["on_bad"],
    }
    corpus = modality.build(config, shared, split)
    if corpus.on_bad == "raise":
        corpus.check()
        corpus.refuse(min(corpus.refused, default=-1))
    return corpus


def _fields(
    config: Mapping[str, Any],
    sources: Sequence[Source],
    options: Sequence[Mapping[str, Any]],
    classes: tuple[str, ...],
) -> dict[str, dict]:
    """Returns `fields`: the tags (n, classes), targets (n, K) and transcripts (n, L) that the
    sources name; and `refused`: the rows whose transcript cannot be used."""
    fields: dict[str, Any] = {}
    refused: dict[int, str] = {}
    columns = labels.tag_columns(sources, options)
    if any(column is not None for column in columns):
        fields["tags"] = labels.encode_tags(sources, columns, classes)
    targets = labels.encode_targets(sources, options)
    if targets is not None:
        fields["target"] = targets
    spoken = transcripts.columns(sources, options)
    if spoken is not None:
        found, refused = transcripts.encode(spoken, classes, config["spelling"])
        fields |= {"transcript": found, "transcript_len": found.lengths}
    return {"fields": fields, "refused": refused}


def _batch_shares(options: Sequence[Mapping[str, Any]], split: str) -> tuple[float, ...]:
    """Returns the share of every training batch that each source has; all 0 without any.

    Raises DataError where only some sources name one, and where they do not add up to 1.
    """
    shares = tuple(float(o.get("batch_share", 0.0)) for o in options)
    if split != "train" or not any(shares):
        return (0.0,) * len(shares)
    if not all(shares) or abs(sum(shares) - 1) > 1e-6:
        raise DataError(
            f"the batch_share of the sources of config.data.train are {shares}: give each of them "
            f"a share above 0, so that they add up to 1, such as 0.1 and 0.9, or none of them"
        )
    if any(float(o.get("weight", 1.0)) != 1 for o in options):
        raise DataError(
            "config.data.train has sources with a weight and with a batch_share, which would both "
            "say how often they are drawn: leave weight at 1.0"
        )
    return shares


def _source(config: Mapping[str, Any], split: str, name: str) -> dict[str, Any]:
    """Returns the options of a source; without a path, it takes that of its namesake in train."""
    options = dict(config[split][name])
    if split != "train" and not options.get("path") and name in config["train"]:
        options["path"] = config["train"][name].get("path", "")
        if not options["path"]:
            raise DataError(f"config.data.train.{name}.path is empty: give the folder of the data")
    return options


def _classes_of_train(config: Mapping[str, Any]) -> tuple[str, ...]:
    return open_split(config, "train").classes


def make_schedule(
    corpus: Corpus,
    config: Mapping[str, Any],
    *,
    seed: int,
    shuffle: bool = True,
    multiple: int = 1,
) -> BatchSchedule:
    """Returns the batch schedule of a corpus; see BatchSchedule for the arguments."""
    return BatchSchedule(
        corpus.seconds,
        spans=corpus.spans,
        buckets=corpus.buckets,
        batch_size=config["batch_size"],
        constant_seconds=config.get("constant_seconds", False),
        seed=seed,
        shuffle=shuffle,
        multiple=multiple,
    )


def _check_config(config: Mapping[str, Any], split: str) -> None:
    modality = config.get("modality", "audio")
    if modality not in MODALITIES:
        raise DataError(f"config.data.modality is {modality!r}: use one of {', '.join(MODALITIES)}")
    if split not in SPLITS:
        raise DataError(f"there is no split {split!r}: use one of {', '.join(SPLITS)}")
    if not len(config[split]):
        kind = _SUCH[modality]
        raise DataError(
            f"config.data.{split} names no source: add one, such as "
            f"config.data.{split}.mine = dict(kind={kind!r}, path='...')"
        )
    if config["on_bad"] not in ("raise", "skip"):
        raise DataError(f"config.data.on_bad is {config['on_bad']!r}: use 'raise' or 'skip'")
    if not 0 < config["label_share"] <= 1:
        raise DataError(f"config.data.label_share is {config['label_share']}: use 0 < share <= 1")
