"""A method of two encoders and two streams: a throw-away one is trained, probed and continued."""

import json
import shutil

import numpy as np
import pytest
import soundfile
import two_encoders
from ml_collections import ConfigDict

import ssl_jax
from configs import common
from ssl_jax import evaluate, methods, train
from ssl_jax.core import config as config_lib
from ssl_jax.core import tree
from ssl_jax.core.types import Features, Method
from ssl_jax.engine import checkpoint
from ssl_jax.stages import clustering, evaluations


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Makes the method a part of the package; returns its config, with eight clips as data."""
    folder = tmp_path / "methods"
    folder.mkdir()
    shutil.copy(two_encoders.__file__, folder)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
    rng = np.random.default_rng(0)
    for i in range(8):
        word = tmp_path / "clips" / ("yes" if i % 2 else "no")
        word.mkdir(parents=True, exist_ok=True)
        soundfile.write(word / f"{i}.wav", rng.normal(0, 0.05 + 0.1 * (i % 2), 4000), 8000)
    config = two_encoders.config()
    for split in ("train", "valid"):
        clips = {"kind": "folder", "path": str(tmp_path / "clips"), "label": "folder"}
        config.data[split].clips = ConfigDict(clips)
    config.train.duration = "2 steps"
    config.checkpoint.every = config.eval.every = "2 steps"
    config.eval.monitors = ("collapse", "patches/ridge", "patches/collapse")
    return config_lib.override(config, [])


@pytest.mark.slow
def test_a_method_of_two_encoders_and_two_streams(config, tmp_path):
    first = tmp_path / "first"
    found = train.run(config, first)
    assert {"monitor/patches/ridge/accuracy", "monitor/patches/std/layer2"} <= set(found)
    assert "monitor/std/layer1" in found and "monitor/std/layer2" not in found
    table = (first / "parameters.txt").read_text()
    assert "encoder/patches/blocks" in table and "encoder/words/blocks" in table

    model = ssl_jax.load(first)
    clip = np.random.default_rng(1).normal(0, 0.1, 9000).astype(np.float32)
    main, words, patches = (model.features(clip, 8000, stream=s) for s in ("", "words", "patches"))
    assert len(main.hidden_states) == len(words.hidden_states) == 2
    np.testing.assert_array_equal(main.hidden_states[1], words.hidden_states[1])
    assert len(patches.hidden_states) == 3
    assert (np.diff(patches.times[::2]) > 0).all() and (
        patches.times[::2] == patches.times[1::2]
    ).all()
    with pytest.raises(
        ValueError, match=r"stream is 'video', .* not exist: use one of patches, wo"
    ):
        model.features(clip, 8000, stream="video")

    result = evaluate.run(first, probes=("ridge",), stream="patches")
    kept = json.loads((first / "evaluation-patches.json").read_text())
    assert kept == result and result["stream"] == "patches"
    assert {row["features"] for row in result["results"]} >= {"this run", "random encoder"}
    assert "Stream patches" in (first / "report.html").read_text()

    given = {"encoder/patches": str(first)}
    config = config.copy_and_resolve_references()
    with config.unlocked():
        common.start_from(config, given)
        config.train.duration, config.seed = "1 steps", 7
        config.optim.lr = 1e-12
    train.run(config, tmp_path / "second")
    one, two = (
        dict(tree.named_leaves(checkpoint.restore_params(tmp_path / f)))
        for f in ("first", "second")
    )
    same = {name for name in one if np.allclose(one[name], two[name], atol=1e-9)}
    kernels = {name for name in one if name.endswith("kernel")}
    assert same & kernels == {name for name in kernels if name.startswith("encoder/patches/")}


def two_streams() -> Method:
    """A method that computes nothing, with streams."""

    def features(value):
        return lambda params, batch: Features(np.full((1, 1, 1, 1), value), np.ones((1, 1)), 1.0)

    nothing = {"init": None, "loss": None, "batch": {}, "rules": (), "scopes": ()}
    return Method(
        **nothing, features=features(0), streams={"audio": features(1), "fused": features(2)}
    )


def test_a_stream_is_chosen_by_name():
    method = two_streams()
    assert method.of_stream("", "--stream") is method
    chosen = method.of_stream("fused", "--stream")
    assert chosen.stream == "fused" and chosen.features(None, None).hidden_states == 2
    with pytest.raises(ValueError, match=r"--stream is 'vidoe', .* exist: use one of audio, fused"):
        method.of_stream("vidoe", "--stream")
    with pytest.raises(ValueError, match=r"leave it empty, as this method has no streams"):
        Method(None, None, None, {}, (), ()).of_stream("audio", "stream")


def test_monitors_and_clusters_take_a_stream():
    assert evaluations._by_stream(("ridge", "video/knn", "collapse", "video/ridge")) == {
        "": ("ridge", "collapse"),
        "video": ("knn", "ridge"),
    }

    class Program:
        """Its run is a model of two streams."""

        def load(self, stage):
            config = ConfigDict({"seed": 0})
            return ConfigDict({"method": two_streams(), "params": {}, "step": 3, "config": config})

    keys = set()
    for stream, value in (("", 0), ("audio", 1), ("fused", 2)):
        encoder = clustering.encoder(Program(), "a run", 16000, stream)
        assert encoder.features(None, None).hidden_states == value
        keys.add(encoder.key)
    assert len(keys) == 3
    with pytest.raises(ValueError, match=r"stream is 'video', a stream that does not exist"):
        clustering.encoder(Program(), "a run", 16000, "video")
