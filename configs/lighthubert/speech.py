r"""LightHuBERT on 16 kHz speech (2203.15610): HuBERT Base compressed to many sizes at once.

Command: python -m ssl_jax.train --config configs/lighthubert/speech.py:stage1 \
             --config.method.teachers.teacher=runs/hubert_it2 --workdir runs/light_1
         python -m ssl_jax.train --config configs/lighthubert/speech.py:small \
             --config.method.teachers.teacher=runs/hubert_it2 --config.init_from=runs/light_1 \
             --workdir runs/light_small
  stage1   the whole student, 12 blocks of width 768, 94 M parameters, from HuBERT Base, LibriSpeech
           960 h, 400k updates of 46 minutes of speech (the authors report their best validation
           loss there). TPU v4-32 (16 chips): about 11 hours, from 7e19 FLOP at 40 % of peak, not
           measured. Published, by a user who repeated it: word error rate of SUPERB 5.73 %.
  base     stage 2 in the space of 41 to 94 M parameters (6.5e9 subnets): about as long. Published
           for the 67 M of `a_base`: SUPERB score 80.4, HuBERT Base 80.8.
  small    stage 2 in the space of 11 to 44 M parameters (9.5e11 subnets), as wide as its largest
           subnet: about 8 hours. Published for the 27 M of `a_small`: score 79.1, phone error rate
           6.60 %, word error rate 8.34 % (HuBERT Base 5.41 % and 6.42 %).
  mini_stage1, mini: 4 blocks of width 192 on Mini LibriSpeech (openslr.org/31), taught by a run of
           configs/hubert/audio.py:mini_it2, in a space of 2 to 4 blocks: minutes on two cores; no
           published number.

The authors published the targets, the loss and the length of stage 1. Learning rate, batch and
dropout of the front end are those of HuBERT Base here, and stage 2 is as long as stage 1. Subnets
are used as they are: config.method.subnet names one for features and validation. Until there is a
teacher, its config stands in its place, which is enough for ssl_jax.plan.
"""

from ml_collections import ConfigDict

from configs import common, datasets

SIZES = ("stage1", "base", "small", "mini_stage1", "mini", "toy")


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: stage1 (default), base, small, mini_stage1, mini or toy."""
    size = arg or "stage1"
    common.check(size, SIZES)
    config = common.base()
    config.method = common.lighthubert()
    config.method.encoder = common.light_encoder()
    config.method.teachers.teacher = "configs/hubert/audio.py:base_it2"
    config.method.sample = "full" if size.endswith("stage1") else "uniform"
    config.data = datasets.librispeech(176)
    config.data.buckets = (4.0, 8.0, 12.0, 14.0, 15.625)
    config.optim.update({"lr": 5e-4, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.01})
    config.optim.update({"schedule": "linear", "warmup": "8%", "clip": 10.0})
    config.train.duration = "400k steps"
    config.checkpoint.every = config.eval.every = "5k steps"
    config.guard.floors = ConfigDict({"prediction_std": 0.01, "frontend_std": 0.01})
    if size == "small":
        config.method.space.update({"embed": (256, 384, 512), "heads": (4, 6, 8)})
        config.method.space.update({"ratios": (3.0, 3.5, 4.0), "depths": (10, 11, 12)})
        config.method.space.named = (("a_small", "384/6x12/4x12"),)
    if size.startswith("mini"):
        _mini(config)
    if size == "toy":
        _toy(config)
    return config


def _mini(config: ConfigDict) -> None:
    method, data = config.method, config.data
    method.teachers.teacher = "configs/hubert/audio.py:mini_it2"
    method.encoder.update({"depth": 4, "width": 192, "heads": 6, "mlp_width": 768})
    method.encoder.conv_channels = 128
    method.space.update({"embed": (96, 128, 160, 192), "heads": (2, 3, 4, 5, 6)})
    method.space.update({"ratios": (2.0, 3.0, 4.0), "depths": (2, 3, 4), "named": ()})
    method.targets.layers = 3
    data.train.librispeech.splits = ("train-clean-5",)
    data.valid.librispeech.splits = data.test.librispeech.splits = ("dev-clean-2",)
    data.update({"buckets": (4.0,), "batch_size": 16, "constant_seconds": False, "workers": 0})
    config.train.duration = "3k steps" if method.sample == "full" else "6k steps"
    config.checkpoint.every = config.eval.every = "500 steps"
    config.guard.after = 2_000


def _toy(config: ConfigDict) -> None:
    common.toy(config)
    method = config.method
    method.teachers.teacher = "configs/hubert/audio.py:toy"
    method.encoder.update({"depth": 2, "width": 16, "heads": 2, "mlp_width": 32})
    method.encoder.update({"conv_channels": 16, "position_groups": 4, "position_kernel": 8})
    method.encoder.update({"conv_kernels": (10, 8, 8), "conv_strides": (5, 8, 8)})
    method.space.update({"embed": (8, 16), "heads": (1, 2), "ratios": (1.0, 1.5, 2.0)})
    method.space.update({"depths": (1, 2), "named": ()})
    method.targets.layers = 2
    method.mask.length = 3
    config.data.update({"constant_seconds": False, "workers": 0})
