"""Distillation written out literally on top of dmae_literal: one example at a time, float64.

It follows 1503.02531 and vision transformers without a final norm, whose patches are averaged.
"""

import dmae_literal
import numpy as np


def logits(params, patches, columns):
    """The outputs (C,) for the patches (S, P) of an image."""
    last = dmae_literal.states(params, patches, columns, range(len(patches)))[-1]
    x = last[1:].mean(0)
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    x = x * params["head/norm/scale"] + params["head/norm/bias"]
    return x @ params["head/classifier/kernel"] + params["head/classifier/bias"]


def shares(outputs, temperature=1.0):
    """The probability of each class."""
    x = np.exp(outputs / temperature)
    return x / x.sum()


def divergence(own, taught, temperature):
    """T^2 times the sum over classes of q (log q - log p), q of the teacher."""
    p, q = shares(own, temperature), shares(taught, temperature)
    return temperature**2 * sum(b * (np.log(b) - np.log(a)) for a, b in zip(p, q, strict=True))


def loss(params, teacher, images, labels, columns, soft):
    """The mean over images; -1 is no label. soft: config.method.soft."""
    total = 0.0
    for patches, label in zip(images, labels, strict=True):
        own, taught = logits(params, patches, columns), logits(teacher, patches, columns)
        total += soft["weight"] * divergence(own, taught, soft["temperature"])
        if label >= 0:
            total -= soft["label_weight"] * np.log(shares(own)[label])
    return total / len(images)
