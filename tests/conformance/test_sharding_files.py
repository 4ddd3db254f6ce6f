"""The files of tests/conformance/sharding list the sharding of every parameter."""

import cases
import pytest
import sharding_files

QUICK = ("configs/hubert/audio.py", "configs/mae/image.py")


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[] if path in QUICK else [pytest.mark.slow])
        for path in cases.config_paths()
    ],
)
def test_state_lies_as_its_file_says(path):
    found, file = sharding_files.table(path), sharding_files.file_of(path)
    again = f"python tests/conformance/sharding_files.py {path}"
    assert file.exists() and found == file.read_text(), f"write it anew by {again}, and read it"


def test_every_file_has_its_config():
    files = {sharding_files.file_of(path) for path in cases.config_paths()}
    assert set(sharding_files.FOLDER.glob("*")) == files


def test_a_large_model_is_cut_as_often_as_there_are_chips():
    whole, *held = sharding_files.table("configs/hubert/audio.py").splitlines()[-1].split(" | ")[1:]
    total, chips = int(whole.split()[0].replace(",", "")), [8, 8]
    for text, ways in zip(held, chips, strict=True):
        assert int(text.split()[0].replace(",", "")) < 1.05 * total / ways
