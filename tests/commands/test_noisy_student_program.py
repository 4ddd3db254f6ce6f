"""The noisy student experiment at toy size: two generations, every arm, its claims and picture."""

import collections
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from experiments.noisy_student import arms, program, recorded, speech
from ssl_jax import pipeline
from ssl_jax.core import config as config_lib
from ssl_jax.data import pseudo_labels, transcripts
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import sources
from ssl_jax.data.synthetic import read_speech
from ssl_jax.evals import label_filters
from ssl_jax.stages import weights

ROOT = Path(__file__).resolve().parents[2]
TINY = """
from ml_collections import ConfigDict
from configs.ctc import speech

def get_config(arg=None):
    config = speech.get_config("toy")
    for split in ("train", "valid", "test"):
        source = {"kind": "table", "path": "", "transcript": "text", "where": {"split": split}}
        config.data[split] = ConfigDict({"own": source})
    config.data.update({"batch_size": 4, "buckets": (0.6,)})
    return config
"""


def spoken(root, *, clips, **_):
    """Writes tones in place of synthesized sentences."""
    root.mkdir(parents=True, exist_ok=True)
    draw, rows = np.random.default_rng(0), ["path\tsplit\tspeaker\ttext\tphones\tsamples\trate"]
    for split, count in clips.items():
        for i in range(count):
            samples, name = int(draw.integers(6000, 9000)), f"{split}_{i}.flac"
            tone = np.sin(np.arange(samples) * draw.uniform(0.1, 0.4)) / 4
            soundfile.write(root / name, tone + draw.normal(0, 0.02, samples), 16000)
            rows.append(f"{name}\t{split}\ts\tthe fox {'abc'[i % 3]}\tp\t{samples}\t16000")
    (root / "index.tsv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def untrained(monkeypatch):
    """Runs stay as they are before their first update: compiling the steps is most of the time.

    The state is that of the first run of its method.
    """
    first: dict[str, Path] = {}

    def created(config, folder, *_):
        config = config.copy_and_resolve_references()
        with config.unlocked():
            if config.method.name == "ctc":
                config.data.classes = transcripts.LETTERS
        known = first.setdefault(config.method.name, folder)
        if known == folder:
            weights.create(folder, config, lambda state: state)
        else:
            keep = shutil.ignore_patterns("lock", "stage.json", "DONE")
            shutil.copytree(known, folder, ignore=keep, dirs_exist_ok=True)
            (folder / "config.json").write_text(config_lib.to_json(config))

    monkeypatch.setattr(pipeline, "_train", created)
    # an untrained model agrees with itself by chance only
    monkeypatch.setattr(label_filters, "disagreement", lambda row: 0.0)


@pytest.mark.slow
def test_students_follow_their_teachers_from_their_own_start(tmp_path, monkeypatch, untrained):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(arms, "errors", lambda pipe, run: (0.5, 0.75))
    monkeypatch.setattr(read_speech, "corpus", spoken)
    small = {"depth": 1, "width": 16, "heads": 2, "mlp_width": 16}
    monkeypatch.setattr(arms, "SIZES", {"small": small})
    monkeypatch.setattr(arms, "CROP", 0.3)
    options = {"labels": 4, "unlabelled": 6, "other": 6, "test": 2, "texts": 50, "seeds": 1}
    options |= {"generations": 2, "batch": 4, "pretrain_steps": 2, "steps": 2, "beam": 2}
    overrides = [f"--{k}={v}" for k, v in (options | {"out": tmp_path}).items()]
    root = pipeline.run(str(Path(program.__file__)), str(tmp_path / "run"), overrides)
    results = json.loads((tmp_path / "results.json").read_text())
    named = {arm.name: arm for arm in arms.ARMS}
    assert set(results["wer"]) == {
        f"{start}, {name}" for name, arm in named.items() for start in arm.starts
    }
    assert list(results["wer"]["scratch, with LM"]) == ["0", "1", "2"]
    assert all(0 < arm["1"][2][0] <= 1 for arm in results["labels"].values())
    assert len(results["claims"]) == 6 and not any(c["held"] for c in results["claims"])
    assert (tmp_path / "results.png").stat().st_size > 20_000
    # generation 2 starts from the pre-trained run, and reads what generation 1 said
    (config,) = root.glob("generation-2-with-LM-small-pre-trained-0-*/config.json")
    config = config_lib.of_file(config)
    assert Path(config.init_from).name.startswith("pretrained-small-0-")
    assert config.data.train.pool.batch_share == 0.8
    store = pseudo_labels.read(config.data.train.pool.pseudo_labels)
    assert store.path.name.startswith("labels-2-with-LM-small-pre-trained-0-")
    (made,) = (x for x in root.glob("decoded-2-with-LM-*") if "pre-trained" in x.name)
    assert json.loads((made / "about.json").read_text())["teacher"] == store.teacher
    # filtered and unfiltered labels of generation 1 share their transcripts
    assert len(list(root.glob("decoded-1-train-lm-small-pre-trained-0-*"))) == 1


@pytest.mark.slow
def test_your_own_recordings_go_through_two_generations(tmp_path, monkeypatch, untrained):
    monkeypatch.chdir(ROOT)
    table = spoken(tmp_path / "clips", clips={"train": 4, "valid": 1, "test": 1}) / "index.tsv"
    pool = spoken(tmp_path / "pool", clips={"train": 6})
    (tmp_path / "tiny.py").write_text(TINY)
    options = {"labelled": table, "pool": pool, "config": tmp_path / "tiny.py", "beam": 2}
    options |= {"generations": 2, "disagreement": 0.0, "pseudo_share": 0.5}
    overrides = [f"--{k}={v}" for k, v in (options | {"set": ("seed=5",)}).items()]
    path = str(Path(program.__file__).with_name("own.py"))
    root = pipeline.run(path, str(tmp_path / "run"), overrides)
    (last,) = root.glob("generation-2-*")
    (zero,) = root.glob("generation-0-*")
    config = config_lib.of_file(last / "config.json")
    classes = [json.loads((run / "classes.json").read_text()) for run in (last, zero)]
    assert classes[0] == classes[1] == list(config.data.classes)
    assert config.seed == 5
    assert config.data.train.own.batch_share == config.data.train.pool.batch_share == 0.5
    with pytest.raises(config_lib.ConfigError, match="--pool is empty: give --pool=PATH"):
        pipeline.run(path, str(tmp_path / "x"), overrides[:1])


def test_recorded_sentences_are_copied_to_their_splits(tmp_path):
    for name, column in (("grid", "transcript"), ("others", "words")):
        folder = tmp_path / name
        spoken(folder, clips={"train": 5, "test": 3})
        table = folder / "index.tsv"
        table.write_text(table.read_text().replace("text", column, 1))
    long = tmp_path / "others" / "test_2.flac"
    soundfile.write(long, np.full(80_000, 0.1), 16000)
    lines = (tmp_path / "others" / "index.tsv").read_text().splitlines()
    lines[-1] = "test_2.flac\ttest\ts\ttoo long\tp\t80000\t16000"
    (tmp_path / "others" / "index.tsv").write_text("\n".join(lines) + "\n")
    given = str(tmp_path / "grid"), (str(tmp_path / "others"),)
    recorded.write(tmp_path, *given, {"train": 4, "test": 3})
    source = sources.open_source("train.x", {"kind": "table", "path": str(tmp_path)})
    found = collections.Counter(map(str, source.columns["split"]))
    assert found == {"train": 4, "test": 3, "other": 4, "test_other": 3}
    assert "too long" not in source.columns["text"].tolist()
    texts = {str(text) for text in source.columns["text"]}
    assert texts == {"the fox a", "the fox b", "the fox c"}
    for i in range(len(source)):  # whole files, as their row says
        assert len(source.read(i)[0]) == source.samples[i]
    with pytest.raises(DataError, match="has 5 recordings for 'train', and 6 are asked for: use"):
        recorded.write(tmp_path, *given, {"train": 6, "test": 3})
    words = recorded.draw_text(np.random.default_rng(0)).split()
    assert len(words) == 6 and words[4] in read_speech.DIGITS


def test_the_other_domain_is_noisy_and_partly_without_speech():
    draw = np.random.default_rng(0)
    tone = (8000 * np.sin(np.arange(16000) * 0.1)).astype(np.int16)
    noisy = speech._other(tone, draw)
    assert noisy.dtype == np.int16 and 16000 / 1.26 < len(noisy) < 16000 / 0.79
    for _ in range(4):
        assert speech._wordless(4000, draw).std() > 100
