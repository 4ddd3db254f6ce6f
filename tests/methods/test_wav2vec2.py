"""wav2vec 2.0 against a literal computation, and what its options and metrics mean."""

import data2vec_literal as parts
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import wav2vec2_literal as literal
from method_cases import quick_jit, tiny

from configs import common
from ssl_jax.core import tree as tree_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.methods import wav2vec2
from ssl_jax.ops import negatives, quantize

HEARD = (0, 1, 2)  # the rows of the batch that have a weight
QUIET = {"encoder.input_dropout": 0.0, "quantizer.dropout": 0.0}
CASES = {
    "as published": {},
    "of all frames": {"negatives.source": "all"},
    "diversity beside the sum": {"loss.diversity_scale": "sum"},
}


def flat(tree):
    return {name: np.asarray(x, np.float64) for name, x in tree_lib.named_leaves(tree)}


def value(out, name):
    total, count = out.metrics[name]
    return float(total / count)


class Case:
    """A tiny model, a fixed mask whose row 2 has a single frame, and a compiled loss."""

    def __init__(self, changes):
        self.setup = tiny("wav2vec2/audio", {**QUIET, **changes})
        batch = self.setup.batch
        found = quick_jit(lambda p: self.setup.method.features(p, batch).mask)
        self.real = found(self.setup.params) & (np.asarray(batch["weight"]) > 0)[:, None]
        self.mask = (np.random.default_rng(5).random(self.real.shape) < 0.4) & self.real
        self.mask[2] = np.arange(self.real.shape[1]) == 6

    def loss(self, params=None, train=True, step=0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(wav2vec2.masks, "span_mask", lambda *_: jnp.asarray(self.mask))
            return self.setup.loss(params, train=train, step=step)


@pytest.mark.parametrize(
    ("name", "train"),
    [
        ("as published", True),
        ("of all frames", True),
        pytest.param("as published", False, marks=pytest.mark.slow),
        pytest.param("diversity beside the sum", True, marks=pytest.mark.slow),
        pytest.param("diversity beside the sum", False, marks=pytest.mark.slow),
    ],
)
def test_loss_and_perplexities_equal_the_literal_ones(name, train):
    case = Case(CASES[name])
    setup, batch = case.setup, case.setup.batch
    pool = case.real if name == "of all frames" else case.mask
    streams = setup.streams(batch)

    @quick_jit
    def drawn():
        out = case.loss(train=train)
        places = negatives.draw(streams.for_examples("negatives"), jnp.asarray(pool), 10)
        noise = quantize.gumbel_noise(streams.for_examples("gumbel"), (pool.shape[1], 2, 8))
        return out, places, noise * train

    out, places, noise = drawn()
    ends = [int(case.real[i].sum()) for i in HEARD]
    rows = list(zip(HEARD, ends, strict=True))
    clips = [np.asarray(batch["audio"][i, : batch["audio_len"][i]]) for i in HEARD]
    params = {k: np.asarray(x, np.float64) for k, x in tree_lib.named_leaves(setup.params)}
    want, terms, soft, hard = literal.loss(
        params,
        clips,
        *([np.asarray(x[i, :end]) for i, end in rows] for x in (case.mask, places, noise)),
        scale="sum" if name == "diversity beside the sum" else "mean",
        pool=[pool[i, :end] for i, end in rows],
    )
    np.testing.assert_allclose(out.loss, want, rtol=2e-5)
    alone = name != "of all frames"  # the single masked frame of row 2
    assert out.weight == terms == case.mask.sum() - alone
    np.testing.assert_allclose(value(out, "soft_perplexity"), soft.sum(), rtol=1e-4)
    for group, found in enumerate(hard):
        np.testing.assert_allclose(value(out, f"code_perplexity_{group}"), found, rtol=1e-4)
    np.testing.assert_allclose(value(out, "code_perplexity"), hard.sum(), rtol=1e-4)
    assert out.metrics["masked_share"] == (case.mask.sum(), case.real.sum())
    assert ("temperature" in out.metrics) is train


@pytest.mark.slow
def test_the_penalty_is_of_what_the_convolutions_give():
    """Its gradient has the factor of the front end, like all gradients of the loss."""
    slopes = {}
    for name, factor, penalty in (("none", 0.1, 0.0), ("tenth", 0.1, 10.0), ("full", 1.0, 10.0)):
        case = Case({"encoder.grad_mult": factor, "loss.penalty": penalty})
        grad = quick_jit(jax.grad(lambda p, case=case: case.loss(p).loss))
        slopes[name] = grad(case.setup.params)["encoder"]["frontend"]
    for (name, none), (_, tenth), (_, full) in zip(
        *(tree_lib.named_leaves(slopes[k]) for k in ("none", "tenth", "full")), strict=True
    ):
        if name.startswith("convs/"):
            scale = np.abs(full).max()
            np.testing.assert_allclose(tenth / scale, 0.1 * full / scale, atol=1e-5, err_msg=name)
            assert np.abs(tenth - none).max() > 1e-3 * np.abs(tenth).max(), name
        else:
            np.testing.assert_allclose(tenth, none, atol=1e-5 * np.abs(none).max(), err_msg=name)


LINEAR = {"targets": "linear", "loss.diversity": 0.0, "loss.penalty": 0.0}


def test_targets_without_codes_equal_the_literal_ones():
    """Loss, gradient by differences in one direction of every parameter, and one update."""
    case = Case(LINEAR)
    setup, batch = case.setup, case.setup.batch
    assert "quantizer" not in setup.params
    streams = setup.streams(batch)

    def loss(params):
        out = case.loss(params)
        return out.loss, out

    @quick_jit
    def drawn(params):
        places = negatives.draw(streams.for_examples("negatives"), jnp.asarray(case.mask), 10)
        (_, out), slope = jax.value_and_grad(loss, has_aux=True)(params)
        tx = optax.adamw(1e-2, 0.9, 0.98, eps=1e-3, weight_decay=0.01)
        updates, _ = tx.update(slope, tx.init(params), params)
        return out, places, slope, optax.apply_updates(params, updates)

    out, places, slope, updated = drawn(setup.params)
    rows = [(i, int(case.real[i].sum())) for i in HEARD]
    clips = [np.asarray(batch["audio"][i, : batch["audio_len"][i]]) for i in HEARD]
    masks, others = ([np.asarray(x[i, :end]) for i, end in rows] for x in (case.mask, places))
    params, slope = flat(setup.params), flat(slope)
    want, terms = literal.linear_loss(params, clips, masks, others)
    np.testing.assert_allclose(out.loss, want, rtol=2e-5)
    assert out.weight == terms and "code_perplexity" not in out.metrics
    draw, h, found = np.random.default_rng(11), 1e-5, {}
    for key, x in params.items():
        way = draw.standard_normal(x.shape)
        ends = (
            literal.linear_loss({**params, key: x + s * way}, clips, masks, others)[0]
            for s in (h, -h)
        )
        # the factor of the front end
        factor = 0.1 if key.startswith("encoder/frontend/convs/") else 1.0
        found[key] = (slope[key] * way).sum(), factor * (next(ends) - next(ends)) / (2 * h)
    scale = max(abs(b) for _, b in found.values())
    for key, (a, b) in found.items():
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale, err_msg=key)
    expected = parts.adam(params, slope, 1e-2)
    for key, x in flat(updated).items():
        np.testing.assert_allclose(x, expected[key], atol=2e-5, err_msg=key)


