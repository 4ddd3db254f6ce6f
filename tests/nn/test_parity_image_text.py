"""Hidden states and gradients of transformers' Data2VecVision, Data2VecText and RoBERTa models.

Weights are random; the comparison includes the relative positions, layer scale and missing key
bias of BEiT, and the padding of texts.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core import tree as tree_lib
from ssl_jax.nn import build
from ssl_jax.ops import patches

pytestmark = pytest.mark.interop

SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
}
BASE = {"num_hidden_layers": 2}
PATCH = 8


def dense(weights, name):
    """A torch Linear as a flax Dense."""
    tree = {"kernel": weights[f"{name}.weight"].T}
    return tree | ({"bias": weights[f"{name}.bias"]} if f"{name}.bias" in weights else {})


def norm(weights, name):
    return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}


def block(weights, name, attention, norms):
    """One encoder layer; `attention` holds query, key and value, `norms` the two LayerNorms."""
    names = ("query", "key", "value")
    tree = {
        "attention": {n: dense(weights, f"{name}.attention.{attention}.{n}") for n in names},
        "mlp": {
            "up": dense(weights, f"{name}.intermediate.dense"),
            "down": dense(weights, f"{name}.output.dense"),
        },
        "norm1": norm(weights, f"{name}.{norms[0]}"),
        "norm2": norm(weights, f"{name}.{norms[1]}"),
    }
    tree["attention"]["out"] = dense(weights, f"{name}.attention.output.dense")
    return tree


def stacked(blocks):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)


def from_vision(weights, layers):
    """A Data2VecVisionModel's weights, or their gradients, as those of a VisionTransformer."""
    blocks = []
    for i in range(layers):
        name = f"encoder.layer.{i}"
        one = block(weights, name, "attention", ("layernorm_before", "layernorm_after"))
        one |= {f"scale{k}": weights[f"{name}.lambda_{k}"] for k in (1, 2)}
        blocks.append(one)
    kernel = weights["embeddings.patch_embeddings.projection.weight"]  # (D, 3, p, p)
    projection = {
        "kernel": kernel.transpose(2, 3, 1, 0).reshape(-1, len(kernel)),
        "bias": weights["embeddings.patch_embeddings.projection.bias"],
    }
    name = "encoder.relative_position_bias.relative_position_bias_table"
    return {
        "frontend": {"projection": projection},
        "cls": weights["embeddings.cls_token"][0, 0],
        "relative": {"table": weights[name]},
        "blocks": stacked(blocks),
    }


def from_text(weights, layers, token_type=True):
    """A RobertaModel's weights as those of a TextEncoder; gradients have no token type to add."""
    blocks = [
        block(
            weights,
            f"encoder.layer.{i}",
            "self",
            ("attention.output.LayerNorm", "output.LayerNorm"),
        )
        for i in range(layers)
    ]
    positions = weights["embeddings.position_embeddings.weight"][2:]
    if token_type:
        positions = positions + weights["embeddings.token_type_embeddings.weight"][0]
    return {
        "frontend": {"embedding": weights["embeddings.word_embeddings.weight"]},
        "positions": positions,
        "norm": norm(weights, "embeddings.LayerNorm"),
        "blocks": stacked(blocks),
    }


