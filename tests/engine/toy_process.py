"""Trains the toy in a separate process, which herd.py forks.

Resumes from the newest checkpoint, saves after every step, and writes the bits of the final state
to <folder>/bits.txt.
"""

import hashlib
import time
from pathlib import Path

import jax
import toy_method as toy

from ssl_jax.core.mesh import make_mesh
from ssl_jax.engine import loop, setup
from ssl_jax.engine.checkpoint import Checkpoints


def main(folder: Path, total: int, pause: float) -> None:
    """Runs the toy, with `pause` seconds after each step; returns when done or asked to stop."""
    setup.use_compilation_cache()
    mesh = make_mesh({"data": -1})
    state, shardings, compiled, _ = toy.start(mesh)
    checkpoints = Checkpoints(folder, toy.make_config())
    first = checkpoints.latest() or 0
    if first:
        state = checkpoints.restore(state, shardings)
    logger = toy.open_logger(folder, first)
    options = toy.options(total, save_every=1)
    hooks = [(lambda step, state: time.sleep(pause), 1)]
    batches = toy.stream(first, total)
    done = loop.fit(state, compiled, batches, mesh, options, checkpoints, logger, hooks)
    checkpoints.close()
    bits = sorted(toy.bits(jax.device_get(done.state)).items())
    (folder / "bits.txt").write_text(hashlib.sha256(repr(bits).encode()).hexdigest())
