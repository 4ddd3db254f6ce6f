"""CTC as a method: its loss by hand, what counts, what is masked and what stays frozen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_cases import quick_jit, tiny

from ssl_jax.core import tree as tree_lib
from ssl_jax.ops import ctc

UNITS = 5
QUIET = {"mask.prob": 0.0, "encoder.activation_dropout": 0.0}


def spoken(setup):
    """Adds transcripts to the batch: two units, four with a repeat, one; and one of weight 0."""
    labels = jnp.array([[1, 2, -1, -1], [3, 3, 4, 1], [2, -1, -1, -1], [1, 1, 1, 1]])
    setup.batch |= {"transcript": labels, "transcript_len": jnp.array([2, 4, 1, 4])}
    return setup


def made(**changes):
    return spoken(tiny("ctc/speech", {**QUIET, **changes}, classes=UNITS))


def test_loss_is_the_mean_over_recordings_of_minus_log_p():
    setup = made()
    batch = {**setup.batch, "transcript_len": jnp.array([2, 4, 1, 4])}

    def both(batch):
        out = setup.loss(batch=batch, train=False)
        log_probs, frames = setup.method.emissions(setup.params, batch)
        return out, log_probs, frames

    out, log_probs, frames = quick_jit(both)(batch)
    np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1, rtol=1e-5)
    assert frames.tolist() == setup.method.frames(np.asarray(batch["audio_len"])).tolist()
    each, _ = jax.jit(ctc.loss)(log_probs, frames, batch["transcript"], batch["transcript_len"])
    np.testing.assert_allclose(out.loss, np.mean(each[:3]), rtol=1e-5)
    assert out.weight == 3 and out.metrics["infeasible"] == (0, 3)


def test_the_bias_of_the_blank_begins_where_it_is_set():
    setup = made(**{"head.blank_bias": -2.0})
    # of all that init makes, only this is compiled
    bias = jax.jit(lambda k: setup.method.init(k, setup.batch)[0]["head"]["classifier"]["bias"])
    assert bias(jax.random.key(0)).tolist() == [-2.0] + [0.0] * (UNITS - 1)


def test_a_transcript_without_enough_frames_does_not_count():
    setup = made()
    short = {**setup.batch, "audio_len": jnp.array([8000, 1300, 8000, 8000])}
    frames = setup.method.frames(np.array([1300]))[0]
    assert frames < 5  # three units, and two that are equal
    run = quick_jit(lambda batch: setup.loss(batch=batch, train=False))
    out = run(short)
    assert out.weight == 2 and out.metrics["infeasible"] == (1, 3)
    without = {**setup.batch, "weight": jnp.array([1.0, 0.0, 1.0, 0.0])}
    np.testing.assert_allclose(out.loss, run(without).loss, rtol=1e-6)


@pytest.mark.parametrize(
    "frozen",
    ["convs", *(pytest.param(name, marks=pytest.mark.slow) for name in ("none", "encoder"))],
)
def test_frozen_parts_get_no_gradient(frozen):
    setup = made(frozen=frozen)
    gradient = quick_jit(jax.grad(lambda p: setup.loss(p).loss))(setup.params)
    moved = {name for name, g in tree_lib.named_leaves(gradient) if (g != 0).any()}
    convs = {name for name in moved if name.startswith("encoder/frontend/convs/")}
    encoder = {name for name in moved if name.startswith("encoder/")}
    assert bool(convs) is (frozen == "none")
    assert bool(encoder) is (frozen != "encoder")
    assert {"head/classifier/kernel", "head/classifier/bias"} <= moved


@pytest.mark.slow
@pytest.mark.parametrize(
    "masks",
    [
        {"mask.prob": 0.5},
        {"mask.channel_prob": 0.5, "mask.channel_length": 4},
    ],
)
def test_masks_are_of_training_alone(masks):
    setup, plain = made(**masks), made()
    params = {**plain.params, **({"mask": setup.params["mask"]} if "mask.prob" in masks else {})}
    evaluate = quick_jit(lambda p: setup.loss(p, train=False).loss)
    train = quick_jit(lambda step: setup.loss(params, step=step).loss)
    quiet = quick_jit(lambda: plain.loss().loss)()
    np.testing.assert_allclose(evaluate(params), quiet, rtol=1e-5)
    assert abs(train(0) - quiet) > 1e-4 and abs(train(0) - train(1)) > 1e-4


@pytest.mark.slow
def test_channels_are_zero_in_all_frames_and_masked_frames_are_the_vector():
    setup = made(**{"mask.prob": 0.5, "mask.channel_prob": 0.5, "mask.channel_length": 4})
    method = setup.method.loss.__self__
    x = jnp.ones((4, 24, 16))
    valid = jnp.arange(24) < jnp.array([24, 20, 24, 24])[:, None]
    seen = np.asarray(method._hide(setup.params, setup.streams(setup.batch), x, valid))
    vector = np.asarray(setup.params["mask"]["vector"])
    for row in range(4):
        silent = (seen[row] == 0).all(0)
        assert 4 <= silent.sum() < 16
        hidden = np.isclose(seen[row][:, ~silent], vector[~silent]).all(1)
        assert (seen[row][~hidden][:, ~silent] == 1).all()
        assert hidden.sum() >= 3 and not hidden[np.flatnonzero(~np.asarray(valid[row]))].any()
    assert len({tuple((seen[row] == 0).all(0)) for row in range(4)}) > 1


def test_head_reads_a_mix_of_all_hidden_states():
    setup = made(**{"head.mix": True, "head.projection": 7, "frozen": "encoder"})
    head = setup.params["head"]
    states = jax.random.normal(jax.random.key(0), (3, 2, 5, 16))
    method = setup.method.loss.__self__
    log_probs = method._answer(setup.params, states)
    weights = np.exp(head["mix"]) / np.exp(head["mix"]).sum()
    x = np.einsum("l,lbsd->bsd", weights, states)
    for name in ("projection", "classifier"):
        x = x @ np.asarray(head[name]["kernel"]) + np.asarray(head[name]["bias"])
    np.testing.assert_allclose(log_probs, jax.nn.log_softmax(x), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frozen": "all"}, "config.method.frozen is 'all': use one of none, convs, encoder"),
        ({"mask.prob": 1.5}, "config.method.mask.prob is 1.5: use 0.0 to 1.0"),
        ({"mask.length": 0}, "config.method.mask.length is 0"),
        ({"head.dropout": 1.0}, "config.method.head.dropout is 1.0"),
        ({"encoder.input_dropout": 0.1}, "config.method.encoder.input_dropout"),
        ({"frozen": "encoder", "mask.prob": 0.5}, "config.method.mask.prob and channel_prob"),
        ({"encoder": {"kind": "keyword_transformer"}}, "config.method.frozen is 'convs'"),
        ({"encoder": {"kind": "vit"}}, "config.method.encoder.kind is 'vit'"),
    ],
)
def test_a_wrong_option_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        made(**changes)


def test_a_vocabulary_of_the_blank_alone_is_refused():
    with pytest.raises(ValueError, match=r"vocabulary has 1 tokens.*transcript"):
        tiny("ctc/speech", classes=1)
