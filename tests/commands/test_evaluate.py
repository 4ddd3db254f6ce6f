"""`python -m ssl_jax.evaluate`: probes of a run and of its baselines."""

import json

import numpy as np
import pytest
import soundfile
from ml_collections import ConfigDict
from run_folder import NAMES, RATE, make_run

import ssl_jax
from ssl_jax import evaluate
from ssl_jax.core import config as config_lib
from ssl_jax.evals import compare, librosa_features, linear_probe
from ssl_jax.stages import embed

PITCH = dict(zip(NAMES, (300, 900, 2700), strict=True))
TAKES = {"train": 16, "valid": 6, "test": 8}


def write_corpus(folder):
    """Writes noisy tones, a pitch per class, in the layout of Speech Commands; test clips vary."""
    rng = np.random.default_rng(0)
    listed = {"valid": [], "test": []}
    for word, hz in PITCH.items():
        (folder / word).mkdir(parents=True)
        for split, takes in TAKES.items():
            for take in range(takes):
                t = np.arange(RATE // 2 - 500 * (take % 3)) / RATE
                x = 0.2 * np.sin(2 * np.pi * hz * rng.uniform(0.9, 1.1) * t)
                name = f"{word}/{split}{take}_nohash_0.wav"
                soundfile.write(folder / name, x + 0.05 * rng.standard_normal(len(t)), RATE)
                listed.get(split, []).append(name)
    (folder / "validation_list.txt").write_text("\n".join(listed["valid"]) + "\n")
    (folder / "testing_list.txt").write_text("\n".join(listed["test"]) + "\n")
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "tones")


@pytest.fixture(scope="module")
def run(root, corpus, tmp_path_factory):
    """The folder of an untrained run over a corpus of three easy classes."""
    texts = [f"data.{split}.sc.path={corpus}" for split in TAKES]
    texts += ["data.batch_size=12", "data.train.sc.part=(0.0, 1.0)"]
    folder = tmp_path_factory.mktemp("run")
    return make_run(f"{root}/configs/data2vec/kws.py:toy", folder, overrides=texts)


@pytest.fixture(scope="module")
def result(run):
    patch = pytest.MonkeyPatch()
    patch.setattr(linear_probe.Grid.__init__, "__defaults__", ((0.01, 0.1), None, (0, 1), 60, 64))
    with patch.context():
        found = evaluate.run(run)
    patch.undo()
    return found


def test_every_probe_stands_beside_both_baselines(result):
    pairs = [(row["features"], row["probe"]) for row in result["results"]]
    kinds = ("this run", "random encoder", "log-mel")
    assert pairs == [(kind, name) for kind in kinds for name in compare.PROBES]
    assert result["clips"] == {split: 3 * n for split, n in TAKES.items()}
    assert result["classes"] == sorted(NAMES) and result["step"] == 4
    for row in result["results"]:
        assert len(row["test"]) == (2 if row["probe"] == "linear" else 1)
        assert 0 <= row["test"][0] <= 1


def test_probes_read_easy_classes_from_raw_features(result):
    found = {row["probe"]: row["test"] for row in result["results"] if row["features"] == "log-mel"}
    for values in found.values():
        assert min(values) > 0.9


def test_the_random_encoder_is_another_one_than_the_run(result):
    this, other = result["health"]["this run"], result["health"]["random encoder"]
    assert set(result["health"]) == {"this run", "random encoder"}
    assert set(this) == {f"{k}/layer{i}" for k in ("std", "rankme") for i in range(3)}
    assert this["std/layer2"] != other["std/layer2"]


def test_the_file_holds_the_result(run, result):
    assert json.loads((run / "evaluation.json").read_text()) == result


def test_the_second_time_reads_no_audio(run, result, monkeypatch):
    monkeypatch.setattr(embed, "pool", lambda *a, **k: pytest.fail("features taken again"))
    again = evaluate.run(run, ["ridge"])
    assert again["results"] == [row for row in result["results"] if row["probe"] == "ridge"]
    assert len(list((run / "features").glob("*.npz"))) == 9  # three encoders and three splits


