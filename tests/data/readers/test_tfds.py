import io
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from ssl_jax.data.corpus import open_split
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers.audio import encode_flac
from ssl_jax.data.readers.sources import open_source

library = pytest.importorskip("tensorflow_datasets")


def clip(i):
    return np.random.default_rng(i).integers(-9000, 9000, 800 + i).astype(np.int16)


def _stored(self, file, form):
    return np.array(file.read(), np.object_)


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """Returns prepare(encoded) -> the folder of a dataset of 4 clips, split validation."""
    from ssl_jax.data.readers import tfds

    tfds._library()  # so that the audio feature can be built
    from tensorflow_datasets.core.features import audio_feature as feature

    def make(encoded):
        class Clips(library.core.GeneratorBasedBuilder, skip_registration=True):
            """Four clips of two words."""

            VERSION = library.core.Version("1.0.0")
            pkg_dir_path = tmp_path

            def _info(self):
                audio = library.features.Audio(
                    file_format="flac", dtype=np.int16, sample_rate=16000, lazy_decode=encoded
                )
                label = library.features.ClassLabel(names=["no", "yes"])
                text = library.features.Text()
                features = {"audio": audio, "label": label, "text": text}
                return self.dataset_info_from_configs(
                    features=library.features.FeaturesDict(features)
                )

            def _split_generators(self, manager):
                del manager
                return {"validation": self._generate_examples()}

            def _generate_examples(self):
                for i in range(4):
                    audio = clip(i)
                    if encoded:
                        audio = io.BytesIO(encode_flac(clip(i), 16000))
                    yield i, {"audio": audio, "label": i % 2, "text": f"clip {i}"}

        # Writing needs two more features of TensorFlow; reading works without them.
        with monkeypatch.context() as patch:
            patch.setattr(feature._LazyDecoder, "encode_audio", _stored)
            patch.setattr(feature.Audio, "dtype", property(lambda self: self.np_dtype))
            builder = Clips(data_dir=str(tmp_path), file_format="array_record")
            builder.download_and_prepare()
            return builder.data_dir

    return make


@pytest.mark.parametrize("encoded", [True, False])
def test_a_prepared_dataset_is_read_without_tensorflow(prepare, encoded, cache_folder):
    import sys

    path = prepare(encoded)
    for _ in range(2):  # measured, then from the index
        source = open_source("valid.x", {"kind": "tfds", "path": str(path)})
        assert source.rates.tolist() == [16000] * 4
        order = [int(str(t).split()[1]) for t in source.columns["text"]]
        assert sorted(order) == [0, 1, 2, 3]
        for row, i in enumerate(order):
            assert source.columns["label"][row] == ("no", "yes")[i % 2]
            assert source.samples[row] == 800 + i
            np.testing.assert_array_equal(source.read(row)[0], clip(i))
            np.testing.assert_array_equal(source.read(row, 0.01, 0.02)[0], clip(i)[160:320])
    assert source.where(1).endswith("validation, row 2")
    assert len(list(cache_folder.glob("tfds-*"))) == 1 and "tensorflow" not in sys.modules


def test_errors_name_what_the_dataset_has(prepare, tmp_path):
    path = str(prepare(True))
    for options, message in [
        ({"split": "dev"}, r"no split 'dev': it has \['validation'\]"),
        ({"audio": "sound"}, "no feature audio='sound': it has"),
    ]:
        with pytest.raises(DataError, match=message):
            open_source("valid.x", {"kind": "tfds", "path": path, **options})
    with pytest.raises(DataError, match=r"is not a prepared TFDS dataset"):
        open_source("valid.x", {"kind": "tfds", "path": str(tmp_path)})


def test_a_shard_that_is_broken_or_gone_is_named(prepare):
    path = pathlib.Path(prepare(True))
    options = {"kind": "tfds", "path": str(path)}
    assert len(open_source("valid.x", options)) == 4
    (shard,) = path.glob("*.array_record*")
    for harm in (lambda: shard.write_bytes(shard.read_bytes()[:100]), shard.unlink):
        harm()
        with pytest.raises(DataError, match=r"validation, row 1: broken record: .* copy the data"):
            open_source("valid.x", options)


