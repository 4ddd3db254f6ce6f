"""Numbers of transformers' Data2VecAudioModel and wav2vec 2.0 front end, with random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.nn import build
from ssl_jax.nn.conv import ConvStack

pytestmark = pytest.mark.interop

KINDS = {
    "tiny": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "conv_dim": (16,) * 4,
        "conv_kernel": (10, 3, 3, 2),
        "conv_stride": (5, 2, 2, 2),
        "num_conv_pos_embeddings": 3,
        "conv_pos_kernel_size": 7,
        "num_conv_pos_embedding_groups": 4,
    },
    "base, two layers": {"num_hidden_layers": 2},
}


def dense(weights, name):
    """A torch Linear as a flax Dense."""
    tree = {"kernel": weights[f"{name}.weight"].T}
    return tree | ({"bias": weights[f"{name}.bias"]} if f"{name}.bias" in weights else {})


def convolution(weights, name):
    """A torch Conv1d (out, in, k) as a flax Conv (k, in, out)."""
    tree = {"kernel": weights[f"{name}.weight"].transpose(2, 1, 0)}
    return tree | ({"bias": weights[f"{name}.bias"]} if f"{name}.bias" in weights else {})


def norm(weights, name):
    """A torch LayerNorm or GroupNorm as scale and bias."""
    return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}


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


def convolutions(weights, layers, normed):
    """The feature extractor; `normed` lists the layers that are followed by a norm."""
    name = "feature_extractor.conv_layers.{}"
    tree = {f"conv{i}": convolution(weights, name.format(i) + ".conv") for i in range(layers)}
    for i in normed:
        tree[f"norm{i}"] = norm(weights, name.format(i) + ".layer_norm")
    return tree


def from_transformers(weights, config):
    """A Data2VecAudioModel's weights (name -> array) as the parameters of a WaveformEncoder."""
    layers = len(config.conv_dim)
    blocks = [block(weights, f"encoder.layers.{i}") for i in range(config.num_hidden_layers)]
    return {
        "frontend": {
            "convs": convolutions(weights, layers, range(layers)),
            "norm": norm(weights, "feature_projection.layer_norm"),
            "projection": dense(weights, "feature_projection.projection"),
        },
        "positions": {
            f"conv{i}": convolution(weights, f"encoder.pos_conv_embed.layers.{i}.conv")
            for i in range(config.num_conv_pos_embeddings)
        },
        "norm": norm(weights, "encoder.layer_norm"),
        "blocks": jax.tree.map(lambda *leaves: np.stack(leaves), *blocks),
    }


def encoder_of(config):
    """The encoder in the layout of a transformers config, with its leaking positions."""
    return build.encoder(
        {
            "kind": "waveform",
            "depth": config.num_hidden_layers,
            "width": config.hidden_size,
            "heads": config.num_attention_heads,
            "mlp_width": config.intermediate_size,
            "conv_channels": config.conv_dim[0],
            "conv_kernels": config.conv_kernel,
            "conv_strides": config.conv_stride,
            "position_depth": config.num_conv_pos_embeddings,
            "position_kernel": config.conv_pos_kernel_size,
            "position_groups": config.num_conv_pos_embedding_groups,
            "normalize": False,
            "mask_each": False,
        },
        precision="float32",
        sample_rate=16000,
    )


def randomized(torch, model):
    """Moves every weight off its special initial value and returns all as arrays."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
    return {name: weight.numpy() for name, weight in model.state_dict().items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padded", [False, True])
def test_every_hidden_state_and_target_of_data2vec_audio(kind, padded):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.Data2VecAudioConfig(**KINDS[kind])
    model = transformers.Data2VecAudioModel(config).eval()
    params = from_transformers(randomized(torch, model), config)
    audio = np.random.default_rng(0).standard_normal((2, 8000)).astype(np.float32)
    lengths = np.array([8000, 5000 if padded else 8000])
    real = np.arange(8000) < lengths[:, None]
    audio = audio * real
    targets = []
    for layer in model.encoder.layers:
        layer.feed_forward.output_dense.register_forward_hook(
            lambda module, args, y: targets.append(y.numpy())
        )
    with torch.no_grad():
        want = model(
            torch.tensor(audio),
            attention_mask=torch.tensor(real.astype(np.int64)) if padded else None,
            output_hidden_states=True,
        )
    encoder = encoder_of(config)
    got = jax.jit(encoder.apply)({"params": params}, jnp.asarray(audio), jnp.asarray(lengths))
    valid = np.asarray(got.valid)
    assert len(want.hidden_states) == len(got.hidden_states) == config.num_hidden_layers + 1
    for ours, theirs in zip(got.hidden_states, want.hidden_states, strict=True):
        np.testing.assert_allclose(ours[valid], theirs.numpy()[valid], atol=1e-4)
    for ours, theirs in zip(got.ffn, targets, strict=True):
        np.testing.assert_allclose(ours[valid], theirs[valid], atol=1e-4)
    assert bool(valid.all()) is not padded


@pytest.mark.parametrize(("mode", "bias"), [("group", False), ("layer", True)])
def test_frames_of_the_wav2vec2_feature_encoder(mode, bias):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(24,) * 7,
        feat_extract_norm=mode,
        conv_bias=bias,
    )
    model = transformers.Wav2Vec2Model(config).eval()
    weights = randomized(torch, model)
    params = convolutions(weights, 7, range(7) if mode == "layer" else (0,))
    audio = np.random.default_rng(0).standard_normal((2, 4000)).astype(np.float32)
    with torch.no_grad():
        want = model.feature_extractor(torch.tensor(audio)).numpy().transpose(0, 2, 1)
    stack = ConvStack(24, norm=mode, bias=bias)
    got, valid = jax.jit(stack.apply)({"params": params}, audio, jnp.array([4000, 4000]))
    assert valid.all() and got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=1e-4)
