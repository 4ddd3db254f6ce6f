r"""VideoMAE on clips without labels: Kinetics-400 or Something-Something v2 (2203.12602).

Command: python -m ssl_jax.train --config configs/videomae/video.py:base --workdir runs/videomae
  base   12 blocks of width 768; clips of 16 frames, 4 apart, of 224 x 224 pixels; 160 of 1568
         tubelets are visible. 1600 epochs of 240 k videos, 2048 a step: 188k updates. TPU v4-64
         (32 chips): about 7 hours, from 8e19 FLOP at 40 % of peak, not measured. Published top-1 on
         Kinetics-400 after fine-tuning: 81.5 %, and 80.0 % after 800 epochs, for which the authors
         state about 27 hours on 64 V100.
  small  12 blocks of width 384, 1024 a step. About 2 hours by the same estimate. Published: 79.0 %.
  large  24 blocks of width 1024, a decoder of 12 blocks, 512 a step. About 25 hours by the same
         estimate. Published: 85.2 %.
  huge   32 blocks of width 1280, a decoder of 12 blocks, 1024 a step, sharded over 8 chips. About
         44 hours by the same estimate. Published: 86.6 %.
  ssv2_small, ssv2_base, ssv2_large, ssv2_huge: the same on the 169 k videos of Something-Something
         v2, frames 2 apart, 2400 epochs; about as long. Published there: 66.8, 70.8 and 74.3 %, and
         none for huge.
  ucf101 base on the 9.5 k videos of UCF101, three of four places hidden, 192 a step, 3200 epochs.
         About half an hour by the same estimate. Published there: 91.3 %.
  mini   4 blocks of width 96 on clips of 8 frames of 32 x 32 pixels that are drawn and need no
         download (ssl_jax/data/synthetic/moving_objects.py): minutes on two cores; no published
         number.
  own    like mini, on any folder of video files, --config.data.train.own.path=FOLDER, at 64 x 64
         pixels, 2 frames apart: some hours on two cores for a few thousand videos.

The learning rate is 1.5e-4 * batch / 256: change config.optim.lr along with config.data.batch_size.
With few chips, keep the batch and raise config.train.accumulate.
"""

from ml_collections import ConfigDict

from configs import clips, common

# as in the original, neither vectors nor the mask token decay
DECAY_RULES = (("(bias|scale|mask)$", 0.0), (".*", 1.0))
SIZES = ("small", "base", "large", "huge")
BATCH = {"small": 1024, "base": 2048, "large": 512, "huge": 1024}
DECODERS = {
    "small": (192, 4, 3),
    "base": (384, 4, 6),
    "large": (512, 12, 8),
    "huge": (640, 12, 8),
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: a size (default base), ssv2_ and a size, ucf101, mini, own, toy."""
    size = arg or "base"
    common.check(size, (*SIZES, *(f"ssv2_{s}" for s in SIZES), "ucf101", "mini", "own", "toy"))
    config = common.base()
    config.method = common.videomae()
    preset = size.removeprefix("ssv2_")
    preset = preset if preset in SIZES else "base"
    config.method.encoder = ConfigDict({"kind": "video", "preset": preset})
    width, depth, heads = DECODERS[preset]
    shape = {"width": width, "depth": depth, "heads": heads, "mlp_width": 4 * width}
    config.method.decoder.update(shape)
    if preset == "huge":
        common.shard(config)
    batch = 192 if size == "ucf101" else BATCH[preset]
    corpus = "ssv2" if size.startswith("ssv2_") else "ucf101" if size == "ucf101" else "k400"
    config.data = clips.pretraining(corpus, batch)
    rate = (3e-4 if size == "ucf101" else 1.5e-4) * batch / 256
    config.optim.update({"lr": rate, "end_lr": 1e-5 * batch / 256, "weight_decay": 0.05})
    config.optim.update({"betas": (0.9, 0.95), "warmup": "40 epochs", "decay_rules": DECAY_RULES})
    epochs = {"k400": 1600, "ssv2": 2400, "ucf101": 3200}[corpus]
    config.train.duration = f"{epochs} epochs"
    config.checkpoint.every = config.eval.every = "20 epochs"
    config.guard.floors = ConfigDict({"prediction_std": 0.01})
    if size == "ucf101":
        config.method.mask.ratio = 0.75
    if size in ("mini", "own"):
        _mini(config)
    if size == "own":
        config.method.encoder.update(clips.OWN)
        config.data = clips.own(32)
    if size == "toy":
        _toy(config)
    return config


def _mini(config: ConfigDict) -> None:
    config.method.encoder.update(clips.MINI)
    # at 0.9, six tubes of 64 would be left, which show no motion
    config.method.mask.ratio = 0.75
    config.method.decoder.update({"width": 64, "depth": 1, "heads": 2, "mlp_width": 256})
    config.data = clips.moving_objects(64)
    config.optim.update({"lr": 1e-3, "end_lr": 0.0, "warmup": "10%"})
    config.train.duration = "3k steps"
    config.checkpoint.every = config.eval.every = "500 steps"
    config.guard.after = 1_000


def _toy(config: ConfigDict) -> None:
    common.toy(config)
    config.method.encoder.update(clips.TOY)
    config.method.mask.ratio = 0.5
    config.method.decoder.update({"width": 16, "depth": 1, "heads": 2, "mlp_width": 32})
    config.data.update({"image_size": 16, "frames": 4, "workers": 0})
