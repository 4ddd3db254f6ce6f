"""MAE against transformers' ViTMAEForPreTraining: same weights, same noise, one training step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from mae_cases import make, pictures
from ml_collections import ConfigDict

from configs import common
from ssl_jax.core import config as config_lib
from ssl_jax.core import rng
from ssl_jax.core import tree as tree_lib
from ssl_jax.engine import optim
from ssl_jax.ops import masks
from ssl_jax.ops.patches import normalize_image, sincos_table

pytestmark = pytest.mark.interop

# the decoder of `base` is that of the original, eight blocks of width 512
KINDS = {
    "tiny": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "image_size": 32,
        "patch_size": 8,
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 40,
        "mask_ratio": 0.6,
        "norm_pix_loss": True,
    },
    "base, two layers": {"num_hidden_layers": 2, "norm_pix_loss": False},
}


def dense(weights, name):
    """A torch Linear as a flax Dense."""
    return {"kernel": weights[f"{name}.weight"].T, "bias": weights[f"{name}.bias"]}


def norm(weights, name):
    """A torch LayerNorm as scale and bias."""
    return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}


def block(weights, name):
    """One layer of the encoder or decoder."""
    pairs = (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("out", "o_proj"))
    return {
        "attention": {ours: dense(weights, f"{name}.attention.{theirs}") for ours, theirs in pairs},
        "mlp": {"up": dense(weights, f"{name}.mlp.fc1"), "down": dense(weights, f"{name}.mlp.fc2")},
        "norm1": norm(weights, f"{name}.layernorm_before"),
        "norm2": norm(weights, f"{name}.layernorm_after"),
    }


def blocks(weights, name, depth):
    """Layers stacked along a leading axis."""
    layers = [block(weights, f"{name}.{i}") for i in range(depth)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *layers)


def from_transformers(weights, config):
    """A ViTMAEForPreTraining's weights, or their gradients, as the parameters of the method."""
    kernel = weights["vit.embeddings.patch_embeddings.projection.weight"]  # (D, 3, p, p)
    projection = {
        "kernel": kernel.transpose(2, 3, 1, 0).reshape(-1, len(kernel)),
        "bias": weights["vit.embeddings.patch_embeddings.projection.bias"],
    }
    return {
        "encoder": {
            "frontend": {"projection": projection},
            "cls": weights["vit.embeddings.cls_token"][0, 0],
            "blocks": blocks(weights, "vit.layers", config.num_hidden_layers),
            "final_norm": norm(weights, "vit.layernorm"),
        },
        "decoder": {
            "embed": dense(weights, "decoder.decoder_embed"),
            "mask": weights["decoder.mask_token"][0, 0],
            "blocks": blocks(weights, "decoder.decoder_layers", config.decoder_num_hidden_layers),
            "final_norm": norm(weights, "decoder.decoder_norm"),
            "predict": dense(weights, "decoder.decoder_pred"),
        },
    }


def method_of(config):
    """The method with the sizes of a transformers config."""
    encoder = {
        "kind": "vit",
        "image_size": config.image_size,
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
    options = {"mask_ratio": config.mask_ratio, "norm_pix": config.norm_pix_loss}
    section = {"encoder": encoder, "decoder": decoder, **options}
    return make(ConfigDict(common.mae().to_dict() | section))


def model_of(torch, transformers, kind):
    """A model off its special initial values, with positions, which its config sets to zero."""
    # the original's eps, which is not the default of transformers
    config = transformers.ViTMAEConfig(**KINDS[kind], layer_norm_eps=1e-6)
    model = transformers.ViTMAEForPreTraining(config).train()
    torch.manual_seed(0)
    side = config.image_size // config.patch_size
    tables = (model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
        for table in tables:
            table[0, 0] = 0
            table[0, 1:] = torch.tensor(sincos_table((side, side), table.shape[2]))
    return config, model


def arrays(named):
    """Torch tensors by name, copied to arrays."""
    return {name: x.detach().numpy().copy() for name, x in named}


@pytest.fixture(scope="module", params=KINDS)
def pair(request, root):
    """Both sides after one step: (loss, gradients, updated weights) of theirs and of ours."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config, model = model_of(torch, transformers, request.param)
    batch = pictures(rows=3, size=config.image_size)
    batch["weight"] = jnp.ones(3)
    tokens = (config.image_size // config.patch_size) ** 2
    noise = np.random.default_rng(3).random((3, tokens)).astype(np.float32)
    params = jax.tree.map(jnp.asarray, from_transformers(arrays(model.named_parameters()), config))

    pixels = np.asarray(normalize_image(batch["image"])).transpose(0, 3, 1, 2)
    theirs = _their_step(torch, model, config, pixels, noise)
    recipe = config_lib.load(str(root / "configs/mae/image.py:toy")).optim
    ours = _our_step(method_of(config), recipe, params, batch, noise)
    return theirs, ours


def _their_step(torch, model, config, pixels, noise):
    out = model(torch.tensor(pixels), noise=torch.tensor(noise))
    out.loss.backward()
    free = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    gradients = from_transformers(arrays((n, p.grad) for n, p in free), config)
    # timm's rule: vectors are not decayed; in theirs, class and mask token have three axes
    groups = [
        {"params": [p for _, p in free if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for _, p in free if p.ndim == 1], "weight_decay": 0.0},
    ]
    torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8).step()
    return float(out.loss.detach()), gradients, from_transformers(arrays(free), config)


def _our_step(method, recipe, params, batch, noise):
    assert recipe.lr == 1e-3
    tx, _ = optim.make(recipe, params, total_steps=10, to_steps=lambda _: 0, depth=1)

    def step(params):
        streams = rng.Streams(rng.key_data(0), jnp.int32(0), batch["id"])

        def loss(params):
            return method.loss(params, {}, batch, streams, True).loss

        value, gradients = jax.value_and_grad(loss)(params)
        updates, _ = tx.update(gradients, tx.init(params), params)
        return value, gradients, optax.apply_updates(params, updates)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "_uniform", lambda keys, size: jnp.asarray(noise))
        return jax.device_get(jax.jit(step)(params))


def test_positions_are_those_of_transformers():
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(**KINDS["tiny"])
    embeddings = transformers.ViTMAEForPreTraining(config).vit.embeddings
    embeddings.patch_embeddings.projection._is_hf_initialized = False
    embeddings.initialize_weights()
    table = embeddings.position_embeddings[0].numpy()
    assert not table[0].any()
    np.testing.assert_allclose(sincos_table((4, 4), 32), table[1:], atol=1e-6)


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
        if name.endswith("key/bias"):
            continue  # its gradient is zero up to rounding
        np.testing.assert_allclose(x[sure], wanted[name][sure], atol=1e-5, err_msg=name)
        assert sure.mean() > 0.9, name
