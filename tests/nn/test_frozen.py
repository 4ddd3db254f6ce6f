"""Frozen teachers: which run a key names, its encoder cut off at a depth, and what goes wrong."""

import functools
import json

import jax
import numpy as np
import pytest

from ssl_jax.core import config as config_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import Frozen
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.nn import frozen

KEY = "config.method.teachers.teacher"


@pytest.fixture(scope="module")
def config(root):
    return config_lib.load(f"{root}/configs/mae/image.py:toy", ["method.encoder.depth=3"])


@pytest.fixture(scope="module")
def folder(config, tmp_path_factory):
    """A run folder as far as `read` goes: a config and the name of a checkpoint."""
    folder = tmp_path_factory.mktemp("runs") / "mae"
    (folder / "checkpoints" / "4").mkdir(parents=True)
    (folder / "config.json").write_text(config_lib.to_json(config))
    return folder


@pytest.fixture(scope="module")
def teacher(folder):
    return frozen.read(str(folder), KEY)


def test_a_run_is_found_by_its_folder_and_its_signature(config, folder, teacher, monkeypatch):
    monkeypatch.setenv("SSL_JAX_RUNS", str(folder.parent))
    sign = config_lib.sign(config)
    assert teacher.signature == sign and teacher.depth == 3
    assert frozen.read(sign[:6], KEY).folder == folder
    with pytest.raises(ConfigError, match=rf"^{KEY}: 'ffffff' is neither a folder nor the signa"):
        frozen.read("ffffff", KEY)


def test_a_config_stands_for_a_run_that_is_not_there_yet(root, config):
    planned = frozen.read(f"{root}/configs/mae/image.py:toy", KEY)
    assert planned.folder is None and planned.depth == 2
    assert planned.encoder("float32").width == config.method.encoder.width


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("empty", "is empty: set it to the folder of a finished run"),
        ("nothing", "is no run folder, as it has no config.json: use the --workdir of a finished"),
        ("unfinished", "a run without a complete checkpoint: let it finish first"),
    ],
)
def test_what_is_no_finished_run_is_refused_by_name(config, tmp_path, change, message):
    reference = "" if change == "empty" else str(tmp_path)
    if change == "unfinished":
        (tmp_path / "config.json").write_text(config_lib.to_json(config))
        # as orbax names one that is being written
        (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir(parents=True)
    with pytest.raises(ConfigError, match=f"^{KEY} .*{message}") as error:
        frozen.read(reference, KEY)
    assert "\n" not in str(error.value)


def test_a_depth_that_it_has_not_and_a_method_without_encoder(folder, teacher, tmp_path):
    with pytest.raises(ConfigError, match=rf"^{KEY} .* has 3 blocks, .*: use a depth of 1 to 3"):
        teacher.encoder("float32", depth=4)
    plain = json.loads((folder / "config.json").read_text())
    plain["method"] = {"name": "own"}
    (tmp_path / "config.json").write_text(json.dumps(plain))
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    with pytest.raises(ConfigError, match="a run of 'own', which has no config"):
        frozen.read(str(tmp_path), KEY).encoder("float32")


@pytest.mark.slow
def test_the_part_of_an_encoder_computes_what_the_whole_does(teacher):
    declared = frozen.encoder(teacher.reference, "float32")
    assert declared == Frozen(teacher.reference, ("^encoder/",), None, "float32")
    init = jax.jit(lambda key: frozen.init(teacher, declared, key))
    whole = init(jax.random.key(0))["encoder"]
    cut = frozen.part({"encoder": whole}, frozen.encoder("", "float32", 2), teacher)["encoder"]
    assert "final_norm" not in cut and set(whole) - set(cut) == {"final_norm"}
    assert cut["blocks"]["mlp"]["up"]["kernel"].shape[0] == 2
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    states = []
    for params, depth in ((whole, None), (cut, 2)):
        run = jax.jit(functools.partial(encoder_lib.features, teacher.encoder("float32", depth)))
        states.append(run(params, {"image": images}).hidden_states)
    np.testing.assert_array_equal(states[0][:3], states[1])


def test_matrices_are_held_in_the_type_of_products_and_norms_are_not(teacher):
    declared = frozen.encoder(teacher.reference, "bfloat16", 1)
    found = jax.eval_shape(lambda key: frozen.init(teacher, declared, key), jax.random.key(0))
    blocks = found["encoder"]["blocks"]
    assert blocks["mlp"]["up"]["kernel"].dtype == "bfloat16"
    norms = [name for name in blocks if "norm" in name]
    assert norms and all(blocks[name]["scale"].dtype == "float32" for name in norms)


def test_a_regex_that_fits_nothing_is_named(teacher):
    params = {"encoder": {"kernel": np.zeros((2, 2))}}
    with pytest.raises(ConfigError, match=r"has no parameter that fits '\^head/'.*encoder/kernel"):
        frozen.part(params, Frozen("", ("^encoder/", "^head/")), teacher)
