"""A new method takes one file and one config: a throw-away one is added and trained here."""

import json
import shutil
import textwrap

import cases
import numpy as np
import pytest
import soundfile
from ml_collections import ConfigDict
from PIL import Image

import ssl_jax
from configs import common
from ssl_jax import methods, train
from ssl_jax.core import config as config_lib
from ssl_jax.engine import checkpoint

METHOD = '''
    """Predicts hidden loudness: a linear autoencoder over ten parts of a clip."""

    import jax
    import jax.numpy as jnp

    from ssl_jax.core.types import Features, Frozen, Method, Output, Spec

    PARTS = 10
    BATCH = {
        "id": Spec((), "uint32"),
        "weight": Spec((), "float32"),
        "audio": Spec((None,), "int16"),
        "audio_len": Spec((), "int32"),
    }


    def _loudness(batch):
        rows = batch["audio"].astype(jnp.float32) / 2**15
        parts = rows.reshape(rows.shape[0], PARTS, -1)
        return jnp.log(1e-4 + jnp.square(parts).mean(-1))


    def make(config, *, precision, sample_rate, num_classes):
        # the encoder of an earlier run, whose code this one learns too
        frozen = {name: Frozen(run, ("^encoder/",)) for name, run in config.teachers.items()}

        def init(key, batch):
            a, b = jax.random.split(key)
            return {
                "encoder": {"kernel": 0.1 * jax.random.normal(a, (PARTS, config.width))},
                "predictor": {"kernel": 0.1 * jax.random.normal(b, (config.width, PARTS))},
            }, {}

        def loss(params, extra, batch, streams, train):
            x = _loudness(batch)
            with jax.named_scope("mask"):
                draw = jax.vmap(lambda k: jax.random.uniform(k, (PARTS,)))
                hidden = draw(streams.for_examples("mask")) < 0.3
            with jax.named_scope("encoder"):
                z = jnp.where(hidden, 0, x) @ params["encoder"]["kernel"]
            with jax.named_scope("loss"):
                error = jnp.square(z @ params["predictor"]["kernel"] - x).mean(-1)
                for teacher in extra.get("frozen", {}).values():
                    error += jnp.square(z - x @ teacher["encoder"]["kernel"]).mean(-1)
                count = batch["weight"].sum()
                mean = (error * batch["weight"]).sum() / jnp.maximum(count, 1)
            return Output(mean, count, {"squared_error": (mean * count, count)}, extra)

        def features(params, batch, layers=None):
            x = _loudness(batch)[..., None]
            hidden = jnp.stack([jnp.tile(x, config.width), x * params["encoder"]["kernel"]])
            hidden = hidden if layers is None else hidden[jnp.array(layers)]
            length = batch["audio"].shape[1] / sample_rate
            return Features(hidden, jnp.ones(x.shape[:2], bool), PARTS / length)

        rules, scopes = ((".*", ()),), ("mask", "encoder", "loss")
        return Method(init, loss, features, BATCH, rules, scopes, frozen=frozen)
'''

