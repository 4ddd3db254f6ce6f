r"""wav2vec 2.0 with Conformer blocks on 16 kHz speech, LibriSpeech 960 h or Libri-Light 60k h.

Command: python -m ssl_jax.train --config configs/wav2vec2/conformer.py:base --workdir runs/conf
  base   12 blocks of width 768 with relative positions (2005.08100), 400k updates of 1.5 hours of
         speech, and the front end of Base as in configs/wav2vec2/audio.py: clips not normalized, a
         norm after the first convolution, no biases, gradients scaled by 0.1. TPU v4-32 (16
         chips): about 30 hours, from 1.9 times the operations of the Transformer at 40 % of peak,
         not measured. No published number.
  large  24 blocks of width 1024, about 600 M parameters, 600k updates of 2.7 hours of Libri-Light.
         TPU v4-128 (64 chips): about 53 hours by the same estimate. Published by the authors of the
         weights (fairseq, 2010.05171), fine-tuned on 960 h, without a language model: word error
         rate on test-clean / test-other 1.96 / 3.98 with rotary positions, 1.85 / 3.83 with
         relative ones (the second pair is from memory, not verified).
  mini   4 blocks of width 144 on Mini LibriSpeech (openslr.org/31, 0.3 GB): about 3 hours on a
         laptop with 4 cores; front end of Large; no published number.

Rotary positions: --config.method.encoder.attention_positions=rotary. The published models have a
BatchNorm after the depthwise convolution. Models trained here have a LayerNorm: a batch of clips of
different lengths, spread over many devices, has no single mean. Imported weights (python -m
ssl_jax.convert import) keep their BatchNorm, depthwise_norm='batch', with fixed running statistics:
name them in config.optim.frozen, as "/running_norm/(mean|var)$".
"""

from ml_collections import ConfigDict

from configs import common
from configs.wav2vec2 import audio


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: base (default), large, mini or toy."""
    size = arg or "base"
    common.check(size, ("base", "large", "mini", "toy"))
    config = audio.get_config(size)
    preset = "conformer_large" if size == "large" else "conformer_base"
    config.method.encoder = ConfigDict({"kind": "waveform", "preset": preset})
    config.method.encoder.attention_positions = "relative"
    if size == "mini":
        _mini(config.method.encoder)
    if size == "toy":
        _toy(config.method.encoder)
    return config


def _mini(encoder: ConfigDict) -> None:
    # as Large: a norm and a bias in every convolution, normalized clips, pre-norm, full gradient
    encoder.update({"norm": "pre", "conv_norm": "layer", "conv_bias": True})
    encoder.update({"normalize": True, "grad_mult": 1.0})
    encoder.update({"depth": 4, "width": 144, "heads": 4, "mlp_width": 576, "conv_channels": 128})
    encoder.update({"depthwise_kernel": 15, "layerdrop": 0.0})


def _toy(encoder: ConfigDict) -> None:
    encoder.update({"depth": 2, "width": 16, "heads": 2, "mlp_width": 32, "conv_channels": 16})
    encoder.update({"conv_kernels": (10, 8, 8), "conv_strides": (5, 8, 8), "depthwise_kernel": 3})
