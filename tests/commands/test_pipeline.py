"""The pipeline command: options, stages that are skipped, and the quickstart at toy size."""

import json
import os
import re
import shutil
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
from ml_collections import ConfigDict
from PIL import Image
from small_program import BLOCK, one_bucket, smaller

import ssl_jax
from configs import common
from ssl_jax import pipeline
from ssl_jax.core import config as config_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.data import fingerprint
from ssl_jax.data.corpus import open_split
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import audio
from ssl_jax.stages import weights

ARMS = {f"{name} {share} %" for name in ("MAE", "DMAE") for share in (75, 90, 95)}
ARMS |= {"MAE 75 %, longer"}
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
OPTIONS = {"count": 2, "name": "a"}

def main(pipe):
    pipe.expect({"first": 1.0, "second": 1.0})
    first = pipe.stage("data", "first", {"count": pipe.options["count"]}, write(pipe, "first"))
    pipe.stage("eval", "second", {}, write(pipe, "second"), (first,))

def write(pipe, name):
    def work(folder):
        with open(pipe.root / "log", "a") as f:
            f.write(name + "\\n")
    return work
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(PROGRAM)
    return str(path)


def _log(root):
    return (root / "log").read_text().split()


def test_a_second_run_skips_what_is_complete_and_redoes_what_changed(program, tmp_path):
    root = str(tmp_path / "run")
    pipeline.run(program, root)
    assert _log(pipeline.run(program, root)) == ["first", "second"]
    assert _log(pipeline.run(program, root, ["--count=3"])) == ["first", "second"] * 2


def test_each_stage_is_one_line_with_the_time_left(program, tmp_path, capsys):
    pipeline.run(program, str(tmp_path / "run"))
    first, *stages = capsys.readouterr().err.splitlines()
    assert first == "2 stages to go, about 2s"
    assert stages[0] == "[first] data done in 0s  1 stage to go, about 0s"
    assert stages[1:] == ["[second] eval done in 0s"]
    pipeline.run(program, str(tmp_path / "run"))
    again = capsys.readouterr().err.splitlines()[1:]
    assert [line.partition("  ")[0] for line in again] == [
        "[first] complete, skipped",
        "[second] complete, skipped",
    ]


def test_what_a_stage_prints_is_shown_only_if_asked_for(tmp_path, capsys):
    path = tmp_path / "telling.py"
    path.write_text(
        "from ssl_jax.engine import log\n"
        "OPTIONS = {}\n"
        "def main(pipe):\n"
        "    pipe.stage('data', 'one', {}, lambda folder: log.detail('its parameters'))\n"
    )
    pipeline.run(str(path), str(tmp_path / "a"))
    assert "its parameters" not in capsys.readouterr().err
    pipeline.main([str(path), "--workdir", str(tmp_path / "b"), "--verbose"])
    assert "its parameters" in capsys.readouterr().err


def test_a_program_that_is_refused_leaves_no_folder(tmp_path):
    path = tmp_path / "refused.py"
    path.write_text(
        "from ssl_jax.core.config import ConfigError\n"
        "OPTIONS = {}\n"
        "def refuse(folder):\n"
        "    raise ConfigError('no data')\n"
        "def main(pipe):\n"
        "    pipe.stage('data', 'one', {}, refuse)\n"
    )
    with pytest.raises(ConfigError, match="no data"):
        pipeline.run(str(path), str(tmp_path / "runs" / "a"))
    assert not (tmp_path / "runs").exists()


def test_an_unknown_option_and_a_wrong_type_are_named(program, tmp_path):
    with pytest.raises(ConfigError, match=r"cuont.*count"):
        pipeline.run(program, str(tmp_path), ["--cuont=3"])
    with pytest.raises(ConfigError, match="count"):
        pipeline.run(program, str(tmp_path), ["--count=many"])


def test_a_missing_program_is_named():
    with pytest.raises(SystemExit, match=r"no program nothing\.py: name a Python file"):
        pipeline.main(["nothing.py"])


