"""What a command prints, on terminals and in pipes that cannot show every character."""

import io
import sys


def forgive() -> None:
    r"""Lets standard output show a character that its encoding lacks as an escape, such as \u2019.

    The error stream does so by itself. Without it a printed file name could end a run.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
