"""The optimizer: its options and their errors, types, abstract shapes, and sharded arrays."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from optim_cases import DEPTH, arrays, make, named, run, section, to_steps

from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.engine import optim


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_moments_are_float32_for_any_gradient(name):
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), arrays(0))
    gradients = jax.tree.map(lambda x: x.astype(jnp.bfloat16), arrays(1))
    tx, _ = make(section(name=name, frozen_first=("mlp",), freeze_until="1 steps"), params)
    state = tx.init(params)
    updates, new = jax.jit(tx.update)(gradients, state, params)
    for tree_of in (state, new, updates):
        floats = [x for x in jax.tree.leaves(tree_of) if jnp.issubdtype(x.dtype, jnp.floating)]
        assert floats and {x.dtype.name for x in floats} == {"float32"}


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_abstract_shapes_suffice(name):
    shapes = jax.eval_shape(lambda: arrays(0))
    config = section(
        name=name,
        layer_decay=0.5,
        weight_decay=0.1,
        clip=1.0,
        frozen=("cls",),
        frozen_first=("frontend",),
        freeze_until="50%",
    )
    tx, _ = make(config, shapes)
    state = jax.eval_shape(tx.init, shapes)
    real = tx.init(arrays(0))
    assert jax.tree.structure(state) == jax.tree.structure(real)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(real), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    updates, after = jax.eval_shape(tx.update, shapes, state, shapes)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, shapes)


def test_update_without_parameters_is_an_error():
    tx, _ = make(section())
    with pytest.raises(ValueError, match="pass params"):
        tx.update(arrays(1), tx.init(arrays(0)))


@pytest.mark.parametrize(
    ("changes", "points"),
    [
        ({"schedule": "cosine", "warmup": "2 steps"}, {0: 0, 2: 0.1, 11: 0.05, 20: 0}),
        ({"schedule": "linear", "warmup": "10%", "end_lr": 0.01}, {0: 0, 2: 0.1, 20: 0.01}),
        ({"schedule": "tri_stage"}, {0: 0.001, 2: 0.1, 10: 0.1, 20: 0.005}),
        ({"schedule": "inverse_sqrt", "warmup": "4 steps"}, {0: 0, 4: 0.1, 16: 0.05}),
        ({"schedule": "one_cycle"}, {0: 0.004, 5: 0.1, 19: 4e-7}),
        ({"schedule": "constant", "warmup": "1 epoch"}, {0: 0, 10: 0.1, 20: 0.1}),
    ],
)
def test_every_schedule_by_name(changes, points):
    _, schedule = make(section(**changes))
    for step, value in points.items():
        assert float(schedule(step)) == pytest.approx(value, rel=1e-4, abs=1e-9), step


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "adam"}, r"config\.optim\.name is 'adam': did you mean 'adam"),
        ({"schedule": "cosin"}, r"config\.optim\.schedule is 'cosin': did you mean 'cosine'"),
        ({"lr": 0.0}, r"config\.optim\.lr is 0\.0: use a number above 0"),
        ({"lr": -1.0}, r"config\.optim\.lr is -1\.0"),
        ({"warmup": "20 steps", "schedule": "cosine"}, r"config\.optim\.warmup is 20 of 20"),
        ({"warmup": "2 steps", "schedule": "tri_stage"}, r"warmup .* set it to '0 steps'"),
        ({"end_lr": 0.1}, r"config\.optim\.end_lr .* does not read: set it to 0\.0"),
        ({"weight_decay": -0.1}, r"config\.optim\.weight_decay is -0\.1"),
        ({"clip": -1.0}, r"config\.optim\.clip is -1\.0"),
        ({"eps": 0.0}, r"config\.optim\.eps is 0\.0"),
        ({"betas": (0.9,)}, r"config\.optim\.betas is \(0\.9,\): use two numbers"),
        ({"betas": (0.9, 1.0)}, r"config\.optim\.betas"),
        ({"layer_decay": 1.5}, r"config\.optim\.layer_decay is 1\.5"),
        ({"layer_decay": 0.0}, r"config\.optim\.layer_decay is 0\.0"),
        ({"frozen": ("frontent/kernel",)}, r"config\.optim\.frozen: no parameter matches"),
        ({"frozen_first": ("nothing",)}, r"config\.optim\.frozen_first: no parameter matches"),
        ({"frozen": (".",)}, r"matches every parameter"),
        ({"frozen": ("(",)}, r"config\.optim\.frozen: '\(' is not a regex"),
        ({"decay_rules": (("[", 1.0),)}, r"config\.optim\.decay_rules: '\[' is not a regex"),
        (
            {"decay_rules": (("kernell$", 0.0), (".*", 1.0))},
            r"config\.optim\.decay_rules: 'kernell\$' is never the first match",
        ),
        (  # without effect after one that matches all of its parameters
            {"decay_rules": (("bias", 0.0), ("mlp/bias$", 1.0), (".*", 1.0))},
            r"config\.optim\.decay_rules: 'mlp/bias\$' .*move it up; use one of classifier",
        ),
        ({"momentum": 0.9}, r"config\.optim\.momentum does not exist"),
    ],
)
def test_a_wrong_option_is_one_error(changes, words):
    config = section()
    with config.unlocked():
        config.update(changes)
    with pytest.raises(ConfigError, match=words):
        make(config)


def test_a_missing_key_and_an_empty_run_are_errors():
    config = section()
    del config.clip
    with pytest.raises(ConfigError, match=r"config\.optim\.clip is missing"):
        make(config)
    with pytest.raises(ConfigError, match=r"set config\.train\.duration"):
        optim.make(section(), arrays(0), total_steps=0, to_steps=to_steps, depth=DEPTH)


def sharded_difference(count: int) -> float:
    """Returns the difference of three updates on a mesh of `count` devices from those on one."""
    config = section(
        name="lamb",
        clip=1.0,
        weight_decay=0.1,
        layer_decay=0.5,
        frozen=("cls",),
        frozen_first=("frontend",),
        freeze_until="1 steps",
    )
    plain, _ = run(config)
    mesh = mesh_lib.make_mesh({"data": 1, "fsdp": -1}, jax.devices()[:count])
    rules = (("kernel", (None, "fsdp")), ("positions", (None, "fsdp")), (".*", ()))
    put = jax.jit(lambda x: x, out_shardings=mesh_lib.tree_sharding(arrays(0), rules, mesh))
    params = put(arrays(0))
    tx, _ = make(config, params)
    shardings = mesh_lib.tree_sharding(jax.eval_shape(tx.init, params), rules, mesh)
    state = jax.jit(tx.init, out_shardings=shardings)(params)
    update = jax.jit(tx.update, out_shardings=(None, shardings))
    for i in range(3):
        updates, state = update(put(arrays(i + 1)), state, params)
        params = jax.jit(optax.apply_updates)(params, updates)
    assert params["encoder"]["blocks"]["mlp"]["kernel"].sharding.spec == P(None, None, "fsdp")
    return max(float(np.abs(x - plain[-1][n]).max()) for n, x in named(params).items())


@pytest.mark.slow
def test_sharded_arrays_on_four_devices():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    program = "import json, test_optim_options as t; print(json.dumps(t.sharded_difference(4)))"
    folder = os.path.dirname(__file__)
    root = os.path.dirname(os.path.dirname(folder))
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": f"{folder}{os.pathsep}{root}"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout.splitlines()[-1]) < 2e-6


@pytest.mark.parametrize("name", ["adamw", "adam_l2"])
def test_eps_inside_is_the_adam_of_fairseq(name):
    lr, first, second, eps, decay = 0.1, 0.9, 0.98, 1e-2, 0.01
    options = {"name": name, "betas": (first, second), "eps": eps, "weight_decay": decay}
    seen, _ = run(section(**options, eps_inside=True))
    params = named(arrays(0))
    m, v = ({key: np.zeros_like(x) for key, x in params.items()} for _ in range(2))
    for step in range(1, 4):
        for key, gradient in named(arrays(step)).items():
            p = params[key]
            if name == "adam_l2":
                gradient = gradient + decay * p
            m[key] = first * m[key] + (1 - first) * gradient
            v[key] = second * v[key] + (1 - second) * gradient**2
            # as in fairseq/optim/adam.py: denom, step_size, decay separate from the gradient
            denom = np.sqrt(v[key]) + eps
            step_size = lr * np.sqrt(1 - second**step) / (1 - first**step)
            shrunk = p if name == "adam_l2" else p - lr * decay * p
            params[key] = shrunk - step_size * m[key] / denom
        for key, want in params.items():
            np.testing.assert_allclose(seen[step][key], want, rtol=1e-5, atol=1e-6)
    plain, _ = run(section(**options))
    assert np.abs(plain[1]["mask"] - seen[1]["mask"]).max() > 1e-3


def test_eps_inside_needs_an_adam_and_older_runs_do_without():
    with pytest.raises(ConfigError, match=r"config.optim.eps_inside is True.*'sgd' has no eps"):
        make(section(name="sgd", eps_inside=True))
    older = section()
    with older.unlocked():
        del older["eps_inside"]
    make(older)
