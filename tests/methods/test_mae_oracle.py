"""MAE against a literal float64 computation: loss and gradient, full and padded examples."""

import functools

import jax
import mae_literal as literal
import numpy as np
import pytest
from mae_cases import tiny
from method_cases import quick_jit

from ssl_jax.core import tree as tree_lib
from ssl_jax.ops import dsp, masks

HEARD = (0, 1, 2)  # the rows of the batch that have a weight
COLUMNS = {"image": 4, "spectrogram": 2}
CASES = {
    "spectrogram": ("spectrogram", {"mask_ratio": 0.8}),
    "image": ("image", {}),
    "image, all pixels as they are": ("image", {"norm_pix": False, "masked_only": False}),
}
fbank = jax.jit(functools.partial(dsp.fbank, **{**dsp.CONVENTIONS["audiomae"], "num_mels": 16}))


def flat(tree):
    return {name: np.asarray(x, np.float64) for name, x in tree_lib.named_leaves(tree)}


def image_patches(image):
    """image (H, W, 3) uint8 -> patches (S, P) of 4 x 4 normalized pixels."""
    x = (np.asarray(image, np.float64) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    side = len(x) // 4
    cut = [x[4 * i : 4 * i + 4, 4 * j : 4 * j + 4] for i in range(side) for j in range(side)]
    return np.stack([patch.ravel() for patch in cut])


def sound_patches(clip):
    """clip (N,) int16 -> patches (S, P) of 4 frames by 8 mels of the full clip."""
    cells = np.asarray(fbank(np.asarray(clip)[None]), np.float64)[0]
    rows = len(cells) // 4
    cut = [cells[4 * i : 4 * i + 4, 8 * j : 8 * j + 8] for i in range(rows) for j in range(2)]
    return np.stack([patch.ravel() for patch in cut])


@pytest.fixture(
    scope="module",
    # the first covers padding and everything else
    params=[pytest.param(c, marks=[pytest.mark.slow] * bool(i)) for i, c in enumerate(CASES)],
)
def case(request):
    """(kind, options of the literal, Setup, [(patches, visible ids)], Output, gradient)."""
    kind, changes = CASES[request.param]
    setup = tiny(kind, changes)
    batch, method = setup.batch, setup.method.loss.__self__
    if kind == "image":
        patches = [image_patches(batch["image"][i]) for i in HEARD]
    else:
        patches = [sound_patches(batch["audio"][i, : batch["audio_len"][i]]) for i in HEARD]
    size = max(map(len, patches))
    real = np.arange(size) < np.array([len(p) for p in patches] + [size])[:, None]
    keys = setup.streams(batch).for_examples("mask")
    draw = quick_jit(lambda keys: masks.random_visible(keys, real, method.visible(size))[1])
    seen = real & ~draw(keys)
    examples = [(p, np.flatnonzero(seen[i]).tolist()) for i, p in enumerate(patches)]

    def loss(params):
        out = setup.loss(params)
        return out.loss, out

    (_, out), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(setup.params)
    options = {k: v for k, v in changes.items() if k != "mask_ratio"}
    return kind, options, setup, examples, out, gradient


def test_loss_equals_the_literal_one_in_float64(case):
    kind, options, setup, examples, out, _ = case
    expected = literal.loss(flat(setup.params), examples, COLUMNS[kind], **options)
    np.testing.assert_allclose(out.loss, expected, rtol=1e-5)
    masked = sum(len(patches) - len(visible) for patches, visible in examples)
    assert out.metrics["masked_share"] == (masked, sum(len(p) for p, _ in examples))
    assert out.weight == (masked if options.get("masked_only", True) else 48)


def test_gradient_agrees_with_differences_of_the_literal_loss(case):
    """One random direction in every parameter, central differences in float64."""
    kind, options, setup, examples, _, gradient = case
    params, gradient = flat(setup.params), flat(gradient)
    draw, h, slopes = np.random.default_rng(11), 1e-5, {}
    for key, x in params.items():
        way = draw.standard_normal(x.shape)
        up, down = (
            literal.loss({**params, key: x + s * way}, examples, COLUMNS[kind], **options)
            for s in (h, -h)
        )
        slopes[key] = ((gradient[key] * way).sum(), (up - down) / (2 * h))
    scale = max(abs(b) for _, b in slopes.values())
    for key, (a, b) in slopes.items():
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale, err_msg=key)
    still = {key for key, (_, b) in slopes.items() if abs(b) < 1e-6 * scale}
    # a constant added to all keys leaves softmax unchanged
    assert still <= {f"{part}/blocks/attention/key/bias" for part in ("encoder", "decoder")}
