import io
import json
import os
import subprocess
import sys
import types

import pytest

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
    hook(types.SimpleNamespace(exc_value=SystemExit(0)))  # a signal that is noted
    assert [str(what.exc_value) for what in told] == ["another"]


def test_libtpu_finds_the_names_that_it_looks_for_where_jax_found_no_chip(monkeypatch):
    names = ("TPU_ACCELERATOR_TYPE", "TPU_WORKER_HOSTNAMES")
    for chips in (True, False):
        for name in (*names, "TPU_SKIP_MDS_QUERY"):
            monkeypatch.delenv(name, raising=False)
        if not chips:
            monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
        terminal.no_tpu()
        assert [name in os.environ for name in names] == [not chips] * 2


@pytest.mark.slow
def test_with_libtpu_and_no_tpu_there_is_no_line_of_errors():
    pytest.importorskip("libtpu")
    program = "import jax; from ssl_jax.core import terminal; terminal.no_tpu(); jax.devices()"
    environment = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == ""
