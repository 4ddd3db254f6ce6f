"""The transducer as a method: its networks by hand, its loss, what counts, and its options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_cases import quick_jit, tiny

from ssl_jax.ops import transducer

TOKENS = 5


def spoken(setup):
    """Adds transcripts to the batch: two tokens, four, one; and one of weight 0."""
    labels = jnp.array([[1, 2, -1, -1], [3, 3, 4, 1], [2, -1, -1, -1], [1, 1, 1, 1]])
    setup.batch |= {"transcript": labels, "transcript_len": jnp.array([2, 4, 1, 4])}
    return setup


def made(**changes):
    return spoken(tiny("transducer/speech", changes, classes=TOKENS))


@pytest.fixture(scope="module")
def setup():
    return made(**{"predictor.layers": 2})


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(params, tokens):
    """Returns the hidden states of two layers, token by token, the empty transcript first."""
    out, state = [], [(np.zeros(8), np.zeros(8)) for _ in range(2)]
    for token in [0, *tokens]:
        x = np.asarray(params["embedding"])[token] if token else np.zeros(4)
        for i in range(2):
            hidden, cell = state[i]
            gates = x @ params[f"input{i}_kernel"] + hidden @ params[f"hidden{i}_kernel"]
            enter, forget, new, leave = np.split(gates + params[f"gates{i}_bias"], 4)
            cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(new)
            state[i] = (sigmoid(leave) * np.tanh(cell), cell)
            x = state[i][0]
        out.append(x)
    return np.stack(out)


def log_probs(params, frames, said):
    """frames (S, J), said (W, P) -> (S, W, V), by the joint network in plain words."""
    hidden = np.tanh(frames[:, None] + said @ params["from_said"]["kernel"])
    logits = hidden @ params["answer"]["kernel"] + params["answer"]["bias"]
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.fixture(scope="module")
def found(setup):
    """The loss without and with a short recording, and the emissions, compiled once."""

    def all_of(batch):
        out = setup.loss(batch=batch, train=False)
        return (
            out.loss,
            out.weight,
            out.metrics["infeasible"],
            setup.method.emissions(setup.params, batch),
        )

    run = quick_jit(all_of)
    # one frame, of which at most 4 tokens come, and a transcript of 4; then of none
    return run, run(setup.batch)


def test_loss_is_the_mean_over_recordings_of_minus_log_p(setup, found):
    loss, weight, infeasible, (frames, count) = found[1]
    assert count.tolist() == setup.method.frames(np.asarray(setup.batch["audio_len"])).tolist()
    params = jax.device_get(setup.params)
    each = []
    for row in range(3):
        tokens = np.asarray(setup.batch["transcript"])[row, : setup.batch["transcript_len"][row]]
        p = log_probs(params["joint"], frames[row, : count[row]], lstm(params["predictor"], tokens))
        reach = np.full(p.shape[:2], -np.inf)
        reach[0, 0] = 0
        for t in range(p.shape[0]):
            for u in range(p.shape[1]):
                if t:
                    reach[t, u] = np.logaddexp(reach[t, u], reach[t - 1, u] + p[t - 1, u, 0])
                if u:
                    step = reach[t, u - 1] + p[t, u - 1, tokens[u - 1]]
                    reach[t, u] = np.logaddexp(reach[t, u], step)
        each.append(-reach[-1, -1] - p[-1, -1, 0])
    np.testing.assert_allclose(loss, np.mean(each), rtol=1e-5)
    assert weight == 3 and infeasible == (0, 3)


def test_a_transcript_with_more_tokens_than_its_lattice_holds_does_not_count(setup, found):
    run, _ = found
    # one frame of 85 ms, with room for 4 tokens
    lengths = jnp.array([8000, 1400, 8000, 8000])
    assert setup.method.frames(np.array([1400])) == 1
    loss, weight, infeasible, _ = run({**setup.batch, "audio_len": lengths})
    assert weight == 3 and infeasible == (0, 3)
    loss, weight, infeasible, _ = run({**setup.batch, "audio_len": lengths.at[1].set(1000)})
    assert weight == 2 and infeasible == (1, 3)
    without = {**setup.batch, "weight": jnp.array([1.0, 0.0, 1.0, 0.0])}
    np.testing.assert_allclose(loss, run(without)[0], rtol=1e-6)


def test_decoding_has_the_scores_of_training(setup, found):
    """One token after another gives what the whole transcript gives at once."""
    method, params = setup.method.decoder, setup.params
    frames = jnp.asarray(found[1][3][0])[:, 3]
    labels = setup.batch["transcript"]

    def stepwise(frames):
        state, out = method.start(params, 4), []
        for place in range(4):
            out.append(method.scores(params, frames, state))
            state = method.extend(params, state, labels[:, place])
        return jnp.stack(out, 1)

    seen = quick_jit(stepwise)(frames)
    params = jax.device_get(params)
    for row in (0, 1):
        count = int(setup.batch["transcript_len"][row])
        said = lstm(params["predictor"], np.asarray(labels)[row, :count])
        want = log_probs(params["joint"], np.asarray(frames)[row : row + 1], said)[0]
        np.testing.assert_allclose(seen[row, :count], want[:count], atol=1e-5)


@pytest.mark.slow
def test_stripes_are_of_training_alone():
    setup = made(**{"spec_augment.time_masks": 3, "spec_augment.freq_masks": 2})
    run = quick_jit(lambda step: (setup.loss(train=False).loss, setup.loss(step=step).loss))
    plain = quick_jit(lambda: made().loss().loss)()
    (quiet, first), (again, second) = run(0), run(1)
    np.testing.assert_allclose(quiet, plain, rtol=1e-5)
    assert quiet == again and abs(first - quiet) > 1e-4 and abs(first - second) > 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"per_frame": 0}, "config.method.per_frame is 0: use 1 or more, such as 4"),
        ({"joint.block": 0}, "config.method.joint.block is 0"),
        ({"predictor.dropout": 1.0}, "config.method.predictor.dropout is 1.0"),
        ({"mask.prob": 1.5}, "config.method.mask.prob is 1.5"),
        (
            {"spec_augment.time_masks": 1, "encoder": {"kind": "waveform"}},
            "config.method.spec_augment masks spectral features, which the encoder kind 'waveform'",
        ),
    ],
)
def test_a_wrong_option_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        made(**changes)


def test_needed_frames_are_those_of_the_most_tokens_a_frame():
    lengths = jnp.array([0, 1, 4, 5])
    assert transducer.needed_frames(lengths, 4).tolist() == [1, 1, 1, 2]
