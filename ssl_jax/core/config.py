"""Configs: load a Python file, override from text, lock, sign, compare, and read durations.

A config is a tree of sections whose values are bool, int, float, str, None, or tuples of these.
"""

import ast
import contextlib
import difflib
import functools
import hashlib
import inspect
import json
import math
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ssl_jax.core import paths, renamed, values

Value = Any
"""bool, int, float, str, None, or a tuple of values."""

SECTION = (ConfigDict, Mapping)  # a ConfigDict is not a Mapping


# where the package's configs/ may be: installed next to it, or at the root of a clone
ROOTS = tuple(Path(__file__).resolve().parents[1:3])


class ConfigError(ValueError):
    """A config that cannot be run; the message names the key and a value that would work."""


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


OPTIONS = re.compile(r"method\.encoder|method\.encoders\.[^.]+|eval\.decode|init_from")
"""Sections that need not have every key, and are checked where they are read: those of encoders
hold what differs from a preset, the next may lack keys that are newer than the run, and the last
may be a map of prefixes to runs in place of one run."""

ABSENT = _Absent()
"""Stands in `diff` for a key that one of the configs does not have."""


def load(path: str, overrides: Sequence[str] = (), function: str = "get_config") -> ConfigDict:
    """Returns the locked config of `configs/x.py`, `configs/x.py:arg`, or a run's config.json.

    A Python file defines `function(arg=None) -> ConfigDict`. An override is `a.b=value` or
    `--config.a.b=value`; the key must exist and keep its type, except that in OPTIONS it may be
    new. If a key is given twice, the last value wins. Raises ConfigError.
    """
    if path.endswith(".json"):
        if not paths.of(path).is_file():
            raise ConfigError(f"no config file {path}: give the config.json of a run folder")
        return override(of_file(paths.of(path)), overrides)
    config = call(path, function)
    if not isinstance(config, ConfigDict):
        kind = type(config).__name__
        raise ConfigError(f"{function} of {path} returns {kind}: return a ConfigDict")
    return override(config.unlock(), overrides)


def override(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """Returns a locked copy with keys changed by `a.b=value` texts; see `load`."""
    config = ConfigDict(_plain(config))
    for text in overrides:
        _override(config, text)
    return _locked(config)


def change(config: ConfigDict, values: Mapping[str, Value]) -> ConfigDict:
    """Returns a locked copy with keys changed to values: {"optim.lr": 1e-3}.

    A key must exist, except in OPTIONS, and keep its type. Raises ConfigError.
    """
    config = ConfigDict(_plain(config))
    for key, value in values.items():
        _set(config, key, functools.partial(_fitted, value))
    return _locked(config)


def _locked(config: Mapping[str, Any]) -> ConfigDict:
    """Returns a locked copy with plain values, and lists as tuples."""
    return ConfigDict(renamed.config(_plain(config))).lock()


def _plain(section: Mapping[str, Any], prefix: str = "config") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in section.items():
        name = f"{prefix}.{key}"
        if not isinstance(key, str) or not key or "." in key:
            raise ConfigError(f"{prefix} has the key {key!r}: use a word without a dot")
        out[key] = _plain(value, name) if isinstance(value, SECTION) else _leaf(value, name)
    return out


def _leaf(value: Any, name: str) -> Value:
    value = values.plain(value)
    if isinstance(value, list | tuple):
        return tuple(_leaf(v, name) for v in value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} is {value}: use a finite number")
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise ConfigError(
        f"{name} is {value!r} of type {type(value).__name__}: use bool, int, float, str, None, "
        f"a tuple of these, or a section of its own"
    )


def call(path: str, function: str, *given: Any) -> Any:
    """Returns function(*given) of `configs/x.py`, or function(*given, arg) of `configs/x.py:arg`.

    With something in `given`, the function need not take the argument. Raises ConfigError naming
    the line where it fails.
    """
    name, _, arg = path.partition(".py:")
    named = f"{name}.py" if arg or path.endswith(".py:") else path
    file = _local(named)
    root = Path.cwd() if paths.is_remote(named) else _root(file.resolve())
    try:
        with _importable(root):
            # not an import: no cached bytecode, no entry in sys.modules
            space: dict[str, Any] = {"__name__": file.stem, "__file__": str(file)}
            exec(compile(file.read_bytes(), str(file), "exec"), space)
            found = space.get(function)
            if found is None:
                names = ", ".join(["s"] * len(given) + ["arg=None"])
                raise ConfigError(f"{file} has no function {function}({names}): add one")
            takes = len(inspect.signature(found).parameters) > len(given)
            if arg and not takes and not given:
                raise ConfigError(f"{function}() of {file} takes no argument: drop ':{arg}'")
            return found(*given, arg) if arg and takes else found(*given)
    except ConfigError:
        raise
    except Exception as error:  # whatever the file raises: name the line
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if _same(f, file)]
        where = f" line {lines[-1]}" if lines else ""
        raise ConfigError(f"{file}{where}: {type(error).__name__}: {error}") from error


