"""The runs of a config file's sweep(): signatures, folders, and the errors of an invalid one."""

import pytest

from ssl_jax.core import config as config_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.sweeps import sweep

FILE = """
from ml_collections import ConfigDict

def get_config(arg=None):
    return ConfigDict({"seed": 0, "path": "", "optim": {"lr": 1.0, "betas": (0.9, 0.99)}})

def sweep(s):
    return SWEEP
"""
LR_BY_SEED = 's.product({"optim.lr": (1, 2), "seed": range(2)})'


@pytest.fixture
def file(tmp_path):
    """Returns a function that writes a config file with a sweep."""

    def write(expression: str) -> str:
        path = tmp_path / "tiny.py"
        path.write_text(FILE.replace("SWEEP", expression))
        return str(path)

    return write


def test_runs_have_the_signature_and_the_folder_of_their_config(file, tmp_path):
    path = file(LR_BY_SEED)
    found = sweep.read(path, ["--config.path=x"], tmp_path)
    assert [run.values for run in found][2] == {"optim.lr": 2.0, "seed": 0}
    for run in found:
        config = config_lib.load(
            path, ["path=x", *(f"{name}={value}" for name, value in run.values.items())]
        )
        assert run.signature == config_lib.sign(config) and run.config == config
        assert run.folder == tmp_path / run.signature[:8]
    assert sweep.pick(found, "3") is sweep.pick(found, found[3].signature[:7]) is found[3]
    for name, message in (("4", "runs 0 to 3"), ("zz", "matches 0 signatures: use")):
        with pytest.raises(ConfigError, match=message):
            sweep.pick(found, name)


def test_a_run_that_a_chain_does_not_name_shows_the_value_it_has(file, tmp_path):
    found = sweep.read(file('s.chain({"optim.lr": (3,), "seed": (7,)})'), [], tmp_path)
    assert [run.values for run in found] == [
        {"optim.lr": 3.0, "seed": 0},
        {"optim.lr": 1.0, "seed": 7},
    ]


def test_a_sweep_reopens_as_it_was_begun(file, tmp_path):
    root = tmp_path / "root"
    found = sweep.read(file(LR_BY_SEED), [], root)
    sweep.write(root, found, {"config": "tiny.py"})
    file("s.product()")
    assert sweep.reopen(root) == found
    with pytest.raises(FileNotFoundError, match="holds no sweep: give --config"):
        sweep.reopen(tmp_path)
    config = found[1].folder / "config.json"
    config.write_text(config.read_text().replace("0.99", "0.98"))
    with pytest.raises(ConfigError, match=r"does not match the signature .* of run 1"):
        sweep.reopen(root)


def test_folders_of_no_run_of_the_sweep_are_found(file, tmp_path):
    root = tmp_path / "root"
    found = sweep.read(file(LR_BY_SEED), [], root)
    sweep.write(root, found, {})
    fewer = sweep.read(file('s.product({"optim.lr": (1, 2)})'), [], root)
    assert sorted(sweep.strangers(root, fewer)) == sorted([found[1].folder, found[3].folder])


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ('s.product({"optim.lrr": (1, 2)})', r"run 0: config\.optim\.lrr does .* mean 'lr'"),
        ('s.product({"lr": (1, 2)})', r"config\.lr does not exist: did you mean 'config.optim.lr'"),
        ('s.product({"seed": (0, 1.5)})', r"run 1: config\.seed is of type int and cannot be 1.5"),
        (
            's.chain({"optim.lr": (1, 2), "seed": (0, 1)})',
            r"runs 0 and 2 have the same signature \w+",
        ),
        ('s.product({"optim.lr": (1, 1.0)})', r"both are optim.lr=1.0; remove one of them"),
        ("None", r"returns None: return s\.product"),
        ("[]", r"returns \[\]: return s"),
        ("s.prodct()", r"line 8: AttributeError"),
        ('s.zip({"seed": (0, 1), "optim.lr": (1,)})', "seed has 2, optim.lr has 1"),
    ],
)
def test_a_wrong_sweep_is_named(file, tmp_path, expression, message):
    with pytest.raises(ConfigError, match=message):
        sweep.read(file(expression), [], tmp_path)


def test_a_config_without_a_sweep_gets_a_message_of_what_to_add(tmp_path):
    path = tmp_path / "plain.py"
    path.write_text(FILE.partition("def sweep")[0])
    with pytest.raises(ConfigError, match=r"has no function sweep\(s, arg=None\): add one"):
        sweep.read(str(path), [], tmp_path)


def test_names_of_folders_and_columns():
    assert sweep.default_root("configs/data2vec/kws.py:toy").as_posix() == "runs/data2vec-kws-toy"
    assert sweep.default_root("configs/tiny.py").as_posix() == "runs/tiny"
    names = ["method.ema.start", "optim.ema.start", "optim.lr", "seed", "a.seed"]
    short = ["method.ema.start", "optim.ema.start", "optim.lr", "seed", "a.seed"]
    assert list(sweep.short_names(names).values()) == short
    assert sweep.short_names(["method.mask.length"]) == {"method.mask.length": "mask.length"}
