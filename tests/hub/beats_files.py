"""Files of BEATs in the published layout, with made-up weights."""

import numpy as np

TABLE = "encoder.layers.{}.self_attn.relative_attention_bias.weight"
PUBLISHED = {
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "activation_fn": "gelu",
    "embed_dim": 512,
    "input_patch_size": 16,
    "conv_bias": False,
    "layer_norm_first": False,
    "deep_norm": True,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
    "num_buckets": 320,
    "max_distance": 800,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "dropout_input": 0.0,
    "encoder_layerdrop": 0.05,
    "layer_wise_gradient_decay_ratio": 0.6,
    "predictor_dropout": 0.0,
    "predictor_class": 527,
    "finetuned_model": False,
}
TINY = PUBLISHED | {
    "encoder_layers": 2,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 24,
    "encoder_attention_heads": 2,
    "embed_dim": 8,
    "conv_pos": 4,
    "conv_pos_groups": 2,
    "num_buckets": 8,
    "max_distance": 12,
}
LABELS = {0: "/m/09x0r", 1: "/m/05zppz", 2: "/m/02zsn"}


def shapes(cfg):
    """The shapes of the encoder's arrays, the shared table under the first layer only."""
    width, ffn, heads = (
        cfg[f"encoder_{n}"] for n in ("embed_dim", "ffn_embed_dim", "attention_heads")
    )
    taps, inner, patch = cfg["conv_pos"], cfg["embed_dim"], cfg["input_patch_size"]
    found = {
        "encoder.pos_conv.0.bias": (width,),
        "encoder.pos_conv.0.weight_g": (1, 1, taps),
        "encoder.pos_conv.0.weight_v": (width, width // cfg["conv_pos_groups"], taps),
        "patch_embedding.weight": (inner, 1, patch, patch),
        "post_extract_proj.weight": (width, inner),
        "post_extract_proj.bias": (width,),
        TABLE.format(0): (cfg["num_buckets"], heads),
    }
    norms = {"layer_norm": inner, "encoder.layer_norm": width}
    for i in range(cfg["encoder_layers"]):
        layer = f"encoder.layers.{i}"
        linears = {f"self_attn.{n}_proj": (width, width) for n in ("q", "k", "v", "out")}
        linears |= {"self_attn.grep_linear": (8, width // heads)}
        linears |= {"fc1": (ffn, width), "fc2": (width, ffn)}
        for name, shape in linears.items():
            found |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[:1]}
        found[f"{layer}.self_attn.grep_a"] = (1, heads, 1, 1)
        norms |= {f"{layer}.{n}": width for n in ("self_attn_layer_norm", "final_layer_norm")}
    for name, size in norms.items():
        found |= {f"{name}.weight": (size,), f"{name}.bias": (size,)}
    return found


def formula(cfg):
    """The arrays of the golden check, whose values follow from their names' order alone."""
    found = {}
    for i, (name, shape) in enumerate(sorted(shapes(cfg).items())):
        z = np.sin(12.9898 * np.arange(1, np.prod(shape) + 1) + 78.233 * (i + 1)) * 43758.5453
        scale = 1.0 if name == TABLE.format(0) else 0.5 if "grep_linear" in name else 0.05
        x = scale * (2 * (z - np.floor(z)) - 1)
        x += name.endswith(("layer_norm.weight", "weight_g", "grep_a"))
        found[name] = x.reshape(shape).astype(np.float32)
    return repeated(found, cfg)


def repeated(arrays, cfg):
    """Puts the shared table under every layer, as the files have it."""
    layers = range(1, cfg["encoder_layers"])
    return arrays | {TABLE.format(i): arrays[TABLE.format(0)] for i in layers}


def content(kind, **changes):
    """The content of a file with arrays for tensors: of an encoder, `tuned` or a `tokenizer`."""
    cfg, draw = {**TINY, **changes}, np.random.default_rng(0)

    def made(*shape):
        return 0.3 * draw.standard_normal(shape).astype(np.float32)

    model = {n: made(*shape) for n, shape in shapes(cfg).items()}
    model = repeated({n: x + n.endswith("layer_norm.weight") for n, x in model.items()}, cfg)
    found = {"cfg": cfg, "model": model}
    width = cfg["encoder_embed_dim"]
    if kind == "tuned":
        model |= {"predictor.weight": made(3, width), "predictor.bias": made(3)}
        cfg |= {"predictor_class": 3, "finetuned_model": True}
        found["label_dict"] = dict(LABELS)
    if kind == "tokenizer":
        for i, size in ((0, width), (2, 4)):
            model |= {f"quantize_layer.{i}.weight": made(size, width)}
            model |= {f"quantize_layer.{i}.bias": made(size)}
        codes = made(8, 4)
        codes /= np.linalg.norm(codes, axis=1, keepdims=True)
        model |= {f"quantize.embedding.{n}": codes for n in ("weight", "embed_avg")}
        model |= {f"quantize{n}.cluster_size": np.zeros(8, np.float32) for n in ("", ".embedding")}
        model["quantize.embedding.initted"] = np.ones(1, np.float32)
        cfg |= {"quant_n": 8, "quant_dim": 4}
    return found


def sweep():
    """The signal of the golden checks, one second at 16 kHz."""
    n = np.arange(16000.0)
    tone = np.sin(2 * np.pi * (200 * n / 16000 + 1500 * (n / 16000) ** 2))
    return (0.3 * tone + 0.05 * np.cos(1.7 * n * n / 1000)).astype(np.float32)
