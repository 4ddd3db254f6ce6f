r"""data2vec 2.0 on 16 kHz speech, LibriSpeech 960 h (2212.07525, sections 3 and 4.2).

Command: python -m ssl_jax.train --config configs/data2vec2/audio.py:base --workdir runs/d2v2_base
         python -m ssl_jax.train --config configs/data2vec2/audio.py:own --workdir runs/own \
             --config.data.train.own.path=FOLDER
  base   12 blocks of width 768, 8 masks a clip, half of the frames visible. 400k updates of 16
         minutes of speech (48 clips of 20 s; the paper: 16 GPUs with 62.5 s each). TPU v4-32 (16
         chips): about 9 hours, from 5.6e19 FLOP at 40 % of peak, not measured; the paper: 43
         hours. Published word error rate on test-other, fine-tuned with CTC and a 4-gram language
         model: 11.5 with 10 minutes of labels, 8.7 with 1 h, 7.6 with 10 h, 6.4 with 100 h,
         5.2 with 960 h.
  large  8 + 16 blocks of width 1024, 12 masks, 600k updates. TPU v4-64 (32 chips): about 23 hours
         by the same estimate. The published numbers (8.4, 6.3, 5.1, 4.3, 3.5; 76.7 hours) are
         from 60k hours of Libri-Light: to reproduce them, replace config.data.train with it.
  mini   4 blocks of width 128 on Mini LibriSpeech (openslr.org/31, 0.3 GB), 8 masks, 1k
         updates: an estimated hour or less on two cores; no published number.
  own    like mini, on any folder of recordings, at any rate (docs/data.md); no published number.
  own_base  like base, on the same data, for an accelerator.

Clips are batched by length and padding is masked; the original crops every batch to its shortest
clip. Weight decay applies to all parameters, as in the released runs.
"""

from ml_collections import ConfigDict

from configs import common, datasets

# the teacher uses the student's convolutions and projection; it averages position convolutions,
# norm, ALiBi factors and blocks
EMA_RULES = (("^encoder/frontend/", "absent"), (".*", "average"))


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: base (default), large, mini, own, own_base, toy or own_toy."""
    size = arg or "base"
    common.check(size, ("base", "large", "mini", "own", "own_base", "toy", "own_toy"))
    config = common.base()
    config.method = common.data2vec2()
    config.method.encoder = ConfigDict(
        {"kind": "waveform", "preset": "base", "alibi": "learned", "layerdrop": 0.05}
    )
    config.method.ema.rules = EMA_RULES
    config.data = datasets.librispeech(48)
    config.optim.update({"lr": 7.5e-4, "warmup": "8k steps", "weight_decay": 0.01})
    config.optim.update({"betas": (0.9, 0.98), "eps": 1e-6})
    config.train.duration = "400k steps"
    config.checkpoint.every = config.eval.every = "5k steps"
    config.guard.floors = ConfigDict(
        {
            "target_std": 0.1,
            "prediction_std": 0.01,
            "frontend_std": 0.01,
            "instance_variance_ratio": 0.1,
        }
    )
    if size == "large":
        _large(config)
    if size == "mini":
        _mini(config)
    if size == "own":
        _own(config)
    if size == "own_base":
        config.data = datasets.own_audio(48)
    if size == "own_toy":
        config.data = datasets.own_audio(8)
    if size in ("toy", "own_toy"):
        _toy(config)
    return config


def _large(config: ConfigDict) -> None:
    method = config.method
    method.encoder.update({"preset": "large", "layerdrop": 0.0})
    method.update({"clones": 12, "prenet_depth": 8})
    method.mask.update({"ratio": 0.55, "adjust": 0.1})
    method.decoder.dim = 768
    method.targets.layers = 16
    method.ema.update({"start": 0.9997, "end": 1.0, "anneal": 300_000})
    config.optim.update({"lr": 4e-4, "warmup": "10k steps", "clip": 1.0})
    config.train.duration = "600k steps"


def _mini(config: ConfigDict) -> None:
    method, data = config.method, config.data
    method.encoder.update({"depth": 4, "width": 128, "heads": 4, "mlp_width": 512})
    method.encoder.update({"conv_channels": 128, "layerdrop": 0.0})
    method.decoder.update({"dim": 128, "layers": 3})
    method.targets.layers = 3
    method.ema.update({"start": 0.99, "end": 0.9995, "anneal": 1_000})
    data.train.librispeech.splits = ("train-clean-5",)
    data.valid.librispeech.splits = data.test.librispeech.splits = ("dev-clean-2",)
    data.update({"buckets": (4.0,), "batch_size": 8, "constant_seconds": False, "workers": 0})
    config.optim.warmup = "10%"
    config.train.duration = "1k steps"
    config.checkpoint.every = config.eval.every = "250 steps"
    config.guard.after = 500


def _own(config: ConfigDict) -> None:
    _mini(config)
    config.data = datasets.own_audio(8)
    # at this size, with five position convolutions and a faster teacher, targets come to encode
    # only the position in the crop (experiments/data2vec2/audio.py)
    config.method.encoder.update({"position_depth": 1, "conv_channels": 64})
    config.method.ema.start = 0.999


def _toy(config: ConfigDict) -> None:
    common.toy(config)
    method = config.method
    method.encoder.update({"depth": 2, "width": 16, "heads": 2, "mlp_width": 32})
    method.encoder.update({"conv_channels": 16, "position_groups": 4, "position_depth": 2})
    method.encoder.update({"conv_kernels": (10, 8, 8), "conv_strides": (5, 8, 8)})
    method.clones = 2
    method.mask.block = 3
    method.decoder.update({"dim": 8, "groups": 4, "layers": 2})
    method.targets.layers = 2
    config.data.update({"constant_seconds": False, "workers": 0})
