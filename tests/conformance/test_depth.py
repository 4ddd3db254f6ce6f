"""The program of a step is as long for five layers as for three, so it compiles as fast."""

import cases
import jax
import pytest
from jax.extend import core

from ssl_jax.core import tree
from ssl_jax.planning import aot

# one of each kind of encoder, and the decoder that has blocks
FAST = (
    "configs/data2vec/kws.py",
    "configs/data2vec2/text.py",
    "configs/mae/image.py",
    "configs/superb/phones.py",
    "configs/wav2vec2/conformer.py",
)


def paths():
    for path in cases.config_paths():
        yield pytest.param(path, marks=[] if path in FAST else [pytest.mark.slow], id=path)


def length(jaxpr) -> int:
    """Returns the number of equations of a program as compiled; a loop counts its body once."""
    total = 0
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        inner = sum(length(j) for j in core.jaxprs_in_params(eqn.params))
        total += 1 + inner * eqn.params.get("unroll", 1)
    return total


def of_depth(path: str, layers: int, **more) -> tuple[int, set[int]]:
    """Returns (length of a TPU's step with that many layers, lengths of its stacks of blocks)."""
    config = cases.load(path, "toy")
    with config.unlocked():
        method = config.method
        parts = [method.get(part, {}) for part in ("decoder", "predictor", "estimator", "fusion")]
        # with one encoder, or with several
        parts += [*method.get("encoders", {}).values(), *method.get("decoders", {}).values()]
        for part in [method.get("encoder", {}), *(part for part in parts if "depth" in part)]:
            part.update({"depth": layers, **more})
    made = aot.build(config, lambda: cases.build(config), jax.devices()[:1], "tpu")
    leaves = tree.named_leaves(made.state.params)
    return length(made.trace()), {x.shape[0] for name, x in leaves if "/blocks/" in name}


@pytest.mark.parametrize("path", paths())
def test_a_step_is_as_long_with_more_layers(path):
    few, many = of_depth(path, 3), of_depth(path, 5)
    assert (few[1], many[1]) == ({3}, {5})
    assert few[0] == many[0] > 100


def test_layers_without_a_loop_would_show():
    path = "configs/supervised/kws.py"
    assert of_depth(path, 5, unroll=True)[0] > 1.2 * of_depth(path, 3, unroll=True)[0]
