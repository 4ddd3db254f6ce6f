"""The start of a run: what its encoder must share with that of config.init_from."""

import errno
from pathlib import Path

import jax
import pytest

from ssl_jax.core import config as config_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.engine import checkpoint, init_from, setup
from ssl_jax.planning import rescale

LARGE = "method.encoder.preset=wav2vec2_large"


def check(root, folder, there=(), here=()):
    """Writes the config of a run of HuBERT, and checks one of CTC that starts from it."""
    pretrained = config_lib.load(f"{root}/configs/hubert/audio.py:base", there)
    (folder / "config.json").write_text(config_lib.to_json(pretrained))
    tuned = config_lib.load(f"{root}/configs/ctc/speech.py:base_10h", here)
    init_from.check_encoders(config_lib.override(tuned, [f"init_from={folder}"]))


def test_dropouts_may_differ_and_a_norm_over_time_forgets_loudness(root, tmp_path):
    check(root, tmp_path)
    check(root, tmp_path, ["method.encoder.normalize=True"])
    tuned = config_lib.load(f"{root}/configs/ctc/speech.py", ["init_from=nowhere"])
    init_from.check_encoders(tuned)


@pytest.mark.parametrize(
    ("there", "here", "message"),
    [
        # clips that are normalized in one and not in the other: a costly mistake
        ((LARGE, "method.encoder.normalize=False"), (LARGE,), "normalize is True, .* with False"),
        ((), ("method.encoder.heads=8",), r"encoder.heads is 8, .* trained with 12: set it"),
        ((), ("method.encoder.norm=pre",), "encoder.norm is 'pre', .* trained with 'post'"),
        ((), ("method.encoder.conv_strides=(5,2,2,2,2,2,1)",), "conv_strides is .*2, 1"),
    ],
)
def test_the_encoder_is_the_function_that_was_trained(root, tmp_path, there, here, message):
    with pytest.raises(ConfigError, match=message):
        check(root, tmp_path, there, here)


def test_each_of_several_encoders_is_compared_with_its_run(root, tmp_path):
    pretrained = config_lib.load(f"{root}/configs/hubert/audio.py:base")
    (tmp_path / "config.json").write_text(config_lib.to_json(pretrained))
    two = config_lib.load(f"{root}/configs/ctc/speech.py:base_10h").copy_and_resolve_references()
    with two.unlocked():
        two.method.encoders = {"a": two.method.encoder, "b": two.method.encoder}
        del two.method["encoder"]
    given = [f"init_from.encoder/a={tmp_path}", "method.encoders.b.heads=8"]
    init_from.check_encoders(config_lib.override(two, given))
    with pytest.raises(ConfigError, match=r"encoders\.a\.heads is 8, .* trained with 12: set it"):
        init_from.check_encoders(config_lib.override(two, [*given, "method.encoders.a.heads=8"]))
    changed = config_lib.override(two, ["method.encoders.b.remat=full"])
    checkpoint.check_same_config(two, changed, tmp_path)
    remats = {key for change in rescale.variants(two, 1) for key in change if "remat" in key}
    assert remats == {"method.encoders.a.remat", "method.encoders.b.remat"}


@pytest.mark.parametrize("there", [True, False])
def test_a_cache_that_cannot_be_written_ends_no_run(tmp_path, monkeypatch, capsys, there):
    keys = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    folder = tmp_path / "cache"
    if there:
        folder.mkdir()
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("SSL_JAX_CACHE", str(folder))
    changed = {}
    monkeypatch.setattr(jax.config, "update", changed.__setitem__)

    def refuse(*given, **named):
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr(*((setup.tempfile, "TemporaryFile") if there else (Path, "mkdir")), refuse)
    setup.use_compilation_cache()
    told = capsys.readouterr().err
    assert told.startswith("compiled programs are not kept: ") and told.count("\n") == 1
    # existing ones are read, and none is written
    expected = dict(zip(keys, (str(folder), setup.NEVER_KEPT), strict=True)) if there else {}
    assert changed == expected