CONFIG = '''
    """The throw-away method on four clips; any config is a file like this one."""

    from ml_collections import ConfigDict

    from configs import common


    def get_config(arg=None):
        config = common.base()
        config.method = ConfigDict({"name": "throwaway", "width": 4, "teachers": {}})
        clips = {"kind": "folder", "path": PATH, "label": "folder"}
        config.data.train.clips = ConfigDict(clips)
        config.data.valid.clips = ConfigDict(clips)
        config.data.train.clips.part = (0.0, 0.5)
        config.data.valid.clips.part = (0.5, 1.0)
        config.data.sample_rate = 8000
        config.data.buckets = (0.5,)
        config.data.batch_size = 4
        config.optim.lr = 0.03
        config.train.duration = "40 steps"
        config.eval.every = "20 steps"
        config.checkpoint.every = "20 steps"
        config.log.every = "5 steps"
        return config
'''


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Writes the method, its config and a corpus of eight clips; returns the loaded config."""
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "throwaway.py").write_text(textwrap.dedent(METHOD).lstrip())
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
    rng = np.random.default_rng(0)
    for i in range(8):
        word = tmp_path / "clips" / ("yes" if i % 2 else "no")
        word.mkdir(parents=True, exist_ok=True)
        swell = np.linspace(0.05, 0.5, 4000) if i % 2 else np.linspace(0.5, 0.05, 4000)
        soundfile.write(word / f"{i}.wav", swell * rng.normal(0, 0.2, 4000), 8000)
    from_here = f"PATH = {str(tmp_path / 'clips')!r}\n\n\ndef get_config"
    text = textwrap.dedent(CONFIG).lstrip().replace("def get_config", from_here)
    path = tmp_path / "throwaway_config.py"
    path.write_text(text)
    monkeypatch.syspath_prepend(str(cases.ROOT))
    return config_lib.load(str(path))


def test_a_new_method_is_one_file_and_one_config(config, tmp_path):
    workdir = tmp_path / "run"
    train.run(config, workdir)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    errors = {r["step"]: r["train/squared_error"] for r in rows if "train/squared_error" in r}
    assert errors[40] < 0.5 * errors[5]
    assert any("valid/squared_error" in row for row in rows)
    assert (workdir / "checkpoints" / "40").is_dir()
    assert (workdir / "signature.txt").read_text().strip() == config_lib.sign(config)


PAIRS = '''
    """Draws two views of an image together and other images apart."""

    import jax
    import jax.numpy as jnp

    from ssl_jax.core.types import Features, Method, Output, Spec
    from ssl_jax.ops import contrast, losses

    SIZE = 8
    BATCH = {
        "id": Spec((), "uint32"),
        "weight": Spec((), "float32"),
        "image": Spec((2, SIZE, SIZE, 3), "uint8"),
    }


    def make(config, *, precision, sample_rate, num_classes):
        def init(key, batch):
            kernel = 0.1 * jax.random.normal(key, (SIZE * SIZE * 3, config.width))
            return {"encoder": {"kernel": kernel}}, {}

        def encode(params, image):
            x = image.reshape(len(image), -1) / 128.0 - 1
            return x @ params["encoder"]["kernel"]

        def loss(params, extra, batch, streams, train):
            first, second = (encode(params, batch["image"][:, i]) for i in (0, 1))
            logits = contrast.batch_logits(first, second, batch["weight"], 0.2)
            mean, count = losses.masked_mean(contrast.batch_info_nce(logits), batch["weight"])
            return Output(mean, count, {"apart": (first.std(0).mean(), jnp.ones(()))}, extra)

        def features(params, batch):
            x = encode(params, batch["image"][:, 0])[None, :, None]
            return Features(x, jnp.ones(x.shape[1:3], bool), 0.0, (1, 1))

        couples = {"the negatives of an image are the other images of its batch": ""}
        return Method(init, loss, features, BATCH, ((".*", ()),), ("loss",), couples=couples)
'''


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    """Writes a method of two views and sixteen images; returns its config."""
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "pairs.py").write_text(textwrap.dedent(PAIRS).lstrip())
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
    (tmp_path / "images").mkdir()
    draw = np.random.default_rng(0)
    for i in range(16):
        image = draw.integers(0, 256, (2, 2, 3)).astype(np.uint8).repeat(6, 0).repeat(6, 1)
        Image.fromarray(image).save(tmp_path / "images" / f"{i}.png")
    config = common.base()
    config.method = ConfigDict({"name": "pairs", "width": 8})
    config.data = common.image_data()
    for split, part in (("train", (0.0, 0.5)), ("valid", (0.5, 1.0))):
        source = {"kind": "image_folder", "path": str(tmp_path / "images"), "part": part}
        config.data[split].images = ConfigDict(source)
    config.data.update({"image_size": 8, "views": 2, "batch_size": 8})
    config.data.view_transforms.view2 = {"random_resized_crop": {}, "grayscale": {}}
    config.optim.lr = 0.03
    config.train.duration = config.eval.every = config.checkpoint.every = "20 steps"
    config.log.every = "5 steps"
    return config


def test_a_new_method_may_read_two_views_and_couple_rows(pairs, tmp_path):
    workdir = tmp_path / "run"
    train.run(pairs, workdir)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = {r["step"]: r["train/loss"] for r in rows if "train/loss" in r}
    assert losses[20] < 0.8 * losses[5]
    pairs.train.accumulate = 2
    with pytest.raises(
        config_lib.ConfigError,
        match=r"accumulate is 2, but the negatives of an image are the other",
    ):
        train.run(pairs, tmp_path / "parts")
    pairs.train.accumulate = pairs.data.views = 1
    pairs.data.view_transforms = ConfigDict({})
    with pytest.raises(
        config_lib.ConfigError,
        match=r"config.data.views is 1, .* takes 2 .*: set config.data.views=2",
    ):
        train.run(pairs, tmp_path / "one_view")


def test_a_method_of_one_view_refuses_two(pairs, tmp_path):
    pairs.method = common.mae()
    pairs.method.encoder = ConfigDict({"kind": "vit", "image_size": 8, "patch_size": 4})
    with pytest.raises(
        config_lib.ConfigError,
        match=r"config.data.views is 2, .* takes 1 .*: set config.data.views=1",
    ):
        train.run(pairs, tmp_path / "run")


@pytest.mark.slow
def test_a_frozen_teacher_is_one_declaration(config, tmp_path):
    folders = [tmp_path / name for name in ("first", "untaught", "taught")]
    kernels = []
    for folder, seed in zip(folders, (1, 0, 0), strict=True):
        with config.unlocked():
            config.seed = seed
            if folder.name == "taught":
                config.method.teachers.first = str(folders[0])
        train.run(config, folder)
        kernels.append(checkpoint.restore_params(folder)["encoder"]["kernel"])
    first, untaught, taught = kernels
    assert np.abs(taught - first).mean() < 0.7 * np.abs(untaught - first).mean()
    assert checkpoint.restore_extra(folders[2]) == {}
    shutil.rmtree(folders[0])
    ssl_jax.load(folders[2])  # a student is used without its teacher
    with pytest.raises(ValueError, match=r"^config\.method\.teachers\.first is .* no run folder"):
        train.run(config, folders[2])
