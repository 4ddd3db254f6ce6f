"""What a failed save logs in addition to its error, and what is still logged."""

import logging
import sys
import threading

import pytest

from ssl_jax.engine import storage


def test_echoes_of_a_failed_save_are_silent_and_nothing_else_is(caplog, monkeypatch):
    hooked = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: hooked.append(str(error)))
    storage.silence_echoes.__wrapped__()
    low = ValueError("RESOURCE_EXHAUSTED: /r/checkpoints/140.orbax-checkpoint-tmp/params: no room")
    for name in ("absl", "asyncio"):
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "propagate", True)
        logger.error("a thread raised: %s", low)
        logger.error("a thread raised", exc_info=low)
        full = OSError(28, "No space left on device")  # which names no file
        logger.error("[process=0] _SignalingThread.run() raised an exception: %s", full)
        logger.error("of something else", exc_info=ValueError("else"))
        logger.warning("of 140.orbax-checkpoint-tmp, no error")
        for rule in logger.filters[-1:]:
            logger.removeFilter(rule)
    assert [r.getMessage() for r in caplog.records] == 2 * [
        "of something else",
        "of 140.orbax-checkpoint-tmp, no error",
    ]

    def beside(error):
        thread = threading.Thread(target=sys.excepthook, args=(type(error), error, None))
        thread.start()
        thread.join()

    beside(RuntimeError("Event loop is closed"))
    beside(RuntimeError("another"))
    sys.excepthook(RuntimeError, RuntimeError("Event loop is closed"), None)
    assert hooked == ["another", "Event loop is closed"]


@pytest.mark.parametrize("name", ["absl", "asyncio"])
def test_it_is_installed_once(name):
    storage.silence_echoes.cache_clear()
    storage.silence_echoes()
    before = list(logging.getLogger(name).filters)
    storage.silence_echoes()
    assert logging.getLogger(name).filters == before != []
