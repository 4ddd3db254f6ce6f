"""Kills this process at one of its changes to the files below a folder."""

import itertools
import os
import sys
from pathlib import Path

STATUS = 9
_CHANGES = {
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.truncate",
    "shutil.rmtree",
}


def at(number: int, folder: Path) -> None:
    """Ends this process, as SIGKILL would, before its change `number`, from 0, below `folder`.

    Opening a file counts, even for reading. The hook cannot be removed: call it in a fork.
    """
    count = itertools.count()

    def hook(event: str, given: tuple) -> None:
        if event in _CHANGES and str(given[0]).startswith(str(folder)) and next(count) == number:
            os._exit(STATUS)

    sys.addaudithook(hook)


def forked(number: int, folder: Path, work) -> bool:
    """Runs work() in a fork that is killed at a change; returns whether it was, before the end."""
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, STATUS), status
        return status == STATUS
    status = 1
    try:
        at(number, folder)
        work()
        status = 0
    finally:
        os._exit(status)
