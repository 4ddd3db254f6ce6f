"""The CTC loss and its gradient against torch.nn.functional.ctc_loss."""

import jax
import numpy as np
import pytest

from ssl_jax.ops import ctc

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.interop
ROWS, FRAMES, UNITS, LONGEST = 12, 80, 32, 30


def batch():
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 3, (ROWS, FRAMES, UNITS)).astype(np.float32)
    frames = draw.integers(LONGEST + 10, FRAMES + 1, ROWS)
    lengths = draw.integers(1, LONGEST + 1, ROWS)
    # few different units, so that there are repeats
    labels = draw.integers(1, 4, (ROWS, LONGEST))
    labels[np.arange(LONGEST) >= lengths[:, None]] = -1
    frames[0], lengths[1] = 3, 0
    labels[1] = -1
    return logits, frames, labels, lengths


def test_values_and_gradients_are_those_of_torch():
    logits, frames, labels, lengths = batch()
    weight = np.random.default_rng(1).uniform(0.5, 2, ROWS).astype(np.float32)

    def ours(logits):
        each, _ = ctc.loss(jax.nn.log_softmax(logits), frames, labels, lengths)
        return (each * weight).sum(), each

    (_, each), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(logits)
    # in float64: in float32 the gradient of torch is off by 2e-4
    there = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    theirs = torch.nn.functional.ctc_loss(
        there.log_softmax(-1).transpose(0, 1),
        torch.tensor(labels.clip(0)),
        torch.tensor(frames),
        torch.tensor(lengths),
        reduction="none",
        zero_infinity=True,
    )
    (theirs * torch.tensor(weight)).sum().backward()
    assert each[0] == 0 and (np.asarray(each[1:]) > 0).all()
    np.testing.assert_allclose(each, theirs.detach(), rtol=1e-5)
    np.testing.assert_allclose(gradient, there.grad, atol=2e-5)
