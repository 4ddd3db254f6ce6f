"""Frozen teachers in the engine: loaded once, passed on, never saved, and the same on resume."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import toy_method as toy

from ssl_jax.core import config as config_lib
from ssl_jax.core import tree
from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import Frozen
from ssl_jax.engine import checkpoint, flops, setup, step, teachers
from ssl_jax.engine.checkpoint import Checkpoints

NAME = "config.method.teachers.old"


def save_run(folder, state, **changes):
    """Writes a run folder with one checkpoint of a state."""
    config = toy.make_config(**changes)
    checkpoints = Checkpoints(folder, config)
    checkpoints.save(1, state)
    checkpoints.close()
    (folder / "config.json").write_text(config_lib.to_json(config))
    (folder / "signature.txt").write_text(config_lib.sign(config) + "\n")
    return folder


def taught(folder) -> object:
    """Returns the toy, which also learns the code of the encoder of a frozen run."""
    plain = toy.make_method()

    def loss(params, extra, batch, streams, train):
        teacher = extra["frozen"]["old"]["encoder"]
        out = plain.loss(params, extra, batch, streams, train)
        more = ((params["encoder"]["kernel"] - teacher["kernel"]) ** 2).mean()
        return dataclasses.replace(out, loss=out.loss + more)

    frozen = {"old": Frozen(str(folder), ("^encoder/",))}
    return dataclasses.replace(plain, loss=loss, frozen=frozen)


@pytest.fixture(scope="module")
def old(started, tmp_path_factory):
    """The folder of a run of the toy."""
    return save_run(tmp_path_factory.mktemp("runs") / "old", started[0])


def begin(method, mesh, folder, **changes):
    """Returns (state, shardings, checkpoints) as a run begins or resumes."""
    config = toy.make_config(**changes)
    with config.unlocked():
        config.update({"init_from": "", "init_extra": False})
    checkpoints = Checkpoints(folder, config)
    tx, _ = toy.make_tx()
    return *setup.begin(config, method, tx, mesh, toy.shapes(), checkpoints), checkpoints


def step_of(method, mesh, accumulate=1):
    return step.make_step(method, *toy.make_tx(), mesh, accumulate)


@pytest.fixture(scope="module")
def update(old, mesh):
    return jax.jit(step_of(taught(old), mesh))


def run(update, state, first, last):
    for _, batch in enumerate(toy.stream(first, last)):
        state, _ = update(state, batch)
    return state


def test_a_resumed_run_has_its_teacher_and_no_checkpoint_has(old, mesh, update, tmp_path):
    method = taught(old)
    state, shardings, checkpoints = begin(method, mesh, tmp_path)
    assert jax.tree.structure(state) == jax.tree.structure(shardings)
    there = checkpoint.restore_params(old)["encoder"]
    assert toy.bits(state.extra["frozen"]) == toy.bits({"old": {"encoder": there}})
    half = run(update, state, 0, 2)
    checkpoints.save(2, half)
    checkpoints.close()
    assert set(checkpoint.restore_extra(tmp_path)) == {"teacher"}
    about = json.loads((tmp_path / "checkpoints" / "2" / "about" / "metadata").read_text())
    assert not any("frozen" in name for name in about["arrays"])
    assert about["teachers"]["old"]["signature"] == config_lib.sign(toy.make_config())
    resumed, _, again = begin(method, mesh, tmp_path)
    again.close()
    assert toy.bits(resumed) == toy.bits(half)
    ended = run(update, half, 2, 4)
    assert toy.bits(run(update, resumed, 2, 4)) == toy.bits(ended)
    assert toy.bits(ended.extra["frozen"]) == toy.bits(state.extra["frozen"])


def test_a_teacher_that_moved_is_the_same_and_another_is_refused(started, old, mesh, tmp_path):
    (tmp_path / "run").mkdir()
    state, _, checkpoints = begin(taught(old), mesh, tmp_path / "run")
    checkpoints.save(1, state)
    checkpoints.close()
    moved = shutil.copytree(old, tmp_path / "moved")
    *_, checkpoints = begin(taught(moved), mesh, tmp_path / "run")
    checkpoints.close()
    changed = tree.map_named(lambda name, x: x + 1 if "encoder" in name else x, started[0].params)
    other = save_run(tmp_path / "other", dataclasses.replace(started[0], params=changed))
    with pytest.raises(ValueError, match=rf"taught by another run: {NAME} is .*/other .*was .*/ol"):
        begin(taught(other), mesh, tmp_path / "run")


def test_a_plan_counts_what_is_loaded_and_a_config_teaches_nothing(root, old, monkeypatch):
    found, _ = teachers.load(taught(old))
    monkeypatch.setenv("SSL_JAX_RUNS", str(old.parent))
    planned = teachers.shapes(taught(config_lib.sign(toy.make_config())[:8]))
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, planned)
    config = f"{root}/configs/mae/image.py:toy"
    assert jax.tree.leaves(teachers.shapes(taught(config)))
    with pytest.raises(ConfigError, match=f"^{NAME} is .*:toy, a config of which no run has been"):
        teachers.load(taught(config))


def test_micro_batches_do_not_carry_the_teacher(old, mesh):
    method, (tx, _) = taught(old), toy.make_tx()
    plain = step.abstract_state(toy.make_method(), tx, toy.shapes())
    state, _ = teachers.join(plain, plain, teachers.shapes(method), method, mesh)
    counts = []
    for one, made in ((plain, toy.make_method()), (state, method)):
        jaxpr = jax.make_jaxpr(step_of(made, mesh, 2))(one, toy.shapes())
        scans = [e for e, _ in flops.walk(jaxpr.jaxpr) if e.primitive.name == "scan"]
        counts.append([flops.scanned(e)[1] for e in scans])
    assert counts[0] == counts[1] and counts[0]
    assert jax.eval_shape(step_of(method, mesh, 2), state, toy.shapes())[0].extra == state.extra
