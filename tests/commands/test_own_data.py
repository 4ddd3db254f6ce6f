"""From a folder of any audio and a table of labels to a model and a probe, and common mistakes."""

import re
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile
from own_corpus import write_recordings
from run_folder import make_run

from ssl_jax import evaluate, train
from ssl_jax.core import config as config_lib
from ssl_jax.data import corpus as corpus_lib
from ssl_jax.stages import embed

CONFIG = "configs/data2vec2/audio.py:own_toy"


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("own"), "pitch")


def overrides(folder):
    return [f"data.train.own.path={folder / 'recordings'}"]


def test_the_preset_skips_what_is_broken_and_holds_out_a_twentieth(root, recordings):
    config = config_lib.load(str(root / CONFIG), overrides(recordings))
    sides = [corpus_lib.open_split(config.data, split) for split in ("train", "valid")]
    assert [len(side) for side in sides] == [40, 2]
    assert config.data.on_bad == "skip"


@pytest.fixture(scope="module")
def run(root, recordings, tmp_path_factory):
    """A run folder with only the config of the recordings, which is all that the labels need."""
    folder = tmp_path_factory.mktemp("run")
    config = config_lib.load(str(root / CONFIG), overrides(recordings))
    (folder / "config.json").write_text(config_lib.to_json(config))
    return folder


def test_labels_become_the_data_of_the_probe(recordings, run):
    config = config_lib.from_json((run / "config.json").read_text())
    labels = embed.Labels(recordings / "labels.csv", "pitch", "speaker")
    found, given = embed.labelled(config, labels, run)
    assert given.window_seconds == 0.5
    # a clip of 0.7 s is two windows
    assert found.data.buckets == (0.5, 1.0)
    sides = {s: corpus_lib.open_split(found.data, s) for s in ("train", "valid", "test")}
    speakers = {
        s: {side.where(i).split("/s")[-1][0] for i in range(len(side))} for s, side in sides.items()
    }
    assert [len(speakers[s]) for s in sides] == [3, 1, 1]
    assert sides["train"].classes == ("high", "low")
    assert sum(map(len, sides.values())) == 40


def test_short_clips_are_not_padded_to_the_window_of_the_run(recordings, run):
    config = config_lib.from_json((run / "config.json").read_text())
    config = config_lib.override(config, ["data.buckets=(1.0, 2.0, 4.0)"])
    found, _ = embed.labelled(config, embed.Labels(recordings / "labels.csv", "pitch"), run)
    assert found.data.buckets == (1.0,)


def main_error(module, capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        module.main(arguments)
    return str(stopped.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "config.data.train.own.path='nowhere' does not exist (looked from "),
        ("", "config.data.train.own.path='' does not exist"),
        ("texts", "no sound file (.wav, .flac"),
        ("few", "config.data.valid.own.part=(0.95, 1.0) leaves none of its 1 rows: use a wider"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_line(tmp_path, monkeypatch, capsys, path, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no sound")
    (tmp_path / "few").mkdir()
    soundfile.write(tmp_path / "few" / "0.wav", 0.1 * np.sin(np.arange(8000)), 8000)
    given = f"--config.data.train.own.path={path}"
    monkeypatch.setattr(train.setup, "use_compilation_cache", lambda: None)
    if path == "few":
        config = config_lib.load(CONFIG, [given])
        with pytest.raises(ValueError, match="leaves none of its 1 rows: use a wider part"):
            corpus_lib.open_split(config.data, "valid")
        return
    told = main_error(train, capsys, "--config", CONFIG, "--workdir", "run", given)
    assert told.startswith("error: ") and message in told and "\n" not in told
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("gone.csv", "label"), "--labels gone.csv is not a file"),
        (("labels.csv", "label"), "no column 'label' among ['path', 'pitch', 'speaker']"),
        (("labels.csv", "tone"), "pass one of them as --label"),
        (("labels.csv", "pitch", "who"), "as --group"),
    ],
)
def test_labels_that_cannot_be_used_are_named(recordings, run, monkeypatch, labels, message):
    monkeypatch.chdir(recordings)
    config = config_lib.from_json((run / "config.json").read_text())
    with pytest.raises(ValueError, match=re.escape(message)):
        embed.labelled(config, embed.Labels(Path(labels[0]), *labels[1:]), run)


@pytest.mark.slow
def test_labels_that_cannot_be_used_are_one_line(root, recordings, tmp_path, monkeypatch, capsys):
    run = make_run(str(root / CONFIG), tmp_path, overrides=overrides(recordings))
    monkeypatch.chdir(recordings)
    monkeypatch.setattr(evaluate.start_lib, "use_compilation_cache", lambda: None)
    for arguments, message in (
        (("gone.csv",), "--labels gone.csv is not a file"),
        (("labels.csv", "--protocol", CONFIG), "give one of them"),
    ):
        told = main_error(evaluate, capsys, "--run", str(run), "--labels", *arguments)
        assert told.startswith("error: ") and message in told and "\n" not in told


