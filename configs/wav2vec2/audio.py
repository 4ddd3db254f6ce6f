r"""wav2vec 2.0 on 16 kHz speech, LibriSpeech 960 h or Libri-Light 60k h (2006.11477, section 4).

Command: python -m ssl_jax.train --config configs/wav2vec2/audio.py:base --workdir runs/w2v2_base
  base   12 blocks of width 768, 95 M parameters, 400k updates of 1.5 hours of speech.
         TPU v4-32 (16 chips): about 16 hours, from 1.0e20 FLOP at 40 % of peak, not measured; the
         paper used 64 V100 for 1.6 days. Published word error rate on test-clean / test-other,
         fine-tuned with CTC and a 4-gram language model: 9.1 / 15.6 with 10 minutes of labels,
         5.5 / 11.3 with 1 h, 4.3 / 9.5 with 10 h, 3.4 / 8.0 with 100 h, 2.6 / 6.1 with 960 h.
  large  24 blocks of width 1024, 317 M parameters, 600k updates of 2.7 hours of Libri-Light, cut
         into segments and listed in a fairseq manifest. TPU v4-128 (64 chips): about 28 hours by
         the same estimate; the paper used 128 V100 for 5.2 days. Published, with a Transformer
         language model: 4.8 / 8.2 with 10 minutes, 2.9 / 5.8 with 1 h, 2.6 / 4.9 with 10 h,
         2.0 / 4.0 with 100 h, 1.8 / 3.3 with 960 h.
  1b     48 blocks of width 1280, 962 M parameters, the size of XLS-R 1B (2111.09296), with the data
         and the schedule of large, sharded over 8 chips; no published number for this run.
  mini   4 blocks of width 192 on Mini LibriSpeech (openslr.org/31, 0.3 GB): about 2 hours on a
         laptop with 4 cores; no published number. The contrastive loss starts near 4.6, the
         logarithm of 1 + 100 negatives.
The paper has no model larger than large. The first metric to watch is code_perplexity, at most 640:
near 2, one code per group, the quantizer has collapsed, and config.guard stops the run.

Clips are batched by length and padding is masked; the original crops every batch to its shortest
clip. On a single accelerator, raise config.train.accumulate.
"""

from ml_collections import ConfigDict

from configs import common, datasets


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: base (default), large, 1b, mini or toy."""
    size = arg or "base"
    common.check(size, ("base", "large", "1b", "mini", "toy"))
    config = common.base()
    config.method = common.wav2vec2()
    config.method.encoder = ConfigDict({"kind": "waveform", "preset": "wav2vec2_base"})
    # trimmed to the fewest in a batch, clips of 2 to 4 s would have a fifth of their frames masked;
    # the original trims the few crops of one worker, of equal length, and masks 46 %
    config.method.mask.same_count = False
    config.data = datasets.librispeech(352)
    config.data.buckets = (4.0, 8.0, 12.0, 14.0, 15.625)
    _optim(config.optim)
    config.train.duration = "400k steps"
    config.checkpoint.every = config.eval.every = "5k steps"
    config.guard.floors = ConfigDict(
        {"code_perplexity": 20.0, "prediction_std": 0.01, "frontend_std": 0.01}
    )
    if size in ("large", "1b"):
        _large(config)
    if size == "1b":
        config.method.encoder.update({"preset": "hubert_xlarge", "conv_bias": True})
        config.method.quantizer.width = 1024
        common.shard(config)
    if size == "mini":
        _mini(config)
    if size == "toy":
        _toy(config)
    return config


def _optim(optim: ConfigDict) -> None:
    optim.update({"lr": 5e-4, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.01})
    optim.update({"schedule": "linear", "warmup": "8%"})


def _large(config: ConfigDict) -> None:
    """No dropout, full front-end gradient, no penalty, lower temperature, normalized clips."""
    config.method.encoder.preset = "wav2vec2_large"
    config.method.quantizer.update({"width": 768, "dropout": 0.0, "end": 0.1})
    config.method.loss.penalty = 0.0
    source = {"kind": "fairseq_tsv", "path": "data/libri_light/train.tsv", "rate": 16000}
    config.data.train = ConfigDict({"libri_light": source})
    config.data.update({"batch_size": 480, "buckets": (4.0, 8.0, 12.0, 16.0, 20.0)})
    config.optim.lr = 3e-4
    config.train.duration = "600k steps"


def _mini(config: ConfigDict) -> None:
    encoder, data = config.method.encoder, config.data
    encoder.update({"depth": 4, "width": 192, "heads": 3, "mlp_width": 768, "conv_channels": 128})
    encoder.update({"layerdrop": 0.0, "position_kernel": 64})
    # the temperature falls as far as the paper's, in fewer steps
    config.method.quantizer.update({"codes": 80, "width": 64, "decay": 0.9998})
    data.train.librispeech.splits = ("train-clean-5",)
    data.valid.librispeech.splits = data.test.librispeech.splits = ("dev-clean-2",)
    data.update({"buckets": (4.0,), "batch_size": 16, "constant_seconds": False, "workers": 0})
    config.train.duration = "10k steps"
    config.checkpoint.every = config.eval.every = "500 steps"
    config.guard.after = 2_000
    config.guard.floors.code_perplexity = 8.0


def _toy(config: ConfigDict) -> None:
    common.toy(config)
    encoder = config.method.encoder
    encoder.update({"depth": 2, "width": 16, "heads": 2, "mlp_width": 32, "conv_channels": 16})
    encoder.update({"position_groups": 4, "position_kernel": 8})
    encoder.update({"conv_kernels": (10, 8, 8), "conv_strides": (5, 8, 8)})
    config.method.mask.length = 3
    config.method.quantizer.update({"codes": 8, "width": 8})
    config.method.negatives.count = 10
    config.guard.floors.code_perplexity = 2.5
    config.data.update({"constant_seconds": False, "workers": 0})
