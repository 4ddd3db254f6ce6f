import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core import tree as tree_lib
from ssl_jax.ops import ema

RULES = (("frontend/", "absent"), ("positions/", "copy"), (".*", "average"))


def params_of(seed: int, dtype=jnp.float32) -> dict:
    rng = np.random.default_rng(seed)
    leaf = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)  # noqa: E731
    return {
        "frontend": {"conv": {"kernel": leaf(3, 2)}},
        "positions": {"kernel": leaf(4)},
        "blocks": {"mlp": {"up": {"kernel": leaf(2, 5), "bias": leaf(5)}}},
    }


def test_update_equals_numpy_over_many_steps():
    student = params_of(0)
    modes = ema.modes_of(student, RULES)
    teacher = ema.init(student, modes)
    assert "frontend" not in teacher
    want = np.asarray(student["blocks"]["mlp"]["up"]["kernel"], np.float64)
    step = jax.jit(lambda t, s, d: ema.update(t, s, d, modes))
    for i in range(5):
        student, decay = params_of(i + 1), 0.9 + 0.01 * i
        teacher = step(teacher, student, decay)
        want = decay * want + (1 - decay) * np.asarray(student["blocks"]["mlp"]["up"]["kernel"])
    np.testing.assert_allclose(teacher["blocks"]["mlp"]["up"]["kernel"], want, atol=1e-6)
    np.testing.assert_array_equal(teacher["positions"]["kernel"], student["positions"]["kernel"])


def test_a_decay_of_one_freezes_the_teacher_even_against_nan():
    student = params_of(0)
    modes = ema.modes_of(student, RULES)
    teacher = ema.init(student, modes)
    broken = jax.tree.map(lambda x: x * jnp.nan, student)
    for name, leaf in tree_lib.named_leaves(ema.update(teacher, broken, 1.0, modes)):
        np.testing.assert_array_equal(leaf, dict(tree_lib.named_leaves(teacher))[name])


def test_the_teacher_is_float32_and_small_steps_are_not_lost():
    student = jax.tree.map(lambda x: x * 0 + 1, params_of(0, jnp.bfloat16))
    modes = ema.modes_of(student, RULES)
    teacher = ema.init(student, modes)
    assert {x.dtype for x in jax.tree.leaves(teacher)} == {jnp.dtype("float32")}
    teacher = ema.update(teacher, jax.tree.map(lambda x: x + 1, student), 0.9999, modes)
    np.testing.assert_allclose(teacher["blocks"]["mlp"]["up"]["bias"], 1.0001, atol=2e-7)


def test_merge_reads_absent_leaves_from_the_student():
    student, other = params_of(0), params_of(1)
    teacher = ema.init(student, ema.modes_of(student, RULES))
    full = ema.merge(teacher, other)
    assert jax.tree.structure(full) == jax.tree.structure(other)
    np.testing.assert_array_equal(
        full["frontend"]["conv"]["kernel"], other["frontend"]["conv"]["kernel"]
    )
    np.testing.assert_array_equal(full["positions"]["kernel"], student["positions"]["kernel"])


def test_rules_must_match_every_leaf_and_name_a_mode():
    with pytest.raises(ValueError, match="positions/kernel"):
        ema.modes_of(params_of(0), (("frontend", "absent"), ("blocks", "average")))
    with pytest.raises(ValueError, match="'skip'"):
        ema.modes_of(params_of(0), ((".*", "skip"),))
    with pytest.raises(
        ValueError, match=r"'up/bias' is the first to match no .*ema\.rules.*'blocks"
    ):
        ema.modes_of(params_of(0), (("bias", "copy"), ("up/bias", "average"), *RULES))
    modes = ema.modes_of(params_of(0), (("bias", "copy"), *RULES))
    assert modes["blocks/mlp/up/bias"] == "copy"
