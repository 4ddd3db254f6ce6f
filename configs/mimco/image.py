r"""MimCo-style masked prediction of MoCo v3, ImageNet-1K without labels (after 2209.03063).

Command: python -m ssl_jax.train --config configs/mimco/image.py:small --workdir runs/mimco_small \
             --config.method.teachers.teacher=runs/moco_small
  small  MoCo v3 Small to Small, 12 heads. 100 epochs of 1.28 M images, 4096 a step: 31k updates.
         TPU v4-32 (16 chips): about an hour, from 4e18 FLOP at 40 % of peak, not measured.
         Published, after 100 epochs of pre-training: 82.53 % top-1 fine-tuned.
  base   the same from Base to Base; about 4 hours by the same estimate. No published number.
  mini   4 blocks of width 96 on 24 x 24 crops in patches of 4 (CIFAR-10 in a tar, or any images
         with --config.data.train.images.path), taught by a run of configs/moco_v3/image.py:mini:
         minutes on two cores.

The teacher is a run of configs/moco_v3/image.py, or one that ssl_jax.convert made of an official
file. Until there is one, its config stands in its place, which is enough for ssl_jax.plan.
Nobody published code, and no more is known here than the two losses and the frozen teacher: mask,
decoder, heads, temperatures, weights and this schedule are a reading of them, after MAE and MoCo.
Fine-tune with configs/supervised/imagenet.py:mimco_s.
"""

from ml_collections import ConfigDict

from configs import common, datasets

DECAY_RULES = (("(bias|scale)$", 0.0), (".*", 1.0))


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: small (default), base, mini or toy."""
    size = arg or "small"
    common.check(size, ("small", "base", "mini", "toy"))
    config = common.base()
    config.method = common.mimco()
    preset = "base" if size == "base" else "small"
    config.method.encoder = ConfigDict(
        {"kind": "vit", "preset": preset, "image_size": 224, "patch_size": 16, "heads": 12}
    )
    config.method.teachers.teacher = f"configs/moco_v3/image.py:{preset}"
    if size == "base":
        config.method.decoder.update({"width": 768, "mlp_width": 3072})
    config.data = datasets.imagenet(4096)
    config.optim.update({"lr": 1.5e-4 * 4096 / 256, "betas": (0.9, 0.95), "weight_decay": 0.05})
    config.optim.update({"warmup": "20 epochs", "decay_rules": DECAY_RULES})
    config.train.duration = "100 epochs"
    config.checkpoint.every = config.eval.every = "10 epochs"
    config.guard.floors = ConfigDict({"prediction_std": 0.005})
    if size == "mini":
        _mini(config)
    if size == "toy":
        _toy(config)
    return config


def _mini(config: ConfigDict) -> None:
    config.method.teachers.teacher = "configs/moco_v3/image.py:mini"
    config.method.encoder.update({"image_size": 24, "patch_size": 4})
    config.method.encoder.update({"depth": 4, "width": 96, "heads": 4, "mlp_width": 384})
    config.method.decoder.update({"width": 96, "heads": 4, "mlp_width": 384})
    config.method.hidden = 512
    datasets.use_cifar10(config.data, 24, 128)
    config.optim.update({"lr": 1e-3, "warmup": "10%"})
    config.train.duration = "2500 steps"
    config.checkpoint.every = config.eval.every = "500 steps"
    config.guard.after = 1_000


def _toy(config: ConfigDict) -> None:
    common.toy(config)
    config.method.teachers.teacher = "configs/moco_v3/image.py:toy"
    config.method.encoder.update({"image_size": 16, "patch_size": 4})
    config.method.encoder.update({"depth": 2, "width": 16, "heads": 2, "mlp_width": 32})
    config.method.decoder.update({"width": 16, "heads": 2, "mlp_width": 32})
    config.method.hidden = 32
    config.data.update({"image_size": 16, "workers": 0})