def test_other_data_is_not_read_from_the_cache(run, result, monkeypatch):
    seen = []
    monkeypatch.setattr(embed, "pool", lambda *a, **k: seen.append(k["name"]) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate.run(run, ["ridge"], overrides=["data.train.sc.part=(0.0, 0.5)"])
    assert seen == ["this run, train: batch"]


def test_further_baselines_add_rows_and_none_is_taken_silently(run, result, monkeypatch):
    monkeypatch.setattr(librosa_features, "describe", lambda x, rate: np.float32([len(x), x.sum()]))
    found = evaluate.run(run, ["ridge"], baselines=["librosa"])["results"]
    assert [row["features"] for row in found[-2:]] == ["log-mel", librosa_features.NAME]
    with pytest.raises(ValueError, match="use some of librosa"):
        evaluate.run(run, ["ridge"], baselines=["mfcc"])


PROTOCOL = """
from ml_collections import ConfigDict
from configs import common

def get_protocol(arg=None):
    data = common.audio_data()
    for split in ("train", "valid", "test"):
        data[split].tones = ConfigDict({{"kind": "speech_commands", "path": {path!r}}})
    data.update({{"buckets": (0.5,), "batch_size": 12}})
    probe = {{"width": 8, "rates": (1e-2,), "layers": (0, -1), "epochs": 3, "seeds": (0, 1)}}
    task = {{"kind": "label", "scores": ("accuracy",)}}
    return ConfigDict(
        {{"data": data, "window_seconds": 0.2, "task": task, "probe": probe}}
    )
"""


@pytest.mark.slow
def test_a_protocol_brings_its_data_and_its_probe(run, root, tmp_path):
    folder = tmp_path / "configs"
    folder.mkdir()
    for name in ("common.py", "data.py", "encoders.py"):
        (folder / name).write_text((root / "configs" / name).read_text())
    path = config_lib.from_json((run / "config.json").read_text()).data.train.sc.path
    (folder / "tones.py").write_text(PROTOCOL.format(path=path))
    found = evaluate.run(run, protocol=f"{folder}/tones.py")
    assert [(row["features"], row["probe"]) for row in found["results"]] == [
        (kind, "mlp") for kind in ("this run", "random encoder", "log-mel")
    ]
    for row in found["results"]:
        assert len(row["scores"]["accuracy"]) == 2 and set(row["layers"]) == {"0", "mix"}
    assert "accuracy" in compare.report(found).splitlines()[0]


def test_report_names_all_and_the_mix(result):
    text = compare.report(result)
    assert text.splitlines()[0].split() == ["features", "probe", "layer", "selection", "test"]
    assert "±" in text and "rankme" in text and "log-mel" in text
    rows = [{**row, "layer": linear_probe.MIX} for row in result["results"]]
    assert " mix " in compare.report({**result, "results": rows})


def test_command_prints_the_tables_and_one_line_for_an_error(run, result, capsys, tmp_path):
    evaluate.main(["--run", str(run), "--probe", "ridge,knn"])
    out = capsys.readouterr().out
    assert "random encoder" in out and "evaluation.json" in out
    for arguments, text in (
        (["--run", str(tmp_path)], "no run folder"),
        (["--run", str(run), "--probe", "svm"], "use some of ridge,knn,linear"),
        (["--run", str(run), "--step", "9"], r"it has \[4\]"),
        (["--run", str(run), "--config.data.batch=2"], "batch_size"),
    ):
        with pytest.raises(SystemExit, match=f"error: .*{text}"):
            evaluate.main(arguments)


def test_a_head_is_judged_at_its_last_and_its_best_checkpoint(
    root, corpus, tmp_path, monkeypatch, capsys
):
    texts = [f"data.{split}.sc.path={corpus}" for split in TAKES]
    texts += ["data.batch_size=12", "checkpoint.best_metric=valid/accuracy"]
    texts += [f"data.classes={tuple(sorted(NAMES))!r}"]
    folder = make_run(
        f"{root}/configs/supervised/kws.py:toy", tmp_path, (3, 4), texts, scores=(0.9, 0.1)
    )
    (folder / "classes.json").write_text(json.dumps(sorted(NAMES)))
    monkeypatch.setattr(evaluate.probes_stage, "run_probes", lambda *given: ([], {}))
    evaluate.main(["--run", str(folder)])
    printed = capsys.readouterr().out
    rows = json.loads((folder / "evaluation.json").read_text())["head"]
    assert [(r["checkpoint"], r["step"], r["split"], r["examples"]) for r in rows] == [
        (name, step, split, 3 * TAKES[split])
        for name, step in (("last", 4), ("best", 3))
        for split in ("valid", "test")
    ]
    assert "the head of the run" in printed and f"{rows[1]['accuracy']:.3f}" in printed
    assert "best was chosen by its validation score" in printed
    model = ssl_jax.load(folder, "best")
    clips = [soundfile.read(p, dtype="int16")[0] for p in sorted(corpus.glob("*/test*.wav"))]
    heard = [max(p, key=p.get) for p in model.predict(clips, RATE)]
    told = [p.parent.name for p in sorted(corpus.glob("*/test*.wav"))]
    right = np.mean([a == b for a, b in zip(heard, told, strict=True)])
    assert rows[3]["accuracy"] == pytest.approx(right)
    result = evaluate.run(folder, step=4)
    assert [row["checkpoint"] for row in result["head"]] == ["asked for"] * 2
    page = (folder / "report.html").read_text()
    assert "The head of the run" in page and f"{rows[1]['accuracy']:.3f}" in page


@pytest.mark.slow
def test_layers_that_are_asked_for_are_probed_alone_by_their_numbers(run, result):
    found = evaluate.run(run, ["ridge"], layers=(2, 1))
    of_all = [row for row in result["results"] if row["probe"] == "ridge"]
    for row, whole in zip(found["results"], of_all, strict=True):
        one = row["features"] == "log-mel"  # which has one
        assert set(row["layers"]) == ({"0"} if one else {"1", "2"})
        for name, values in row["layers"].items():
            np.testing.assert_allclose(values, whole["layers"][name], atol=1 / 24)
    assert set(found["health"]["this run"]) == {
        f"{k}/layer{i}" for k in ("std", "rankme") for i in (1, 2)
    }
    for wrong, words in (((3,), "layers has 3, which does not exist"), ((-1,), "--layers has -1")):
        with pytest.raises(ValueError, match=words):
            evaluate.run(run, ["ridge"], layers=wrong)


def test_layers_that_cannot_be_asked_for_are_one_error(run):
    with pytest.raises(SystemExit, match=r"^error: --layers has 'six': use numbers from 0"):
        evaluate.main(["--run", str(run), "--layers", "six"])
    for options, protocol, words in (
        ({"--layers": (6,)}, {"units": {}}, "--layers is for probes, and this evaluation has none"),
        ({"--layers": (6,)}, {"probe": {"layers": (6,)}}, "the protocol chooses the layers"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluate._check_probed(None, ConfigDict(protocol), options)
