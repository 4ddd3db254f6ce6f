r"""Masked autoencoder on spectrograms, AudioSet without labels (2207.06405, AudioMAE).

Command: python -m ssl_jax.train --config configs/mae/spectrogram.py:base --workdir runs/audio_mae
  base   12 blocks of width 768 on 10 s at 16 kHz: 998 frames of 128 mels in 62 x 8 patches of
         16 x 16, 80 % masked. 33 epochs of 2 M clips, 512 a step: 129k updates. One H100: about 7
         hours, from 9e18 FLOP at 40 % of peak, not measured; the original used 64 GPUs.
         Published after fine-tuning, with this decoder with global attention (from memory, not
         verified): mAP 46.8 on AudioSet-2M, 36.6 on AudioSet-20K.
  audiomae
         the published form: clips filled up to 1024 frames, 64 x 8 patches; a decoder of 16 blocks
         with attention in windows of 4 x 4 patches, every second one shifted along time; a random
         gain; positions as published (pos_grid below). Published after fine-tuning: mAP 47.3 on
         AudioSet-2M, 37.1 on AudioSet-20K (configs/supervised/audiomae.py).
  mini   6 blocks of width 192 on 5 s clips in 31 x 8 patches (ESC-10 as a table with columns path,
         label and fold): an estimated 20 minutes on two cores; no published number.

The learning rate is 2e-4 * batch / 256: change config.optim.lr along with config.data.batch_size.
Whole stripes of time and mel are hidden with, for example, --config.method.stripes.time=0.7
--config.method.stripes.frequency=0.3, in place of mask_ratio; the paper found single patches best.
The original numbers its 64 x 8 patches as a grid of 8 x 64, so that their positions are scrambled:
audiomae has the same positions, as its published weights need, and --config.method.encoder.pos_grid
=correct has those of time and mel, as base does. The original means to roll clips in time as well,
but draws the shift from an axis of length 1, so that none moves. Patches may overlap, as in the
original, by --config.method.encoder.stride='(10, 10)' with pos_grid=correct. Known difference: base
drops the frames that do not fill a patch.
"""

from ml_collections import ConfigDict

from configs import common, datasets

# as in the original, weight decay applies to class and mask tokens
DECAY_RULES = (("(bias|scale)$", 0.0), (".*", 1.0))


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: base (default), audiomae, mini, own or toy."""
    size = arg or "base"
    common.check(size, ("base", "audiomae", "mini", "own", "toy"))
    config = common.base()
    config.method = common.mae()
    config.method.encoder = ConfigDict(
        {"kind": "spectrogram", "preset": "base", "num_mels": 128, "patch": (16, 16)}
    )
    config.method.mask_ratio = 0.8
    for split, part in (("train", "unbalanced_train"), ("valid", "eval")):
        path = f"data/audioset/{part}.tsv"
        config.data[split].audioset = ConfigDict({"kind": "table", "path": path})
    config.data.update({"buckets": (10.0,), "batch_size": 512, "workers": 16, "min_seconds": 1.0})
    config.optim.update({"lr": 2e-4 * 512 / 256, "betas": (0.9, 0.95), "weight_decay": 1e-4})
    config.optim.update({"warmup": "3 epochs", "decay_rules": DECAY_RULES})
    config.train.duration = "33 epochs"
    config.checkpoint.every = config.eval.every = "1 epochs"
    config.guard.floors = ConfigDict({"prediction_std": 0.01})
    if size == "audiomae":
        config.method.encoder.update({"frames": 1024, "pos_grid": "official"})
        config.method.attention = "local"
        config.method.local.bias_dropout = 0.1
        config.method.decoder.depth = 16
        config.method.augment = ConfigDict({"magnitude": {}})
    if size in ("mini", "own"):
        _mini(config)
    if size == "own":
        config.data = datasets.own_audio(32)
    if size == "toy":
        _toy(config)
    return config


def _mini(config: ConfigDict) -> None:
    encoder = config.method.encoder
    encoder.update({"depth": 6, "width": 192, "heads": 3, "mlp_width": 768})
    # over the cells of ESC-50
    encoder.update({"mean": -6.6268077, "std": 5.358466})
    config.method.decoder.update({"width": 96, "depth": 2, "heads": 3, "mlp_width": 384})
    del config.data.train.audioset, config.data.valid.audioset
    for split, folds in (("train", (1, 2, 3, 4)), ("valid", (5,))):
        config.data[split].esc10 = ConfigDict(
            {"kind": "table", "path": "data/esc10", "where": {"fold": folds}}
        )
    config.data.update({"buckets": (5.0,), "batch_size": 32, "workers": 0})
    config.optim.update({"lr": 1e-3, "weight_decay": 0.05, "warmup": "10%"})
    config.train.duration = "2k steps"
    config.checkpoint.every = config.eval.every = "500 steps"
    config.guard.after = 1_000


def _toy(config: ConfigDict) -> None:
    common.toy(config)
    encoder = config.method.encoder
    encoder.update({"depth": 2, "width": 16, "heads": 2, "mlp_width": 32})
    encoder.update({"num_mels": 16, "patch": (4, 8)})
    config.method.decoder.update({"width": 16, "depth": 1, "heads": 2, "mlp_width": 32})
    config.data.workers = 0
