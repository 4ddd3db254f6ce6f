"""Every config loads, locks, states its command, and builds at paper scale without memory."""

import ast

import cases
import jax
import pytest
from jax.sharding import AbstractMesh

from ssl_jax.core import config as config_lib
from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core import tree
from ssl_jax.core.rng import Streams
from ssl_jax.engine import optim, teachers

CONFIGS = cases.config_paths()
TOY_PARAMETERS = 300_000


@pytest.fixture(params=CONFIGS)
def path(request) -> str:
    """Returns one config after another."""
    return request.param


def test_every_method_has_a_config_and_every_config_a_method():
    used = {cases.load(path).method.name for path in CONFIGS}
    assert used == set(cases.method_names())
    assert len(CONFIGS) >= 2


@pytest.mark.parametrize("arg", ["", "toy"])
def test_config_loads_locks_and_signs(path, arg):
    config = cases.load(path, arg)
    assert config.is_locked
    again = config_lib.from_json(config_lib.to_json(config))
    assert config_lib.sign(again) == config_lib.sign(config)
    assert config_lib.diff(config, again) == {}
    with pytest.raises((KeyError, ValueError, AttributeError), match="no_such_key"):
        config_lib.load(str(cases.ROOT / path), ["--config.optim.no_such_key=1"])
    with pytest.raises((KeyError, AttributeError)):
        config.optim.no_such_key = 1


def test_the_command_line_changes_the_signature(path):
    plain = cases.load(path)
    changed = config_lib.load(str(cases.ROOT / path), ["--config.seed=41"])
    assert changed.seed == 41
    assert set(config_lib.diff(plain, changed)) == {"seed"}
    assert config_lib.sign(changed) != config_lib.sign(plain)


def test_docstring_holds_the_command(path):
    text = ast.get_docstring(ast.parse((cases.ROOT / path).read_text())) or ""
    assert path in text and "python -m ssl_jax." in text, "say how this config is run"


def test_an_unknown_option_of_the_method_is_named(path):
    config = cases.load(path, "toy").copy_and_resolve_references()
    config.unlock()
    config.method.no_such_option = 1
    with pytest.raises((ValueError, KeyError, TypeError), match="no_such_option"):
        cases.build(config)


def test_paper_scale_builds_and_evaluates_shapes(path):
    config = cases.load(path)
    method = cases.build(config)
    # enough tokens to begin a codebook of 1,024 with
    batch = cases.abstract_batch(method, 4, cases.longest(config))
    params, extra = jax.eval_shape(method.init, jax.random.key(0), batch)
    extra = cases.with_teachers(extra, teachers.shapes(method))
    streams = Streams(
        key=jax.ShapeDtypeStruct((2,), "uint32"),
        step=jax.ShapeDtypeStruct((), "int32"),
        ids=batch["id"],
    )
    output = jax.eval_shape(lambda *a: method.loss(*a, True), params, extra, batch, streams)
    assert output.loss.shape == output.weight.shape == ()
    assert output.loss.dtype == "float32"
    assert all(s.shape == c.shape == () for s, c in output.metrics.values())
    assert set(config.guard.floors) <= set(output.metrics)
    assert jax.tree.map(_shape, output.extra) == jax.tree.map(_shape, extra)
    assert ("teacher" in extra) == (method.decay is not None), "its turnover would be unknown"
    step = jax.ShapeDtypeStruct((), "int32")
    updated = jax.eval_shape(method.update, params, extra, step)
    assert jax.tree.map(_shape, updated) == jax.tree.map(_shape, extra)
    features = jax.eval_shape(method.features, params, batch)
    layers, rows, frames, _ = features.hidden_states.shape
    assert (rows, frames) == features.mask.shape and rows == 4 and layers >= 2
    _every_leaf_has_a_rule(method, params, extra)
    _optimizer_takes_every_leaf(config, params)


def test_features_of_an_untrained_encoder_need_no_teacher(path):
    config = cases.load(path, "toy").copy_and_resolve_references().unlock()
    plain = cases.build(config)
    if not plain.frozen:
        return
    with config.unlocked():
        for name in config.method.teachers:
            config.method.teachers[name] = "nowhere"
    method = cases.build(config)
    batch = cases.abstract_batch(method, 2, cases.longest(config))
    make = method.untrained or (lambda *given: method.init(*given)[0])
    params = jax.eval_shape(make, jax.random.key(0), batch)
    assert jax.eval_shape(method.features, params, batch).hidden_states.shape[1] == 2
    whole = dict(tree.named_leaves(jax.eval_shape(plain.init, jax.random.key(0), batch)[0]))
    assert all(whole[name].shape == x.shape for name, x in tree.named_leaves(params))


def _shape(x) -> tuple:
    return x.shape, x.dtype


def _every_leaf_has_a_rule(method, params, extra) -> None:
    mesh = AbstractMesh((1, 2, 2, 2), mesh_lib.AXES)
    for name, leaf in tree.named_leaves({"params": params, "extra": extra}):
        mesh_lib.spec_for(name, leaf.shape, method.rules, mesh)


def _optimizer_takes_every_leaf(config, params) -> None:
    def to_steps(duration):
        return config_lib.steps(
            duration, batch_size=64, examples=6400, seconds_per_step=64.0, total=100_000
        )

    depth = cases.depth_of(params)
    tx, schedule = optim.make(
        config.optim, params, total_steps=100_000, to_steps=to_steps, depth=depth
    )
    jax.eval_shape(tx.init, params)
    rates = [float(schedule(step)) for step in (0, 1_000, 50_000, 100_000)]
    assert max(rates) > 0 and min(rates) >= 0


def test_toy_is_tiny_and_parameters_are_float32(path):
    config = cases.load(path, "toy")
    method = cases.build(config)
    batch = cases.abstract_batch(method, 2, cases.longest(config))
    params, _ = jax.eval_shape(method.init, jax.random.key(0), batch)
    assert {str(x.dtype) for x in jax.tree.leaves(params)} == {"float32"}
    assert tree.count(params) <= TOY_PARAMETERS
    assert config.method.name == cases.load(path).method.name
