"""What a command prints: characters that a terminal or pipe cannot show, and late noise."""

import io
import sys
from collections.abc import Callable

_installed: dict[str, Callable] = {}  # "hook": the one of `hush`


def forgive() -> None:
    r"""Lets standard output show a character that its encoding lacks as an escape, such as \u2019.

    The error stream does so by itself. Without this, printing a file name could end a run.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def hush() -> None:
    """Silences "Event loop is closed", which storage libraries print after an error.

    It comes from a thread of an abandoned save, and adds nothing to the error.
    """
    before = sys.unraisablehook
    if before is _installed.get("hook"):
        return

    def hook(what: "sys.UnraisableHookArgs") -> None:
        error = what.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            before(what)

    _installed["hook"] = sys.unraisablehook = hook