def test_labels_of_stages_are_those_of_the_run(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(pipeline, "_train", lambda config, *_: trained.append(config))
    pipe = pipeline.Pipe(tmp_path / "run", {})
    labels = [pipe.stage("label", f"labels{i}", {}, lambda folder: None) for i in (0, 1)]
    data = {split: ConfigDict({}) for split in ("train", "valid", "test")}
    data["train"].a, data["valid"].a = ConfigDict({}), ConfigDict({})
    data["units"] = dict.fromkeys(("train", "valid", "test"), ())
    config = ConfigDict({"data": data, "init_from": ""})
    run = pipe.train("hubert", config, labels=labels)
    (found,) = trained
    for split in ("train", "valid"):
        assert found.data.units[split] == tuple(str(pipe.folder(x) / split) for x in labels)
    assert found.data.units.test == () and config.data.units.train == ()
    assert run.needs == tuple(labels)
    # labels made in another way have another signature
    other = pipe.stage("label", "labels0", {"clusters": 9}, lambda folder: None)
    pipe.train("hubert", config, labels=(other, labels[1]))
    assert len(trained) == 2


def test_teachers_of_stages_count_by_what_they_are_and_not_by_their_folder(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(pipeline, "_train", lambda config, *_: trained.append(config))
    data = dict.fromkeys(("train", "valid", "test"), ConfigDict({}))
    method = {"name": "own", "teachers": {"image": "", "video": ""}}
    config = ConfigDict({"data": data, "init_from": "", "method": method})
    signatures = set()
    for root, size in (("a", 1), ("b", 1), ("a", 2)):
        pipe = pipeline.Pipe(tmp_path / root, {})
        image, video = (pipe.stage("import", n, {n: size}, lambda _: None) for n in "iv")
        run = pipe.train("student", config, teachers={"video": video, "image": image})
        signatures.add(run.signature)
        assert trained[-1].method.teachers.image == str(pipe.folder(image))
    assert len(signatures) == 2 and config.method.teachers.image == ""
    swapped = pipe.train("student", config, teachers={"video": image, "image": video})
    assert swapped.signature not in signatures


@pytest.mark.parametrize(
    ("options", "allowed"), [({}, False), ({"allow_low_turnover": True}, True)]
)
def test_a_program_allows_a_random_teacher_by_its_option_alone(
    tmp_path, monkeypatch, options, allowed
):
    given = {}
    monkeypatch.setattr(pipeline.train_command, "run", lambda *_, **more: given.update(more))
    data = ConfigDict({split: ConfigDict({}) for split in ("train", "valid", "test")})
    config = ConfigDict({"data": data, "init_from": ""})
    pipeline.Pipe(tmp_path / "run", options).train("one", config)
    assert given["low_turnover"] is allowed


def test_a_complete_training_on_files_that_changed_is_not_used_unless_accepted(
    tmp_path, monkeypatch, capsys
):
    sound = tmp_path / "data" / "a.wav"
    sound.parent.mkdir()
    soundfile.write(sound, np.sin(np.arange(4000) / 9), 16000)
    data = common.audio_data()
    data.train.own = ConfigDict({"kind": "folder", "path": str(sound.parent)})
    config = ConfigDict({"data": data, "init_from": ""})

    def train(config, folder, *_):
        fingerprint.of(open_split(config.data, "train")).save(folder / "data-train.npz")

    monkeypatch.setattr(pipeline, "_train", train)
    strict, lenient = (pipeline.Pipe(tmp_path / "run", {}, accept) for accept in (False, True))
    strict.train("one", config)
    strict.train("one", config)
    soundfile.write(sound, np.cos(np.arange(4000) / 9), 16000)
    with pytest.raises(DataError, match=r"train is not what .*1 of 1 files have changed.*own/a.w"):
        strict.train("one", config)
    lenient.train("one", config)
    assert "although config.data.train is not what" in capsys.readouterr().err
    sound.unlink()
    strict.train("one", config)
    assert "1 files of config.data.train of" in capsys.readouterr().err


@pytest.fixture
def recorded_digits(tmp_path):
    """A folder in the layout of the Free Spoken Digit Dataset, whose shortest take is 0.14 s."""
    folder, rng = tmp_path / "fsdd", np.random.default_rng(0)
    folder.mkdir()
    rows = ["path\tdigit\tspeaker\tsplit\tseconds"]
    for take in range(24):
        sound = (rng.standard_normal(round(8000 * (0.143 + take / 40))) * 3000).astype(np.int16)
        (folder / f"{take}.flac").write_bytes(audio.encode_flac(sound, 8000))
        split = "train" if take < 12 else "test"
        rows.append(f"{take}.flac\t{take % 10}\tanna\t{split}\t{len(sound) / 8000:.3f}")
    (folder / "index.tsv").write_text("\n".join(rows) + "\n")
    return folder


def _one_letter_run(monkeypatch):
    """Of the runs on letters, the first is real and serves the others: phones show the rest."""
    train, first = pipeline._train, []

    def made(config, folder, *rest):
        if config.method.name != "ctc" or config.data.spelling != "letters":
            train(config, folder, *rest)
        elif not first:
            train(config, folder, *rest)
            first.append(folder)
        else:
            keep = shutil.ignore_patterns("lock", "stage.json", "DONE")
            shutil.copytree(first[0], folder, ignore=keep, dirs_exist_ok=True)

    monkeypatch.setattr(pipeline, "_train", made)


@pytest.mark.slow
def test_hubert_runs_two_iterations_judges_both_and_goes_on_after_a_kill(
    tmp_path, monkeypatch, recorded_digits
):
    pytest.importorskip("espeakng_loader")
    monkeypatch.chdir(ROOT)
    options = {"train": 60, "test": 6, "digits": 16, "steps": 3, "seeds": 1, "clusters": 8}
    options |= {"labels": 8, "finetune_steps": 2, "layer": 1, "out": tmp_path}
    options |= {"fsdd": recorded_digits, "later_clusters": 9}
    overrides = [f"--{k}={v}" for k, v in options.items()]
    smaller(monkeypatch, SIZE=BLOCK | {"conv_channels": 8, "position_kernel": 4})
    one_bucket(monkeypatch)
    _one_letter_run(monkeypatch)
    program, root = "experiments/hubert/pipeline.py", str(tmp_path / "hubert")
    run, calls = pipeline.Pipe._run, []

    def dies(self, stage, work):
        calls.append(stage.name)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return run(self, stage, work)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.Pipe, "_run", dies)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(program, root, overrides)
    pipeline.run(program, root, overrides)
    results = json.loads((tmp_path / "results.json").read_text())
    names = ["MFCC", "untrained", "iteration 1", "iteration 2", "wav2vec 2.0"]
    assert list(results["units"]) == names
    assert results["chosen"] == {"iteration 1": [1], "iteration 2": [1]}
    for n, classes in ((1, (8,)), (2, (9,))):
        (config,) = (tmp_path / "hubert").glob(f"hubert-{n}-0-*/config.json")
        assert config_lib.from_json(config.read_text()).method.units.classes == classes
    for name in names[1:]:
        assert list(results["units"][name]) == ["0", "1"]
    for task, score in (("phones", "per"), ("digits", "wer")):
        arms = results["recognition"][task]
        nothing = ["no pre-training", "no pre-training, pre-norm"]
        assert list(arms) == [*nothing, "wav2vec 2.0", "HuBERT"]
        assert all(len(arm[score]) == 1 and arm[score][0] > 0 for arm in arms.values())
    kept = json.loads((tmp_path / "curves.json").read_text())
    assert kept["iteration 2"]["train/masked_accuracy"]["step"][-1] == 5  # 1.6 times 3
    assert kept["wav2vec 2.0"]["train/contrastive_loss"]["step"][-1] == 8
    utterance = json.loads((tmp_path / "utterance.json").read_text())
    assert list(utterance["units"]) == ["iteration 1", "iteration 2"] and utterance["phones"]
    assert (tmp_path / "results.png").stat().st_size > 50_000


@pytest.mark.slow
def test_the_quickstart_reports_every_seed_and_is_the_same_side_by_side(tmp_path, monkeypatch):
    pytest.importorskip("espeakng_loader")
    monkeypatch.chdir(ROOT)
    options = {"clips": 160, "valid_clips": 40, "test_clips": 40, "labels_per_class": 3}
    options |= {"pretrain_steps": 4, "finetune_steps": 4, "seeds": 2, "allow_low_turnover": True}
    overrides = [f"--{k}={v}" for k, v in options.items()]
    root = pipeline.run("experiments/quickstart.py", str(tmp_path / "q"), overrides)
    results = json.loads((root / "results.json").read_text())
    for arm in ("scratch", "pretrained"):
        assert len(results[arm]) == 2 and all(0 <= x <= 1 for x in results[arm])
    assert (root / "report.png").stat().st_size > 20_000
    page = (root / "report.html").read_text()
    assert "data:image/png;base64," in page and "scratch" in page and "http" not in page
    assert "With 3 labels per word, the pre-trained model reaches" in page
    links = re.findall(r'href="([^"#]+/report.html)"', page)
    assert len(links) == 5 and all((root / link).is_file() for link in links)
    kept = json.loads((root / "curves.json").read_text())
    assert kept["pre-training"]["train/loss"]["step"][-1] == 4
    if len(os.sched_getaffinity(0)) > 1:
        beside = tmp_path / "beside"
        shutil.copytree(root / "corpus", beside / "corpus")
        pipeline.run("experiments/quickstart.py", str(beside), [*overrides, "--seeds=1"], jobs=2)
        for name in ("pretrain-0", "scratch-0", "pretrained-0"):
            assert _parameters(root, name) == _parameters(beside, name)


def _parameters(root: Path, stage: str) -> list[bytes]:
    (folder,) = root.glob(f"{stage}-*")  # whose signature counts where the data lie
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(ssl_jax.load(folder).params)]


