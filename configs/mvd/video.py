r"""MVD on Kinetics-400 without labels: a student of two frozen teachers (2212.04500).

Command: python -m ssl_jax.train --config configs/mvd/video.py:b_b --workdir runs/mvd_b_b \
             --config.method.teachers.image=runs/mae_base \
             --config.method.teachers.video=runs/videomae_base
  b_b    Base teaches Base. 400 epochs of 240 k videos, 1024 a step: 94k updates. TPU v4-64 (32
         chips): about 8 hours, from 1.1e20 FLOP at 40 % of peak, not measured. Published
         top-1 on Kinetics-400 and Something-Something v2 after fine-tuning: 82.7 and 72.5 %.
  b_s    Base to Small, about 6 hours by the same estimate. Published: 80.6 and 70.7 %.
  l_s    Large to Small, about 18 hours. Published: 81.0 and 70.9 %.
  l_b    Large to Base, about 20 hours. Published: 83.4 and 73.7 %.
  l_l    Large to Large, 800 epochs, about 43 hours. Published: 86.4 and 76.7 %, after 400
         epochs 86.0 and 76.1 %.
  h_h    Huge to Huge, 800 epochs, sharded over 8 chips, about 93 hours. The MAE of this size has
         patches of 14, so its frames are resized to 196 pixels. Published: 87.3 and 77.3 %.
  mini   4 blocks of width 96 on drawn clips of 8 frames of 32 x 32 pixels, taught by runs of
         configs/mae/image.py:mini and configs/videomae/video.py:mini: minutes on two cores; no
         published number.

For one teacher alone set config.method.teachers to its entry. Until there are teachers, their
configs stand in their places, which is enough for ssl_jax.plan. The published hours are unknown.
"""

from ml_collections import ConfigDict

from configs import clips, common

# as in the original, the mask tokens decay
DECAY_RULES = (("(bias|scale)$", 0.0), (".*", 1.0))
PRESETS = {"s": "small", "b": "base", "l": "large", "h": "huge"}
PAIRS = ("b_s", "l_s", "b_b", "l_b", "l_l", "h_h")  # teacher and student
# width, depth, heads
DECODERS = {"s": (384, 2, 6), "b": (768, 2, 12), "l": (512, 4, 8), "h": (640, 8, 8)}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: one of PAIRS (default b_b), mini or toy."""
    size = arg or "b_b"
    common.check(size, (*PAIRS, "mini", "toy"))
    config = common.base()
    config.method = common.mvd()
    teacher, student = size.split("_") if size in PAIRS else ("b", "b")
    encoder = {"kind": "video", "preset": PRESETS[student], "positions": "space_time"}
    config.method.encoder = ConfigDict({**encoder, "drop_path": 0.2 if student == "h" else 0.1})
    config.method.teachers.update(
        {
            "image": f"configs/mae/image.py:{PRESETS[teacher]}",
            "video": f"configs/videomae/video.py:{PRESETS[teacher]}",
        }
    )
    width, depth, heads = DECODERS[student]
    shape = {"width": width, "depth": depth, "heads": heads, "mlp_width": 4 * width}
    config.method.decoder.update(shape)
    if student == "h":
        config.method.targets.resize = True
        common.shard(config)
    config.data = clips.pretraining("k400", 1024)
    long = student in ("l", "h")
    # the end of the schedule grows with the batch, as its peak does
    end = (1e-5 if long else 1e-4) * 1024 / 256
    config.optim.update({"lr": 1.5e-4 * 1024 / 256, "end_lr": end, "weight_decay": 0.05})
    config.optim.update({"betas": (0.9, 0.95), "warmup": "40 epochs", "decay_rules": DECAY_RULES})
    config.train.duration = "800 epochs" if long else "400 epochs"
    config.checkpoint.every = config.eval.every = "20 epochs"
    config.guard.floors = ConfigDict({"prediction_std": 0.01})
    if size == "mini":
        _mini(config)
    if size == "toy":
        _toy(config)
    return config


def _mini(config: ConfigDict) -> None:
    teachers = {"image": "configs/mae/image.py:mini", "video": "configs/videomae/video.py:mini"}
    config.method.teachers.update(teachers)
    config.method.encoder.update({**clips.MINI, "drop_path": 0.0})
    config.method.mask.ratio = 0.75
    config.method.decoder.update({"width": 64, "depth": 1, "heads": 2, "mlp_width": 256})
    # teachers of few updates differ in the size of their features
    config.method.targets.norm = "layer"
    config.data = clips.moving_objects(64)
    config.optim.update({"lr": 1e-3, "end_lr": 0.0, "warmup": "10%"})
    config.train.duration = "3k steps"
    config.checkpoint.every = config.eval.every = "500 steps"
    config.guard.after = 1_000


def _toy(config: ConfigDict) -> None:
    common.toy(config)
    teachers = {"image": "configs/mae/image.py:toy", "video": "configs/videomae/video.py:toy"}
    config.method.teachers.update(teachers)
    config.method.encoder.update({**clips.TOY, "drop_path": 0.0})
    config.method.mask.ratio = 0.5
    config.method.decoder.update({"width": 16, "depth": 1, "heads": 2, "mlp_width": 32})
    config.data.update({"image_size": 16, "frames": 4, "workers": 0})
