"""wav2vec 2.0 against transformers' Wav2Vec2ForPreTraining: one training step on the same draws."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from configs import common
from ssl_jax.core import config as config_lib
from ssl_jax.core import rng
from ssl_jax.core import tree as tree_lib
from ssl_jax.engine import optim
from ssl_jax.methods import wav2vec2

pytestmark = pytest.mark.interop

SAMPLES = 8000
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16,) * 4,
    "conv_kernel": (10, 3, 3, 2),
    "conv_stride": (5, 4, 4, 2),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "num_codevectors_per_group": 12,
    "codevector_dim": 12,
    "proj_codevector_dim": 12,
    "num_negatives": 10,
}
STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
KINDS = {
    "tiny": TINY,
    "tiny, layout of large": {**TINY, **STABLE},
    "base, two layers": {"num_hidden_layers": 2},
    "large, one layer": {
        **STABLE,
        "num_hidden_layers": 1,
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "codevector_dim": 768,
        "proj_codevector_dim": 768,
    },
}
QUIET = ("hidden", "attention", "activation", "feat_proj", "feat_quantizer")
CASES = [
    ("tiny", False),
    ("tiny", True),
    ("tiny, layout of large", True),
    ("base, two layers", False),
    ("base, two layers", True),
    ("large, one layer", True),
]


def dense(weights, name):
    """A torch Linear as a flax Dense."""
    return {"kernel": weights[f"{name}.weight"].T, "bias": weights[f"{name}.bias"]}


def norm(weights, name):
    """A torch LayerNorm or GroupNorm as scale and bias."""
    return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}


def convolutions(weights, config):
    """The feature extractor."""
    tree = {}
    for i in range(len(config.conv_dim)):
        name = f"wav2vec2.feature_extractor.conv_layers.{i}"
        tree[f"conv{i}"] = {"kernel": weights[f"{name}.conv.weight"].transpose(2, 1, 0)}
        if config.conv_bias:
            tree[f"conv{i}"]["bias"] = weights[f"{name}.conv.bias"]
        if i == 0 or config.feat_extract_norm == "layer":
            tree[f"norm{i}"] = norm(weights, f"{name}.layer_norm")
    return tree


def positions(weights):
    """The weight-normed convolution: gain and direction are parameters of both sides."""
    name = "wav2vec2.encoder.pos_conv_embed.conv"
    parts = f"{name}.parametrizations.weight.original"
    return {
        "gain": weights[f"{parts}0"].transpose(2, 1, 0),
        "kernel": weights[f"{parts}1"].transpose(2, 1, 0),
        "bias": weights[f"{name}.bias"],
    }


def block(weights, name):
    """One encoder layer."""
    pairs = (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("out", "out_proj"))
    return {
        "attention": {ours: dense(weights, f"{name}.attention.{theirs}") for ours, theirs in pairs},
        "mlp": {
            "up": dense(weights, f"{name}.feed_forward.intermediate_dense"),
            "down": dense(weights, f"{name}.feed_forward.output_dense"),
        },
        "norm1": norm(weights, f"{name}.layer_norm"),
        "norm2": norm(weights, f"{name}.final_layer_norm"),
    }


def from_transformers(weights, config):
    """A model's weights, or their gradients, as the parameters of the method."""
    blocks = [
        block(weights, f"wav2vec2.encoder.layers.{i}") for i in range(config.num_hidden_layers)
    ]
    codes = weights["quantizer.codevectors"]
    groups = config.num_codevector_groups
    return {
        "encoder": {
            "frontend": {
                "convs": convolutions(weights, config),
                "norm": norm(weights, "wav2vec2.feature_projection.layer_norm"),
                "projection": dense(weights, "wav2vec2.feature_projection.projection"),
            },
            "positions": positions(weights),
            "final_norm" if config.do_stable_layer_norm else "norm": norm(
                weights, "wav2vec2.encoder.layer_norm"
            ),
            "blocks": jax.tree.map(lambda *leaves: np.stack(leaves), *blocks),
        },
        "mask": {"vector": weights["wav2vec2.masked_spec_embed"]},
        "quantizer": {
            "logits": dense(weights, "quantizer.weight_proj"),
            "codes": codes.reshape(groups, -1, codes.shape[-1]),
        },
        "predictor": dense(weights, "project_hid"),
        "target": dense(weights, "project_q"),
    }


