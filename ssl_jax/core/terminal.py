"""What a command prints, on terminals and in pipes that cannot show every character."""

import io
import sys
from collections.abc import Callable

_told: dict[str, Callable] = {}  # by: the hook that `hush` put in


def forgive() -> None:
    r"""Lets standard output show a character that its encoding lacks as an escape, such as \u2019.

    The error stream does so by itself. Without it a printed file name could end a run.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def hush() -> None:
    """Keeps "Event loop is closed", which storage tells after an error, from following that error.

    It comes when a save was given up, from a thread that nobody waits for, and says nothing more.
    """
    before = sys.unraisablehook
    if before is _told.get("by"):
        return

    def tell(what: "sys.UnraisableHookArgs") -> None:
        error = what.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            before(what)

    _told["by"] = sys.unraisablehook = tell
