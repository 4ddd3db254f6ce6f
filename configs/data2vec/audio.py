r"""data2vec v1 on 16 kHz speech, LibriSpeech 960 h (2202.03555, section 4.2 and table 2).

Command: python -m ssl_jax.train --config configs/data2vec/audio.py:base --workdir runs/d2v_base
  base   12 blocks of width 768, 93 M parameters, 400k updates of 64 minutes of speech.
         TPU v4-32 (16 chips): about 14 hours, from 8.6e19 FLOP at 40 % of peak, not measured;
         the paper used 16 A100. Published word error rate on test-clean / test-other, fine-tuned
         with CTC and a 4-gram language model: 7.9 / 12.3 with 10 minutes of labels, 4.6 / 9.1
         with 1 h, 3.9 / 8.1 with 10 h, 2.8 / 6.8 with 100 h.
  large  24 blocks of width 1024. TPU v4-64 (32 chips): about 18 hours by the same estimate. The
         published numbers (test-other 8.4, 6.3, 5.3, 4.6) are from 60k hours of Libri-Light: to
         reproduce them, replace config.data.train with that corpus. Learning rate and length of
         that run are third-party transcriptions.
  mini   4 blocks of width 192 on Mini LibriSpeech (openslr.org/31, 0.3 GB): about 2 hours on a
         laptop with 4 cores; no published number. The loss starts near 14, the square root of 192.

Clips are batched by length and padding is masked; the original crops every batch to its shortest
clip. On a single accelerator, raise config.train.accumulate.
"""

from ml_collections import ConfigDict

from configs import common, datasets

# The teacher has no front end of its own: it uses the student's unmasked frames.
EMA_RULES = (
    ("^encoder/frontend/", "absent"),
    ("^encoder/positions/", "copy"),
    (".*", "average"),
)


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: base (default), large, mini or toy."""
    size = arg or "base"
    common.check(size, ("base", "large", "mini", "toy"))
    config = common.base()
    config.method = common.data2vec()
    config.method.encoder = ConfigDict(
        {"kind": "waveform", "preset": "large" if size == "large" else "base", "layerdrop": 0.05}
    )
    config.method.ema.rules = EMA_RULES
    # with clips of unequal lengths, an equal count would mask far less of the longer ones
    config.method.mask.same_count = False
    config.data = datasets.librispeech(192)
    _optim(config.optim)
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
    if size == "mini":
        _mini(config)
    if size == "toy":
        _toy(config)
    return config


def _optim(optim: ConfigDict) -> None:
    optim.update({"lr": 5e-4, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.01})
    optim.update({"schedule": "tri_stage", "stages": (0.03, 0.9, 0.07)})
    optim.update({"start_factor": 0.01, "end_factor": 0.01})


def _mini(config: ConfigDict) -> None:
    encoder, data = config.method.encoder, config.data
    encoder.update({"depth": 4, "width": 192, "heads": 3, "mlp_width": 768, "conv_channels": 128})
    encoder.layerdrop = 0.0
    config.method.targets.layers = 3
    config.method.ema.update({"start": 0.99, "end": 0.999, "anneal": 5_000})
    data.train.librispeech.splits = ("train-clean-5",)
    data.valid.librispeech.splits = data.test.librispeech.splits = ("dev-clean-2",)
    data.update({"buckets": (4.0,), "batch_size": 16, "constant_seconds": False, "workers": 0})
    config.train.duration = "10k steps"
    config.checkpoint.every = config.eval.every = "500 steps"
    config.guard.after = 2_000


def _toy(config: ConfigDict) -> None:
    common.toy(config)
    encoder = config.method.encoder
    encoder.update({"depth": 2, "width": 16, "heads": 2, "mlp_width": 32})
    encoder.update({"conv_channels": 16, "position_groups": 4, "position_depth": 2})
    encoder.update({"conv_kernels": (10, 8, 8), "conv_strides": (5, 8, 8)})
    config.method.targets.layers = 2
    config.method.mask.length = 3
    config.data.update({"constant_seconds": False, "workers": 0})