def randomized(torch, model):
    """Moves every weight off its special initial value and returns all as arrays."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    return {name: weight.detach().numpy().copy() for name, weight in model.named_parameters()}


def run_torch(torch, model, inputs, projections):
    """Returns (hidden states, gradients of sum(hidden * projections) by name)."""
    states = model(**inputs, output_hidden_states=True).hidden_states
    loss = sum((h * torch.tensor(p)).sum() for h, p in zip(states, projections, strict=True))
    loss.backward()
    gradients = {
        name: np.zeros(w.shape, np.float32) if w.grad is None else w.grad.numpy()
        for name, w in model.named_parameters()
    }
    return [h.detach().numpy() for h in states], gradients


def run_ours(encoder, params, arrays, projections):
    def loss(params):
        hidden = encoder.apply({"params": params}, *arrays).hidden_states
        return (hidden * jnp.asarray(projections)).sum(), hidden

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, hidden), gradients = jax.device_get(run(params))
    return hidden, gradients


def assert_gradients(got, want):
    want = dict(tree_lib.named_leaves(want))
    for name, x in tree_lib.named_leaves(got):
        scale = max(1.0, np.abs(want[name]).max())
        np.testing.assert_allclose(x / scale, want[name] / scale, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("size", ["small", "base, two layers"])
def test_data2vec_vision(size):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.Data2VecVisionConfig(
        **(SMALL if size == "small" else BASE),
        image_size=4 * PATCH,
        patch_size=PATCH,
        use_shared_relative_position_bias=True,
        use_mean_pooling=False,
        layer_norm_eps=1e-6,
        layer_scale_init_value=0.3,
    )
    model = transformers.Data2VecVisionModel(config).eval()
    weights = randomized(torch, model)
    encoder = build.encoder(
        {
            "kind": "vit",
            "image_size": config.image_size,
            "patch_size": PATCH,
            "depth": config.num_hidden_layers,
            "width": config.hidden_size,
            "heads": config.num_attention_heads,
            "mlp_width": config.intermediate_size,
            "positions": "relative",
            "key_bias": False,
            "layer_scale": 0.3,
            "final_norm": False,
        },
        precision="float32",
        sample_rate=16000,
    )
    draw = np.random.default_rng(0)
    image = draw.integers(0, 256, (2, 4 * PATCH, 4 * PATCH, 3)).astype(np.uint8)
    shape = (config.num_hidden_layers + 1, 2, 17, config.hidden_size)
    projections = draw.standard_normal(shape).astype(np.float32) / 10
    pixels = np.asarray(patches.normalize_image(jnp.asarray(image))).transpose(0, 3, 1, 2)
    inputs = {"pixel_values": torch.tensor(pixels)}
    want, gradients = run_torch(torch, model, inputs, projections)
    params = from_vision(weights, config.num_hidden_layers)
    hidden, ours = run_ours(encoder, params, [image], projections)
    np.testing.assert_allclose(hidden, np.stack(want), atol=1e-4)
    assert_gradients(ours, from_vision(gradients, config.num_hidden_layers))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ["Data2VecText", "Roberta"])
def test_data2vec_text_and_roberta(name, padded):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(
        **(SMALL if name == "Roberta" else BASE),
        vocab_size=60,
        max_position_embeddings=14,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
    )
    model = getattr(transformers, f"{name}Model")(config).eval()
    weights = randomized(torch, model)
    encoder = build.encoder(
        {
            "kind": "text",
            "vocab_size": 60,
            "max_tokens": 12,
            "depth": config.num_hidden_layers,
            "width": config.hidden_size,
            "heads": config.num_attention_heads,
            "mlp_width": config.intermediate_size,
        },
        precision="float32",
        sample_rate=16000,
    )
    draw = np.random.default_rng(0)
    lengths = np.array([12, 7 if padded else 12])
    real = np.arange(12) < lengths[:, None]
    tokens = np.where(real, draw.integers(4, 60, (2, 12)), config.pad_token_id)
    shape = (config.num_hidden_layers + 1, 2, 12, config.hidden_size)
    projections = draw.standard_normal(shape).astype(np.float32) / 10 * real[..., None]
    inputs = {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(real).long()}
    want, gradients = run_torch(torch, model, inputs, projections)
    params = from_text(weights, config.num_hidden_layers)
    arrays = [jnp.asarray(tokens, jnp.int32), jnp.asarray(lengths)]
    hidden, ours = run_ours(encoder, params, arrays, projections)
    np.testing.assert_allclose(
        hidden * real[..., None], np.stack(want) * real[..., None], atol=1e-4
    )
    assert_gradients(ours, from_text(gradients, config.num_hidden_layers, token_type=False))
