"""The model of a program's memory traffic, against counts by hand."""

import jax
import jax.numpy as jnp
import pytest

from ssl_jax.core import chips, platform
from ssl_jax.engine import flops
from ssl_jax.nn import attention
from ssl_jax.nn.transformer import Transformer, TransformerOptions
from ssl_jax.planning import kernels as kernels_lib
from ssl_jax.planning import roofline


def shape(*sizes: int, dtype: str = "float32") -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)


def flow(fn, *args) -> kernels_lib.Flow:
    return kernels_lib.of(jax.make_jaxpr(fn)(*args))


def moved(found: kernels_lib.Flow, kind: str) -> float:
    return sum(k.bytes * k.times for k in found.kernels if k.kind == kind)


def test_what_stands_between_products_is_read_and_written_once():
    def mlp(x, up, down):
        return jnp.tanh(jnp.square(x @ up) + 1.0) @ down

    found = flow(mlp, shape(8, 64), shape(64, 256), shape(256, 64))
    x, w, h = 8 * 64 * 4, 64 * 256 * 4, 8 * 256 * 4
    assert moved(found, "dot") == (x + w + h) + (h + w + x)
    assert moved(found, "fused") == h + h
    assert found.peak() == 2 * h  # both hidden layers at once, then one and the output


def test_a_new_state_lies_where_the_old_one_did_and_gradients_may_be_sharded():
    def step(kernel, x):
        hidden = x @ kernel
        return kernel - 0.1 * (x.T @ hidden), hidden[0, 0]

    found = flow(step, shape(64, 256), shape(8, 64))
    kernel, hidden = 64 * 256 * 4, 8 * 256 * 4
    assert found.peak() == pytest.approx(2 * kernel, abs=hidden)  # the gradient and the new value
    assert found.peak(1) == pytest.approx(kernel + hidden, abs=64)
    assert found.peak(1, {(64, 256): 1 / 4}) == pytest.approx(kernel / 4 + hidden, abs=64)


def test_softmax_is_one_kernel_and_a_sum_over_rows_is_one_more():
    def softmax(x):
        return jax.nn.softmax(x @ x, -1) @ x

    found = flow(softmax, shape(64, 64))
    assert moved(found, "fused") == 2 * 64 * 64 * 4

    def centred(x):
        y = x @ x
        return (y - y.mean(0)) @ x

    # read for the mean, read to subtract it, written; the mean written and read
    assert moved(flow(centred, shape(64, 64)), "fused") == (3 * 64 * 64 + 2 * 64) * 4


def test_cheap_things_are_computed_again_and_costly_ones_kept():
    def twice(f):
        def fn(x, w):
            y = f(x)
            return (y @ w) * y

        return fn

    # y is an operand of a product, so it is in memory; it is read for the last factor
    size = 64 * 64 * 4
    cheap = flow(lambda x, w: (x @ w) * (x + 1.0), shape(64, 64), shape(64, 64))
    assert moved(cheap, "fused") == 3 * size  # the product, x, and the output
    kept = flow(twice(jnp.tanh), shape(64, 64), shape(64, 64))
    assert moved(kept, "fused") == 2 * size + 3 * size

    def noisy(x, w, key):
        mask = jax.random.bits(key, x.shape) > 7
        return jnp.where(mask, jnp.where(mask, x, 0) @ w, 0)

    drawn = flow(noisy, shape(64, 64), shape(64, 64), jax.eval_shape(lambda: jax.random.key(0)))
    # the one-byte mask is kept, not the four-byte random bits, and is not drawn again
    assert moved(drawn, "fused") == pytest.approx(2 * size + 64 * 64 + 2 * size + 64 * 64, abs=64)


def test_a_loop_moves_its_stacks_and_an_unrolled_one_is_no_loop():
    def run(unroll):
        def fn(x, w):
            return jax.lax.scan(lambda x, w: (jnp.sin(x @ w), x), x, w, unroll=unroll)

        return flow(fn, shape(8, 64), shape(5, 64, 64))

    looped, unrolled = run(1), run(5)
    for found in (looped, unrolled):
        assert sum(k.flops * k.times for k in found.kernels) == 5 * 2 * 8 * 64 * 64
    # a product reads its weights as a copy from the stack
    copies = moved(looped, "dot") - moved(unrolled, "dot")
    assert copies == 5 * 2 * 64 * 64 * 4


