"""VideoMAE against transformers' VideoMAEForPreTraining: same weights, same mask, one step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from test_mae_transformers import arrays, dense, norm
from video_cases import moving

from configs import common
from ssl_jax.core import config as config_lib
from ssl_jax.core import rng
from ssl_jax.core import tree as tree_lib
from ssl_jax.engine import optim
from ssl_jax.methods import videomae
from ssl_jax.ops import tubelets
from ssl_jax.ops.patches import normalize_image

pytestmark = pytest.mark.interop

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 16,
    "patch_size": 4,
    "num_frames": 4,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 40,
}
# the last norm of its decoder always has this eps; False: the encoder ends with a norm
FIXED = {"layer_norm_eps": 1e-5, "use_mean_pooling": False}


def block(weights, name):
    """One layer of the encoder or decoder."""
    inner = f"{name}.attention.attention"
    attention = {n: {"kernel": weights[f"{inner}.{n}.weight"].T} for n in ("query", "key", "value")}
    for n in ("query", "value"):
        attention[n]["bias"] = weights[_bias(weights, inner, n)]
    attention["out"] = dense(weights, f"{name}.attention.output.dense")
    up, down = dense(weights, f"{name}.intermediate.dense"), dense(weights, f"{name}.output.dense")
    return {
        "attention": attention,
        "mlp": {"up": up, "down": down},
        "norm1": norm(weights, f"{name}.layernorm_before"),
        "norm2": norm(weights, f"{name}.layernorm_after"),
    }


def _bias(weights, inner, name):
    names = (f"{inner}.{name}.bias", f"{inner}.{name[0]}_bias")
    return next(n for n in names if n in weights)


def blocks(weights, name, depth):
    """Layers stacked along a leading axis."""
    layers = [block(weights, f"{name}.{i}") for i in range(depth)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *layers)


def from_transformers(weights, config):
    """A model's weights, or their gradients, as the parameters of the method."""
    kernel = weights["videomae.embeddings.patch_embeddings.projection.weight"]  # (D, 3, t, p, p)
    projection = {
        "kernel": kernel.transpose(2, 3, 4, 1, 0).reshape(-1, len(kernel)),
        "bias": weights["videomae.embeddings.patch_embeddings.projection.bias"],
    }
    return {
        "encoder": {
            "frontend": {"projection": projection},
            "blocks": blocks(weights, "videomae.encoder.layer", config.num_hidden_layers),
            "final_norm": norm(weights, "videomae.layernorm"),
        },
        "decoder": {
            "embed": {"kernel": weights["encoder_to_decoder.weight"].T},
            "mask": weights["mask_token"][0, 0],
            "blocks": blocks(weights, "decoder.decoder_layers", config.decoder_num_hidden_layers),
            "final_norm": norm(weights, "decoder.norm"),
            "predict": dense(weights, "decoder.head"),
        },
    }


def method_of(config, kind):
    """The method with the sizes of a transformers config."""
    encoder = {
        "kind": "video",
        "image_size": config.image_size,
        "frames": config.num_frames,
        "patch_size": config.patch_size,
        "depth": config.num_hidden_layers,
        "width": config.hidden_size,
        "heads": config.num_attention_heads,
        "mlp_width": config.intermediate_size,
        "eps": config.layer_norm_eps,
    }
    decoder = {
        "depth": config.decoder_num_hidden_layers,
        "width": config.decoder_hidden_size,
        "heads": config.decoder_num_attention_heads,
        "mlp_width": config.decoder_intermediate_size,
    }
    options = {"mask": {"kind": kind, "ratio": 0.75}, "norm_pix": config.norm_pix_loss}
    section = {"encoder": encoder, "decoder": decoder, **options}
    config = ConfigDict(common.videomae().to_dict() | section)
    return videomae.make(config, precision="float32", sample_rate=0, num_classes=0)


