"""Shared by the programs of HuBERT: synthesized corpora, full recordings, unit quality by layer."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

import ssl_jax
from ssl_jax.core import config as config_lib
from ssl_jax.core.mesh import make_mesh
from ssl_jax.core.progress import Progress
from ssl_jax.data import corpus as corpus_lib
from ssl_jax.data.readers import sources
from ssl_jax.data.synthetic import read_speech
from ssl_jax.engine import splits
from ssl_jax.evals.baselines import Encoder, random_encoder
from ssl_jax.pipeline import Pipe
from ssl_jax.reports import figures
from ssl_jax.stages import clustering, kmeans
from ssl_jax.stages import unit_quality as units_stage
from ssl_jax.stages.graph import Stage

MFCC = "MFCC"


def synthesized(pipe: Pipe, kind: str, clips: dict[str, int]) -> pathlib.Path:
    """Returns the folder of a synthesized corpus, made once."""
    bar = Progress(f"{kind} spoken", sum(clips.values()), patience=1.0)
    folder = read_speech.corpus(
        pipe.root / "corpus",
        clips=clips,
        kind=kind,
        progress=lambda done, total: bar.step(done - bar.done),
    )
    bar.close()
    return folder


def whole(data: ConfigDict, share: float) -> ConfigDict:
    """Returns the data as full recordings of `read`, with a share of the training ones."""
    data = ConfigDict(data.to_dict())
    longest = max(
        float((source.samples / source.rates).max())
        for split in corpus_lib.SPLITS
        if len(data[split])
        for source in [sources.open_source(f"{split}.read", data[split].read.to_dict())]
    )
    longest = math.ceil(10 * longest) / 10
    data.update({"buckets": (longest / 2, longest), "batch_size": 8})
    for source in data.train.values():
        source.part = (0.0, share)
    return data


def quality(
    pipe: Pipe,
    name: str,
    data: ConfigDict,
    options: kmeans.Options,
    of: Stage | None = None,
    untrained: bool = False,
) -> list[dict[str, Any]]:
    """Returns a row for each layer of the run `of` (or MFCC): its units compared with the phones.

    data: training and test split of a synthesized corpus, whose folder has phones.ctm. untrained:
    evaluate an encoder of the run's shape before any update, in place of the run.
    """
    section = ConfigDict({"alignments": _alignments(data), "kmeans": dataclasses.asdict(options)})
    about = {"data": config_lib.flatten(data), "untrained": untrained, **section.to_dict()}

    def work(folder: pathlib.Path) -> None:
        mesh, config = make_mesh({"data": -1}), clustering.bare_run(data)
        found = {s: splits.open_split(config, folder, s) for s in ("train", "test")}
        evaluated = clustering.encoder(pipe, of, data.sample_rate)
        if untrained:
            evaluated = _untrained(pipe, of, found["train"])
        window = float(data.buckets[-1])
        rows = units_stage.by_layer(
            [evaluated], found, section, window_s=window, mesh=mesh, folder=folder
        )
        figures.write_results(folder / "rows.json", {"rows": rows})

    stage = pipe.stage("eval", name, about, work, (of,) if of else ())
    return json.loads((pipe.folder(stage) / "rows.json").read_text(encoding="utf-8"))["rows"]


def best(rows: Sequence[Mapping[str, Any]]) -> int:
    """Returns the layer with the highest phone-normalized mutual information."""
    return int(max(rows, key=lambda row: row["pnmi"])["layer"])


def _untrained(pipe: Pipe, of: Stage | None, split: splits.Split) -> Encoder:
    assert of is not None
    model = ssl_jax.load(pipe.folder(of))
    given = split.corpus.specs(split.corpus.buckets[-1])
    shapes = {n: jax.ShapeDtypeStruct((1, *shape), kind) for n, (shape, kind) in given.items()}
    params = random_encoder(model.method, model.config.seed, shapes)
    key = f"{config_lib.sign(model.config)} untrained"
    return Encoder("random encoder", model.method.features, params, key)


def _alignments(data: ConfigDict) -> str:
    (source,) = data.test.values()
    return str(pathlib.Path(source.path) / "phones.ctm")
