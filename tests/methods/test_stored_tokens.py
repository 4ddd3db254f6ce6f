"""Tokens on disk against the same in the step: one loss, one contract."""

import pathlib
import types

import beats_cases as cases
import numpy as np
import pytest
import soundfile
from method_cases import quick_jit
from ml_collections import ConfigDict

from configs import common
from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import FROZEN
from ssl_jax.data import corpus as corpus_lib
from ssl_jax.data import frame_label_store
from ssl_jax.data.errors import DataError
from ssl_jax.engine import checkpoint, splits
from ssl_jax.stages import clustering, label

SAMPLES = (8000, 5200, 8000, 6100)


class Program:
    """A program of one run, whose stages work in one folder."""

    def __init__(self, root, **run):
        self.root, self.run = root, types.SimpleNamespace(**run)

    def load(self, stage):
        return self.run

    def folder(self, stage):
        return self.root

    def stage(self, kind, name, config, work, needs=()):
        work(self.root)
        return self.root


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """config.data of four recordings of up to half a second."""
    folder, draw = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    for i, size in enumerate(SAMPLES):
        tone = 0.3 * np.sin(np.arange(size) ** 1.3 / (9 + i)) + draw.normal(0, 0.02, size)
        soundfile.write(folder / f"{i}.wav", tone, 16000)
    data = common.audio_data()
    data.train.own = ConfigDict({"kind": "folder", "path": str(folder)})
    data.update({"buckets": (0.5,), "batch_size": 4})
    return data


@pytest.fixture(scope="module")
def taught(root, tmp_path_factory):
    """(folder of a tokenizer as far as a config names it, its Setup)."""
    place = tmp_path_factory.mktemp("tokenizer")
    config = cases.tokenizer_config(cases.folder_of(root, place / "teacher"))
    made = cases.setup_of(config)
    draw = np.random.default_rng(4).standard_normal(made.extra["codebook"]["vectors"].shape)
    made.extra["codebook"]["vectors"] = np.float32(draw / np.linalg.norm(draw, axis=1)[:, None])
    folder = cases.tokenizer_folder(root, place / "run", config)
    return folder, made


def program_of(root, made, monkeypatch, **changes):
    method = types.SimpleNamespace(name="beats_tokenizer", codebook={"codes": cases.CODES})
    config = ConfigDict({"method": {"name": method.name, "codebook": method.codebook}, "seed": 0})
    monkeypatch.setattr(checkpoint, "restore_extra", lambda folder: made.extra)
    run = {"method": made.method, "params": made.params, "config": config, "step": 1, **changes}
    return Program(root, **run)


def batch_of(data):
    """All recordings in one batch, as training reads them."""
    config = ConfigDict({"data": data, "method": {}})
    corpus = splits.open_split(config, pathlib.Path(data.train.own.path), "train").corpus
    shapes = corpus.shapes(0.5).items()
    arrays = {name: np.zeros((4, *shape), kind) for name, (shape, kind) in shapes}
    for i in range(4):
        corpus.fill(i, 0, arrays, i)
    return {**arrays, "id": np.arange(4, dtype=np.uint32), "weight": np.ones(4, np.float32)}


@pytest.mark.slow
def test_stored_tokens_have_the_loss_of_a_tokenizer_in_the_step(
    recordings, taught, tmp_path, monkeypatch
):
    folder, made = taught
    program = program_of(tmp_path, made, monkeypatch)
    clustering.tokens(program, "tokens", recordings, "a run")
    store = frame_label_store.open_store(tmp_path / "train")
    assert (store.rate, store.grid, store.vocab_size) == (50.0, 2, cases.CODES)
    data = recordings.copy_and_resolve_references()
    with data.unlocked():
        data.units.train = (str(tmp_path / "train"),)
    batch, losses, labels = batch_of(data), {}, {}
    for source in ("tokenizer", "stored"):
        config = cases.model_config({"labels": source})
        config.teachers.tokenizer = folder
        setup = cases.setup_of(config)
        if source == "tokenizer":
            own = {name: made.params[name] for name in ("encoder", "head")}
            own["extra"] = {"codebook": {"vectors": made.extra["codebook"]["vectors"]}}
            setup.extra = {FROZEN: {"tokenizer": own}}
        given = {name: batch[name] for name in setup.method.batch}
        out = quick_jit(lambda p, e, b, setup=setup: setup.loss(p, e, b))(
            setup.params, setup.extra, given
        )
        losses[source], labels[source] = out.loss, out.metrics["codes_used"]
    assert labels["stored"] == labels["tokenizer"] and labels["stored"][0] > 1
    np.testing.assert_allclose(losses["stored"], losses["tokenizer"], rtol=1e-6)


def test_a_store_is_kept_and_that_of_another_tokenizer_refused(
    recordings, taught, tmp_path, monkeypatch
):
    _, made = taught
    program = program_of(tmp_path, made, monkeypatch)
    found = clustering.tokenizer(program, "a run")
    corpus = corpus_lib.open_split(recordings, "train")
    path = tmp_path / "train"
    first = label.write_tokens(path, found, cases.CODES, corpus, window_s=0.5)
    lengths = [len(first.row(corpus.key(i))) for i in range(len(corpus))]
    assert lengths == [24, 14, 24, 18]
    program.run.step = 2
    other = clustering.tokenizer(program, "a run")
    with pytest.raises(DataError, match=r"holds labels of signature .*: remove it, or"):
        label.write_tokens(path, other, cases.CODES, corpus, window_s=0.5)
    data = recordings.copy_and_resolve_references()
    with data.unlocked():
        data.units.train = (str(path),)
    method = {"units": {"classes": (5,), "rate": 50.0}}
    message = r"^config.method.units.classes is \(5,\), .* have \(6,\) ids: set it to \(6,\)$"
    with pytest.raises(ConfigError, match=message):
        splits.open_split(ConfigDict({"data": data, "method": method}), tmp_path, "train")


def test_a_tokenizer_of_another_rate_is_named(root, tmp_path):
    config = cases.tokenizer_config(cases.folder_of(root, tmp_path / "teacher"))
    model = cases.model_config({"labels": "tokenizer"})
    model.teachers.tokenizer = cases.tokenizer_folder(root, tmp_path / "run", config, 8000)
    with pytest.raises(ConfigError, match=r"^config.method.teachers.tokenizer .* of 8000 Hz"):
        cases.setup_of(model)


def test_a_run_without_tokens_is_named(tmp_path):
    config = ConfigDict({"method": {"name": "mae"}})
    method = types.SimpleNamespace(tokens=None)
    program = Program(tmp_path, method=method, params={}, config=config, step=1)
    with pytest.raises(ConfigError, match=r"^a run of 'mae' has no tokens: use one of configs/be"):
        clustering.tokenizer(program, "a run")
