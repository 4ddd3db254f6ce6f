import dataclasses
import io
import tarfile

import jax
import numpy as np
import pytest
import soundfile
from jax.sharding import AbstractMesh
from ml_collections import ConfigDict
from PIL import Image

from configs import common, datasets
from ssl_jax.core.config import ConfigError
from ssl_jax.core.mesh import AXES, make_mesh
from ssl_jax.core.types import Spec
from ssl_jax.data.batch_schedule import BatchSchedule
from ssl_jax.data.corpus import make_schedule
from ssl_jax.data.errors import DataError
from ssl_jax.engine import splits


@dataclasses.dataclass
class Reads:
    """Stands in for a method: only its inputs matter here."""

    batch: dict


@pytest.fixture
def images(tmp_path):
    """A run on six images of two classes, one of them broken."""
    with tarfile.open(tmp_path / "six.tar", "w") as tar:
        for i in range(6):
            file = io.BytesIO()
            Image.linear_gradient("L").resize((12, 12)).rotate(90 * i).save(file, "PNG")
            data = b"broken" if i == 5 else file.getvalue()
            info = tarfile.TarInfo(f"{'ab'[i % 2]}/{i}.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    config = common.base()
    config.data = common.image_data()
    config.data.update({"image_size": 8, "batch_size": 2, "on_bad": "skip", "max_bad_share": 0.5})
    config.data.train.six = ConfigDict({"kind": "image_tar", "path": str(tmp_path / "six.tar")})
    config.train.duration = "3 epochs"
    return config


@pytest.fixture
def text(tmp_path):
    """A run on two text files, one of which is not text."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("some words, " * 40)
    (folder / "b.txt").write_bytes(b"\xff\n")
    config = common.base()
    config.data = common.text_data()
    config.data.update({"block_tokens": 16, "batch_size": 2, "on_bad": "skip"})
    config.data.max_bad_share = 0.5
    config.data.train.a = ConfigDict({"kind": "text_files", "path": str(folder)})
    config.method.encoder = ConfigDict({"vocab_size": 261})
    return config


@pytest.fixture
def audio(tmp_path):
    """A run on two recordings of 0.3 and 0.4 seconds."""
    for i in (3, 4):
        samples = np.sin(np.arange(1600 * i) / 9)
        soundfile.write(tmp_path / f"{i}.wav", samples, 16000)
    config = common.base()
    config.data.batch_size = 2
    config.data.train.two = ConfigDict({"kind": "folder", "path": str(tmp_path)})
    return config


def shapes_of(config, tmp_path, **batch):
    split = splits.open_split(config, tmp_path / "run", "train")
    plan = make_schedule(split.corpus, config.data, seed=0)
    return splits.batch_shapes(Reads(batch), plan, split.corpus)


def test_rows_of_images_and_durations(images, tmp_path):
    split = splits.open_split(images, tmp_path / "run", "train")
    plan = make_schedule(split.corpus, images.data, seed=0)
    to_steps = splits.durations(images, plan)
    assert to_steps("100%") == 9 and to_steps("1 epochs") == 3 and to_steps("8 examples") == 4
    with pytest.raises(ConfigError, match="the batches have no length in seconds"):
        to_steps("1 hours")
    rows = list(split.rows(plan, ("image", "weight"), make_mesh({"data": 1}), start=0, stop=3))
    assert list(rows[0]) == ["image", "weight"] and rows[0]["image"].shape == (2, 8, 8, 3)
    assert np.concatenate([r["weight"] for r in rows]).sum() == 5
    assert len(split.tally) == 1
    assert "5.png" in (tmp_path / "run" / "skipped.jsonl").read_text()


def test_the_batch_is_what_the_method_reads(images, text, tmp_path):
    image = Spec((8, 8, 3), "uint8")
    found = shapes_of(images, tmp_path, image=image, label=Spec((), "int32"))
    assert found == {
        "image": jax.ShapeDtypeStruct((2, 8, 8, 3), "uint8"),
        "label": jax.ShapeDtypeStruct((2,), "int32"),
    }
    found = shapes_of(text, tmp_path, tokens=Spec((None,), "int32"))
    assert found["tokens"].shape == (2, 16)


def test_what_the_data_do_not_give_is_named(images, text, tmp_path):
    cases = [
        (
            images,
            "audio",
            (None,),
            r"reads 'audio', which config.data.train does not give .*'audio",
        ),
        (images, "target", (None,), r"'target' comes from config.data.train.<name>.target"),
        (images, "tags", (3,), r"'tags' comes from config.data.train.<name>.tags"),
        (images, "image", (16, 16, 3), r"gives \(8, 8, 3\): set config.data.image_size=16"),
        (text, "tokens", (64,), r"gives \(16,\): set config.data.block_tokens=64"),
    ]
    for config, name, shape, message in cases:
        with pytest.raises(ConfigError, match=message):
            shapes_of(config, tmp_path, **{name: Spec(shape, "int32")})


def test_every_token_needs_a_vector(text, tmp_path):
    text.method.encoder.vocab_size = 256
    message = r"vocab_size is 256, and config.data.tokenizer='byte' has 261 tokens: set it to 261"
    with pytest.raises(ConfigError, match=message):
        splits.open_split(text, tmp_path / "run", "train")


def test_text_that_is_left_out_is_listed_and_counted(text, tmp_path):
    split = splits.open_split(text, tmp_path / "run", "train")
    assert len(split.tally) == 1
    assert "not UTF-8" in (tmp_path / "run" / "skipped.jsonl").read_text()
    text.data.max_bad_share = 0.01
    with pytest.raises(DataError, match=r"1 of 33 rows cannot be used, .*max_bad_share=0.01"):
        splits.open_split(text, tmp_path / "other", "train")


def test_a_crop_that_is_longer_than_the_audio_is_an_error(audio, tmp_path):
    message = r"config.data.buckets ends at 1.0 s, but the longest .* has 0.400 s: end it at 0.4"
    with pytest.raises(ConfigError, match=message):
        splits.open_split(audio, tmp_path / "run", "train")
    audio.data.buckets = (0.5,)
    assert len(splits.open_split(audio, tmp_path / "run", "train").corpus) == 2
    audio.data.min_seconds = 0.5
    message = (
        r"config.data.min_seconds is 0.5, but the longest recording of config.data.train has 0.4"
    )
    with pytest.raises(DataError, match=message):
        splits.open_split(audio, tmp_path / "run", "train")


def on(chips):
    """Returns a mesh of that many chips, of which only the sizes are read."""
    return AbstractMesh((1, chips, 1, 1), AXES)


def test_a_run_goes_on_with_its_batches_on_other_devices(tmp_path, capsys):
    """Begun on 32 chips, resumed on 8, with and without micro-batches; 3 chips need other sizes."""
    config = common.base()
    config.data = datasets.librispeech(96)

    def sizes(chips):
        multiple = splits.multiple_of_run(config, on(chips), tmp_path)
        splits.keep_multiple(tmp_path, multiple)
        data = {"buckets": config.data.buckets, "batch_size": 96, "constant_seconds": True}
        return BatchSchedule(np.full(96, 3.0), **data, multiple=multiple).batch_sizes

    begun = sizes(32)
    assert begun == (480, 224, 160, 128, 96, 96) and sizes(8) == sizes(16) == sizes(1) == begun
    config.train.accumulate = 4
    assert sizes(8) == begun and not capsys.readouterr().err
    assert splits.batch_multiple(config, on(1)) == 8  # the value in a new run
    config.train.accumulate = 1
    splits.multiple_of_run(config, on(3), tmp_path)  # by a command that is refused afterwards
    assert "multiples of 24" in capsys.readouterr().err and sizes(8) == begun
    assert sizes(3) == sizes(6) == (480, 240, 144, 120, 120, 96)
    told = capsys.readouterr().err
    assert told.count("multiples of 32 examples") == 1 and "multiples of 24" in told


def test_all_hosts_take_the_multiple_of_the_first(tmp_path, monkeypatch):
    config = common.base()
    config.data = datasets.librispeech(96)
    (tmp_path / "multiple.txt").write_text("96\n")
    monkeypatch.setattr(splits.hosts, "is_first", lambda: False)
    monkeypatch.setattr(splits.hosts, "of_first", lambda mine: 32 if mine == 0 else mine)
    assert splits.multiple_of_run(config, on(16), tmp_path) == 32
    assert splits.multiple_of_run(config, on(3), tmp_path) == 24
    splits.keep_multiple(tmp_path, 24)
    assert (tmp_path / "multiple.txt").read_text() == "96\n"
