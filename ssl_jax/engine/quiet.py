"""What the layers below a save print beside the error that they raise, which is told once.

A save writes hundreds of arrays at a time. On a full disk each of them fails, and each failure is
logged by orbax, by asyncio, and as a traceback of a thread whose event loop is gone.
"""

import functools
import logging
import sys
import threading
from types import TracebackType

_UNDER_WAY = "orbax-checkpoint-tmp"  # in the name of a checkpoint that is being written
_LOOP_GONE = "Event loop is closed"


@functools.cache
def install() -> None:
    """Silences them from now on; nothing else of those loggers, and no error of the main thread."""
    logging.getLogger("absl").addFilter(_worth_telling)
    logging.getLogger("asyncio").addFilter(_worth_telling)
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        beside = threading.current_thread() is not threading.main_thread()
        if not (beside and kind is RuntimeError and str(error) == _LOOP_GONE):
            before(kind, error, trace)

    sys.excepthook = hook


def _worth_telling(record: logging.LogRecord) -> bool:
    """Says whether a line is more than the echo of an error that a save raises."""
    error = record.exc_info[1] if record.exc_info else None
    return record.levelno < logging.ERROR or _UNDER_WAY not in f"{record.getMessage()} {error}"