def test_labels_lie_anywhere_and_no_clip_is_too_short(recordings, run, tmp_path, monkeypatch):
    """As for a model of others, whose recipe has a minimum, refuses bad files, and names data that
    do not exist."""
    config = config_lib.from_json((run / "config.json").read_text())
    strict = ["data.min_seconds=2.0", "data.on_bad=raise", "data.train.own.path=nowhere"]
    config = config_lib.override(config, strict)
    table = tmp_path / "labels.csv"
    table.write_bytes((recordings / "labels.csv").read_bytes())
    with pytest.raises(ValueError, match="--root"):
        embed.labelled(config, embed.Labels(table, "pitch"), run)
    root = embed.Labels(table, "pitch", root=str(recordings / "recordings"))
    monkeypatch.chdir(recordings / "recordings")
    for labels in (root, embed.Labels(table, "pitch")):
        found, _ = embed.labelled(config, labels, run)
        corpora = embed.open_splits(found, run, 1)
        assert sum(len(c.corpus) for c in corpora.values()) == 40
        assert found.data.on_bad == "skip"


def test_labels_of_images_and_of_texts(root, tmp_path):
    rng, rows = np.random.default_rng(0), []
    for i in range(10):
        pixels = rng.integers(0, 256, (20, 20, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{'ab'[i % 2]}")
    (tmp_path / "images.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    (tmp_path / "texts.csv").write_text('text,label\none,a\ntwo,b\n"3, three",a\nfour,b\n')
    for path, table in (("mae/image.py", "images.csv"), ("data2vec2/text.py", "texts.csv")):
        config = config_lib.load(str(root / f"configs/{path}:toy"))
        found, given = embed.labelled(config, embed.Labels(tmp_path / table), tmp_path / "run")
        corpora = embed.open_splits(found, tmp_path / "run", 1)
        rows = (tmp_path / table).read_text().splitlines()[1:]
        assert sum(len(c.corpus) for c in corpora.values()) == len(rows)
        assert corpora["train"].corpus.classes == ("a", "b") and "window_seconds" not in given


def test_batches_fit_and_shorter_buckets_have_as_many_seconds(recordings, run):
    config = config_lib.from_json((run / "config.json").read_text())
    config = config_lib.override(config, ["data.buckets=(0.5, 1.0)", "data.batch_size=64"])
    found = embed.open_splits(config, run, 2, most=6)["train"].config.data
    assert (found.batch_size, found.constant_seconds) == (6, True)
    found = embed.open_splits(config, run, 2, most=128)["train"].config.data
    assert (found.batch_size, found.constant_seconds) == (64, False)
    assert embed.bounded(config, 6).data.batch_size == 6
    assert embed.bounded(config, 64) is config


@pytest.fixture(scope="module")
def mixed(recordings):
    """Folders of images, of texts and of recordings, with files that are none of them."""
    folder = recordings / "mixed"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        pixels = rng.integers(0, 256, (20 + i, 30, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("\n\n".join(f"paragraph {k} of {i}" for k in range(5)))
    (folder / "notes.docx").write_bytes(b"PK")
    return folder


@pytest.mark.parametrize(
    "name", ["mae/image", "data2vec2/image", "data2vec2/text", "mae/spectrogram"]
)
def test_own_of_every_modality_needs_one_path(root, recordings, mixed, name):
    folder = recordings / "recordings" if name == "mae/spectrogram" else mixed
    config = config_lib.load(
        str(root / f"configs/{name}.py:own"), [f"data.train.own.path={folder}"]
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        sides = [corpus_lib.open_split(config.data, split) for split in ("train", "valid")]
    assert len(sides[0]) > 2 * len(sides[1]) > 0
    if folder == mixed:
        assert any(".docx (1)" in str(w.message) for w in told), "ignored endings are counted"
    method = train.make_method(config, 0)
    given = sides[0].specs(config.data.buckets[-1])
    for key, spec in method.batch.items():
        assert [n for n in spec.shape if n] == [
            m for n, m in zip(spec.shape, given[key][0], strict=True) if n
        ]
    if name != "data2vec2/image":  # the same encoder as that of mae
        tuned = config_lib.load(
            f"{root}/configs/supervised/own.py:{name.rpartition('/')[2]}",
            ["data.classes=('a','b')"],
        )
        assert tuned.method.encoder == config.method.encoder
        train.make_method(tuned, 2)


def test_every_split_is_checked_before_anything_is_printed(root, recordings, tmp_path, monkeypatch):
    monkeypatch.setattr(train.setup, "use_compilation_cache", lambda: None)
    told = []
    monkeypatch.setattr(train.log, "notify", told.append)
    (tmp_path / "empty").mkdir()
    given = [*overrides(recordings), f"data.valid.own.path={tmp_path / 'empty'}"]
    config = config_lib.load(str(root / CONFIG), given)
    with pytest.raises(ValueError, match=r"config.data.valid.own.path=.*no sound file"):
        train.run(config, tmp_path / "run")
    assert told == []


def test_data_of_a_recipe_that_are_not_here_are_replaced_by_a_table(root):
    config = config_lib.load(str(root / "configs/hubert/audio.py:base"))
    with pytest.raises(ValueError, match=r"'data/LibriSpeech' does not exist: .* --labels labels"):
        embed.check_present(config)