def shipped(name: str | Path) -> Path | None:
    """Returns the file of this name, such as configs/x.py, shipped with the package."""
    return next((root / name for root in ROOTS if (root / name).is_file()), None)


def _beside(file: Path) -> Path:
    """Returns the file or, if there is none, that of the same name shipped with the package."""
    return file if file.is_file() else shipped(file) or file


def _local(path: str) -> Path:
    """Returns a config file, or a local copy of one in an object store."""
    if paths.is_remote(path):
        try:
            return paths.fetched(path)
        except FileNotFoundError as error:
            raise ConfigError(f"no config file {path}") from error
    file = _beside(Path(path))
    if not file.is_file():
        raise ConfigError(f"no config file {file}{_nearby(file)}")
    return file


def _same(frame: traceback.FrameSummary, file: Path) -> bool:
    return Path(frame.filename) == file


def _nearby(file: Path) -> str:
    folder = file.parent
    places = [folder, *(root / folder for root in ROOTS)]
    names = sorted({p.name for place in places for p in place.glob("*.py")})
    near = difflib.get_close_matches(file.name, names, 1) or names[:1]
    if near:
        return f": did you mean {folder / near[0]}?"
    if folder.is_dir():
        return f": {folder} holds no .py file"
    others = {str(p.relative_to(root)) for root in ROOTS for p in (root / "configs").glob("*/*.py")}
    like = difflib.get_close_matches(str(file), sorted(others), 1)
    hint = f"; did you mean {like[0]}?" if like else ""
    return f": there is no folder {folder}{hint}"


def _root(file: Path) -> Path:
    """Returns the folder from which `from configs import common` works for this file."""
    for folder in file.parents:
        if folder.name == "configs":
            return folder.parent
        if (folder / "configs").is_dir():
            return folder
    return next((root for root in ROOTS if (root / "configs").is_dir()), file.parent.parent)


@contextlib.contextmanager
def _importable(root: Path) -> Iterator[None]:
    """Puts `root` first on the import path, and hides `configs` modules of any other root."""

    def own() -> dict[str, Any]:
        return {n: m for n, m in sys.modules.items() if n.split(".")[0] == "configs"}

    before, path = own(), list(sys.path)
    for name in before:
        del sys.modules[name]
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path[:] = path
        for name in own():
            del sys.modules[name]
        sys.modules.update(before)


def _override(config: ConfigDict, text: str) -> None:
    """Sets one key of an unlocked config from `a.b=value` or `--config.a.b=value`."""
    key, equals, value = text.partition("=")
    key = key.strip().removeprefix("--").removeprefix("config.")
    if not equals or not key:
        raise ConfigError(f"override {text!r}: write --config.section.key=value")
    _set(config, key, functools.partial(_parse, value))


def _set(config: ConfigDict, key: str, new: Callable[[str, Value], Value]) -> None:
    """Sets one key of an unlocked config to new(name of the key in errors, old value)."""
    *sections, last = key.split(".")
    section: Any = config
    for i, part in enumerate(sections):
        _check_key(config, section, part, sections[:i], last)
        if key.startswith("init_from.") and section[part] == "":
            del section[part]  # a map of prefixes to runs in place of one run
            section[part] = ConfigDict({})
        section = section[part]
        if not isinstance(section, SECTION):
            name = ".".join(["config", *sections[: i + 1]])
            raise ConfigError(f"{name} is a value and has no keys: set it as --{name}={section!r}")
    if not OPTIONS.fullmatch(".".join(sections)):
        _check_key(config, section, last, sections, last)
    name, old = f"config.{key}", section.get(last)
    if isinstance(old, SECTION):
        use = f"set its keys, such as {name}.{min(old)}" if old else "fill it in the config file"
        raise ConfigError(f"{name} is a section: {use}")
    section[last] = new(name, old)


