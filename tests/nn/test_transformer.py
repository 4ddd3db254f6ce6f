"""Blocks against the formulas written out, and the guarantees of the stack."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core import tree
from ssl_jax.nn.transformer import (
    LAST,
    Attention,
    Block,
    Layers,
    Transformer,
    TransformerOptions,
)

TINY = TransformerOptions(depth=3, width=8, heads=2, mlp_width=12, unroll=False)


def options(**changes) -> TransformerOptions:
    return dataclasses.replace(TINY, **changes)


def random_like(shapes, scale=0.3):
    """Random values in every leaf, so that no scale of 1 or bias of 0 hides a mistake."""
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda a: scale * rng.standard_normal(a.shape, np.float32), shapes)


def make(o: TransformerOptions, batch=2, tokens=5, dtype=jnp.float32):
    module = Transformer(o, dtype)
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal((batch, tokens, o.width), np.float32))
    valid = jnp.ones((batch, tokens), bool)
    shapes = jax.eval_shape(lambda k: module.init(k, x, valid, False), jax.random.key(0))
    return module, random_like(shapes["params"]), x, valid


@functools.cache
def compiled(module, train: bool, **options):
    """Returns run(params, x, valid, key) -> Encoded of numpy arrays."""

    def run(params, x, valid, key):
        rngs = {"dropout": key} if train else None
        return module.apply({"params": params}, x, valid, train, rngs=rngs, **options)

    jitted = jax.jit(run)
    return lambda *given: jax.device_get(jitted(*given))


def key_of(seed: int):
    """A key whose generator compiles fast."""
    return jax.random.key(seed, impl="unsafe_rbg")


def apply(module, params, x, valid, seed=None, **options):
    """Runs the stack; with a seed, in training."""
    return compiled(module, seed is not None, **options)(params, x, valid, key_of(seed or 0))


def np_norm(x, p, eps=1e-5):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * p["scale"] + p["bias"]


def np_linear(x, p):
    return x @ p["kernel"] + p.get("bias", 0.0)


def np_attention(x, p, valid, heads):
    batch, _, width = x.shape
    q, k, v = (np_linear(x, p[n]) for n in ("query", "key", "value"))
    y = np.zeros_like(x)
    head = width // heads
    for b in range(batch):
        for h in range(heads):
            part = slice(h * head, (h + 1) * head)
            scores = q[b, :, part] @ k[b, :, part].T / math.sqrt(head)
            scores[:, ~valid[b]] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            y[b, :, part] = weights / weights.sum(-1, keepdims=True) @ v[b, :, part]
    return np_linear(y, p["out"]) if "out" in p else y


def np_mlp(x, p):
    x = np_linear(x, p["up"])
    return np_linear(0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))), p["down"])


def np_block(x, p, valid, o):
    def attention(x):
        return np_attention(x, p["attention"], valid, o.heads)

    if o.norm == "pre":
        x = x + attention(np_norm(x, p["norm1"]))
        ffn = np_mlp(np_norm(x, p["norm2"]), p["mlp"])
        return x + ffn, ffn
    if o.norm == "post":
        x = np_norm(x + attention(x), p["norm1"])
        ffn = np_mlp(x, p["mlp"])
        return np_norm(x + ffn, p["norm2"]), ffn
    x = x + np_norm(attention(x), p["norm1"])
    ffn = np_mlp(x, p["mlp"])
    return x + np_norm(ffn, p["norm2"]), ffn


@pytest.mark.parametrize("norm", ["pre", "post", "res_post"])
@pytest.mark.parametrize("bare", [False, True])
def test_stack_equals_the_formula(norm, bare):
    o = options(norm=norm, qkv_bias=not bare, out_proj=not bare)
    module, params, x, valid = make(o)
    valid = valid.at[1, 3:].set(False)
    got = apply(module, params, x, valid, prefix=1)
    double = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    y, real = np.asarray(x, np.float64), np.asarray(valid)
    hidden, targets = [y], []
    for i in range(o.depth):
        y, ffn = np_block(y, jax.tree.map(lambda a, i=i: a[i], double["blocks"]), real, o)
        hidden.append(y)
        targets.append(ffn)
    if norm == "pre":
        hidden[-1] = np_norm(hidden[-1], double["final_norm"])
    np.testing.assert_allclose(got.hidden_states, np.stack(hidden), atol=2e-5)
    np.testing.assert_allclose(got.ffn, np.stack(targets), atol=2e-5)
    assert got.prefix == 1 and ("out" in params["blocks"]["attention"]) is not bare
    assert ("bias" in params["blocks"]["attention"]["query"]) is not bare


def test_additive_bias_moves_attention_to_the_favoured_key():
    o = options()
    module = Attention(o)
    x = jax.random.normal(jax.random.key(1), (2, 5, 8))
    valid = jnp.ones((2, 5), bool)
    shapes = jax.eval_shape(lambda k: module.init(k, x, valid, None, False), key_of(0))
    params = random_like(shapes["params"])
    bias = jnp.zeros((1, 1, 1, 5)).at[..., 2].set(1e4)
    got = jax.jit(lambda p: module.apply({"params": p}, x, valid, bias, False))(params)
    value = x @ params["value"]["kernel"] + params["value"]["bias"]
    want = value[:, 2:3] @ params["out"]["kernel"] + params["out"]["bias"]
    np.testing.assert_allclose(got, jnp.broadcast_to(want, got.shape), atol=1e-6)


def test_invalid_keys_have_no_influence_and_an_empty_row_stays_finite():
    module, params, x, valid = make(options())
    valid = valid.at[0, 3:].set(False).at[1].set(False)
    a = apply(module, params, x, valid).hidden_states
    b = apply(module, params, x.at[0, 3:].add(9.0), valid).hidden_states
    np.testing.assert_array_equal(a[1:, 0, :3], b[1:, 0, :3])
    assert np.isfinite(a).all()


def test_unrolled_and_looped_stacks_agree_and_share_one_tree():
    loop, params, x, valid = make(options(norm="pre", unroll=False))
    flat = Transformer(options(norm="pre", unroll=True))

    def init(module):
        return jax.jit(lambda k: module.init(k, x, valid, False))(key_of(0))

    jax.tree.map(np.testing.assert_array_equal, init(loop), init(flat))
    a, b = apply(loop, params, x, valid), apply(flat, params, x, valid)
    np.testing.assert_allclose(a.hidden_states, b.hidden_states, atol=1e-6)
    np.testing.assert_allclose(a.ffn, b.ffn, atol=1e-6)
    names = [n for n, _ in tree.named_leaves(params)]
    assert "blocks/attention/query/kernel" in names and "blocks/norm2/scale" in names
    assert params["blocks"]["mlp"]["up"]["kernel"].shape == (3, 8, 12)


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize(
    ("asked", "states", "ffn"),
    [
        (LAST, (3,), ()),
        (Layers((), (-2, -1)), (), (1, 2)),
        (Layers((2, 0, -1), (1,)), (0, 2, 3), (1,)),
        (Layers((1,), (0, 2)), (1,), (0, 2)),
    ],
)
def test_a_stack_returns_the_layers_that_are_asked_for(asked, states, ffn, unroll):
    module, params, x, valid = make(options(norm="pre", unroll=unroll))
    every, some = (apply(module, params, x, valid, **o) for o in ({}, {"layers": asked}))
    np.testing.assert_allclose(some.hidden_states, every.hidden_states[list(states)], atol=1e-6)
    np.testing.assert_allclose(some.ffn, every.ffn[list(ffn)], atol=1e-6)


def test_gradients_flow_through_the_layers_that_are_asked_for():
    module, params, x, valid = make(options(norm="pre", remat="full"))

    def gradient(layers, chosen):
        def loss(p):
            found = module.apply({"params": p}, x, valid, False, layers=layers)
            return jnp.square(found.hidden_states[chosen]).sum() + found.ffn[-1].sum()

        return jax.jit(jax.grad(loss))(params)

    some, every = gradient(Layers((1, 3), (1,)), slice(None)), None
    every = gradient(Layers(None, (0, 1)), np.array([1, 3]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), some, every)


def test_layers_that_nobody_asked_for_take_no_memory():
    module, params, x, valid = make(options(depth=20), batch=8, tokens=50)

    def memory(layers):
        run = jax.jit(lambda p: module.apply({"params": p}, x, valid, False, layers=layers))
        found = run.lower(params).compile().memory_analysis()
        return found.temp_size_in_bytes + found.output_size_in_bytes

    one, two, many = memory(LAST), memory(Layers((-2, -1), ())), memory(Layers(None, ()))
    assert many - one > 18 * x.nbytes and two - one < 5 * x.nbytes


def test_a_layer_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match=r"layers has 4, which does not exist: .* use -4 to 3"):
        Layers((4,), ()).indices(3)


def test_unroll_decides_whether_a_loop_is_compiled():
    def loops(unroll):
        module, params, x, valid = make(options(unroll=unroll))
        run = jax.jit(lambda p: module.apply({"params": p}, x, valid, False).hidden_states)
        return "stablehlo.while" in run.lower(params).as_text()

    assert loops(False) and not loops(True)
    assert loops(None) is (jax.default_backend() != "cpu")


@pytest.mark.parametrize(
    ("remat", "unroll"),
    [
        ("full", False),
        pytest.param("dots", True, marks=pytest.mark.slow),
        pytest.param("dots_no_batch", False, marks=pytest.mark.slow),
    ],
)
def test_remat_recomputes_but_gives_the_same_gradients(remat, unroll):
    o = options(depth=2, dropout=0.2, layerdrop=0.1, unroll=unroll)

    def gradient(o):
        module, params, x, valid = make(o)

        def loss(p):
            rngs = {"dropout": key_of(3)}
            return jnp.square(module.apply({"params": p}, x, valid, True, rngs=rngs).ffn).sum()

        text = str(jax.make_jaxpr(jax.grad(loss))(params))
        return text.count("dot_general"), jax.jit(jax.grad(loss))(params)

    (products, plain), (more, again) = gradient(o), gradient(dataclasses.replace(o, remat=remat))
    # `dots` keeps every product, so only the other policies recompute products
    assert more == products if remat == "dots" else more > products
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, again)


def test_layerdrop_skips_whole_layers_for_the_whole_batch_at_its_rate():
    o = options(depth=300, width=4, heads=1, mlp_width=4, layerdrop=0.3, unroll=False)
    module, params, x, valid = make(o, batch=3)
    hidden = np.asarray(apply(module, params, x, valid, seed=5).hidden_states)
    same = np.all(hidden[1:] == hidden[:-1], axis=(2, 3))
    assert (same.all(1) == same.any(1)).all()  # the three examples always agree
    assert abs(same.any(1).mean() - 0.3) < 0.1
    quiet = np.asarray(apply(module, params, x, valid).hidden_states)
    assert not np.all(quiet[1:] == quiet[:-1], axis=(1, 2, 3)).any()


def test_drop_path_grows_linearly_with_depth_and_keeps_the_mean():
    o = options(norm="pre", drop_path=0.6)
    module, params, x, valid = make(o, batch=1000, tokens=2)
    out = params["blocks"]["attention"]["out"]
    params["blocks"]["attention"]["out"] = jax.tree.map(jnp.zeros_like, out)  # one branch only
    got = apply(module, params, x, valid, seed=5)
    quiet = apply(module, params, x, valid)
    np.testing.assert_allclose(got.hidden_states[1], quiet.hidden_states[1], atol=1e-6)  # rate 0
    step = np.asarray(got.hidden_states[2] - got.hidden_states[1])
    dropped = np.all(step == 0, axis=(1, 2))
    assert abs(dropped.mean() - 0.3) < 0.06
    np.testing.assert_allclose(step[~dropped], got.ffn[1][~dropped] / 0.7, rtol=1e-3, atol=1e-5)


def test_drop_path_rate_of_a_block_is_per_example():
    o = options(norm="post", drop_path=0.5)
    block = Block(o)
    x = jnp.broadcast_to(jax.random.normal(jax.random.key(0), (1, 2, 8)), (400, 2, 8))
    valid = jnp.ones((400, 2), bool)

    def init(k):
        return block.init(k, x, valid, None, jnp.float32(0), False)

    def run(p, k):
        return block.apply(p, x, valid, None, jnp.float32(0.5), True, rngs={"dropout": k})[0]

    params = random_like(jax.eval_shape(init, key_of(0)))
    y = np.asarray(jax.jit(run)(params, key_of(1)))
    kinds = np.unique(np.round(y[:, 0, 0], 4))
    assert len(kinds) == 4  # two branches, each kept or dropped


@pytest.mark.parametrize("name", ["dropout", "attention_dropout", "activation_dropout"])
def test_each_dropout_acts_in_training_only(name):
    module, params, x, valid = make(options(**{name: 0.5}))
    plain = apply(make(options())[0], params, x, valid).hidden_states
    np.testing.assert_array_equal(apply(module, params, x, valid).hidden_states, plain)
    run = compiled(module, train=True)
    first, again, other = (run(params, x, valid, key_of(seed)).hidden_states for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first[1], plain[1]) and not np.allclose(first[1], other[1])


def test_dropout_differs_between_layers_and_spares_the_targets():
    module, params, x, valid = make(options(norm="pre", dropout=0.5), tokens=40)
    params = jax.tree.map(jnp.zeros_like, params)
    params["blocks"]["mlp"]["down"]["bias"] = jnp.ones((3, 8))  # every branch is all ones
    got = apply(module, params, x, valid, seed=1)
    first, second = (np.asarray(got.hidden_states[i + 1] - got.hidden_states[i]) for i in (0, 1))
    for step in (first, second):
        assert 0.4 < np.isclose(step, 2.0, atol=1e-5).mean() < 0.6
    assert not np.allclose(first, second, atol=1e-5)
    np.testing.assert_array_equal(got.ffn, 1.0)


def test_bfloat16_keeps_float32_parameters_and_stays_close():
    module, params, x, valid = make(options(), dtype=jnp.bfloat16)
    assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    got = apply(module, params, x, valid)
    assert got.hidden_states.dtype == got.ffn.dtype == jnp.bfloat16
    want = apply(make(options())[0], params, x, valid)
    np.testing.assert_allclose(got.hidden_states.astype(jnp.float32), want.hidden_states, atol=0.15)
    text = str(
        jax.make_jaxpr(lambda p: module.apply({"params": p}, x, valid, False).hidden_states)(params)
    )
    exps = [line for line in text.splitlines() if " exp " in line]
    assert exps and all("f32[" in line for line in exps)  # the softmax


@pytest.mark.parametrize(("init", "std"), [("bert", 0.02), ("torch", 1 / math.sqrt(3 * 256))])
def test_initial_weights_have_the_stated_spread(init, std):
    o = TransformerOptions(depth=2, width=256, heads=4, mlp_width=256, init=init)
    x = jnp.zeros((1, 2, 256))
    valid = jnp.ones((1, 2), bool)
    init = jax.jit(lambda k: Transformer(o).init(k, x, valid, False)["params"])
    params = init(key_of(0))
    kernel = params["blocks"]["mlp"]["down"]["kernel"]
    np.testing.assert_allclose(kernel.std((1, 2)), std, rtol=0.03)
    assert not np.allclose(kernel[0], kernel[1])
    assert not params["blocks"]["mlp"]["down"]["bias"].any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm": "middle"}, "encoder.norm is 'middle': use one of pre, post, res_post"),
        ({"init": "uniform"}, "encoder.init is 'uniform'"),
        ({"remat": "some"}, "encoder.remat is 'some'"),
        ({"heads": 3}, "encoder.heads 3 does not divide config.method.encoder.width 8"),
        ({"depth": 0}, "encoder.depth is 0"),
        ({"layerdrop": 1.0}, "encoder.layerdrop is 1.0"),
    ],
)
def test_impossible_options_name_their_key(changes, words):
    with pytest.raises(ValueError, match=words):
        options(**changes)
