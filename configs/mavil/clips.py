r"""MAViL on clips with sound and picture, AudioSet without labels (2212.08071).

Command: python -m ssl_jax.train --config configs/mavil/clips.py:stage1 --workdir runs/mavil_1
         python -m ssl_jax.train --config configs/mavil/clips.py:stage2 --workdir runs/mavil_2 \
             --config.method.teachers.teacher=runs/mavil_1
  stage1  two encoders of 12 blocks of width 768; 4 s of sound, filled up to 1024 frames of 128
          mels, and 8 frames of 224 x 224 pixels; 80 % of both masked. 20 epochs of 2 M clips, 512 a
          step: 78k updates. TPU v4-64 (32 chips): about 10 hours, from 1e20 FLOP at 40 % of peak,
          not measured. Published on AudioSet-20K (mAP of sound and of picture, from memory, not
          verified): 39.0 and 22.2.
  stage2  the same, but decoders predict the fused tokens that a model of the first stage has of
          the whole clip; about half as long again. A run of it can teach the next one; the paper
          repeats it three times. Published after fine-tuning, of both streams: mAP 53.3 on
          AudioSet-2M, top-1 67.1 % on VGGSound.
  mini    3 blocks of width 128; 1.3 s of sound in 64 mels, and 8 frames of 48 x 48 pixels, from a
          table of clips of your own: an estimated 15 minutes on two cores; no published number.

The authors published no code. Unverified: the weights and temperatures of both contrasts, the
learning rate (2e-4 * batch / 512), the warm-up, and that targets of the second stage are
normalized. In the paper the encoders start from masked autoencoders of images and of sounds.
"""

from ml_collections import ConfigDict

from configs import common, pairs

# as in MAE, weight decay applies to class and mask tokens
DECAY_RULES = (("(bias|scale)$", 0.0), (".*", 1.0))
SIZES = ("stage1", "stage2", "mini", "toy")


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: stage1 (default), stage2, mini or toy."""
    size = arg or "stage1"
    common.check(size, SIZES)
    config = common.base()
    config.method = common.mavil()
    config.data = pairs.pair_data()
    for split in ("train", "valid"):
        path = f"data/audioset_clips/{split}"
        config.data[split].clips = ConfigDict({"kind": "table", "path": path})
    config.data.update({"buckets": (4.0,), "batch_size": 512, "workers": 16, "min_seconds": 1.0})
    config.optim.update({"lr": 2e-4, "betas": (0.9, 0.95), "weight_decay": 1e-5})
    config.optim.update({"warmup": "4 epochs", "decay_rules": DECAY_RULES})
    config.train.duration = "20 epochs"
    config.checkpoint.every = config.eval.every = "1 epochs"
    config.guard.floors = ConfigDict({"audio_std": 0.01, "video_std": 0.01})
    if size == "stage2":
        config.method.teachers.teacher = "configs/mavil/clips.py:stage1"
    if size == "mini":
        _small(config, {"depth": 3, "width": 128, "heads": 4, "mlp_width": 512}, 64, 16, 48)
        config.data.update({"buckets": (1.3,), "batch_size": 64, "workers": 0})
        config.train.duration, config.optim.warmup = "2k steps", "10%"
        config.checkpoint.every = config.eval.every = "500 steps"
    if size == "toy":
        common.toy(config)
        _small(config, {"depth": 2, "width": 16, "heads": 2, "mlp_width": 32}, 16, 8, 16)
        config.method.encoders.video.frames = config.data.frames = 4
        for stream in ("audio", "video"):
            config.method.mask_ratio[stream] = 0.5
        config.data.update({"batch_size": 4, "workers": 0})
    return config


def _small(config: ConfigDict, blocks: dict, mels: int, patch: int, side: int) -> None:
    """Makes both encoders of these blocks, for `mels` bands and frames of `side` pixels."""
    method, width = config.method, max(16, blocks["width"] // 2)
    own = {"num_mels": mels, "patch": (patch, patch), "frames": None}
    method.encoders.audio.update(blocks | own)
    method.encoders.video.update(blocks | {"image_size": side, "patch_size": 8})
    config.data.image_size = side
    decoder = {"width": width, "depth": 1, "heads": 2, "mlp_width": 4 * width}
    method.decoders.update({"audio": dict(decoder), "video": dict(decoder)})
    method.fusion.depth = 1
