"""Unit quality by layer: clusters of the training split against phones of the test split."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.progress import Progress
from ssl_jax.core.types import of_layers
from ssl_jax.data.readers import alignments
from ssl_jax.data.recordings import AudioCorpus
from ssl_jax.engine.splits import Split
from ssl_jax.evals import abx, unit_quality
from ssl_jax.evals.baselines import Encoder
from ssl_jax.evals.extract import Extractor
from ssl_jax.evals.pool import signature
from ssl_jax.stages import kmeans as kmeans_lib
from ssl_jax.stages import label

_BATCH = 32  # recordings that are in memory at once


@dataclasses.dataclass(frozen=True)
class Options:
    """The section `units` of a protocol."""

    alignments: str  # a CTM file with the phones of the test split
    kmeans: kmeans_lib.Options = dataclasses.field(default_factory=kmeans_lib.Options)
    layers: tuple[int, ...] = ()  # (): all
    abx: int = 0  # recordings of the test split whose phones ABX compares; 0: none

    def __post_init__(self) -> None:
        if self.abx < 0:
            raise ConfigError(f"config.units.abx is {self.abx}: use 0 for no ABX, or 100")


def by_layer(
    encoders: Sequence[Encoder],
    splits: Mapping[str, Split],
    section: ConfigDict,
    *,
    window_s: float,
    mesh: Mesh,
    folder: pathlib.Path,
) -> list[dict[str, Any]]:
    """Returns a row per encoder and layer: `features` and what `unit_quality.Counts.rows` gives.

    Every layer is clustered on its own, on the training split. splits: train and test (or valid).
    With config.units.abx rows also hold `abx`, the error of the features before any clustering.
    """
    options = options_lib.read(Options, section, "config.units")
    tested = splits.get("test", splits.get("valid"))
    assert tested is not None  # open_splits sees to it
    phones = alignments.read_ctm(options.alignments)
    found = []
    for encoder in encoders:
        layers = options.layers if encoder.name != "MFCC" else (0,)
        layers = layers or tuple(range(_states(encoder, splits["train"])))
        key = signature(encoder.name, encoder.key, layers, options.kmeans)
        place = folder / "features" / f"kmeans-{key}"
        place.mkdir(parents=True, exist_ok=True)
        codebook = kmeans_lib.fit(encoder, layers, splits["train"], options.kmeans, mesh, place)
        counts = count(encoder, codebook, tested, phones, window_s)
        rows = counts.rows(codebook.layers, codebook.rate)
        if options.abx:
            errors = compare(encoder, codebook.layers, tested, phones, window_s, options.abx)
            rows = [row | {"abx": error} for row, error in zip(rows, errors, strict=True)]
        found += [{"features": encoder.name} | row for row in rows]
    return found


def compare(
    encoder: Encoder,
    layers: Sequence[int],
    split: Split,
    phones: alignments.Alignments,
    window_s: float,
    recordings: int,
) -> list[float]:
    """Returns the ABX error of layers over the phones of `recordings` recordings of a split.

    They are spread evenly over it, and their frames are held in memory, in half precision.
    """
    corpus = _audio(split)
    features = of_layers(encoder.features, layers)
    reader = Extractor(features, encoder.params, sample_rate=corpus.sample_rate, window_s=window_s)
    places = kmeans_lib.places(layers)
    tokens, chosen = abx.Tokens(), np.linspace(0, len(corpus), recordings, endpoint=False)
    rows = sorted({int(i) for i in chosen})
    with Progress(f"{encoder.name}, ABX: recording", len(rows)) as progress:
        for first in range(0, len(rows), _BATCH):
            batch = rows[first : first + _BATCH]
            for i, hidden in label.read_features(reader, corpus, batch):
                spans = phones.spans(alignments.name_of(corpus.key(i)))
                tokens.add(hidden[places], reader.times(hidden.shape[1]), *spans)
            progress.step(len(batch))
    return tokens.errors()


def _audio(split: Split) -> AudioCorpus:
    corpus = split.corpus
    if not isinstance(corpus, AudioCorpus):
        raise ConfigError("unit quality needs audio: set config.data.modality to 'audio'")
    return corpus


def _states(encoder: Encoder, split: Split) -> int:
    """Returns the number of hidden states of an encoder."""
    given = split.corpus.specs(split.corpus.buckets[-1])
    batch = {name: jax.ShapeDtypeStruct((1, *shape), kind) for name, (shape, kind) in given.items()}
    return jax.eval_shape(encoder.features, encoder.params, batch).hidden_states.shape[0]


def count(
    encoder: Encoder,
    codebook: kmeans_lib.Codebook,
    split: Split,
    phones: alignments.Alignments,
    window_s: float,
) -> unit_quality.Counts:
    """Counts frames by phone and unit, recording by recording; a frame has the phone at its centre.

    Raises DataError for a recording without phones.
    """
    corpus = _audio(split)
    reader = label.quantizer(encoder, codebook, corpus.sample_rate, window_s)
    found = unit_quality.Counts(len(codebook.layers), len(phones.names), codebook.clusters)
    with Progress(f"{encoder.name}, units: recording", len(corpus)) as progress:
        for first in range(0, len(corpus), _BATCH):
            batch = list(range(first, min(first + _BATCH, len(corpus))))
            for i, labels in label.read_units(reader, corpus, batch):
                name = alignments.name_of(corpus.key(i))
                found.add(phones.at(name, reader.times(labels.shape[1])), labels)
            progress.step(len(batch))
    return found
