"""A run resumes with the data it began with, wherever it lies, or names what changed."""

import os
import shutil

import loudness_method
import pytest
import soundfile
import train_corpus as corpora

from ssl_jax import train
from ssl_jax.core import config as config_lib
from ssl_jax.engine import setup

KWS = str(corpora.CONFIGS / "supervised" / "kws.py") + ":toy"
TAKE = "low/00000005_nohash_0.wav"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Replaces the method by a tiny one, and leaves the user's cache alone."""
    make = loudness_method.make
    monkeypatch.setattr(train, "make_method", lambda config, n: make(config.method, num_classes=n))
    monkeypatch.setattr(setup, "use_compilation_cache", lambda: None)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A corpus, and a run of two steps on it."""
    top = tmp_path_factory.mktemp("begun")
    corpora.write_corpus(top / "tones")
    with pytest.MonkeyPatch.context() as patch:
        make = loudness_method.make
        patch.setattr(train, "make_method", lambda config, n: make(config.method, num_classes=n))
        patch.setattr(setup, "use_compilation_cache", lambda: None)
        train.run(load(top / "tones"), top / "run")
    return top


@pytest.fixture
def top(begun, tmp_path):
    """A copy of both, with the modification times of the files."""
    shutil.copytree(begun / "run", tmp_path / "run")
    shutil.copytree(begun / "tones", tmp_path / "tones")
    return tmp_path


def load(corpus):
    return config_lib.load(KWS, corpora.overrides(corpus, **{"train.duration": "2 steps"}))


def spoil(file):
    """Makes a file louder, keeping its size and modification time."""
    before = os.stat(file)
    samples, rate = soundfile.read(file)
    soundfile.write(file, 2 * samples, rate, subtype="PCM_16")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(file).st_size == before.st_size


def test_data_that_lie_elsewhere_are_the_same(top):
    sign = (top / "run" / "signature.txt").read_text()
    (top / "tones").rename(top / "moved")
    train.run(load(top / "moved"), top / "run")
    assert (top / "run" / "signature.txt").read_text() == sign  # the same run
    kept = config_lib.from_json((top / "run" / "config.json").read_text(encoding="utf-8"))
    assert kept.data.train.sc.path == str(top / "moved")


def test_other_data_stop_the_run_until_they_are_accepted(top, capsys):
    spoil(top / "tones" / TAKE)
    before = {p.name: p.read_bytes() for p in (top / "run").glob("*") if p.is_file()}
    for _ in range(2):  # a refused command changes nothing
        with pytest.raises(
            ValueError,
            match=rf"^config.data.train is not what .*run began with: 1 of \d+ files have "
            rf"changed, the first is sc/{TAKE} .*: --accept_data_change$",
        ):
            train.run(load(top / "tones"), top / "run")
    after = {p.name: p.read_bytes() for p in (top / "run").glob("*") if p.is_file()}
    assert {name: after[name] for name in before if name != "environment.jsonl"} == {
        name: data for name, data in before.items() if name != "environment.jsonl"
    }
    train.run(load(top / "tones"), top / "run", accept_data_change=True)
    assert "continuing although config.data.train is not what" in capsys.readouterr().err
    train.run(load(top / "tones"), top / "run")


def test_the_flag_of_the_command(top, monkeypatch):
    given = []
    monkeypatch.setattr(train, "run", lambda *args, **options: given.append(options))
    arguments = ["--config", KWS, "--workdir", str(top / "run")]
    train.main(arguments)
    train.main([*arguments, "--accept_data_change"])
    assert [options["accept_data_change"] for options in given] == [False, True]


def test_files_that_came_and_went_in_any_split(top):
    (top / "tones" / TAKE).rename(top / "tones" / "low" / "000000aa_nohash_0.wav")
    (top / "tones" / "mid" / "00000001_nohash_0.wav").unlink()
    with pytest.raises(
        ValueError,
        match=rf"config.data.train .* 1 are gone, .*sc/{TAKE}.* 1 are new, .*"
        r"sc/low/000000aa_nohash_0.wav; config.data.valid .* it has 11 rows, and had 12; 1 are gone"
        r", the first is row \d+, sc/mid/00000001_nohash_0.wav\. Put",
    ):
        train.run(load(top / "tones"), top / "run")


def test_another_config_is_named_before_its_data(top):
    config = load(top / "tones")
    with config.unlocked():
        config.data.train.sc.part = (0.0, 0.5)
    with pytest.raises(ValueError, match=r"another config:\n  config.data.train.sc.part"):
        train.run(config, top / "run")


def test_a_run_of_an_earlier_version_is_given_what_its_data_are_now(begun, top, capsys):
    def forget():
        for file in (top / "run").glob("data-*.npz"):
            file.unlink()

    forget()
    train.run(load(begun / "tones"), top / "run")
    notice = "has no fingerprint of the data of train, valid from when it began"
    assert notice in capsys.readouterr().err
    train.run(load(top / "tones"), top / "run")
    assert notice not in capsys.readouterr().err
    forget()
    with pytest.raises(
        ValueError, match=r"config.data.*path has changed, and .* has no fingerprint"
    ):
        train.run(load(begun / "tones"), top / "run")
    train.run(load(begun / "tones"), top / "run", accept_data_change=True)