def test_another_version_is_refused_by_name(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "__version__", "5.0.0")
    with pytest.raises(DataError, match=r"tested with tensorflow-datasets 4.9.x, this is 5.0.0"):
        open_source("valid.x", {"kind": "tfds", "path": str(tmp_path)})


@pytest.fixture
def prepare_images(tmp_path):
    """Returns the folder of a dataset of 5 pictures of two classes, split train."""
    from ssl_jax.data.readers import tfds

    tfds._library()

    class Pictures(library.core.GeneratorBasedBuilder, skip_registration=True):
        """Five pictures."""

        VERSION = library.core.Version("1.0.0")
        pkg_dir_path = tmp_path

        def _info(self):
            features = {
                "image": library.features.Image(shape=(9, 8, 3), encoding_format="png"),
                "label": library.features.ClassLabel(names=["cat", "dog"]),
                "number": np.int64,
            }
            return self.dataset_info_from_configs(features=library.features.FeaturesDict(features))

        def _split_generators(self, manager):
            del manager
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(5):
                yield i, {"image": encoded(i), "label": i % 2, "number": i}

    def encoded(i):
        file = io.BytesIO()
        Image.fromarray(pixels(i)).save(file, "PNG")
        file.seek(0)
        return file

    builder = Pictures(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()
    return builder.data_dir


def pixels(i):
    return np.random.default_rng(i).integers(0, 256, (9, 8, 3)).astype(np.uint8)


def test_images_are_read_without_tensorflow(prepare_images, image_config, cache_folder):
    import sys

    source = {"kind": "tfds", "path": str(prepare_images)}
    for _ in range(2):  # read for its columns, then from the index
        corpus = open_split(image_config({"x": {**source, "target": "number"}}), "train")
        numbers = corpus.fields["target"].ravel().astype(int).tolist()
        assert sorted(numbers) == list(range(5)) and corpus.classes == ("cat", "dog")
        for row, i in enumerate(numbers):
            assert corpus.labels[row] == i % 2
            np.testing.assert_array_equal(np.asarray(corpus.read(row)), pixels(i))
    assert len(list(cache_folder.glob("tfds-*"))) == 1 and "tensorflow" not in sys.modules
    with pytest.raises(DataError, match=r"has no feature image='picture': it has"):
        open_split(image_config({"x": {**source, "image": "picture"}}), "train")


@pytest.mark.parametrize("form", ["proto", "snake", "legacy", "nested"])
def test_a_class_that_the_folder_names_is_not_imported(form, prepare, tmp_path, monkeypatch):
    path = pathlib.Path(prepare(True))
    (tmp_path / "evil_features.py").write_text("open('was_run', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    name = "evil_features.Audio"
    about = json.loads((path / "features.json").read_text())
    if form == "proto":
        about["pythonClassName"] = name
    elif form == "snake":
        del about["pythonClassName"]
        about["python_class_name"] = name
    elif form == "legacy":
        about = {"type": name, "content": {}}
    else:
        about["featuresDict"]["features"]["text"]["pythonClassName"] = name
    (path / "features.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match=r"names the feature class 'evil_features\.Audio'"):
        open_source("valid.x", {"kind": "tfds", "path": str(path)})
    assert not (tmp_path / "was_run").exists()
    assert library.features.FeatureConnector.cls_from_name(  # unchanged for everyone else
        "tensorflow_datasets.core.features.text_feature.Text"
    )


def test_a_module_that_the_folder_says_it_was_made_by_is_not_imported(
    prepare, tmp_path, monkeypatch
):
    path = pathlib.Path(prepare(True))
    (tmp_path / "evil_builder.py").write_text("open('was_run', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    about = json.loads((path / "dataset_info.json").read_text())
    about["moduleName"] = "evil_builder"
    (path / "dataset_info.json").write_text(json.dumps(about))
    source = open_source("valid.x", {"kind": "tfds", "path": str(path)})
    assert len(source.read(0)[0]) and not (tmp_path / "was_run").exists()