def test_a_collapsed_quantizer_shows_in_its_numbers():
    """One code for every frame: the loss is perfect, and only the code usage reveals it."""
    case = Case({"loss.penalty": 0.0, "loss.diversity": 0.0})
    params = case.setup.params
    logits = params["quantizer"]["logits"]
    bias = jnp.zeros((2, 8)).at[:, 3].set(100.0).reshape(-1)
    constant = {"kernel": jnp.zeros_like(logits["kernel"]), "bias": bias}
    collapsed = {**params, "quantizer": {**params["quantizer"], "logits": constant}}
    run = quick_jit(lambda p: case.loss(p))
    healthy, out = run(params), run(collapsed)
    assert out.loss == 0 and value(out, "contrastive_accuracy") == 1
    assert value(out, "distinct_negatives") == 0
    for name, floor in (("code_perplexity", 2), ("soft_perplexity", 2), ("code_perplexity_1", 1)):
        np.testing.assert_allclose(value(out, name), floor, rtol=1e-4)
    assert value(healthy, "code_perplexity") > 6 and value(healthy, "distinct_negatives") > 0.8
    assert healthy.loss > 1 and value(healthy, "contrastive_accuracy") < 0.6


def test_temperature_and_draws_follow_the_step():
    case = Case({"quantizer.decay": 0.5})
    run = quick_jit(lambda step: case.loss(step=step))
    first, second, last = run(0), run(1), run(9)
    assert [value(o, "temperature") for o in (first, second, last)] == [2.0, 1.0, 0.5]
    assert first.loss != second.loss


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"targets": "raw"}, "config.method.targets is 'raw': use one of codes, linear"),
        ({"targets": "linear"}, "loss.diversity is 0.1, but .*targets='linear' has no codes"),
        ({"negatives.source": "batch"}, "negatives.source is 'batch': use one of masked, all"),
        ({"negatives.count": 0}, "negatives.count is 0: use 1 or more"),
        ({"loss.diversity_scale": "no"}, "loss.diversity_scale is 'no': use one of mean, sum"),
        ({"loss.temperature": 0.0}, "loss.temperature is 0.0: use more than 0, such as 0.1"),
        ({"quantizer.groups": 3}, "quantizer.groups 3 does not divide .*quantizer.width 8"),
        ({"quantizer.groups": 0}, "quantizer.groups is 0: use 1 or more"),
        ({"quantizer.codes": 1}, "quantizer.codes is 1: use 2 or more"),
        ({"quantizer.dropout": 1.0}, "quantizer.dropout is 1.0: use 0.0 or more and below 1.0"),
        (
            {"quantizer.end": 3.0},
            "quantizer.start 2.0, end 3.0 and decay .* use values such as 2.0",
        ),
    ],
)
def test_impossible_options_name_their_key(changes, words):
    with pytest.raises(ConfigError, match=words):
        tiny("wav2vec2/audio", changes)


def test_an_encoder_without_convolutions_over_audio_is_refused():
    config = common.wav2vec2()
    config.encoder.update({"kind": "keyword_transformer", "preset": "kwt1"})
    with pytest.raises(ConfigError, match="kind is 'keyword_transformer', which has no conv"):
        wav2vec2.make(config, precision="float32", sample_rate=16000, num_classes=0)
