"""HuBERT against a literal float64 computation: loss, gradient, one update."""

import data2vec_literal as parts
import hubert_literal as literal
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import wav2vec2_literal as wav2vec2
from method_cases import quick_jit, tiny

from ssl_jax.core import tree as tree_lib
from ssl_jax.methods import hubert
from ssl_jax.nn.conv import output_lengths

HEARD = (0, 1, 2)  # the rows of the batch that have a weight
CASES = {
    "as published": {"units.classes": (8,)},
    "two sets, unmasked frames too": {"units.classes": (8, 5), "loss.unmasked": 0.5},
}


def flat(tree):
    return {name: np.asarray(x, np.float64) for name, x in tree_lib.named_leaves(tree)}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[] if i else pytest.mark.slow) for i, name in enumerate(CASES)
    ],
)
def case(request):
    """A tiny model, a fixed mask, the same clips and labels without padding, and the results."""
    changes = {"encoder.input_dropout": 0.0, **CASES[request.param]}
    setup = tiny("hubert/audio", changes)
    options, batch = setup.method.loss.__self__.options, setup.batch
    classes = options.units.classes
    units = np.array(batch["units"])[:, : len(classes)]
    setup.batch = {**batch, "units": jnp.asarray(units)}
    frames = output_lengths(np.asarray(batch["audio_len"]), (10, 8, 8), wav2vec2.STRIDES)
    valid = np.arange(frames.max()) < frames[:, None]
    valid[3] = False  # of weight 0
    mask = (np.random.default_rng(5).random(valid.shape) < 0.4) & valid
    clips = [np.asarray(batch["audio"][i, : batch["audio_len"][i]]) for i in HEARD]
    labels = [[row[row >= 0].tolist() for row in units[i]] for i in HEARD]
    masks = [mask[i, : valid[i].sum()] for i in HEARD]
    weights = (options.loss.masked, options.loss.unmasked)

    def expected(params):
        return literal.loss(params, clips, masks, labels, classes, weights=weights)

    def loss(params):
        out = setup.loss(params)
        return out.loss, out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hubert.masks, "span_mask", lambda *_: jnp.asarray(mask))
        run = quick_jit(jax.value_and_grad(loss, has_aux=True))
        (_, out), gradient = run(setup.params)
    return setup, expected, out, gradient


def test_loss_equals_the_literal_one_in_float64(case):
    setup, expected, out, _ = case
    loss, frames, penalty = expected(flat(setup.params))
    np.testing.assert_allclose(out.loss, loss, rtol=1e-5)
    assert out.weight == frames
    total, count = out.metrics["feature_penalty"]
    np.testing.assert_allclose(total / count, penalty, rtol=1e-5)


def test_gradient_agrees_with_differences_of_the_literal_loss(case):
    """One random direction in every parameter; that of the convolutions is scaled by 0.1, for the
    cross-entropy and for the penalty alike."""
    setup, expected, _, gradient = case
    params, gradient = flat(setup.params), flat(gradient)
    draw, h, slopes = np.random.default_rng(11), 1e-5, {}
    for key, x in params.items():
        way = draw.standard_normal(x.shape)
        up, down = (expected({**params, key: x + s * way})[0] for s in (h, -h))
        factor = 0.1 if key.startswith("encoder/frontend/convs/") else 1.0
        slopes[key] = ((gradient[key] * way).sum(), factor * (up - down) / (2 * h))
    scale = max(abs(b) for _, b in slopes.values())
    for key, (a, b) in slopes.items():
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale, err_msg=key)
    still = {key for key, (_, b) in slopes.items() if abs(b) < 1e-6 * scale}
    # a constant added to all keys leaves softmax unchanged
    assert still <= {"encoder/blocks/attention/key/bias"}


def test_one_adam_step(case):
    setup, _, _, gradient = case
    tx = optax.adamw(1e-2, 0.9, 0.98, eps=1e-3, weight_decay=0.01)

    @quick_jit
    def update(params):
        updates, _ = tx.update(gradient, tx.init(params), params)
        return optax.apply_updates(params, updates)

    expected = parts.adam(flat(setup.params), flat(gradient), 1e-2)
    for key, x in flat(update(setup.params)).items():
        np.testing.assert_allclose(x, expected[key], atol=2e-5, err_msg=key)
