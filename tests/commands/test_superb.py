"""SUPERB's protocols: their values, and that they run over tables of the documented form."""

import itertools
import json

import numpy as np
import pytest
import soundfile
from run_folder import make_run

import ssl_jax
from ssl_jax import evaluate, train
from ssl_jax.core import config as config_lib
from ssl_jax.core import options as options_lib
from ssl_jax.data import corpus as corpus_lib
from ssl_jax.evals import mlp_probe, speaker_verification

FILE = "configs/superb/utterances.py"


def protocol(root, arg):
    return config_lib.load(str(root / f"{FILE}:{arg}"), (), "get_protocol")


@pytest.mark.parametrize("arg", ["ks", "sid", "ic", "er1", "er5"])
def test_the_head_is_that_of_the_protocol(root, arg):
    given = protocol(root, arg)
    o = options_lib.read(mlp_probe.Options, given.probe, "probe")
    assert (o.width, o.activation, o.layers, o.rates) == (256, "none", (-1,), (1e-4,))
    assert (o.batch_size, o.clip, o.standardize, o.dropout) == (32, 1.0, False, 0.0)
    assert o.steps * o.epochs == (30_000 if arg.startswith("er") else 200_000)
    assert o.patience >= o.epochs and o.balance is (arg == "ks")


def test_emotions_are_tested_on_one_session_and_validated_on_a_fifth_of_the_others(root):
    data = protocol(root, "er2").data
    assert data.test.er.where.session == "2" and data.test.er.part == (0.0, 1.0)
    assert data.train.er.where.session == data.valid.er.where.session == ("1", "3", "4", "5")
    assert (data.train.er.part, data.valid.er.part) == ((0.0, 0.8), (0.8, 1.0))


@pytest.fixture
def intents(tmp_path):
    """Writes tones whose pitch is the action and whose loudness the object; returns the folder."""
    draw = np.random.default_rng(0)
    t = np.arange(8000) / 16000
    lines = ["path\tsplit\taction\tobject\tlocation"]
    for i in range(36):
        action, thing = i % 2, i // 2 % 2
        x = (0.1, 0.5)[thing] * np.sin(2 * np.pi * (300, 1500)[action] * draw.uniform(0.9, 1.1) * t)
        soundfile.write(tmp_path / f"{i}.wav", x + 0.01 * draw.standard_normal(8000), 16000)
        split = ("train", "train", "valid", "test")[i // 4 % 4]
        lines.append(f"{i}.wav\t{split}\t{('on', 'off')[action]}\t{('lamp', 'fan')[thing]}\tnone")
    (tmp_path / "index.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def paths(folder):
    return [f"config.data.{split}.ic.path={folder}" for split in ("train", "valid", "test")]


def test_tags_of_several_columns_are_named_after_them(root, intents):
    given = config_lib.load(str(root / f"{FILE}:ic"), paths(intents), "get_protocol")
    corpus = corpus_lib.open_split(given.data, "train")
    names = ("action=off", "action=on", "location=none", "object=fan", "object=lamp")
    assert corpus.classes == names
    assert corpus.fields["tags"][np.arange(2)].tolist() == [[0, 1, 1, 0, 1], [1, 0, 1, 0, 1]]


@pytest.mark.slow
def test_intents_are_judged_by_a_command(root, intents, tmp_path):
    run = make_run(str(root / "configs/data2vec/audio.py:toy"), tmp_path / "run")
    short = ["config.probe.steps=50", "config.probe.epochs=4", "config.probe.rates=(1e-2,)"]
    short.append("config.data.buckets=(0.5,)")
    found = evaluate.run(run, protocol=str(root / f"{FILE}:ic"), overrides=paths(intents) + short)
    row = found["results"][0]
    assert row["score"] == "all_slots" and row["layer"] == -1
    assert row["test"][0] >= 0.5  # chance is a quarter


@pytest.mark.slow
def test_speakers_are_verified_by_trials(root, tmp_path, capsys):
    draw, t = np.random.default_rng(0), np.arange(8000) / 16000
    lines, trials = ["path\tspeaker\tpart"], []
    for speaker, hz in enumerate((200, 500, 1100, 2500)):
        for take in range(8):
            x = 0.3 * np.sin(2 * np.pi * hz * draw.uniform(0.95, 1.05) * t)
            name = f"s{speaker}_{take}.wav"
            soundfile.write(tmp_path / name, x + 0.01 * draw.standard_normal(8000), 16000)
            lines.append(f"{name}\ts{speaker}\t{'train' if speaker < 3 and take < 6 else 'test'}")
    (tmp_path / "index.tsv").write_text("\n".join(lines) + "\n")
    heard = [f"s{speaker}_{take}" for speaker in range(3) for take in (6, 7)]
    for a, b in itertools.combinations(heard, 2):
        trials.append(f"{int(a[:2] == b[:2])} {a}.wav {b}.wav")
    (tmp_path / "trials.txt").write_text("\n".join(trials) + "\n")
    config = config_lib.load(str(root / "configs/superb/verification.py:toy")).unlock()
    source = {"kind": "table", "path": str(tmp_path)}
    config.data.train.vox = type(config)(source | {"label": "speaker", "where": {"part": "train"}})
    config.data.test.vox = type(config)(source | {"where": {"part": "test"}})
    config.eval.trials = str(tmp_path / "trials.txt")
    config.optim.lr, config.train.duration = 1e-2, "200 steps"
    run = tmp_path / "run"
    last = train.run(config.lock(), run)
    assert last["train/accuracy"] >= 0.75
    evaluate.main(["--run", str(run)])
    assert "eer" in capsys.readouterr().out
    row = json.loads((run / "evaluation.json").read_text())["results"][0]
    model = ssl_jax.load(run)
    clips = [soundfile.read(tmp_path / f"{name}.wav", dtype="int16")[0] for name in heard]
    batch = {"audio": np.stack(clips), "audio_len": np.full(6, 8000)}
    vectors = np.asarray(model.method.embed(model.params, batch))
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = list(itertools.combinations(range(6), 2))
    cosines = np.array([vectors[a] @ vectors[b] for a, b in pairs])
    expected, _ = speaker_verification.eer(cosines, np.array([a // 2 == b // 2 for a, b in pairs]))
    assert row["trials"] == 15 and row["recordings"] == 14
    assert row["eer"] == pytest.approx(expected) and row["eer"] < 0.5