def transformer(name: str, **options):
    with platform.planned(name):
        model = Transformer(
            TransformerOptions(depth=3, width=32, heads=2, mlp_width=64, **options), jnp.bfloat16
        )
        arrays = shape(2, 40, 32, dtype="bfloat16"), shape(2, 40, dtype="bool")
        init = lambda key, *a: model.init(key, *a, False)  # noqa: E731
        params = jax.eval_shape(init, jax.random.key(0), *arrays)

        def loss(params, x, valid):
            hidden = model.apply(params, x, valid, False).hidden_states[-1]
            return jnp.square(hidden.astype("float32")).sum()

        jaxpr = jax.make_jaxpr(jax.value_and_grad(loss))(params, *arrays)
    return kernels_lib.of(jaxpr), flops.count(jaxpr)


def test_all_operations_are_in_kernels_and_remat_trades_memory_for_them():
    for name in ("tpu", "gpu"):
        plain, count = transformer(name)
        again, more = transformer(name, remat="full")
        assert sum(k.flops * k.times for k in plain.kernels) == pytest.approx(count)
        assert sum(k.flops * k.times for k in again.kernels) == pytest.approx(more)
        assert more > 1.2 * count
        assert again.peak() < plain.peak()


def test_attention_on_a_gpu_is_a_kernel_that_keeps_no_scores():
    found, _ = transformer("gpu")
    kernels = [k for k in found.kernels if k.kind == "attention"]
    assert sum(k.times for k in kernels) == 6  # forward and backward of three layers
    array, mask = 2 * 40 * 32 * 2, 2 * 40 * 40
    forward, backward = sorted({k.bytes for k in kernels})
    assert forward == 4 * array + mask
    assert backward == 7 * array + mask
    assert {k.flops for k in kernels} == {n * 2 * 2 * 40 * 40 * 32 for n in (2, 5)}
    assert not any(k.kind == "attention" for k in transformer("tpu")[0].kernels)


def test_the_stand_in_for_the_kernel_has_its_value_and_gradient():
    keys = jax.random.split(jax.random.key(0), 3)
    arrays = [jax.random.normal(key, (2, 6, 2, 8)) for key in keys]
    valid = jnp.arange(6) < jnp.array([[6], [4]])

    def loss(arrays, implementation):
        return jnp.sin(attention.in_one_kernel(*arrays, valid, implementation)).sum()

    run = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    (want, grads), (got, stand_ins) = (run(arrays, name) for name in ("xla", "cudnn"))
    assert jnp.allclose(got, want, atol=1e-5)
    for a, b in zip(grads, stand_ins, strict=True):
        assert jnp.allclose(a, b, atol=1e-5)


def test_a_kernel_takes_as_long_as_what_limits_it():
    chip = chips.CHIPS["h100"]
    share = roofline.ATTAINABLE["gpu"]
    n = 4096
    product = flow(jnp.matmul, shape(n, n, dtype="bfloat16"), shape(n, n, dtype="bfloat16"))
    (kernel,) = product.kernels
    assert roofline.seconds(kernel, chip) == 2 * n**3 / (share.dot * chip.flops)
    wide = flow(jnp.matmul, shape(n, n), shape(n, n)).kernels[0]
    assert roofline.seconds(wide, chip) == 2 * n**3 / (share.dot * chip.flops32)
    thin = flow(jnp.matmul, shape(n, 65, dtype="bfloat16"), shape(65, n, dtype="bfloat16"))
    ratio = roofline.product_seconds(thin.kernels[0], chip) / roofline.product_seconds(kernel, chip)
    assert ratio == pytest.approx(128 / n)  # 65 fills two tiles
    (added,) = flow(lambda x: x + 1, shape(n, n)).kernels
    assert roofline.seconds(added, chip) == 2 * n * n * 4 / (share.hbm * chip.hbm_rate)
    times = roofline.predict([kernel, added], [], chip)
    assert times.gaps == 2 * share.gap
    assert times.total == times.dot + times.fused + times.gaps