def _images(folder: Path) -> None:
    """Writes train.tar and test.tar of images of noise in two classes."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        with tarfile.open(folder / f"{split}.tar", "w") as archive:
            for i in range(count):
                image = folder / f"{split}{i}.png"
                Image.fromarray(draw.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(image)
                archive.add(image, f"{'ab'[i % 2]}/{image.name}")


def _untrained(monkeypatch, *names):
    """Leaves the runs of these methods as they begin: compiling their steps takes the longest."""
    train = pipeline._train

    def made(config, folder, *rest):
        if config.method.name in names:
            weights.create(folder, config, lambda state: state)
        else:
            train(config, folder, *rest)

    monkeypatch.setattr(pipeline, "_train", made)


@pytest.mark.slow
def test_dmae_trains_students_of_one_teacher_and_decides_its_claims(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    _untrained(monkeypatch, "mae")
    _images(tmp_path)
    two, align = BLOCK | {"depth": 2}, {"student": (1,), "teacher": (1,)}
    smaller(monkeypatch, TEACHER=two, STUDENT=two, DECODER=BLOCK, ALIGN=align)
    options = {"data": tmp_path, "seeds": 1, "steps": 2, "teacher_steps": 2}
    options |= {"batch": 4, "longer": 2, "few_labels": "(0.5,)", "tune_steps": 2, "out": tmp_path}
    overrides = [f"--{k}={v}" for k, v in options.items()]
    root = pipeline.run("experiments/dmae/program.py", str(tmp_path / "run"), overrides)
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["probe"]) == {*ARMS, "teacher", "random encoder", "pixels"}
    assert all(len(v) == 1 and 0 <= v[0] <= 1 for v in results["probe"].values())
    few = results["few labels"]["50 %"]
    assert set(few) == {"MAE 75 %", "DMAE 75 %", "from scratch", "distilled logits", "teacher"}
    (expert,) = root.glob("tuned-0.5-teacher-*")
    (distilled,) = root.glob("tuned-0.5-distilled-*/config.json")
    distilled = config_lib.of_file(distilled)
    assert distilled.method.teachers.teacher == str(expert) and distilled.data.label_share == 1
    assert len(results["claims"]) == 3 and not any(c["held"] for c in results["claims"])
    (teacher,) = root.glob("teacher-*")
    for config in root.glob("dmae-*/config.json"):
        assert config_lib.of_file(config).method.teachers.teacher == str(teacher)
    assert (tmp_path / "results.png").stat().st_size > 20_000


def test_a_run_starts_from_several_runs_by_prefix(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(pipeline, "_train", lambda config, *_: trained.append(config))
    pipe = pipeline.Pipe(tmp_path / "run", {})
    one, two = (pipe.stage("import", name, {}, lambda folder: None) for name in ("one", "two"))
    config = ConfigDict({"data": dict.fromkeys(("train", "valid", "test"), ConfigDict({}))})
    config.init_from = ""
    starts = ({"encoder/a": one, "encoder/b": two}, {"encoder/b": one, "encoder/c": two}, one)
    stages = [pipe.train("run", config, start=start) for start in starts]
    folders = [str(pipe.folder(stage)) for stage in (one, two)]
    assert trained[0].init_from.to_dict() == {"encoder/a": folders[0], "encoder/b": folders[1]}
    assert trained[2].init_from == folders[0] and config.init_from == ""
    assert len({stage.signature for stage in stages}) == 3


@pytest.mark.slow
def test_mimco_trains_or_imports_its_teacher_and_decides_its_claims(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    _untrained(monkeypatch, "mae", "moco_v3")
    _images(tmp_path)
    smaller(monkeypatch, SIZE=BLOCK, DECODER=BLOCK)
    options = {"data": tmp_path, "seeds": 1, "moco_steps": 6, "mimco_steps": 2, "mae_steps": 2}
    options |= {"finetune_steps": 2, "labels_per_class": 2, "batch": 4, "out": tmp_path}
    run = [f"--{k}={v}" for k, v in options.items()]
    root = pipeline.run("experiments/mimco/program.py", str(tmp_path / "run"), run)
    results = json.loads((tmp_path / "results.json").read_text())
    own = {"MoCo v3", "MAE", "MimCo"}
    assert set(results["ridge"]) == set(results["knn"]) == {*own, "random encoder", "pixels"}
    assert set(results["fine-tuned"]) == {*own, "from scratch"}
    assert len(results["claims"]) == 4 and not any(c["held"] for c in results["claims"])
    assert (tmp_path / "results.png").stat().st_size > 20_000
    (teacher,) = root.glob("moco-0-*")
    run += [f"--teacher={teacher}"]
    root = pipeline.run("experiments/mimco/program.py", str(tmp_path / "again"), run)
    (student,) = root.glob("mimco-*/config.json")
    (copied,) = root.glob("teacher-*")
    assert config_lib.of_file(student).method.teachers.teacher == str(copied)
    assert not list(root.glob("moco-*"))