def _check_key(
    config: ConfigDict, section: Mapping[str, Any], key: str, parents: Sequence[str], last: str
) -> None:
    """Raises ConfigError unless `section` of `config` has `key`; `last` ends the full name."""
    if key in section:
        return
    hint = suggest(key, list(section))
    elsewhere = [name for name in flatten(config) if name.split(".")[-1] == last]
    if elsewhere and not hint.startswith("did"):
        hint = f"did you mean {'config.' + elsewhere[0]!r}?"
    where = ".".join(["config", *parents])
    raise ConfigError(f"{where}.{key} does not exist: {hint}")


def suggest(key: str, known: Sequence[str]) -> str:
    """Returns the end of an error about an unknown key or name: the closest one, or all of them."""
    alike = {name.casefold(): name for name in reversed(known)}
    near = difflib.get_close_matches(key, known, 1) or [
        alike[name] for name in difflib.get_close_matches(key.casefold(), list(alike), 1)
    ]
    if near:
        return f"did you mean {near[0]!r}?"
    if not known:
        return "the section is empty"
    names = sorted(known)
    return f"use one of {', '.join(names[:12])}" + (", ..." if len(names) > 12 else "")


def _parse(text: str, name: str, old: Value) -> Value:
    """Returns the value of an override, as the type that the key has now."""
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = {"true": True, "false": False, "none": None}.get(text.strip().lower(), text)
    if isinstance(old, str):
        if value is None and text.strip() == "None":
            raise ConfigError(f"{name} is a string and cannot be None: leave it empty, as {name}=")
        return value if isinstance(value, str) else text
    return _fitted(value, name, old)


def _fitted(value: Any, name: str, old: Value) -> Value:
    return _leaf(_fit(name, values.plain(value), old), name)


def _fit(name: str, value: Any, old: Value) -> Value:
    """Returns `value` as the type of `old`; only an int may be converted, to a float.

    Tuples are compared item by item where the old one shows what its items are.
    """
    if old is None or (type(value) is type(old) and not isinstance(old, list | tuple)):
        return value
    if isinstance(old, float) and type(value) is int:
        return float(value)
    if isinstance(old, list | tuple) and isinstance(value, list | tuple):
        name = f"an item of {name.removeprefix('an item of ')}"
        if len({type(v) for v in old}) == 1:
            return tuple(_fit(name, v, old[0]) for v in value)
        if len(old) == len(value):
            return tuple(_fit(name, v, o) for v, o in zip(value, old, strict=True))
        if not old:
            return tuple(value)
    raise ConfigError(
        f"{name} is of type {type(old).__name__} and cannot be {value!r}: "
        f"use a value such as {_example(value, old)}"
    )


def _example(value: Any, old: Value) -> str:
    """Returns a value that works: the intended one, if it can be guessed."""
    if isinstance(old, bool):
        return f"{old}, or {not old}"
    if isinstance(old, tuple):
        return _example_tuple(value, old)
    if isinstance(value, tuple) and [type(v) for v in value] == [int, int]:
        value = "{}.{}".format(*value)  # 1,5
    if isinstance(value, str):
        value = values.number(value)
    if type(old) is int and type(value) in (int, float) and math.isfinite(value):
        return str(round(value))
    if type(old) is float and type(value) in (int, float) and math.isfinite(value):
        return repr(float(value))
    return repr(old)


def _example_tuple(value: Any, old: tuple) -> str:
    items: tuple = (value,)
    if isinstance(value, str):
        words = (word.strip() for word in value.split(","))
        # no empty words: as a pattern, one would match everything
        texts = any(type(v) is str for v in old)
        items = tuple(w if texts else values.number(w) for w in words if w)
    single = len(items) == 1 and len({type(v) for v in old}) == 1 and len(old) > 1
    numbers = all(type(v) is float for v in old)
    try:
        # one number is not enough for several, such as betas
        return repr(old if single and numbers else _fit("", items, old) or old)
    except ConfigError:
        return repr(old)


def flatten(config: Mapping[str, Any]) -> dict[str, Value]:
    """Returns dotted key -> value, sorted; an empty section has no entry."""
    out: dict[str, Value] = {}
    for key, value in sorted(config.items()):
        if isinstance(value, SECTION):
            out |= {f"{key}.{k}": v for k, v in flatten(value).items()}
        else:
            out[key] = value
    return out


def sign(config: Mapping[str, Any]) -> str:
    """Returns 16 hex digits; equal for two configs exactly when `diff` finds nothing."""
    text = _text(flatten(_plain(config)))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def diff(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Value, Value]]:
    """Returns dotted key -> (value in a, value in b) where they differ; 1 and 1.0 differ."""
    old, new = flatten(_plain(a)), flatten(_plain(b))
    pairs = {key: (old.get(key, ABSENT), new.get(key, ABSENT)) for key in sorted({*old, *new})}
    return {k: (x, y) for k, (x, y) in pairs.items() if _differ(x, y)}


