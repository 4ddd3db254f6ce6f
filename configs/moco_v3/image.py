r"""MoCo v3 on images, ImageNet-1K without labels (2104.02057, section 4 and its code).

Command: python -m ssl_jax.train --config configs/moco_v3/image.py:base --workdir runs/moco_base
  base   12 blocks of width 768, patches of 16. 300 epochs of 1.28 M images, 4096 a step, two views
         each: 94k updates. TPU v4-64 (32 chips): about 14 hours, from 1.6e20 FLOP at 40 % of
         peak, not measured. Published, after 300 epochs: linear probe 76.7 %, fine-tuned 83.2 %.
  small  the same of width 384, with 12 heads. About 4 hours by the same estimate. Published: linear
         probe 73.2 %, fine-tuned 81.4 %.
  mini   4 blocks of width 96 on 24 x 24 crops in patches of 4 (CIFAR-10 in a tar, or any images
         with --config.data.train.images.path): an hour on two cores; no published number.

Then probe or fine-tune with configs/supervised/imagenet.py:moco_s_linear, moco_s and so on.

The learning rate is 1.5e-4 * batch / 256: change config.optim.lr along with config.data.batch_size,
and config.method.ema.anneal along with the duration. The images of a batch are each other's
negatives, so accumulation cannot stand in for chips: use a smaller batch, down to 256.
Validation is off, since the views of an image are equal there: watch config.eval.monitors=('knn',)
instead, whose dips show an unstable run.
"""

from ml_collections import ConfigDict

from configs import common, datasets


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: base (default), small, mini or toy."""
    size = arg or "base"
    common.check(size, ("base", "small", "mini", "toy"))
    config = common.base()
    config.method = common.moco_v3()
    config.method.encoder = common.moco_encoder("small" if size == "small" else "base")
    _data(config)
    # weight decay applies to every parameter that is trained
    config.optim.update({"lr": 1.5e-4 * 4096 / 256, "weight_decay": 0.1, "warmup": "40 epochs"})
    config.optim.frozen = ("encoder/frontend/projection",)
    config.train.duration = "300 epochs"
    config.checkpoint.every = config.eval.every = "10 epochs"
    config.eval.valid = False
    config.guard.floors = ConfigDict({"target_std": 0.005, "prediction_std": 0.005})
    if size == "mini":
        _mini(config)
    if size == "toy":
        _toy(config)
    return config


def _data(config: ConfigDict) -> None:
    config.data = datasets.imagenet(4096)
    config.data.views = 2
    config.data.transforms = ConfigDict({**_common(), "gaussian_blur": {"prob": 1.0}})
    second = {**_common(), "gaussian_blur": {"prob": 0.1}, "solarize": {"prob": 0.2}}
    config.data.view_transforms.view2 = ConfigDict(second)


def _common() -> dict:
    """Returns the transforms of both views; blur and solarization differ."""
    jitter = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "prob": 0.8}
    crop = {"scale": (0.08, 1.0), "interpolation": "bilinear"}
    return {
        "random_resized_crop": crop,
        "color_jitter": jitter,
        "grayscale": {"prob": 0.2},
        "flip": {},
    }


def _mini(config: ConfigDict) -> None:
    config.method.encoder.update({"image_size": 24, "patch_size": 4})
    config.method.encoder.update({"depth": 4, "width": 96, "heads": 4, "mlp_width": 384})
    config.method.head.update({"hidden": 512, "outputs": 64})
    config.method.ema.anneal = 3_000
    datasets.use_cifar10(config.data, 24, 128)
    for transforms in (config.data.transforms, config.data.view_transforms.view2):
        transforms.random_resized_crop.scale = (0.2, 1.0)
        del transforms.gaussian_blur  # of so few pixels it leaves nothing
    config.optim.update({"lr": 1e-3, "warmup": "10%"})
    config.train.duration = "3k steps"
    config.checkpoint.every = config.eval.every = "500 steps"
    config.guard.after = 1_000


def _toy(config: ConfigDict) -> None:
    common.toy(config)
    config.method.encoder.update({"image_size": 16, "patch_size": 4})
    config.method.encoder.update({"depth": 2, "width": 16, "heads": 2, "mlp_width": 32})
    config.method.head.update({"hidden": 16, "outputs": 8})
    config.method.ema.anneal = 4
    config.data.update({"image_size": 16, "workers": 0})
