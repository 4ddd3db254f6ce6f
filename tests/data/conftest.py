"""Small audio files in every layout, created anew for each test."""

import pathlib

import numpy as np
import pytest
import soundfile


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    """Keeps the indices of tests out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SSL_JAX_CACHE", str(folder))
    return folder


@pytest.fixture
def tone():
    """Returns tone(seconds, rate, frequency) -> int16 (n,), never silent."""

    def make(seconds=0.5, rate=16000, frequency=440.0):
        t = np.arange(round(seconds * rate)) / rate
        return np.rint(8000 * np.sin(2 * np.pi * frequency * t) + 100).astype(np.int16)

    return make


@pytest.fixture
def write(tone):
    """Returns write(path, seconds, rate, frequency) -> the int16 samples it wrote."""

    def make(path, seconds=0.5, rate=16000, frequency=440.0, **options):
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = tone(seconds, rate, frequency)
        soundfile.write(path, samples, rate, **options)
        return samples

    return make


@pytest.fixture
def data_config():
    """Returns data_config(train, **options) -> a data section as configs/common.py has it."""

    def make(train, **options):
        return {
            "train": train,
            "valid": {},
            "test": {},
            "sample_rate": 16000,
            "buckets": (0.5,),
            "min_seconds": 0.0,
            "batch_size": 4,
            "constant_seconds": False,
            "classes": (),
            "labels_per_class": 0,
            "label_share": 1.0,
            "label_seed": 0,
            "on_bad": "raise",
            "max_bad_share": 0.01,
            **options,
        }

    return make


@pytest.fixture
def image_config(data_config):
    """Returns image_config(train, **options) -> a data section of images of 8 x 8 pixels."""

    def make(train, **options):
        given = {
            "modality": "image",
            "image_size": 8,
            "transforms": {"random_resized_crop": {}, "flip": {}},
            "eval_transforms": {"center_crop": {"share": 0.8}},
            "min_side": 4,
            "keep_mb": 1.0,
            "max_bad_share": 0.5,
        }
        return data_config(train, **{**given, **options})

    return make


@pytest.fixture
def text_config(data_config):
    """Returns text_config(train, **options) -> a data section of text in blocks of 16 bytes."""

    def make(train, **options):
        given = {"modality": "text", "tokenizer": "byte", "block_tokens": 16, "break_mode": "none"}
        return data_config(train, **{**given, **options})

    return make
