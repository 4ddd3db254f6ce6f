"""Processes that end when their parent does, however it ended."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Mapping
from multiprocessing import connection

VARIABLE = "SSL_JAX_PARENT"
POLL = 1.0  # seconds between checks of the parent's process id


def end_worker(*place: int) -> None:
    """Makes this `multiprocessing` worker end with its parent; call it when the worker starts.

    The parent's end of a pipe closes when it is gone, even by SIGKILL or os._exit. Shared memory
    is then freed by the tracker of `multiprocessing`, which waits for the last process. `place` is
    what grain passes to a worker, and is not used.
    """
    del place
    parent = multiprocessing.parent_process()
    if parent is None:
        return  # not a worker

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    threading.Thread(target=watch, name="parent", daemon=True).start()


def child_of_this(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of a command that is to end with this process: see `end_command`."""
    return {**environment, VARIABLE: str(os.getpid())}


def end_command() -> None:
    """Sends SIGTERM to this process when the one that launched it is gone; it then saves and ends.

    Only where VARIABLE is set; it is removed, so that child processes do not inherit it.
    """
    parent = os.environ.pop(VARIABLE, "")
    if not parent:
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(POLL)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()
