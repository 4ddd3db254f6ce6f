"""The transducer's loss against the sum over all paths, its gradient, and greedy decoding."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from ssl_jax.ops import transducer

# frames, transcript: with a repeat, empty, of one frame, without frames, too many for its frames
ROWS = [(4, (1, 2)), (3, (2, 2, 1)), (4, ()), (1, (1, 3)), (0, (1,)), (1, (1, 2, 3))]
S, L, V, E = 4, 3, 5, 6
PER_FRAME = 2


def joint(params, frames, predicted):
    hidden = jnp.tanh(frames[:, :, None] + predicted[:, None])
    return hidden @ params["kernel"] + params["bias"]


@pytest.fixture(scope="module")
def given():
    draw = np.random.default_rng(0)
    params = {"kernel": draw.normal(0, 2, (E, V)), "bias": draw.normal(0, 1, V)}
    encoded = draw.normal(0, 1, (len(ROWS), S, E))
    predicted = draw.normal(0, 1, (len(ROWS), L + 1, E))
    labels = np.full((len(ROWS), L), -1)
    for row, (_, tokens) in enumerate(ROWS):
        labels[row, : len(tokens)] = tokens
    frames = np.array([n for n, _ in ROWS])
    lengths = np.array([len(tokens) for _, tokens in ROWS])
    inputs = jax.tree.map(lambda x: x.astype(np.float32), (params, encoded, predicted))
    return inputs, (frames, labels, lengths)


def losses(inputs, spoken, block=3):
    return transducer.loss(joint, *inputs, *spoken, block=block, per_frame=PER_FRAME)


def sum_over_paths(inputs, row):
    """Returns the probability of a transcript in float64: every order of its tokens and blanks."""
    params, encoded, predicted = jax.tree.map(lambda x: np.asarray(x, np.float64), inputs)
    frames, tokens = ROWS[row]
    hidden = np.tanh(encoded[row, :, None] + predicted[row])
    logits = hidden @ params["kernel"] + params["bias"]
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    total = 0.0
    # the last step is the blank of the last frame
    for said in itertools.combinations(range(frames - 1 + len(tokens)), len(tokens)):
        probability, t, u = 1.0, 0, 0
        for step in range(frames + len(tokens)):
            if step in said:
                probability, u = probability * shares[t, u, tokens[u]], u + 1
            else:
                probability, t = probability * shares[t, u, 0], t + 1
        total += probability
    return total


def naive(inputs, spoken):
    """Returns the sum of the losses of feasible rows, with all logits at once, node by node."""
    params, encoded, predicted = inputs
    frames, labels, lengths = spoken
    log_probs = jax.nn.log_softmax(joint(params, encoded, predicted))
    total = 0.0
    for row in range(4):
        node = {(0, 0): 0.0}
        for t, u in itertools.product(range(frames[row]), range(lengths[row] + 1)):
            ways = []
            if t:
                ways.append(node[t - 1, u] + log_probs[row, t - 1, u, 0])
            if u:
                ways.append(node[t, u - 1] + log_probs[row, t, u - 1, labels[row, u - 1]])
            if ways:
                node[t, u] = jax.nn.logsumexp(jnp.stack(ways))
        t, u = frames[row] - 1, lengths[row]
        total -= node[t, u] + log_probs[row, t, u, 0]
    return total


@pytest.fixture(scope="module")
def ours(given):
    """Returns (losses, feasible, gradients), with two blocks of which one is not full."""

    def total(inputs, spoken):
        each, feasible = losses(inputs, spoken)
        return each.sum(), (each, feasible)

    run = jax.jit(jax.value_and_grad(total, has_aux=True))
    (_, (each, feasible)), gradients = run(*given)
    return np.asarray(each), np.asarray(feasible), jax.device_get(gradients)


def test_loss_is_that_of_the_sum_over_all_paths(given, ours):
    each, feasible, _ = ours
    assert feasible.tolist() == [True, True, True, True, False, False]
    expected = [-np.log(sum_over_paths(given[0], row)) for row in range(4)]
    np.testing.assert_allclose(each, [*expected, 0, 0], rtol=2e-6)


def test_gradient_is_that_of_all_logits_at_once_and_absent_where_nothing_counts(given, ours):
    inputs, (frames, labels, lengths) = given
    quick = {"xla_backend_optimization_level": 0}
    slope = jax.jit(lambda x: jax.grad(naive)(x, (frames, labels, lengths)), compiler_options=quick)
    expected = jax.device_get(slope(inputs))
    for mine, other in zip(jax.tree.leaves(ours[2]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, other, atol=2e-6)
    _, encoded, predicted = ours[2]
    assert not encoded[4:].any() and not predicted[4:].any()
    assert not encoded[1, 3].any() and encoded[1, 2].all()


def test_gradient_is_that_of_finite_differences(given, ours):
    params, encoded, predicted = jax.tree.map(lambda x: np.asarray(x, np.float64), given[0])
    for place in ((0, 1, 2), (1, 2, 4), (3, 0, 0)):
        ends = []
        for change in (1e-5, -1e-5):
            moved = encoded.copy()
            moved[place] += change
            ends.append(-np.log(sum_over_paths((params, moved, predicted), place[0])))
        slope = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(ours[2][1][place], slope, atol=1e-5)


def test_float32_is_exact_for_improbable_transcripts():
    """A transcript of probability exp(-3000): blanks and tokens both get their share."""
    size, count = 300, 40
    encoded, predicted = jnp.zeros((1, size, E)), jnp.zeros((1, count + 1, E))
    params = {"kernel": jnp.zeros((E, V)), "bias": jnp.array([-4.0, -8.0, 5.0, 0.0, 1.0])}
    spoken = jnp.array([size]), jnp.ones((1, count), int), jnp.array([count])

    def total(bias):
        return losses(({**params, "bias": bias}, encoded, predicted), spoken, 64)[0].sum()

    each, slope = jax.jit(jax.value_and_grad(total))(params["bias"])
    log_probs = jax.nn.log_softmax(params["bias"])
    # all paths are equally probable
    steps = np.arange(1, count + 1)
    paths = np.log((size - 1 + steps) / steps).sum()
    expected = -(size * float(log_probs[0]) + count * float(log_probs[1]) + paths)
    np.testing.assert_allclose(each, expected, rtol=1e-6)
    by_hand = (size + count) * np.exp(log_probs) - np.array([size, count, 0, 0, 0])
    np.testing.assert_allclose(slope, by_hand, atol=1e-3)


def test_no_logits_but_those_of_a_block_are_kept(given):
    """Neither pass has an array with an axis of all frames and one of the vocabulary."""
    (params, encoded, predicted), (_, labels, lengths) = given
    size, block = 64, 8
    encoded = jnp.zeros((len(ROWS), size, E))
    spoken = jnp.full(len(ROWS), size), labels, lengths
    program = jax.make_jaxpr(
        jax.grad(lambda p: losses((p, encoded, predicted), spoken, block)[0].sum())
    )(params)
    shapes = set(_shapes(program.jaxpr))
    assert (len(ROWS), block, L + 1, V) in shapes
    most = len(ROWS) * block * (L + 1) * V
    kept = [s for s in shapes if len(s) > 3 and s[-1] == V and np.prod(s) > most]
    assert not kept


def _shapes(jaxpr):
    for equation in jaxpr.eqns:
        for out in equation.outvars:
            yield out.aval.shape
        for inner in core.jaxprs_in_params(equation.params):
            yield from _shapes(inner)


def test_greedy_decoding_is_that_of_a_plain_loop():
    """The state is the number of tokens so far; a frame ends with the blank or after two tokens."""
    draw = np.random.default_rng(1)
    table = draw.normal(size=(3, 6, 13, V)).astype(np.float32)
    table[0, 1, :, 0] = -9  # never a blank at this frame
    frames = np.array([6, 3, 0])
    encoded = jnp.broadcast_to(jnp.arange(6.0)[None, :, None], (3, 6, 1))
    state = {"count": jnp.zeros((3, 1), int)}

    def scores(frame, state):
        return jnp.asarray(table)[jnp.arange(3), frame[:, 0].astype(int), state["count"][:, 0]]

    def extend(state, tokens):
        return {"count": state["count"] + 1}

    run = jax.jit(lambda: transducer.greedy(extend, scores, state, encoded, frames, 2))
    tokens, count = jax.device_get(run())
    for row in range(3):
        expected = []
        for t in range(frames[row]):
            for _ in range(2):
                best = int(table[row, t, len(expected)].argmax())
                if not best:
                    break
                expected.append(best)
        assert tokens[row, : count[row]].tolist() == expected
        assert (tokens[row, count[row] :] == -1).all()
    assert count[0] > 2 and count[2] == 0


@pytest.mark.slow
def test_loss_and_gradient_are_those_of_torchaudio(given):
    rnnt_loss = pytest.importorskip("torchaudio.functional").rnnt_loss
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(2)
    logits = draw.normal(0, 2, (3, 6, 4, V)).astype(np.float32)
    labels, frames, lengths = draw.integers(1, V, (3, 3)), np.array([6, 4, 5]), np.array([3, 1, 2])
    theirs = torch.tensor(logits, requires_grad=True)
    given_ints = (torch.tensor(x, dtype=torch.int32) for x in (labels, frames, lengths))
    value = rnnt_loss(theirs, *given_ints, blank=0, clamp=-1, reduction="sum")
    value.backward()

    def total(logits):
        # the frames are the logits themselves, and the predictions nothing
        def as_given(params, frames, predicted):
            return frames.reshape(*frames.shape[:2], 4, V) + 0 * predicted[:, None]

        flat = logits.reshape(3, 6, 4 * V)
        spoken = jnp.asarray(frames), jnp.asarray(labels), jnp.asarray(lengths)
        empty = jnp.zeros((3, 4, V))
        found, _ = transducer.loss(as_given, {}, flat, empty, *spoken, block=4, per_frame=4)
        return found.sum()

    mine, slope = jax.value_and_grad(total)(jnp.asarray(logits))
    np.testing.assert_allclose(mine, value.item(), rtol=1e-5)
    np.testing.assert_allclose(slope, theirs.grad.numpy(), atol=1e-5)
