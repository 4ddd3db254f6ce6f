"""data2vec v1 of images and text: what replaces a masked token, initial weights, bad options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_cases import tiny

from ssl_jax.core import tree as tree_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.methods import data2vec


def shown(**shares):
    """Returns (x, hidden, the student's view) of random token vectors (64, 24, 16)."""
    setup = tiny("data2vec/text", {f"mask.{k}": v for k, v in shares.items()})
    method = setup.method.loss.__self__
    draw = np.random.default_rng(0)
    tokens = jnp.asarray(draw.integers(4, 261, (64, 24)), jnp.int32)
    batch = {"id": jnp.arange(64, dtype=jnp.uint32), "tokens": tokens}
    batch["tokens_len"] = jnp.full(64, 24)
    table = setup.params["encoder"]["frontend"]["embedding"]
    hidden = jnp.asarray(draw.random((64, 24)) < 0.5)
    args = (setup.params, batch, setup.streams(batch), table[tokens], hidden)
    view = np.asarray(jax.jit(method._hide)(*args))
    return np.asarray(table), np.asarray(table[tokens]), np.asarray(hidden), view, setup.params


def test_of_masked_tokens_most_show_the_vector_some_another_token_some_themselves():
    table, x, hidden, view, params = shown(random=0.2, keep=0.3, first_id=100)
    np.testing.assert_array_equal(view[~hidden], x[~hidden])
    vector = (view == params["mask"]["vector"]).all(-1)[hidden]
    same = (view == x).all(-1)[hidden]
    other = view[hidden][~vector & ~same]
    count = hidden.sum()
    for share, wanted in ((vector.mean(), 0.5), (same.mean(), 0.3), (len(other) / count, 0.2)):
        assert abs(share - wanted) < 5 * (wanted * (1 - wanted) / count) ** 0.5 + 0.01
    ids = (other[:, None] == table).all(-1)
    assert ids.any(1).all() and ids.argmax(1).min() >= 100


def test_by_default_every_masked_token_shows_the_vector():
    _, x, hidden, view, params = shown()
    want = np.where(hidden[..., None], params["mask"]["vector"], x)
    np.testing.assert_array_equal(view, want)


def test_first_weights_out_of_the_branches_shrink_with_depth():
    blocks = {
        "attention": {"out": {"kernel": jnp.ones((3, 4, 4)), "bias": jnp.ones((3, 4))}},
        "mlp": {"down": {"kernel": jnp.ones((3, 8, 4))}, "up": {"kernel": jnp.ones((3, 4, 8))}},
    }
    found = dict(tree_lib.named_leaves(data2vec.rescaled(blocks)))
    for name in ("attention/out/kernel", "mlp/down/kernel"):
        np.testing.assert_allclose(found[name][:, 0, 0], [2**-0.5, 0.5, 6**-0.5], rtol=1e-6)
    for name in ("attention/out/bias", "mlp/up/kernel"):
        assert (found[name] == 1).all()


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        ("image", {"mask.kind": "blocks"}, "config.method.mask.kind is 'blocks': use one of span,"),
        (
            "image",
            {"mask.count": 16},
            "mask.count is 16 of 16 patches, .* use a value such as 10",
        ),
        ("image", {"mask.count": 0}, "mask.count is 0 of 16 patches"),
        ("image", {"mask.keep": 0.1}, "mask.random and config.method.mask.keep are for text"),
        ("image", {"targets.layers": 3}, "config.method.targets.layers is 3.*use 1 to 2"),
        ("image", {"augment": {"gain": {}}}, "config.method.augment changes audio"),
        ("text", {"mask.kind": "beit_block"}, "'beit_block' needs a grid of patches"),
        ("text", {"mask.random": 0.7, "mask.keep": 0.6}, "are shares that must not exceed 1"),
        ("text", {"predictor.layers": 3}, "config.method.predictor.layers is 3: use 1 or 2"),
        ("text", {"predictor.init": "zeros"}, "config.method.predictor.init is 'zeros'"),
    ],
)
def test_a_wrong_option_is_named(config, changes, message):
    with pytest.raises(ConfigError, match=message):
        tiny(f"data2vec/{config}", changes)