def _differ(x: Value, y: Value) -> bool:
    if x is ABSENT or y is ABSENT:
        return True
    return _text(x) != _text(y)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def to_json(config: Mapping[str, Any]) -> str:
    """Returns indented JSON with sorted keys; tuples become lists. Raises ConfigError."""
    return json.dumps(_plain(config), indent=2, sort_keys=True, allow_nan=False) + "\n"


def from_json(text: str, where: str | Path = "config.json") -> ConfigDict:
    """Returns the locked config of `to_json`; lists become tuples.

    Raises ConfigError, naming the file `where`.
    """
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        what = f"is not JSON: {error}" if text.strip() else "is empty"
        raise ConfigError(f"{where} {what}; restore it from a copy, or use another run") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{where} holds {type(tree).__name__}: it should hold one object")
    return _locked(tree)


def of_file(path: Path) -> ConfigDict:
    """Returns the locked config of a config.json. Raises ConfigError naming it, and OSError."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text: {error}; restore it from a copy") from error
    return from_json(text, path)


_DURATION = re.compile(r"(\d[\d_]*(?:\.\d+)?(?:e[+-]?\d{1,2})?)\s*([kM]?)\s*([a-z]*|%)")
_SUFFIX = {"": 1, "k": 1_000, "M": 1_000_000}
_UNITS = ("steps", "epochs", "examples", "hours", "%")


def steps(
    duration: int | str,
    *,
    batch_size: int,
    examples: int,
    seconds_per_step: float,
    total: int | None,
    key: str = "duration",
) -> int:
    """Returns a duration, a number of steps or text, in steps, rounded up.

    Text is "100k steps", "200 epochs" of `examples`, "5M examples", "960 hours" of audio, or,
    where a part of a run is meant, "10%" of `total` steps. Raises ConfigError naming `key`.
    """
    number, unit = _duration(duration, key)
    per = {"steps": Fraction(1)}
    if batch_size > 0:
        per["examples"] = Fraction(1, batch_size)
        if examples > 0:
            per["epochs"] = Fraction(examples, batch_size)
    if seconds_per_step > 0:
        per["hours"] = 3600 / Fraction(seconds_per_step)
    if total is not None:
        per["%"] = Fraction(total, 100)
    if unit not in per:
        raise ConfigError(f"{key} is {duration!r}: {_missing(unit)}")
    if unit == "%" and number > 100:
        raise ConfigError(f"{key} is {duration!r}: use at most '100%'")
    # hours come from floats: a rounding error must not add a step
    count = math.ceil(number * per[unit] - Fraction(1, 1_000_000))
    return max(count, 1) if number else 0


def steps_of(config: ConfigDict, examples: int = 0) -> int:
    """Returns the steps of a config over `examples`, with batches of the longest bucket.

    Raises ConfigError where the duration is in epochs and `examples` is 0.
    """
    data = config.data
    clip = float(data.buckets[-1]) if data.get("modality") == "audio" else 0.0
    return steps(
        config.train.duration,
        batch_size=data.batch_size,
        examples=examples,
        seconds_per_step=data.batch_size * clip,
        total=None,
        key="config.train.duration",
    )


def _duration(duration: int | str, key: str) -> tuple[Fraction, str]:
    """Returns (number, unit) of a duration; a number alone counts steps."""
    text = duration.strip() if isinstance(duration, str) else str(duration)
    match = None if isinstance(duration, bool | float) else _DURATION.fullmatch(text)
    if not match:
        raise ConfigError(
            f"{key} is {duration!r}: use a number of steps, or text such as '100k steps', "
            f"'200 epochs', '5M examples', '960 hours' or '10%'"
        )
    unit = match[3] or "steps"
    unit = unit if unit in _UNITS else unit + "s"  # 1 epoch
    if unit not in _UNITS:
        raise ConfigError(f"{key} is {duration!r}: {suggest(match[3], _UNITS)}")
    return Fraction(match[1].replace("_", "")) * _SUFFIX[match[2]], unit


def _missing(unit: str) -> str:
    return {
        "examples": "config.data.batch_size is not set: set it, or give a number of steps",
        "epochs": "the number of training examples or config.data.batch_size is 0: give steps",
        "hours": "the batches have no length in seconds: give steps, epochs or examples",
        "%": "a percentage of the run has no meaning here: give steps, epochs, examples or hours",
    }[unit]
