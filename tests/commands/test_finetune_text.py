"""From text files to a pre-trained model, and from it to answers on a tab-separated table."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from ssl_jax import train
from ssl_jax.core import config as config_lib

CONFIGS = Path(__file__).parents[2] / "configs"
KINDS = {"fruit": ("apple", "pear", "plum"), "tool": ("hammer", "saw", "drill")}

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def private_cache(tmp_path_factory):
    """These tests have their own folder of tokens, but share the cache of compiled programs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", os.environ["SSL_JAX_CACHE"])
        patch.setenv("SSL_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def sentences(rows, seed):
    """Returns rows of (sentence, label, score): the kind of thing named, and how often."""
    draw = np.random.default_rng(seed)
    out = []
    for _ in range(rows):
        kind, count = draw.choice(list(KINDS)), draw.integers(1, 4)
        words = draw.choice(KINDS[kind], count)
        out.append((f"a {' '.join(words)}", kind, count))
    return out


def write_table(path, rows, seed):
    lines = ["\t".join(map(str, row)) for row in sentences(rows, seed)]
    path.write_text("\n".join(["sentence\tlabel\tscore", *lines]) + "\n")
    return path


def load(name, folder, **changes):
    texts = [f"--config.{key}={value}" for key, value in changes.items()]
    return config_lib.load(str(CONFIGS / f"{name}.py") + ":toy", texts)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A run of data2vec on a few documents."""
    tmp_path = tmp_path_factory.mktemp("text")
    for split, seed in (("train", 0), ("valid", 1)):
        folder = tmp_path / "texts" / split
        folder.mkdir(parents=True)
        for i in range(6):
            lines = [row[0] for row in sentences(30, 10 * seed + i)]
            (folder / f"{i}.txt").write_text("\n".join(lines))
    changes = {f"data.{s}.text.path": tmp_path / "texts" / s for s in ("train", "valid")}
    run = tmp_path / "pretrained"
    found = train.run(load("data2vec/text", tmp_path, **changes), run)
    assert np.isfinite(found["valid/loss"])
    return run


def tune(tmp_path, init_from, **changes):
    sides = (("train", 400, 2), ("valid", 64, 3))
    paths = {s: write_table(tmp_path / f"{s}.tsv", rows, seed) for s, rows, seed in sides}
    changes |= {f"data.{s}.table.path": path for s, path in paths.items()}
    changes |= {"data.batch_size": 32, "optim.lr": 5e-3, "train.duration": "120 steps"}
    changes |= {"eval.every": "60 steps", "init_from": init_from}
    return train.run(load("supervised/glue", tmp_path, **changes), tmp_path / "tuned")


def test_classes_of_any_tab_separated_table(tmp_path, pretrained, capfd):
    found = tune(tmp_path, pretrained, **{"eval.scores": "('mcc','f1')"})
    said = capfd.readouterr()
    fresh = next(line for line in (said.out + said.err).splitlines() if "fresh ones" in line)
    assert "encoder/" not in fresh.partition("fresh ones")[2]
    assert found["valid/accuracy"] > 0.9 and found["valid/mcc"] > 0.8 and found["valid/f1"] > 0.9
    assert json.loads((tmp_path / "tuned/classes.json").read_text()) == ["fruit", "tool"]


def test_numbers_of_a_table_are_regressed(tmp_path, pretrained):
    changes = {"method.task": "regress", "method.target_std": 2.0, "eval.scores": "('pearson',)"}
    changes |= {"data.train.table.target": "('score',)", "data.valid.table.target": "('score',)"}
    found = tune(tmp_path, pretrained, **changes)
    assert found["valid/pearson"] > 0.9
    assert found["valid/squared_error"] < 0.5
