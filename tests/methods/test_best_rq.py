"""BEST-RQ against a literal float64 computation: labels, loss, gradient, one update; options."""

import data2vec_literal as parts
import hubert_literal
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import wav2vec2_literal as wav2vec2
from method_cases import QUIET, quick_jit, tiny

from ssl_jax.core import tree as tree_lib
from ssl_jax.methods import best_rq
from ssl_jax.nn.conv import output_lengths
from ssl_jax.ops import dsp, random_labels

HEARD = (0, 1, 2)  # the rows of the batch that have a weight
# the encoder of which a literal form exists
WAVEFORM = QUIET | {
    "kind": "waveform",
    "preset": "wav2vec2_base",
    "depth": 2,
    "width": 16,
    "heads": 2,
    "mlp_width": 32,
    "conv_channels": 16,
    "conv_kernels": (10, 8, 8),
    "conv_strides": (5, 8, 8),
    "position_groups": 4,
    "position_kernel": 8,
    "input_dropout": 0.0,
}
MELS, WIDTH, CODES, BOOKS = 16, 4, 8, 2


def flat(tree):
    return {name: np.asarray(x, np.float64) for name, x in tree_lib.named_leaves(tree)}


def labels(clip, frames, each=2):
    """The code of each frame in both books: two log-mel frames, normalized over the clip."""
    mel = np.asarray(dsp.fbank(jnp.asarray(clip)[None], num_mels=MELS)[0], np.float64)
    mel = (mel - mel.mean(0)) / np.sqrt(mel.var(0) + 1e-5)
    projection, codes = random_labels.tables(7, each * MELS, WIDTH, CODES, BOOKS)
    found = []
    for k in range(BOOKS):
        own = []
        for s in range(frames):
            parts = [
                mel[each * s + i] if each * s + i < len(mel) else 0 * mel[0] for i in range(each)
            ]
            x = np.concatenate(parts) @ projection[k]
            x = x / np.linalg.norm(x)
            own.append(
                int(np.argmin([np.linalg.norm(c / np.linalg.norm(c) - x) for c in codes[k]]))
            )
        found.append(own)
    return found


def literal(params, clips, masks, truth):
    """Returns (loss, masked frames) of a batch, a clip and a frame at a time."""
    p, terms = parts.part(params, "encoder/"), []
    for clip, mask, sets in zip(clips, masks, truth, strict=True):
        x = wav2vec2.convolutions(p, clip)
        x = parts.affine(x, p["frontend/norm/scale"], p["frontend/norm/bias"])
        x = x @ p["frontend/projection/kernel"] + p["frontend/projection/bias"]
        y = hubert_literal.encoded(p, np.where(mask[:, None], params["mask/vector"], x))
        for t in np.flatnonzero(mask):
            logits = y[t] @ params["head/kernel"] + params["head/bias"]
            own = [logits[k * CODES : (k + 1) * CODES] for k in range(BOOKS)]
            terms.append(
                np.mean([np.log(np.exp(own[k]).sum()) - own[k][sets[k][t]] for k in range(BOOKS)])
            )
    return np.mean(terms), len(terms)


@pytest.fixture(scope="module")
def case():
    """A tiny model, a fixed mask, the same clips without padding, and the results."""
    given = {"seed": 7, "num_mels": MELS, "width": WIDTH, "codes": CODES, "books": BOOKS}
    changes = {f"labels.{key}": value for key, value in given.items()}
    setup = tiny("best_rq/speech", {"encoder": WAVEFORM, **changes})
    batch = setup.batch
    frames = output_lengths(np.asarray(batch["audio_len"]), (10, 8, 8), wav2vec2.STRIDES)
    valid = np.arange(frames.max()) < frames[:, None]
    valid[3] = False  # of weight 0
    mask = (np.random.default_rng(5).random(valid.shape) < 0.4) & valid
    clips = [np.asarray(batch["audio"][i, : batch["audio_len"][i]]) for i in HEARD]
    truth = [labels(clip, frames[i]) for i, clip in zip(HEARD, clips, strict=True)]
    masks = [mask[i, : frames[i]] for i in HEARD]

    def loss(params):
        out = setup.loss(params)
        return out.loss, (out, setup.method.loss.__self__.labels(batch, valid.shape[1]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(best_rq.masks, "span_mask", lambda *_: jnp.asarray(mask))
        run = quick_jit(jax.value_and_grad(loss, has_aux=True))
        (_, (out, found)), gradient = run(setup.params)
    return setup, lambda params: literal(params, clips, masks, truth), truth, out, found, gradient


def test_labels_are_the_nearest_random_codes(case):
    truth, found = case[2], case[4]
    for row, sets in zip(HEARD, truth, strict=True):
        assert found[row, :, : len(sets[0])].tolist() == sets
    assert len({code for sets in truth for code in sets[0]}) > 3
    assert truth[0][0] != truth[0][1]


def test_loss_equals_the_literal_one_in_float64(case):
    setup, expected, _, out, *_ = case
    loss, frames = expected(flat(setup.params))
    np.testing.assert_allclose(out.loss, loss, rtol=1e-5)
    assert out.weight == frames


def test_gradient_agrees_with_differences_of_the_literal_loss(case):
    """One random direction in every parameter; that of the convolutions is scaled by 0.1."""
    setup, expected, *_, gradient = case
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
    setup, gradient = case[0], case[-1]
    tx = optax.adamw(1e-2, 0.9, 0.98, eps=1e-3, weight_decay=0.01)

    @quick_jit
    def update(params):
        updates, _ = tx.update(gradient, tx.init(params), params)
        return optax.apply_updates(params, updates)

    expected = parts.adam(flat(setup.params), flat(gradient), 1e-2)
    for key, x in flat(update(setup.params)).items():
        np.testing.assert_allclose(x, expected[key], atol=2e-5, err_msg=key)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels.codes": 1}, "config.method.labels.codes is 1: use 2 or more, such as 8192"),
        ({"labels.books": 0}, "config.method.labels.books is 0: use 1 or more, such as 1"),
        ({"encoder": {"kind": "vit"}}, "kind is 'vit', which has no frames of audio to label"),
        (
            {"encoder": {**WAVEFORM, "conv_strides": (5, 2, 2)}},
            "has 800 frames per second, more than the 100 of log-mel",
        ),
    ],
)
def test_impossible_options_name_their_key(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny("best_rq/speech", changes)
