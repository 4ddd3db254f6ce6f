"""FLOPs against counts by hand: products, convolutions, loops, and recomputation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ssl_jax.core import platform
from ssl_jax.engine import flops
from ssl_jax.nn.transformer import Transformer, TransformerOptions


def shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, "float32")


def test_products_by_hand():
    assert flops.of(jnp.matmul, shape(3, 5), shape(5, 7)) == 2 * 3 * 5 * 7
    attend = lambda q, k: jnp.einsum("bqhd,bkhd->bhqk", q, k)  # noqa: E731
    assert flops.of(attend, shape(2, 6, 4, 8), shape(2, 9, 4, 8)) == 2 * 2 * 4 * 6 * 9 * 8
    assert flops.of(lambda x: jnp.tanh(x) + 1, shape(3)) == 0


def pairs(size: int, taps: int, stride: int, pad: tuple[int, int]) -> int:
    """Returns the number of (output, tap) pairs without padding, by convolving ones with ones."""
    ones = np.pad(np.ones(size), pad)
    starts = range(0, len(ones) - taps + 1, stride)
    return int(sum(ones[i : i + taps].sum() for i in starts))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("stride", "pad"), [(1, (0, 0)), (3, (0, 0)), (2, (2, 1))])
def test_convolution_and_its_gradients_by_hand(stride, pad, groups):
    size, taps, inputs, outputs, rows = 20, 4, 6, 8, 3

    def conv(x, kernel):
        return jax.lax.conv_general_dilated(
            *(x, kernel, (stride,), (pad,)),
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=groups,
        )

    arrays = shape(rows, size, inputs), shape(taps, inputs // groups, outputs)
    one = 2 * rows * pairs(size, taps, stride, pad) * inputs * outputs // groups
    assert flops.of(conv, *arrays) == one

    def gradients(*arrays):
        return jax.grad(lambda *a: jnp.square(conv(*a)).sum(), argnums=(0, 1))(*arrays)

    # forward, and as many each for the gradients of the input and of the kernel
    assert flops.of(gradients, *arrays) == 3 * one


def test_a_loop_counts_as_often_as_it_runs():
    body = lambda x, w: (jnp.tanh(x @ w), None)  # noqa: E731
    looped = lambda x, w: jax.lax.scan(body, x, w)[0]  # noqa: E731
    assert flops.of(looped, shape(2, 4), shape(7, 4, 4)) == 7 * 2 * 2 * 4 * 4
    nested = lambda x, w: jax.lax.scan(lambda x, _: (looped(x, w), None), x, None, length=3)[0]  # noqa: E731
    assert flops.of(nested, shape(2, 4), shape(7, 4, 4)) == 3 * 7 * 2 * 2 * 4 * 4


def test_the_costliest_branch_counts_and_what_is_unused_does_not():
    def choose(x):
        y = x @ x @ x  # not used
        del y
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ x, lambda: x)

    assert flops.of(choose, shape(4, 4)) == 2 * 4**3


def test_remat_counts_the_second_forward_pass():
    def loss(x, w):
        return jnp.sum(jnp.tanh(jnp.tanh(x @ w) @ w))

    arrays, one = (shape(4, 4), shape(4, 4)), 2 * 4**3
    # two products forward; backward two for w and one for the input of the second
    assert flops.of(jax.value_and_grad(loss, argnums=1), *arrays) == 5 * one
    again = jax.value_and_grad(jax.checkpoint(loss), argnums=1)
    assert flops.of(again, *arrays) == 7 * one
    # the first of the two passes is not needed without the value
    assert flops.of(jax.grad(jax.checkpoint(loss), argnums=1), *arrays) == 5 * one


@pytest.mark.parametrize("remat", ["none", "full"])
def test_unrolled_equals_scanned(remat):
    counts = {}
    for unroll in (True, False):
        options = TransformerOptions(
            depth=3, width=16, heads=2, mlp_width=64, remat=remat, unroll=unroll
        )
        model = Transformer(options)
        arrays = shape(2, 10, 16), jax.ShapeDtypeStruct((2, 10), "bool")
        init = lambda key, *a, model=model: model.init(key, *a, False)  # noqa: E731
        params = jax.eval_shape(init, jax.random.key(0), *arrays)

        def loss(params, x, valid, model=model):
            return jnp.square(model.apply(params, x, valid, False).hidden_states[-1]).sum()

        counts[unroll] = flops.of(jax.grad(loss, argnums=(0, 1)), params, *arrays)
    # two examples, three blocks: 24 T D^2 of products with weights, 4 T^2 D of attention
    forward = 2 * 3 * (24 * 10 * 16**2 + 4 * 10**2 * 16)
    assert counts[True] == counts[False]
    if remat == "none":
        assert counts[False] == 3 * forward
    else:  # the last product of a block is not needed for its own gradient
        assert 3.7 * forward < counts[False] <= 4 * forward


def test_code_asks_for_the_planned_platform_and_is_traced_anew():
    traced = jax.jit(lambda x: x @ x if platform.name() == "tpu" else x)
    assert flops.of(traced, shape(4, 4)) == 0
    with platform.planned("tpu"):
        assert flops.of(traced, shape(4, 4)) == 2 * 4**3
    assert flops.of(traced, shape(4, 4)) == 0


def test_what_each_device_does_for_itself_counts_for_each():
    auto = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.sharding.AbstractMesh((2, 4), ("data", "model"), axis_types=auto)
    x, w = jnp.ones((8, 3)), jnp.ones((3, 16))

    def product(x, w):
        specs = (P("data"), P(None, "model"))
        return jax.shard_map(jnp.matmul, mesh=mesh, in_specs=specs, out_specs=P("data", "model"))(
            x, w
        )

    assert flops.of(product, x, w) == flops.of(jnp.matmul, x, w) == 2 * 8 * 3 * 16
