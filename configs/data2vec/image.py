r"""data2vec v1 on images, ImageNet-1K without labels, based on BEiT (2202.03555, section 4.1).

Command: python -m ssl_jax.train --config configs/data2vec/image.py:base --workdir runs/d2v_image
  base     12 blocks of width 768, 120 of 196 patches masked in rectangles, 800 epochs of 1.28 M
           images, 2048 a step: 500k updates. TPU v4-32 (16 chips): about 23 hours, from 1.4e20 FLOP
           at 40 % of peak, not measured; 16 A100 took 47.5 hours. Published, fine-tuned: 84.2 %
           top-1. Warm-up is 10 epochs, as in the authors' code; the paper says 40.
  large    24 blocks of width 1024, 800 epochs, 4096 a step (the paper: 8192), followed by
  large_2  800 more, with config.init_from and config.init_extra=True, a slower teacher and a new
           optimizer. TPU v4-64 (32 chips): about 40 hours each, by the same estimate. Published,
           fine-tuned after both: 86.6 %.
  mini     4 blocks of width 96 on 32 x 32 images in patches of 4 (CIFAR-10 in a tar, or any images
           with --config.data.train.images.path): minutes on two cores; no published number.

Then fine-tune with configs/supervised/imagenet.py:d2v_b. The loss is the mean over all elements of
the predictions, so a token's sum is scaled by 1 / width. With few chips, keep the batch size and
raise config.train.accumulate.
"""

from ml_collections import ConfigDict

from configs import common, datasets

SIZES = ("base", "large", "large_2", "mini", "toy")


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: base (default), large, large_2, mini or toy."""
    size = arg or "base"
    common.check(size, SIZES)
    config = common.base()
    config.method = common.data2vec()
    _method(config.method)
    _data(config)
    config.optim.update({"lr": 2e-3, "end_lr": 1e-5, "weight_decay": 0.05, "clip": 3.0})
    config.optim.update({"warmup": "10 epochs", "decay_rules": common.DECAY_MATRICES})
    config.train.duration = "800 epochs"
    config.checkpoint.every = config.eval.every = "10 epochs"
    config.guard.floors = ConfigDict(
        {"target_std": 0.1, "prediction_std": 0.01, "instance_variance_ratio": 0.1}
    )
    if size.startswith("large"):
        _large(config, second=size == "large_2")
    if size == "mini":
        _mini(config)
    if size == "toy":
        _toy(config)
    return config


def _method(method: ConfigDict) -> None:
    method.encoder = common.beit_encoder()
    method.encoder.update({"drop_path": 0.25, "attention_dropout": 0.05})
    method.rescale_init = True
    method.mask.update({"kind": "beit_block", "count": 120, "min_area": 16, "vector_std": 0.02})
    method.targets.update({"layers": 6, "source": "block"})
    method.targets.update({"layer_norm": "layer", "final_norm": "layer"})
    # the norm after the last block belongs to the head: targets are taken before it
    method.predictor.update({"norm": True, "init": "truncated"})
    method.loss.update({"beta": 2.0, "scale": 1 / 768})
    # the teacher is a complete second model, patch embedding included
    method.ema.update({"start": 0.9998, "end": 0.9998, "anneal": 0})


def _data(config: ConfigDict) -> None:
    config.data = datasets.imagenet(2048)
    crop = {"scale": (0.08, 1.0), "interpolation": "bicubic"}
    jitter = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}
    config.data.transforms = ConfigDict(
        {"random_resized_crop": crop, "flip": {}, "color_jitter": jitter}
    )


def _large(config: ConfigDict, second: bool) -> None:
    method = config.method
    method.encoder.update({"preset": "large", "layer_scale": 1e-5})
    method.encoder.update({"drop_path": 0.2, "attention_dropout": 0.15})
    method.loss.scale = 1 / 1024
    config.optim.update({"lr": 1e-3, "warmup": "40 epochs" if second else "80 epochs"})
    if second:
        method.ema.update({"start": 0.9999, "end": 0.9999})
    config.data.batch_size = 4096


def _mini(config: ConfigDict) -> None:
    method = config.method
    method.encoder.update({"image_size": 32, "patch_size": 4, "drop_path": 0.0})
    method.encoder.update({"depth": 4, "width": 96, "heads": 3, "mlp_width": 384})
    # with a layer scale of 1e-4, narrow blocks would start to learn too late
    method.encoder.update({"layer_scale": 0.1, "attention_dropout": 0.0})
    method.mask.update({"count": 38, "min_area": 5})
    method.targets.layers = 3
    method.loss.scale = 1 / 96
    method.ema.update({"start": 0.99, "end": 0.999, "anneal": 1_000})
    datasets.use_cifar10(config.data, 32, 128)
    config.optim.update({"warmup": "10%"})
    config.train.duration = "3k steps"
    config.checkpoint.every = config.eval.every = "500 steps"
    config.guard.after = 1_000


def _toy(config: ConfigDict) -> None:
    common.toy(config)
    method = config.method
    method.encoder.update({"image_size": 16, "patch_size": 4, "layer_scale": 0.1})
    method.encoder.update({"depth": 2, "width": 16, "heads": 2, "mlp_width": 32})
    method.mask.update({"count": 9, "min_area": 2})
    method.targets.layers = 2
    method.loss.scale = 1 / 16
    config.data.update({"image_size": 16, "workers": 0})