@pytest.fixture(scope="module", params=["tube", "random"])
def pair(request, root):
    """Both sides after one step: (loss, gradients, updated weights) of theirs and of ours."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.VideoMAEConfig(**SIZES, **FIXED, norm_pix_loss=request.param == "tube")
    torch.manual_seed(0)
    model = transformers.VideoMAEForPreTraining(config).train()
    with torch.no_grad():
        for weight in model.parameters():  # off its special initial values
            weight.add_(torch.randn_like(weight) * 0.02)
    params = jax.tree.map(jnp.asarray, from_transformers(arrays(model.named_parameters()), config))
    batch = moving(2, 4, 16)
    batch["weight"] = jnp.ones(2)
    method = method_of(config, request.param)
    streams = rng.Streams(rng.key_data(0), jnp.int32(0), batch["id"])
    hidden = np.asarray(method.masks(params, batch, streams)).reshape(2, -1)

    pixels = np.asarray(normalize_image(batch["video"])).transpose(0, 1, 4, 2, 3)
    recipe = config_lib.load(str(root / "configs/videomae/video.py:toy")).optim
    theirs = _their_step(torch, model, config, pixels, hidden)
    return theirs, _our_step(method, recipe, params, batch, streams)


def _their_step(torch, model, config, pixels, hidden):
    out = model(torch.tensor(pixels), bool_masked_pos=torch.tensor(hidden))
    out.loss.backward()
    named = list(model.named_parameters())
    gradients = from_transformers(arrays((n, p.grad) for n, p in named), config)
    plain = [p for n, p in named if p.ndim == 1 or n == "mask_token"]
    groups = [
        {"params": [p for _, p in named if not any(p is q for q in plain)], "weight_decay": 0.05},
        {"params": plain, "weight_decay": 0.0},
    ]
    torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8).step()
    return float(out.loss.detach()), gradients, from_transformers(arrays(named), config)


def _our_step(method, recipe, params, batch, streams):
    assert recipe.lr == 1e-3
    tx, _ = optim.make(recipe, params, total_steps=10, to_steps=lambda _: 0, depth=1)

    def step(params):
        def loss(params):
            return method.loss(params, {}, batch, streams, True).loss

        value, gradients = jax.value_and_grad(loss)(params)
        updates, _ = tx.update(gradients, tx.init(params), params)
        return value, gradients, optax.apply_updates(params, updates)

    return jax.device_get(jax.jit(step)(params))


def test_positions_are_those_of_transformers():
    pytest.importorskip("torch")
    module = pytest.importorskip("transformers.models.videomae.modeling_videomae")
    table = np.asarray(module.get_sinusoid_encoding_table(1568, 384))[0]
    np.testing.assert_allclose(tubelets.positions("flat", (8, 14, 14), 384), table, atol=1e-6)


def test_loss_is_that_of_transformers(pair):
    theirs, ours = pair
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)


def test_every_gradient_is_that_of_transformers(pair):
    (_, theirs, _), (_, ours, _) = pair
    wanted = dict(tree_lib.named_leaves(theirs))
    scale = max(np.abs(g).max() for g in wanted.values())
    got = dict(tree_lib.named_leaves(ours))
    assert set(got) == set(wanted)
    for name, gradient in got.items():
        np.testing.assert_allclose(gradient, wanted[name], atol=1e-5 * scale, err_msg=name)


def test_one_update_is_that_of_transformers(pair):
    (_, gradients, theirs), (_, _, ours) = pair
    wanted, slopes = (dict(tree_lib.named_leaves(t)) for t in (theirs, gradients))
    for name, x in tree_lib.named_leaves(ours):
        # the first step of Adam is the sign of the gradient, which noise decides near zero
        sure = np.abs(slopes[name]) > 1e-4 * np.abs(slopes[name]).max()
        np.testing.assert_allclose(x[sure], wanted[name][sure], atol=1e-5, err_msg=name)
        assert sure.mean() > 0.9, name