def method_of(config, diversity):
    """The method with the sizes of a transformers config, which has no penalty."""
    encoder = {
        "kind": "waveform",
        "preset": "wav2vec2_large" if config.do_stable_layer_norm else "wav2vec2_base",
        "depth": config.num_hidden_layers,
        "width": config.hidden_size,
        "heads": config.num_attention_heads,
        "mlp_width": config.intermediate_size,
        "conv_channels": config.conv_dim[0],
        "conv_kernels": config.conv_kernel,
        "conv_strides": config.conv_stride,
        "position_kernel": config.num_conv_pos_embeddings,
        "position_groups": config.num_conv_pos_embedding_groups,
        "normalize": False,
        "grad_mult": 1.0,
    }
    quiet = ("input_dropout", "dropout", "attention_dropout", "embed_dropout", "layerdrop")
    quantizer = {
        "groups": config.num_codevector_groups,
        "codes": config.num_codevectors_per_group,
        "width": config.codevector_dim,
        "dropout": 0.0,
    }
    options = common.wav2vec2()
    options.encoder = ConfigDict(encoder | dict.fromkeys(quiet, 0.0))
    options.quantizer.update(quantizer)
    options.negatives.count = config.num_negatives
    options.loss.update({"penalty": 0.0, "diversity": diversity})
    return wav2vec2.make(options, precision="float32", sample_rate=16000, num_classes=0)


def model_of(torch, transformers, kind):
    """A model in training mode without dropout, moved off its special initial values."""
    config = transformers.Wav2Vec2Config(
        **KINDS[kind],
        **{f"{name}_dropout": 0.0 for name in QUIET},
        layerdrop=0.0,
        mask_time_prob=0.65,
    )
    model = transformers.Wav2Vec2ForPreTraining(config).train()
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
        # A probability of zero, as softmax gives far below the largest logit, turns the gradient of
        # the entropy in transformers into NaN; ours, like fairseq's, adds a small number in log.
        model.quantizer.weight_proj.weight.mul_(0.1)
    return config, model


def draws(torch, config, frames):
    """Returns masks (B, S), negatives (B, S, K) within a row, and Gumbel noise (B, S, G, V)."""
    from transformers.models.wav2vec2 import modeling_wav2vec2 as theirs

    np.random.seed(4)
    real = np.arange(frames.max()) < frames[:, None]
    heard = torch.tensor(real.astype(np.int64))
    mask = theirs._compute_mask_indices(real.shape, 0.65, 4, attention_mask=heard, min_masks=2)
    places = theirs._sample_negative_indices(real.shape, config.num_negatives, mask)
    places = places - np.arange(len(frames))[:, None, None] * frames.max()
    shape = (*real.shape, config.num_codevector_groups, config.num_codevectors_per_group)
    return mask, places * mask[..., None], np.random.default_rng(5).gumbel(size=shape)


def arrays(named):
    """Torch tensors by name, copied to arrays."""
    return {name: x.detach().numpy().copy() for name, x in named}


