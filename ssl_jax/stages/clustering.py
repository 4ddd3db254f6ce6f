"""The stages between two runs of a program: clusters of features, and labels of recordings."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from ml_collections import ConfigDict

from ssl_jax.core import config as config_lib
from ssl_jax.core.mesh import make_mesh
from ssl_jax.core.types import Batch, Features, Tree
from ssl_jax.data import corpus as corpus_lib
from ssl_jax.data.recordings import AudioCorpus
from ssl_jax.engine import checkpoint, splits
from ssl_jax.evals import unit_quality
from ssl_jax.evals.baselines import Encoder
from ssl_jax.stages import embed, kmeans, label
from ssl_jax.stages.graph import Stage


class Program(Protocol):
    """The interface of a program of stages, such as `ssl_jax.pipeline.Pipe`."""

    def stage(
        self,
        kind: str,
        name: str,
        config: dict[str, Any],
        work: Callable[[pathlib.Path], None],
        needs: Sequence[Stage] = (),
    ) -> Stage:
        """Runs work(folder), unless the stage is complete."""

    def folder(self, stage: Stage) -> pathlib.Path:
        """Returns the folder of a stage."""

    def load(self, stage: Stage) -> Any:
        """Returns the model of a training stage, as `ssl_jax.load` does."""


def encoder(program: Program, of: Stage | None, sample_rate: int, stream: str = "") -> Encoder:
    """Returns the encoder of the run `of`, or of a stream of it, or MFCC without a run."""
    if of is None:
        return unit_quality.mfcc_encoder(sample_rate)
    model = program.load(of)
    key = f"{config_lib.sign(model.config)} step {model.step} {embed.weights(model.params)}"
    features = model.method.of_stream(stream, "stream").features
    return Encoder("this run", features, model.params, f"{key} {stream}".strip())


def clusters(
    program: Program,
    name: str,
    data: ConfigDict,
    options: kmeans.Options,
    layer: int,
    of: Stage | None = None,
    stream: str = "",
) -> Stage:
    """Clusters a layer of the run `of` (or MFCC) on the training split of config.data.

    stream: which features of a method that has several.
    """
    about = {"data": config_lib.flatten(data), "layer": layer, **dataclasses.asdict(options)}
    about |= {"stream": stream} if stream else {}

    def work(folder: pathlib.Path) -> None:
        mesh = make_mesh({"data": -1})
        split = splits.open_split(bare_run(data), folder, "train")
        found = encoder(program, of, data.sample_rate, stream)
        kmeans.fit(found, (layer,), split, options, mesh, folder)

    return program.stage("kmeans", name, about, work, (of,) if of else ())


def labels(
    program: Program,
    name: str,
    data: ConfigDict,
    layer: int,
    codebook: Stage,
    of: Stage | None = None,
    stream: str = "",
) -> Stage:
    """Labels every recording of config.data, and writes a store for each split to the folder.

    stream: that of the clusters.
    """
    about: dict[str, Any] = {"data": config_lib.flatten(data), "layer": layer}
    about |= {"stream": stream} if stream else {}

    def work(folder: pathlib.Path) -> None:
        found = encoder(program, of, data.sample_rate, stream)
        fitted = kmeans.load(program.folder(codebook) / "codebook.npz")
        for path, corpus, window in _splits(data, folder):
            label.write(path, found, fitted, layer, corpus, window_s=window)

    return program.stage("label", name, about, work, (codebook, *((of,) if of else ())))


def tokenizer(program: Program, of: Stage) -> Encoder:
    """Returns the tokens of the run `of` as features; raises ConfigError where it has none."""
    model = program.load(of)
    if model.method.tokens is None:
        raise config_lib.ConfigError(
            f"a run of {model.config.method.name!r} has no tokens: use one of "
            f"configs/beats/tokenizer.py"
        )
    given = (model.params, checkpoint.restore_extra(program.folder(of)))

    def features(given: Tree, batch: Batch) -> Features:
        return model.method.tokens(*given, batch)

    key = f"{config_lib.sign(model.config)} step {model.step} {embed.weights(list(given))}"
    return Encoder("tokens", features, given, key)


def tokens(program: Program, name: str, data: ConfigDict, of: Stage) -> Stage:
    """Labels every recording of config.data with the tokens of the run `of`, as `labels` does.

    A run of them learns what it would if the tokenizer labelled in every step, as long as no
    recording is longer than the last of config.data.buckets: of longer ones, the tokenizer hears
    windows here and crops there.
    """

    def work(folder: pathlib.Path) -> None:
        found = tokenizer(program, of)
        codes = int(program.load(of).config.method.codebook.codes)
        for path, corpus, window in _splits(data, folder):
            label.write_tokens(path, found, codes, corpus, window_s=window)

    return program.stage("label", name, {"data": config_lib.flatten(data)}, work, (of,))


def _splits(
    data: ConfigDict, folder: pathlib.Path
) -> Iterator[tuple[pathlib.Path, AudioCorpus, float]]:
    """Yields (path of the store, recordings, seconds of a window) of each split of config.data."""
    for split in corpus_lib.SPLITS:
        if len(data[split]):
            corpus: Any = corpus_lib.open_split(data, split)
            yield folder / split, corpus, float(data.buckets[-1])


def bare_run(data: ConfigDict) -> ConfigDict:
    """Returns a config with data alone, to open a split outside a run."""
    return ConfigDict({"data": data, "method": {}})
