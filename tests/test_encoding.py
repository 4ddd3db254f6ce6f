"""No text is read or written in the encoding of the locale, which differs between machines."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("ssl_jax", "configs", "experiments")
# calls that read or write text unless their mode is binary, and the position of the mode
MODE_AT = {"open": 0, "fdopen": 1, "NamedTemporaryFile": 0, "TemporaryFile": 0}
BINARY = {"NamedTemporaryFile", "TemporaryFile"}  # by default
# modules whose `open` does not read text, or takes text as a name
OTHER_OPEN = {"Image", "wave", "zipfile", "av", "webbrowser", "os", "soundfile", "sf"}
ALWAYS = {"read_text", "write_text", "TextIOWrapper", "loadtxt", "savetxt", "genfromtxt"}
ALWAYS |= {"getoutput", "getstatusoutput"}
ENCODING_AT = {"read_text": 0, "write_text": 1}
OWN = {"paths", "atomic"}  # their write_text has a fixed encoding


def faults(source: str) -> Iterator[tuple[int, str]]:
    """Yields (line, name) of the calls in a file that use the encoding of the locale."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        given = {keyword.arg for keyword in node.keywords}
        if "encoding" in given or None in given:
            continue
        if name := _unsure(node):
            yield node.lineno, name


def _unsure(node: ast.Call) -> str:
    """Returns the name of a call that would use the locale's encoding, or ""."""
    method = isinstance(node.func, ast.Attribute)
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    owner = getattr(node.func.value, "id", "") if isinstance(node.func, ast.Attribute) else ""
    if len(node.args) > ENCODING_AT.get(name, len(node.args)):
        return ""
    if name in ALWAYS:
        return name if method and owner not in OWN else ""
    if name == "open" and owner == "tarfile":
        return name
    if name in MODE_AT and owner not in OTHER_OPEN - ({"os"} if name == "fdopen" else set()):
        plain = name == "open" and (not method or owner == "io" or owner in ("gzip", "bz2", "lzma"))
        mode = _mode(node, MODE_AT[name] + plain)
        binary = "b" in mode if mode else name in BINARY or owner in ("gzip", "bz2", "lzma")
        return "" if binary else name
    texts = [k for k in node.keywords if k.arg in ("text", "universal_newlines")]
    return name if any(getattr(k.value, "value", True) for k in texts) and _runs(name) else ""


def _mode(node: ast.Call, place: int) -> str:
    found = [k.value for k in node.keywords if k.arg == "mode"] or node.args[place : place + 1]
    return str(getattr(found[0], "value", "")) if found else ""


def _runs(name: str) -> bool:
    return name in {"run", "Popen", "check_output", "call", "check_call"}


@pytest.mark.parametrize("folder", [*FOLDERS, "setup.py"])
def test_every_text_is_utf8(folder):
    files = sorted((ROOT / folder).rglob("*.py")) if folder in FOLDERS else [ROOT / folder]
    bad = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in files
        for line, name in faults(path.read_text(encoding="utf-8"))
    ]
    assert files and not bad, "give encoding='utf-8':\n" + "\n".join(bad)


@pytest.mark.parametrize(
    "source",
    [
        "open('a')",
        "open('a', 'w')",
        "open('a', mode='a')",
        "path.open()",
        "path.open('r')",
        "io.open('a')",
        "gzip.open('a', 'rt')",
        "os.fdopen(3, 'w')",
        "path.read_text()",
        "path.write_text('x')",
        "tempfile.NamedTemporaryFile('w')",
        "subprocess.run(['a'], text=True)",
        "subprocess.Popen(['a'], universal_newlines=True)",
        "np.loadtxt('a')",
        "tarfile.open('a')",
    ],
)
def test_a_call_without_an_encoding_is_found(source):
    assert list(faults(source))


@pytest.mark.parametrize(
    "source",
    [
        "open('a', 'rb')",
        "open('a', encoding='utf-8')",
        "path.open('ab', buffering=0)",
        "path.read_text('ascii')",
        "path.write_text('x', 'ascii')",
        "Image.open('a')",
        "wave.open('a', 'w')",
        "gzip.open('a')",
        "tempfile.NamedTemporaryFile(dir='a')",
        "subprocess.run(['a'])",
        "subprocess.run(['a'], text=True, encoding='utf-8')",
        "atomic.write_text(path, 'x')",
    ],
)
def test_a_call_that_needs_none_is_let_through(source):
    assert not list(faults(source))
