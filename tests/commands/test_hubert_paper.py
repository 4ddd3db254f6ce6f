"""The chain of HuBERT's published runs: each finds the labels that its config expects."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ssl_jax import pipeline
from ssl_jax.core import config as config_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.data import frame_label_store
from ssl_jax.engine import log

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "experiments/hubert/paper.py"
SPLITS = ("train-clean-100", "train-clean-360", "train-other-500", "dev-clean")


@pytest.fixture
def paper(monkeypatch):
    """The program as a module."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "experiments" / "hubert"))
    return importlib.import_module("paper")


def test_runs_expect_the_units_of_the_layer_before(paper):
    rates = {"mfcc": 100.0, "it1": 50.0, "it2": 50.0}
    for size, chain in paper.CHAINS.items():
        for argument, layer in chain if size != "toy" else ():
            published = config_lib.load(f"configs/hubert/audio.py:{argument}")
            (folder,) = published.data.units.train
            assert f"layer{layer}_" in folder if layer else "mfcc_" in folder, argument
            config = paper.run_config(paper.OPTIONS, argument, layer)
            assert config.method.units.to_dict() == published.method.units.to_dict()
            assert config.method.units.rate == rates[folder.split("/")[2].split("_")[0]]
            assert config.data.units.train == () and len(config.data.valid)


def test_windows_cover_a_share_of_the_same_sources(paper):
    o = {**paper.OPTIONS, "path": "here", "librilight": "there.tsv", "steps": 7}
    config = paper.run_config(o, "large", 9)
    assert config.data.train.librilight.path == "there.tsv"
    assert config.data.valid.librispeech.path == "here"
    assert config.train.duration == "7 steps"
    data = paper.windows(config.data, o, 0.1)
    assert data.buckets == (10.0, 20.0) and data.train.librilight.part == (0.0, 0.1)
    assert "part" not in config.data.train.librilight


def test_an_unknown_size_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match="size is 'huge': use one of base, large, xlarge, mini"):
        pipeline.run(PROGRAM, str(tmp_path), ["--size=huge"])


@pytest.mark.slow
def test_the_chain_runs_at_toy_size(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    noise = np.random.default_rng(0)
    for split in SPLITS:
        for i in range(3):
            path = tmp_path / "speech" / split / "1" / "2" / f"1-2-{i}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, 0.1 * noise.standard_normal(16000 + 800 * i), 16000)
    options = {"size": "toy", "path": tmp_path / "speech", "share": 1.0, "window": 1.0}
    options |= {"batch": 4, "tries": 2, "epochs": 2}
    root = pipeline.run(PROGRAM, str(tmp_path / "run"), [f"--{k}={v}" for k, v in options.items()])
    folders = {path.name.rpartition("-")[0]: path for path in root.iterdir() if path.is_dir()}
    assert {"kmeans-1", "labels-1", "1-toy", "kmeans-2", "labels-2", "2-toy"} <= set(folders)
    for n, rate in ((1, 100.0), (2, 50.0)):
        store = frame_label_store.open_store(folders[f"labels-{n}"] / "train")
        assert (store.rate, store.vocab_size, len(store)) == (rate, 8, 9)
        assert log.read(folders[f"{n}-toy"] / "metrics.jsonl")[-1]["step"] == 4
