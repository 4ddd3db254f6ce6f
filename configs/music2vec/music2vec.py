r"""Music2Vec: data2vec v1 on 16 kHz music, unchanged except for the data (2212.02508).

Command: python -m ssl_jax.train --config configs/music2vec/music2vec.py:base \
             --workdir runs/music2vec --config.data.train.music.path=PATH
         PATH: a folder with index.tsv (columns path, split), or of audio files with kind=folder.
  base    12 blocks of width 768, 93 M parameters, crops of 30 s (1,499 frames), 400k updates of 64
          minutes; the paper's 1,000 hours of music are private, and its batch size is not stated.
          TPU v4-32 (16 chips): about 16 hours, from 9.9e19 FLOP at 40 % of peak, not measured.
  crop5s  the same with crops of 5 s, as for the weights published as m-a-p/music2vec-v1; about
          13 hours.
  mini    4 blocks of width 128 on crops of 4 s: the model of experiments/music2vec, for two cores.

Published, frozen, with the probe of configs/music2vec/marble.py: MagnaTagATune ROC-AUC 90.0, AP
36.2; GiantSteps key 50.6 (weighted score); GTZAN genre 74.1; EMO R2 of valence 52.1, arousal 71.0.

To start from other weights, set --config.init_from=RUN: a run with the same encoder, such as one of
configs/data2vec/audio.py (speech) or one converted from transformers. --config.init_extra=True also
copies its teacher, if it has one. --config.method.ema.start, end and anneal set how fast the
teacher follows. sweep() lists the ablations of the paper.
"""

from ml_collections import ConfigDict

from configs import common

EMA_RULES = (
    ("^encoder/frontend/", "absent"),
    ("^encoder/positions/", "copy"),
    (".*", "average"),
)


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: base (default), crop5s, mini or toy."""
    size = arg or "base"
    common.check(size, ("base", "crop5s", "mini", "toy"))
    config = common.base()
    config.method = common.data2vec()
    config.method.encoder = ConfigDict({"kind": "waveform", "preset": "base", "layerdrop": 0.05})
    config.method.ema.rules = EMA_RULES
    _data(config.data)
    config.optim.update({"lr": 5e-4, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.01})
    config.optim.update({"schedule": "tri_stage", "stages": (0.03, 0.9, 0.07)})
    config.optim.update({"start_factor": 0.01, "end_factor": 0.01})
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
    if size == "crop5s":
        config.data.update({"buckets": (5.0,), "batch_size": 768})
    if size == "mini":
        _mini(config)
    if size == "toy":
        _toy(config)
    return config


def sweep() -> list[dict[str, object]]:
    """Returns the ablations of the paper, each a change of `base`: {dotted key: value}."""
    return [
        {"method.mask.length": 5},
        {"method.mask.length": 15},
        {"method.mask.prob": 0.5},
        {"method.mask.prob": 0.8},
        {"method.targets.layers": 12},
        {"data.buckets": (5.0,), "data.batch_size": 768},
        {"train.duration": "800k steps"},
    ]


def _data(data: ConfigDict) -> None:
    for split in ("train", "valid"):
        data[split].music = ConfigDict(
            {"kind": "table", "path": "data/music", "where": ConfigDict({"split": split})}
        )
    data.update({"buckets": (30.0,), "batch_size": 128, "min_seconds": 2.0, "workers": 8})


def _mini(config: ConfigDict) -> None:
    encoder = config.method.encoder
    encoder.update({"depth": 4, "width": 128, "heads": 4, "mlp_width": 512, "layerdrop": 0.0})
    # frames of 40 ms from three convolutions
    encoder.update({"conv_channels": 64, "conv_kernels": (10, 8, 16), "conv_strides": (5, 8, 16)})
    encoder.update({"position_depth": 3, "dropout": 0.0, "attention_dropout": 0.0})
    encoder.update({"embed_dropout": 0.0})
    config.method.mask.length = 5
    config.method.targets.layers = 3
    config.method.ema.update({"start": 0.99, "end": 0.999, "anneal": 500})
    config.data.update({"buckets": (4.0,), "batch_size": 16, "workers": 0})
    config.optim.update({"lr": 2e-3, "schedule": "cosine", "warmup": "10%", "clip": 1.0})
    config.train.duration = "500 steps"
    config.checkpoint.every = config.eval.every = "250 steps"
    config.log.every = "25 steps"
    config.guard.after = 200


def _toy(config: ConfigDict) -> None:
    common.toy(config)
    encoder = config.method.encoder
    encoder.update({"depth": 2, "width": 16, "heads": 2, "mlp_width": 32})
    encoder.update({"conv_channels": 16, "position_groups": 4, "position_depth": 2})
    encoder.update({"conv_kernels": (10, 8, 8), "conv_strides": (5, 8, 8)})
    config.method.targets.layers = 2
    config.method.mask.length = 3
    config.data.workers = 0
