r"""Masked autoencoder on images, ImageNet-1K without labels (2111.06377, sections 4 and A.1).

Command: python -m ssl_jax.train --config configs/mae/image.py:base --workdir runs/mae_base
  base   12 blocks of width 768, patches of 16. 1600 epochs of 1.28 M images, 4096 a step: 500k
         updates. TPU v4-64 (32 chips): about 10 hours, from 1.2e20 FLOP at 40 % of peak, not
         measured. Published, after 100 epochs of fine-tuning: 83.6 % top-1; linear probe 68.0 %.
  large  24 blocks of width 1024. About 21 hours by the same estimate; the authors state 42 hours
         for 800 epochs on 64 V100. Published: 85.9 %, linear probe 75.8 %.
  huge   32 blocks of width 1280, patches of 14, sharded over 8 chips. About 49 hours by the same
         estimate. Published: 86.9 %, linear probe 76.6 %.
  mini   6 blocks of width 192 on 32 x 32 images in patches of 4 (CIFAR-10 in a tar, or any images
         with --config.data.train.images.path): minutes on two cores; no published number.
  own    like mini, on any folder of images, --config.data.train.own.path=FOLDER, at 64 x 64 in
         patches of 8 (docs/data.md); no published number.

The learning rate is 1.5e-4 * batch / 256: change config.optim.lr along with config.data.batch_size.
With few chips, keep 4096 and raise config.train.accumulate.
"""

from ml_collections import ConfigDict

from configs import common, datasets

# as in the original, weight decay applies to class and mask tokens
DECAY_RULES = (("(bias|scale)$", 0.0), (".*", 1.0))


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: base (default), large, huge, mini, own or toy."""
    size = arg or "base"
    common.check(size, ("base", "large", "huge", "mini", "own", "toy"))
    config = common.base()
    config.method = common.mae()
    preset = size if size in ("large", "huge") else "base"
    config.method.encoder = ConfigDict(
        {"kind": "vit", "preset": preset, "image_size": 224, "patch_size": 16}
    )
    if size == "huge":
        config.method.encoder.patch_size = 14
        common.shard(config)
    config.data = datasets.imagenet(4096)
    config.optim.update({"lr": 1.5e-4 * 4096 / 256, "betas": (0.9, 0.95), "weight_decay": 0.05})
    config.optim.update({"warmup": "40 epochs", "decay_rules": DECAY_RULES})
    config.train.duration = "1600 epochs"
    config.checkpoint.every = config.eval.every = "20 epochs"
    config.guard.floors = ConfigDict({"prediction_std": 0.01})
    if size in ("mini", "own"):
        _mini(config)
    if size == "own":
        config.method.encoder.update({"image_size": 64, "patch_size": 8})
        transforms, config.data = config.data.transforms, datasets.own_images(128, 64)
        config.data.transforms = transforms
    if size == "toy":
        _toy(config)
    return config


def _mini(config: ConfigDict) -> None:
    config.method.encoder.update({"image_size": 32, "patch_size": 4})
    config.method.encoder.update({"depth": 6, "width": 192, "heads": 3, "mlp_width": 768})
    config.method.decoder.update({"width": 96, "depth": 2, "heads": 3, "mlp_width": 384})
    datasets.use_cifar10(config.data, 32, 128)
    config.optim.update({"lr": 1.5e-3, "warmup": "10%"})
    config.train.duration = "3k steps"
    config.checkpoint.every = config.eval.every = "500 steps"
    config.guard.after = 1_000


def _toy(config: ConfigDict) -> None:
    common.toy(config)
    config.method.encoder.update({"image_size": 16, "patch_size": 4})
    config.method.encoder.update({"depth": 2, "width": 16, "heads": 2, "mlp_width": 32})
    config.method.decoder.update({"width": 16, "depth": 1, "heads": 2, "mlp_width": 32})
    config.data.update({"image_size": 16, "workers": 0})
