"""Configs: files, overrides, signatures, the round trip through JSON, and durations."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import common
from ssl_jax.core import config as config_lib
from ssl_jax.core.config import ABSENT, ConfigError

FILE = '''"""A config."""
from ml_collections import ConfigDict

from configs import shared

def get_config(arg=None):
    config = ConfigDict(shared.base())
    config.name = arg or "plain"
    return config
'''
SHARED = """
def base():
    return {
        "seed": 0, "lr": 1.0, "fast": False, "name": "", "none": None,
        "sizes": (1.0, 2.0), "names": (), "mixed": ("a", 1.0), "rules": (("x", 1.0),),
        "list": [1, 2], "optim": {"betas": (0.9, 0.99), "warmup": "0 steps"}, "empty": {},
    }
"""


@pytest.fixture
def file(tmp_path):
    """Returns a config file in its own repository."""
    (tmp_path / "configs" / "kws").mkdir(parents=True)
    (tmp_path / "configs" / "shared.py").write_text(SHARED)
    path = tmp_path / "configs" / "kws" / "tiny.py"
    path.write_text(FILE)
    return path


def write(tmp_path, text: str) -> str:
    path = tmp_path / "plain.py"
    path.write_text(text)
    return str(path)


def test_load_runs_the_file_with_its_argument_and_locks(file):
    config = config_lib.load(str(file))
    assert (config.name, config.list) == ("plain", (1, 2))
    assert config.is_locked and config.optim.is_locked
    assert config_lib.load(f"{file}:toy").name == "toy"
    with pytest.raises((KeyError, AttributeError)):
        config.optim.new = 1


def test_load_takes_the_modules_of_its_own_repository(file, tmp_path):
    path, ours = list(sys.path), sys.modules["configs.common"]
    config_lib.load(str(file))
    assert sys.path == path
    assert sys.modules["configs.common"] is ours
    assert "configs.shared" not in sys.modules
    other = tmp_path / "other"
    (other / "configs").mkdir(parents=True)
    (other / "configs" / "shared.py").write_text(SHARED.replace('"seed": 0', '"seed": 5'))
    (other / "configs" / "a.py").write_text(FILE)
    # also in a folder next to configs, as for experiments
    (other / "experiments" / "kws").mkdir(parents=True)
    (other / "experiments" / "kws" / "a.py").write_text(FILE)
    assert config_lib.load(str(other / "configs" / "a.py")).seed == 5
    assert config_lib.load(str(other / "experiments" / "kws" / "a.py")).seed == 5
    assert config_lib.load(str(file)).seed == 0


def test_load_of_a_file_outside_any_repository(tmp_path):
    text = (
        "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'a': 1})"
    )
    assert config_lib.load(write(tmp_path, text)).a == 1


def test_configs_that_came_with_the_package_are_found_from_any_folder(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    own = "from configs.supervised import kws\ndef get_config():\n    return kws.get_config('toy')"
    expected = config_lib.load(str(root / "configs/supervised/kws.py:toy"))
    for path in ("configs/supervised/kws.py:toy", write(tmp_path, own)):
        assert config_lib.sign(config_lib.load(path)) == config_lib.sign(expected)
    # an existing file takes precedence
    (tmp_path / "configs/supervised").mkdir(parents=True)
    (tmp_path / "configs/supervised/kws.py").write_text("def get_config(arg): return None")
    with pytest.raises(ConfigError, match="returns NoneType"):
        config_lib.load("configs/supervised/kws.py:toy")


@pytest.mark.parametrize(
    ("text", "suffix", "words"),
    [
        ("x = 1", "", "no function get_config"),
        ("def get_config(): return {}", "", "returns dict: return a ConfigDict"),
        ("def get_config(): return {}", ":toy", "takes no argument: drop ':toy'"),
        ("\n\ndef get_config():\n    return 1 / 0", "", "line 4: ZeroDivisionError"),
        ("import no_such_module_here", "", "line 1: ModuleNotFoundError"),
        ("def get_config(:", "", "SyntaxError"),
    ],
)
def test_a_broken_file_is_one_error(tmp_path, text, suffix, words):
    with pytest.raises(ConfigError, match=words):
        config_lib.load(write(tmp_path, text) + suffix)


def test_a_missing_file_names_the_nearest(file):
    with pytest.raises(ConfigError, match=r"did you mean .*tiny\.py"):
        config_lib.load(str(file.with_name("tinny.py")))
    with pytest.raises(ConfigError, match="there is no folder"):
        config_lib.load(str(file.parent / "nowhere" / "a.py"))


@pytest.mark.parametrize("value", ["float('nan')", "{1, 2}", "[{'a': 1}]", "len"])
def test_a_value_that_json_can_not_hold_is_an_error(tmp_path, value):
    text = "from ml_collections import ConfigDict\ndef get_config():\n"
    text += f"    c = ConfigDict({{'a': {{}}}})\n    c.a.key = {value}\n    return c"
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=r"config\.a\.key is"):
        config_lib.load(path)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("--config.seed=7", "seed", 7),
        ("seed=1_000", "seed", 1000),
        ("seed=-3", "seed", -3),
        ("lr=1e-3", "lr", 1e-3),
        ("lr=2", "lr", 2.0),
        ("fast=true", "fast", True),
        ("fast=False", "fast", False),
        ("name=x=y", "name", "x=y"),
        ("name=12", "name", "12"),
        ("name='quoted'", "name", "quoted"),
        ("name=", "name", ""),
        ("none=0.5", "none", 0.5),
        ("sizes=(3, 4.5)", "sizes", (3.0, 4.5)),
        ("sizes=[3]", "sizes", (3.0,)),
        ("sizes=()", "sizes", ()),
        ("names=('a', 'b')", "names", ("a", "b")),
        ("mixed=('b', 2)", "mixed", ("b", 2.0)),
        ("rules=(('a', 0), ('.*', 2))", "rules", (("a", 0.0), (".*", 2.0))),
        ("list=(3,)", "list", (3,)),
        ("optim.warmup=10%", "optim.warmup", "10%"),
        ("optim.betas=0.8,0.9", "optim.betas", (0.8, 0.9)),
    ],
)
def test_override_keeps_the_type(file, override, key, value):
    got = config_lib.flatten(config_lib.load(str(file), [override]))[key]
    assert got == value
    assert config_lib.to_json({"v": got}) == config_lib.to_json({"v": value})  # 2.0 is not 2


def test_an_option_of_the_encoder_may_be_new(root):
    """Its section names a preset and what differs; options without a key are checked elsewhere."""
    changes = ["method.encoder.remat=full", "--config.method.encoder.drop_path=0.1"]
    config = config_lib.load(str(root / "configs/mae/image.py:toy"), changes)
    assert (config.method.encoder.remat, config.method.encoder.drop_path) == ("full", 0.1)
    with pytest.raises(ConfigError, match=r"config\.method\.remat does not exist"):
        config_lib.load(str(root / "configs/mae/image.py:toy"), ["method.remat=full"])


def test_a_run_may_be_decoded_with_an_option_that_is_newer_than_it(root):
    new = ["eval.decode.lexicon=words.txt", "eval.decode.beam=5"]
    config = config_lib.load(str(root / "configs/ctc/speech.py:toy"), new)
    assert (config.eval.decode.lexicon, config.eval.decode.beam) == ("words.txt", 5)


def test_the_last_override_wins(file):
    assert config_lib.load(str(file), ["seed=1", "--config.seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=fast", r"config\.seed is of type int and cannot be 'fast': .* such as 0"),
        ("seed=1.5", r"config\.seed is of type int and cannot be 1\.5"),
        ("seed=1e5", r"config\.seed .* such as 100000$"),
        ("seed=True", r"config\.seed is of type int and cannot be True"),
        ("seed=None", r"config\.seed is of type int and cannot be None"),
        ("lr=fast", r"config\.lr is of type float and cannot be 'fast': .* such as 1\.0"),
        ("lr=1e999", r"config\.lr is inf: use a finite number"),
        ("fast=1", r"config\.fast is of type bool .* such as False"),
        ("sizes=5", r"config\.sizes is of type tuple .* such as \(1\.0, 2\.0\)"),
        ("sizes=(1, 'a')", r"an item of config\.sizes is of type float and cannot be 'a'"),
        ("names=a,b", r"config\.names .* such as \('a', 'b'\)"),
        ("mixed=('b', 'c')", r"an item of config\.mixed is of type float and cannot be 'c'"),
        ("rules=((1, 1),)", r"an item of config\.rules is of type str and cannot be 1"),
        ("sede=1", r"config\.sede does not exist: did you mean 'seed'\?"),
        ("optim.warmpu=1", r"config\.optim\.warmpu does not exist: did you mean 'warmup'\?"),
        ("optin.warmup=1", r"config\.optin does not exist: did you mean 'optim'\?"),
        ("qqq=1", r"config\.qqq does not exist: use one of empty, fast"),
        ("empty.a=1", r"config\.empty\.a does not exist: the section is empty"),
        ("optim=1", r"config\.optim is a section: set its keys, such as config\.optim\.betas"),
        ("lr.x=1", r"config\.lr is a value and has no keys"),
        ("--config.lr", r"write --config\.section\.key=value"),
        ("=3", r"write --config\.section\.key=value"),
    ],
)
def test_a_wrong_override_is_one_error(file, override, words):
    with pytest.raises(ConfigError, match=words):
        config_lib.load(str(file), [override])


def test_json_round_trip_keeps_types_and_order():
    config = common.base()
    text = config_lib.to_json(config)
    again = config_lib.from_json(text)
    assert again.is_locked
    assert again.optim.decay_rules == ((".*", 1.0),)
    assert again.optim.betas == config.optim.betas and isinstance(again.optim.betas, tuple)
    assert config_lib.to_json(again) == text
    assert config_lib.sign(again) == config_lib.sign(config)
    assert config_lib.diff(config, again) == {}


def test_order_of_definition_does_not_matter():
    a = ConfigDict({"b": 1, "a": {"d": 1, "c": 2}})
    b = ConfigDict({"a": {"c": 2, "d": 1}, "b": 1})
    assert config_lib.to_json(a) == config_lib.to_json(b)
    assert config_lib.sign(a) == config_lib.sign(b)
    assert list(config_lib.flatten(b)) == ["a.c", "a.d", "b"]


def test_the_signature_of_known_content_never_changes():
    # run folders store it: if this fails, no existing run can resume
    config = {"a": {"x": 1, "y": (0.5, "é")}, "b": None, "c": True}
    text = r'{"a.x":1,"a.y":[0.5,"\u00e9"],"b":null,"c":true}'
    assert config_lib.sign(config) == hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": NaN}', '{"a": 1e999}', '{"a.b": 1}'])
def test_a_broken_config_json_is_one_error(text):
    with pytest.raises(ConfigError, match=r"config"):
        config_lib.from_json(text)


def test_diff_names_what_changed():
    a = {"x": {"one": 1, "two": (1, 2)}, "gone": 3, "same": "s", "kind": 1}
    b = {"x": {"one": 1, "two": (1, 3)}, "new": None, "same": "s", "kind": 1.0}
    assert config_lib.diff(a, b) == {
        "gone": (3, ABSENT),
        "kind": (1, 1.0),
        "new": (ABSENT, None),
        "x.two": ((1, 2), (1, 3)),
    }
    assert repr(ABSENT) == "(absent)"
    assert config_lib.sign(a) != config_lib.sign(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [({"k": 1}, {"k": 1.0}), ({"k": True}, {"k": 1}), ({"k": None}, {}), ({"k": ""}, {})],
)
def test_sign_and_diff_agree(a, b):
    assert config_lib.diff(a, b)
    assert config_lib.sign(a) != config_lib.sign(b)


def test_an_empty_section_is_no_difference():
    a, b = {"k": 1}, {"k": 1, "s": {}}
    assert config_lib.diff(a, b) == {}
    assert config_lib.sign(a) == config_lib.sign(b)


def steps(duration, **changes):
    facts = {"batch_size": 512, "examples": 67_874, "seconds_per_step": 512.0, "total": 1000}
    return config_lib.steps(duration, **(facts | changes), key="config.train.duration")


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (0, 0),
        (17, 17),
        ("17", 17),
        ("1 step", 1),
        ("100k steps", 100_000),
        ("1.5k", 1500),
        ("1e3 steps", 1000),
        ("10_000 steps", 10_000),
        ("200 epochs", 26_514),  # 200 * 67874 / 512 = 26513.3
        ("1 epoch", 133),  # KWS: 133 steps per epoch
        ("0.5 epochs", 67),
        ("5M examples", 9766),
        ("512 examples", 1),
        ("1 example", 1),
        ("960 hours", 6750),
        ("1 hour", 8),
        ("10%", 100),
        ("0.1 %", 1),
        ("100%", 1000),
        ("0 epochs", 0),
        ("0%", 0),
    ],
)
def test_durations(duration, expected):
    assert steps(duration) == expected


def test_a_rounding_error_adds_no_step():
    assert steps("1 hour", seconds_per_step=1 - 0.9) == 36_000  # 0.09999999999999998
    assert steps("10%", total=30) == 3
    assert steps("0.3 epochs", examples=10, batch_size=1) == 3


@pytest.mark.parametrize(
    ("duration", "changes", "words"),
    [
        ("fast", {}, "use a number of steps, or text such as"),
        ("-5 steps", {}, "use a number of steps"),
        (-5, {}, "use a number of steps"),
        (2.5, {}, "use a number of steps"),
        (True, {}, "use a number of steps"),
        ("5 epcohs", {}, "did you mean 'epochs'"),
        ("5 parsecs", {}, "use one of"),
        ("101%", {}, "at most '100%'"),
        ("10%", {"total": None}, "a percentage of the run has no meaning"),
        ("1 epoch", {"examples": 0}, "number of training examples"),
        ("1 epoch", {"batch_size": 0}, "batch_size is 0"),
        ("5 examples", {"batch_size": 0}, r"config\.data\.batch_size is not set"),
        ("1 hour", {"seconds_per_step": 0.0}, "no length in seconds"),
    ],
)
def test_a_wrong_duration_is_one_error(duration, changes, words):
    with pytest.raises(ConfigError, match=rf"config\.train\.duration is .*{words}"):
        steps(duration, **changes)


def test_change_sets_values_by_their_dotted_names(file):
    config = config_lib.load(str(file))
    changed = config_lib.change(config, {"optim.betas": [0.5, 1], "lr": 2, "none": "x"})
    assert (changed.optim.betas, changed.lr, changed.none) == ((0.5, 1.0), 2.0, "x")
    assert changed.is_locked and config.lr == 1.0
    for values, message in (
        ({"lr": "high"}, "config.lr is of type float"),
        ({"optim": 1}, "config.optim is a section: set its keys, such as config.optim.betas"),
        ({"optim.beta": 1}, "config.optim.beta does not exist: did you mean 'betas'"),
        ({"warmup": 1}, "config.warmup does not exist: did you mean 'config.optim.warmup'"),
        ({"seed": float("nan")}, "config.seed is of type int"),
        ({"none": object()}, "config.none is <object"),
    ):
        with pytest.raises(ConfigError, match=message):
            config_lib.change(config, values)


def test_call_hands_a_function_what_it_is_given_and_the_argument(tmp_path):
    text = "def sweep(s, arg='none'):\n    return s, arg\ndef alone(s):\n    return s.missing\n"
    text += "def bit_length(s):\n    return s.bit_length()\n"
    path = write(tmp_path, text)
    assert config_lib.call(path, "sweep", 5) == (5, "none")
    assert config_lib.call(f"{path}:toy", "sweep", 5) == (5, "toy")
    assert config_lib.call(f"{path}:toy", "bit_length", 5) == 3
    with pytest.raises(ConfigError, match=r"line 4: AttributeError: .* no attribute 'missing'"):
        config_lib.call(path, "alone", 5)
    with pytest.raises(ConfigError, match=r"has no function swep\(s, arg=None\): add one"):
        config_lib.call(path, "swep", 5)


@pytest.mark.slow
def test_an_installed_package_brings_its_configs(tmp_path, root):
    """Builds as pip does without -e, and loads a config of the build from another folder."""
    build = [sys.executable, "setup.py", "-q", "build", "--build-base", str(tmp_path / "base")]
    lib = tmp_path / "lib"
    subprocess.run([*build, "--build-lib", str(lib)], cwd=root, check=True, capture_output=True)
    program = (
        "from ssl_jax.core import config\n"
        "from ssl_jax.hub import families\n"
        "from ssl_jax.stages import weights\n"
        "print(config.__file__, config.load('configs/supervised/own.py:toy').method.name)\n"
        "recipe = weights._recipe(families.by_type('hubert', ''), 768)\n"
        "print(recipe, config.load(recipe).method.name)\n"
        "for name in ('configs/hubert/adio.py', 'configs/huber/audio.py'):\n"
        "    try:\n"
        "        config.load(name)\n"
        "    except config.ConfigError as error:\n"
        "        print(str(error).split()[-1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(lib)},
        capture_output=True,
        text=True,
        check=True,
    )
    there = lib / "ssl_jax"
    assert done.stdout.split() == [
        *(str(there / "core/config.py"), "supervised"),
        *(f"{there / 'configs/hubert/audio.py'}:base", "hubert"),
        *["configs/hubert/audio.py?"] * 2,  # existing ones are named
    ]


@pytest.mark.parametrize(
    ("text", "use"),
    [
        ("optim.lr=1,5", "such as 1.5"),
        ("optim.lr=2e\u20133", "such as 0.002"),  # a dash inserted by an editor
        ("optim.lr=None", "such as 0.0"),
        ("seed=1e3", "such as 1000"),
        ("seed=007", "such as 7"),
        ("eval.valid=off", "such as True, or False"),
        ("optim.betas='0.9,0.98'", "such as (0.9, 0.98)"),
        ("optim.betas=0.9", "such as (0.9, 0.999)"),
        ("data.buckets=2", "such as (2.0,)"),
        ("data.buckets=1,x", "such as (1.0,)"),
        ("optim.frozen=encoder", "such as ('encoder',)"),
        ("optim.frozen=encoder,", "such as ('encoder',)"),  # '' would freeze everything
        ("optim.frozen=,", "such as ()"),
        ("init_from=None", "leave it empty, as config.init_from="),
        ("optim.LR=1", "did you mean 'lr'"),
    ],
)
def test_a_value_that_was_meant_otherwise_is_named_with_one_that_works(text, use):
    base = config_lib.override(common.base(), [])
    with pytest.raises(ConfigError) as error:
        config_lib.override(base, [text])
    told = str(error.value)
    assert use in told and "\n" not in told
    if "such as " in told:
        value = told.rpartition("such as ")[2].removesuffix(", or False")
        config_lib.override(base, [f"{text.partition('=')[0]}={value}"])


def test_numbers_of_numpy_are_plain_ones():
    base = common.base()
    given = {
        "optim.lr": np.float64(0.5),
        "seed": np.int64(3),
        "optim.betas": np.array([0.9, 0.98]),
        "data.buckets": [np.float64(2.0)],
        "eval.valid": np.bool_(False),
        "optim.clip": np.array(1.0),
    }
    config = config_lib.change(base, given)
    plain = {
        "optim.lr": 0.5,
        "seed": 3,
        "optim.betas": (0.9, 0.98),
        "data.buckets": (2.0,),
        "eval.valid": False,
        "optim.clip": 1.0,
    }
    assert config_lib.sign(config) == config_lib.sign(config_lib.change(base, plain))
    of_a_file = ConfigDict({"betas": np.array([0.9, 0.98]), "lr": np.float64(0.5)})
    locked = config_lib.override(of_a_file, [])
    assert locked.betas == (0.9, 0.98) and type(locked.lr) is float
    with pytest.raises(ConfigError, match="use a finite number"):
        config_lib.change(base, {"optim.lr": np.float64("nan")})


@pytest.mark.parametrize(
    ("text", "told"), [("", "is empty"), ('{"a": ', "is not JSON"), ("\x00", "is not JSON")]
)
def test_a_broken_config_is_named_with_its_folder(tmp_path, text, told):
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=rf"{file} {told}"):
        config_lib.load(str(file))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=f"{file} is not text"):
        config_lib.of_file(file)


def test_init_from_is_a_run_or_a_map_of_prefixes_to_runs():
    config = ConfigDict({"init_from": "", "method": {"encoders": {"a": {"kind": "x"}}}})
    one = config_lib.override(config, ["init_from=runs/a=1"])
    assert one.init_from == "runs/a=1"
    texts = [
        "init_from.encoder/a=runs/a",
        "init_from.encoder/b=runs/b",
        "method.encoders.a.depth=3",
    ]
    several = config_lib.override(config, texts)
    assert several.init_from.to_dict() == {"encoder/a": "runs/a", "encoder/b": "runs/b"}
    assert several.method.encoders.a.depth == 3
    assert config_lib.from_json(config_lib.to_json(several)) == several
    assert len({config_lib.sign(c) for c in (config, one, several)}) == 3
    with pytest.raises(ConfigError, match=r"init_from is a value and has no keys"):
        config_lib.override(one, ["init_from.encoder/a=runs/a"])
