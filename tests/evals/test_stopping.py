"""Evaluations stop between two batches when the process is asked to stop."""

import os
import signal
import types

import numpy as np
import pytest

from ssl_jax.core import stop
from ssl_jax.core.mesh import make_mesh
from ssl_jax.engine import hooks
from ssl_jax.evals import extract, pool, speaker_verification, split_scores, transcribe


def batches():
    for n in range(3):
        yield {"id": np.arange(8) + n, "weight": np.ones(8, np.float32)}


def bare(kind, **fields):
    """Returns an object without calling its constructor, which compiles: no batch reaches it."""
    made = object.__new__(kind)
    vars(made).update(fields)
    return made


STATE = types.SimpleNamespace(params=None)
WORK = {
    "validation": lambda: hooks.validation(None, batches, make_mesh({"data": -1}))(1, STATE),
    "pool": lambda: pool.pool(None, None, batches()),
    "scores": lambda: bare(split_scores.SplitScores, batches=batches, split="valid")(1, STATE),
    "transcriber": lambda: bare(transcribe.Transcriber)(None, batches()),
    "embedder": lambda: bare(speaker_verification.Embedder)(None, batches()),
    "examples": lambda: bare(extract.Examples, batch=2).run([{"image": np.zeros(2)}] * 4),
}


@pytest.mark.parametrize("name", WORK)
def test_no_batch_is_begun_once_the_process_is_asked_to_end(name):
    with stop.listening():
        stop.keep()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(stop.Stopped):
            WORK[name]()