@pytest.fixture(scope="module", params=CASES, ids=lambda c: f"{c[0]}{', padded' * c[1]}")
def pair(request, root):
    """Both sides after one step: (losses, gradients, updated weights) of theirs and of ours."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    kind, padded = request.param
    config, model = model_of(torch, transformers, kind)
    lengths = np.array([SAMPLES, 5000 if padded else SAMPLES])
    real = np.arange(SAMPLES) < lengths[:, None]
    audio = np.random.default_rng(0).standard_normal((2, SAMPLES)).astype(np.float32) * real
    frames = model._get_feat_extract_output_lengths(torch.tensor(lengths)).numpy()
    drawn = draws(torch, config, frames)
    # The group norm of transformers counts padded frames: theirs runs clip by clip, unpadded, and
    # without the diversity term, which is not a sum over clips.
    apart = padded and config.feat_extract_norm == "group"
    config.diversity_loss_weight = 0.0 if apart else 0.1
    params = from_transformers(arrays(model.named_parameters()), config)
    params = jax.tree.map(jnp.asarray, params)
    theirs = _their_step(torch, model, config, audio, lengths, frames, drawn, apart)
    recipe = config_lib.load(str(root / "configs/wav2vec2/audio.py:toy")).optim
    batch = {
        "id": jnp.arange(2, dtype=jnp.uint32),
        "weight": jnp.ones(2),
        "audio": jnp.asarray(audio),
        "audio_len": jnp.asarray(lengths),
    }
    method = method_of(config, config.diversity_loss_weight)
    return theirs, _our_step(method, recipe, params, batch, drawn)


def _their_step(torch, model, config, audio, lengths, frames, drawn, apart):
    """Accumulates over the clips if `apart`, else runs them as one padded batch."""
    total = {"loss": 0.0, "contrastive": 0.0, "diversity": 0.0}
    model.set_gumbel_temperature(2.0)
    for rows in ([0], [1]) if apart else ([0, 1],):
        long, size = lengths[rows].max(), frames[rows].max()
        mask, places, noise = (x[rows, :size] for x in drawn)
        noise = torch.tensor(noise, dtype=torch.float32)

        def sample(logits, tau, hard, noise=noise):
            soft = torch.softmax((logits + noise.reshape(logits.shape)) / tau, -1)
            index = soft.argmax(-1, keepdim=True)
            return torch.zeros_like(soft).scatter_(-1, index, 1.0) - soft.detach() + soft

        heard = torch.tensor(np.arange(long) < lengths[rows][:, None]).long()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.functional, "gumbel_softmax", sample)
            out = model(
                torch.tensor(audio[rows, :long]),
                attention_mask=None if heard.all() else heard,
                mask_time_indices=torch.tensor(mask),
                sampled_negative_indices=torch.tensor(
                    places + np.arange(len(rows))[:, None, None] * size
                ),
            )
        # our mean is over all masked frames, transformers' losses are sums
        (out.loss / drawn[0].sum()).backward()
        for name, part in (
            ("loss", out.loss),
            ("contrastive", out.contrastive_loss),
            ("diversity", out.diversity_loss),
        ):
            total[name] += float(part.detach())
    named = list(model.named_parameters())
    gradients = from_transformers(arrays((n, p.grad) for n, p in named), config)
    torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01
    ).step()
    return total, gradients, from_transformers(arrays(named), config)


def _our_step(method, recipe, params, batch, drawn):
    assert (recipe.lr, recipe.eps, recipe.weight_decay) == (1e-3, 1e-6, 0.01)
    tx, _ = optim.make(recipe, params, total_steps=10, to_steps=lambda _: 0, depth=1)
    mask, places, noise = (jnp.asarray(x) for x in drawn)

    def step(params):
        streams = rng.Streams(rng.key_data(0), jnp.int32(0), batch["id"])

        def loss(params):
            out = method.loss(params, {}, batch, streams, True)
            return out.loss, out

        (_, out), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, _ = tx.update(gradients, tx.init(params), params)
        return out, gradients, optax.apply_updates(params, updates)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wav2vec2.masks, "span_mask", lambda *_: mask)
        patch.setattr(wav2vec2.negatives, "draw", lambda *_: places)
        patch.setattr(wav2vec2.quantize, "gumbel_noise", lambda *_: noise.astype(jnp.float32))
        return jax.device_get(jax.jit(step)(params))


def test_losses_are_those_of_transformers(pair):
    theirs, (out, _, _) = pair
    terms = float(out.weight)
    assert terms > 10
    np.testing.assert_allclose(out.loss * terms, theirs[0]["loss"], rtol=1e-5)
    contrastive, _ = out.metrics["contrastive_loss"]
    np.testing.assert_allclose(contrastive, theirs[0]["contrastive"], rtol=1e-5)
    if theirs[0]["loss"] != theirs[0]["contrastive"]:
        diversity = (out.loss * terms - contrastive) / 0.1
        np.testing.assert_allclose(diversity, theirs[0]["diversity"], rtol=1e-3)


def test_every_gradient_is_that_of_transformers(pair):
    (_, theirs, _), (_, ours, _) = pair
    wanted, got = (dict(tree_lib.named_leaves(t)) for t in (theirs, ours))
    assert set(got) == set(wanted)
    for name, gradient in got.items():
        if name.endswith("key/bias"):
            continue  # zero up to rounding: a constant added to all keys leaves softmax unchanged
        scale = np.abs(wanted[name]).max()
        assert scale > 0, name
        np.testing.assert_allclose(gradient, wanted[name], atol=2e-4 * scale, err_msg=name)


def test_one_update_is_that_of_transformers(pair):
    (_, gradients, theirs), (_, _, ours) = pair
    wanted, slopes = (dict(tree_lib.named_leaves(t)) for t in (theirs, gradients))
    compared = 0
    for name, x in tree_lib.named_leaves(ours):
        if name.endswith("key/bias"):
            continue
        # the first step of Adam is the sign of the gradient, which is noise near zero; codes
        # that were never chosen and taps beyond the end of the clips have none
        sure = np.abs(slopes[name]) > 1e-3 * np.abs(slopes[name]).max()
        np.testing.assert_allclose(x[sure], wanted[name][sure], atol=1e-5, err_msg=name)
        assert sure.any(), name
        compared += sure.sum()
    assert compared > 0.5 * tree_lib.count(ours)
