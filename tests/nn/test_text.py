"""The text encoder: sizes, positions, kept tokens, padding, ids that do not exist."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core import tree
from ssl_jax.nn import build

TINY = {
    "kind": "text",
    "vocab_size": 11,
    "max_tokens": 7,
    "depth": 2,
    "width": 8,
    "heads": 2,
    "mlp_width": 12,
    "embed_dropout": 0.0,
    "unroll": False,
}
TOKENS = jnp.array([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0]], jnp.int32)
LENGTHS = jnp.array([5, 3], jnp.int32)


def quick_jit(function):
    """Compiles for a single call: optimizing would take longer than it saves."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def make(**changes):
    return build.encoder({**TINY, **changes}, precision="float32", sample_rate=16000)


def params_of(encoder):
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), TOKENS, LENGTHS)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: 0.3 * rng.standard_normal(a.shape, np.float32), shapes)


def test_roberta_base_without_pooler_token_type_and_the_two_unused_positions():
    encoder = build.encoder({"kind": "text"}, precision="float32", sample_rate=16000)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), TOKENS, LENGTHS)
    assert tree.count(shapes) == 124_055_040 - 3 * 768
    assert encoder.rate == 0.0 and encoder.grid == (0,)


def test_tree_names_and_shapes():
    shapes = {name: leaf.shape for name, leaf in tree.named_leaves(params_of(make()))}
    assert shapes["frontend/embedding"] == (11, 8) and shapes["positions"] == (7, 8)
    assert shapes["norm/scale"] == (8,) and shapes["blocks/mlp/up/kernel"] == (2, 8, 12)
    assert set(params_of(make(embed_norm=False))) == {"frontend", "positions", "blocks"}


def test_tokens_are_looked_up_and_positions_normalized_with_them():
    encoder = make()
    params = params_of(encoder)

    def run(p):
        x, valid = encoder.apply({"params": p}, TOKENS, LENGTHS, False, method="frontend")
        return (
            x,
            valid,
            encoder.apply({"params": p}, x, valid, False, method="encode").hidden_states[0],
        )

    x, valid, first = quick_jit(run)(params)
    np.testing.assert_array_equal(x, params["frontend"]["embedding"][TOKENS])
    assert valid.tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    y = np.asarray(x + params["positions"][:5])
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(
        first, y * params["norm"]["scale"] + params["norm"]["bias"], atol=1e-5
    )


def test_kept_tokens_carry_their_positions_and_see_only_each_other():
    encoder = make(depth=1)
    params = params_of(encoder)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 5, 8)), jnp.float32)
    valid = jnp.array([[True] * 5, [True] * 3 + [False] * 2])
    keep = jnp.array([[4, 0, 2], [1, 3, 0]])

    rows = jnp.arange(2)[:, None]

    def both(x):
        part, chosen = {"params": params}, jnp.zeros((2, 5), bool).at[rows, keep].set(True)
        got = encoder.apply(part, x, valid, False, keep, method="encode")
        # the others are there, but nothing reads them
        return got, encoder.apply(part, x, valid & chosen, False, method="encode")

    got, whole = quick_jit(both)(x)
    np.testing.assert_allclose(got.hidden_states, whole.hidden_states[:, rows, keep], atol=1e-5)
    assert got.valid.tolist() == [[True] * 3, [True, False, True]]


def test_padding_changes_no_token():
    encoder = make(depth=1)
    params = params_of(encoder)
    run = quick_jit(encoder.apply)
    short = run({"params": params}, TOKENS[1:, :3], LENGTHS[1:]).hidden_states
    long = run({"params": params}, TOKENS, LENGTHS).hidden_states
    np.testing.assert_allclose(long[:, 1:, :3], short, atol=1e-5)


def test_augment_fn_replaces_ids_and_an_unknown_id_is_not_another_token():
    encoder = make()
    params = params_of(encoder)

    def look_up(tokens, *more):
        run = quick_jit(
            lambda t: encoder.apply({"params": params}, t, LENGTHS, True, *more, method="frontend")
        )
        return map(np.asarray, run(tokens))

    x, _ = look_up(TOKENS, lambda tokens, lengths: tokens * 0 + lengths[:, None])
    np.testing.assert_array_equal(x[1], np.tile(params["frontend"]["embedding"][3], (5, 1)))
    x, _ = look_up(TOKENS.at[0, 1].set(11))
    assert np.isnan(x[0, 1]).all() and np.isfinite(x).sum() == x.size - 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocab_size": 0}, "encoder.vocab_size is 0: use 1 or more, the tokenizer's"),
        ({"max_tokens": 0}, "config.method.encoder.max_tokens is 0: use 1 or more, such as 512"),
        ({"embed_dropout": 1.0}, "config.method.encoder.embed_dropout is 1.0"),
    ],
)
def test_bad_options_are_named(changes, words):
    with pytest.raises(ValueError, match=words):
        make(**changes)


def test_a_text_longer_than_the_positions_is_refused():
    encoder = make(max_tokens=4)
    with pytest.raises(ValueError, match=r"max_tokens 4 has no positions for a batch of 5 tokens"):
        jax.eval_shape(encoder.init, jax.random.key(0), TOKENS, LENGTHS)
