"""Encoders that several configs start from; configs/common.py has them too."""

from ml_collections import ConfigDict


def moco_encoder(preset: str) -> ConfigDict:
    """Returns the encoder of MoCo v3: 12 heads in Small too, the row first in its positions."""
    encoder = ConfigDict({"kind": "vit", "preset": preset, "image_size": 224, "patch_size": 16})
    encoder.update({"heads": 12, "init": "xavier_qkv", "patch_bias": "zero"})
    encoder.update({"class_std": 1e-6, "row_first": True})
    return encoder


def light_encoder() -> ConfigDict:
    """Returns the whole student of LightHuBERT: HuBERT Base with a norm in every layer of the front
    end, and without dropout of attention weights and of whole blocks."""
    encoder = ConfigDict({"kind": "waveform", "preset": "wav2vec2_base", "normalize": True})
    encoder.update({"conv_norm": "layer", "attention_dropout": 0.0, "layerdrop": 0.0})
    return encoder


def beit_encoder() -> ConfigDict:
    """Returns the Base encoder of BEiT: relative positions, layer scale, no key bias."""
    encoder = ConfigDict({"kind": "vit", "preset": "base", "image_size": 224, "patch_size": 16})
    encoder.update({"positions": "relative", "key_bias": False, "layer_scale": 1e-4})
    encoder.update({"final_norm": False, "init": "truncated"})
    return encoder


def keyword_encoder(size: str) -> ConfigDict:
    """Returns a Keyword Transformer: kwt1, kwt2, kwt3, or a toy of width 16 for half a second."""
    encoder = ConfigDict({"kind": "keyword_transformer", "preset": size, "embed_dropout": 0.1})
    if size == "toy":
        encoder.preset = "kwt1"
        encoder.update({"depth": 2, "width": 16, "heads": 2, "mlp_width": 32, "out_proj": True})
        encoder.update({"max_seconds": 0.5, "frames_per_token": 2})
    return encoder


def small_keyword_encoder() -> ConfigDict:
    """Returns the Keyword Transformer of the mini configs: 4 blocks of width 96, tokens of 64 ms.

    Unlike the paper's, it has log-mel in place of MFCC, four frames per token, pre-norm blocks and
    small initial positions. It learns in minutes on two cores.
    """
    encoder = ConfigDict({"kind": "keyword_transformer", "feature": "log_mel", "n_mels": 40})
    encoder.update({"window_ms": 32.0, "hop_ms": 16.0, "feature_norm": "utterance"})
    encoder.update({"frames_per_token": 4, "position_std": 0.02, "embed_dropout": 0.0})
    encoder.update({"depth": 4, "width": 96, "heads": 6, "mlp_width": 384})
    encoder.update({"norm": "pre", "init": "torch"})
    return encoder


def beats_encoder() -> ConfigDict:
    """Returns the Base encoder of BEATs: 16 x 16 patches of 128 mels, as one sequence."""
    return ConfigDict({"kind": "beats", "preset": "base", "num_mels": 128, "patch": (16, 16)})
