"""What a command prints: characters that a terminal or pipe cannot show, and late noise."""

import io
import os
import sys
from collections.abc import Callable

_installed: dict[str, Callable] = {}  # "hook": the one of `hush`


def forgive() -> None:
    r"""Lets standard output show a character that its encoding lacks as an escape, such as \u2019.

    The error stream does so by itself. Without this, printing a file name could end a run.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def on_cpu() -> str:
    """Returns the first line of a command that needs no accelerator, whatever this machine has."""
    return f"1 device: cpu ({os.cpu_count()} cores)"


def no_tpu() -> None:
    """Gives libtpu the names that it looks for, and reports as errors, where there is no TPU.

    Call it after jax is imported, which looks for chips, and before a device is used.
    """
    if os.environ.get("TPU_SKIP_MDS_QUERY") == "1":  # set by jax if it found none
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")


def hush() -> None:
    """Silences two reports that add nothing to the message of an error or a signal.

    "Event loop is closed" comes from a thread of an abandoned save of a storage library. A signal
    during a collection of garbage cannot raise there: `core.stop` has noted it.
    """
    before = sys.unraisablehook
    if before is _installed.get("hook"):
        return

    def hook(what: "sys.UnraisableHookArgs") -> None:
        error = what.exc_value
        closed = isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
        if not closed and not isinstance(error, SystemExit):
            before(what)

    _installed["hook"] = sys.unraisablehook = hook
