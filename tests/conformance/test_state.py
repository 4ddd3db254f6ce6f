"""The state of every method survives a save, and a resumed run equals an uninterrupted one."""

import cases
import jax
import pytest
import resume
from test_devices import WHOLE

from ssl_jax.core import mesh as mesh_lib
from ssl_jax.engine import step, teachers

# two small ones compile fast enough; the others use the step that test_devices.py compiles
FAST = ("configs/data2vec/kws.py", "configs/supervised/kws.py")
PARAMS = [
    pytest.param(path, marks=[] if path in FAST else [pytest.mark.slow], id=path)
    for path in sorted({*cases.distinct_paths(), *WHOLE})
]


@pytest.fixture(scope="module")
def reports():
    """The reports of this module, by config."""
    return {}


@pytest.fixture(params=PARAMS)
def found(request, reports, tmp_path):
    """What saving, restoring and updating the state of one config after another does."""
    path = request.param
    if path not in reports:
        if path in FAST:
            reports[path] = report(path, tmp_path)
        else:
            job = "compare" if path in WHOLE else "gradients"
            reports[path] = request.getfixturevalue("many").ask(path, job)["resumed"]
    return reports[path]


def report(path, folder):
    """Returns the report of a config, whose step is compiled in this process."""
    toy = cases.toy(path)
    tx, schedule = toy.optimizer()
    mesh = mesh_lib.make_mesh({"data": 1}, jax.devices()[:1])
    shapes = cases.abstract_batch(toy.method, resume.ROWS, toy.samples)
    state, shardings = step.init_state(toy.method, tx, 11, mesh, shapes)
    taught = teachers.fresh(toy.method)
    state, shardings = teachers.join(state, shardings, taught, toy.method, mesh)
    update = jax.jit(step.make_step(toy.method, tx, schedule, mesh))
    return resume.report(toy, state, shardings, lambda *given: update(*given)[0], folder)


def test_resume_equals_uninterrupted_to_the_bit(found):
    assert found["steps"] == [4, 4]
    assert not found["differ"]


def test_a_step_changes_every_part_of_the_state_it_should(found):
    assert found["key"] and found["params"]
    assert not found["frozen"]
    assert found["teacher"] or not found["has_teacher"], "the teacher never moves"
