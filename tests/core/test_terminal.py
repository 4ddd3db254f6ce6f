import io
import json
import sys
import types

from ssl_jax.core import paths, terminal


def test_a_character_that_the_terminal_lacks_is_shown_as_an_escape(monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="latin-1"))
    terminal.forgive()
    print("caf\u00e9 don\u2019t \udce0", flush=True)
    assert shown.getvalue() == b"caf\xe9 don\\u2019t \\udce0\n"


def test_half_of_a_pair_is_written_and_read_back(tmp_path):
    paths.append(tmp_path / "a", json.dumps({"name": "mod\udce0 \u00e9"}, ensure_ascii=False))
    text = (tmp_path / "a").read_text(encoding="utf-8")
    assert "\u00e9" in text and json.loads(text) == {"name": "mod\udce0 \u00e9"}


def test_only_the_echo_of_a_closed_loop_is_hushed(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    terminal.hush()
    hook = sys.unraisablehook
    terminal.hush()
    assert sys.unraisablehook is hook  # once
    for text in ("Event loop is closed", "another"):
        hook(types.SimpleNamespace(exc_value=RuntimeError(text)))
    assert [str(what.exc_value) for what in told] == ["another"]
