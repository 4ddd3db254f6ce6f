r"""ImageNet-1K with labels: fine-tuning of MAE, data2vec 2.0 and data2vec as in their papers.

Command: python -m ssl_jax.train --config configs/supervised/imagenet.py:mae_b --workdir runs/ft \
             --config.init_from=RUN
  mae_b, mae_l, mae_h: from configs/mae/image.py (2111.06377, appendix A.1), 100, 50 and 50 epochs,
      1024 a step. Published top-1 83.6, 85.9, 86.9. The positions become parameters.
  dmae_b, dmae_s: from configs/dmae/image.py (2208.12256): as mae_b, with a layer decay of 0.75, a
      drop path of 0.15 and a warm-up of 20 epochs. Published 84.0 and 79.3.
  d2v2_b, d2v2_l, d2v2_h14: from configs/data2vec2/image.py (2212.07525), 100, 50 and 50 epochs, 512
      a step. Published 84.5, 86.8. Layers before the blocks have the full learning rate, and weight
      decay applies to all parameters, as in the released runs.
  d2v_b, d2v_l: from configs/data2vec/image.py (2202.03555, based on BEiT), 100 and 50 epochs, 1024
      a step. Published 84.2, 86.6. All blocks share one table of relative positions, as in
      pre-training; BEiT gives each block its own copy.
  moco_s, moco_b: from configs/moco_v3/image.py (2104.02057), by the recipe of DeiT, 300 and 150
      epochs, 1024 a step. Published 81.4, 83.2. The class token is read out after its norm.
  moco_s_linear, moco_b_linear: the same encoders, frozen, 90 epochs. Published 73.2, 76.7.
  mimco_s: from configs/mimco/image.py (2209.03063), as mae_b: a choice, since only the result is
      published, 82.53.
  mini: from configs/mae/image.py:mini, CIFAR-10 in a tar: minutes on two cores, no published
      number.

TPU v4-32 (16 chips): an estimated 2 hours for Base, 4 for Large and 10 for Huge, from 3 times the
forward operations at 40 % of peak, not measured; MAE's authors state 7, 9 and 13 hours on 32, 32
and 64 V100. The warm-up of d2v_l and the final rates of d2v_* are unknown and were chosen here.
Patches are averaged, normalized and classified; the final norm of pre-training is dropped.
"""

from ml_collections import ConfigDict

from configs import common, datasets

# positions are not decayed either
DECAY_RULES = ((r"(bias|scale\d?|cls|positions)$", 0.0), (".*", 1.0))
SIZES = {"s": "small", "b": "base", "l": "large", "h": "huge", "h14": "huge"}
NAMES = (
    *("mae_b", "mae_l", "mae_h", "dmae_b", "dmae_s"),
    *("d2v2_b", "d2v2_l", "d2v2_h14", "d2v_b", "d2v_l"),
    *("moco_s", "moco_b", "moco_s_linear", "moco_b_linear", "mimco_s"),
)


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: mae_b (default), another of NAMES, mini or toy."""
    name = arg or "mae_b"
    common.check(name, (*NAMES, "mini", "toy"))
    config = common.base()
    config.method = common.supervised()
    config.method.update({"pool": "frames", "label_smoothing": 0.1, "smoothing_spread": "uniform"})
    config.method.head.update({"eps": 1e-6, "init_std": 0.02})
    _data(config)
    config.optim.update({"weight_decay": 0.05, "end_lr": 1e-6, "decay_rules": DECAY_RULES})
    config.checkpoint.update({"every": "1 epochs", "best_metric": "valid/accuracy"})
    config.eval.every = "1 epochs"
    family, _, size = name.partition("_")
    RECIPES.get(family, _mae)(config, size or "b")
    if name in ("mini", "toy"):
        _small(config)
    if name == "mini":
        _mini(config)
    if name == "toy":
        common.toy(config)
        # half of the steps mix nothing, so that a few images can be memorized
        config.method.mix.update({"mode": "example", "prob": 0.5})
        config.checkpoint.best_metric = ""
    return config


def _data(config: ConfigDict) -> None:
    config.data = datasets.imagenet(1024)
    config.data.transforms = ConfigDict(
        {
            "random_resized_crop": {"scale": (0.08, 1.0), "interpolation": "bicubic"},
            "flip": {},
            "rand_augment": {"layers": 2, "magnitude": 9.0, "std": 0.5},
            "random_erasing": {"prob": 0.25},
        }
    )


def _mae(config: ConfigDict, size: str) -> None:
    method, optim, base = config.method, config.optim, size == "b"
    method.encoder = ConfigDict({"kind": "vit", "preset": SIZES[size], "image_size": 224})
    method.encoder.update({"patch_size": 14 if size == "h" else 16, "positions": "learned"})
    method.encoder.update({"final_norm": False, "drop_path": {"b": 0.1, "l": 0.2, "h": 0.3}[size]})
    method.head.init_std = 2e-5
    method.mix.update({"mixup": 0.8, "cutmix": 1.0})
    # 5e-4 or 1e-3 times batch / 256
    optim.update({"lr": 2e-3 if base else 4e-3, "layer_decay": 0.65 if base else 0.75})
    optim.warmup = "5 epochs"
    config.train.duration = "100 epochs" if base else "50 epochs"


def _dmae(config: ConfigDict, size: str) -> None:
    _mae(config, "b")
    config.method.encoder.update({"preset": SIZES[size], "drop_path": 0.15})
    config.optim.update({"layer_decay": 0.75, "warmup": "20 epochs"})


def _d2v2(config: ConfigDict, size: str) -> None:
    method, optim, base = config.method, config.optim, size == "b"
    method.encoder = ConfigDict({"kind": "vit", "preset": SIZES[size], "image_size": 224})
    method.encoder.update({"patch_size": 14 if size == "h14" else 16, "norm": "post"})
    method.encoder.update({"embed_norm": True, "init": "bert", "drop_path": 0.1 if base else 0.2})
    method.mix.update({"mixup": 0.7, "cutmix": 1.0, "prob": 0.9})
    optim.update({"lr": 1e-3 if base else 5e-4, "layer_decay": 0.65 if base else 0.75})
    optim.update({"betas": (0.9, 0.95), "layer_decay_embedding": False, "warmup": "16k steps"})
    optim.decay_rules = ((".*", 1.0),)
    if not base:
        optim.update({"clip": 4.0, "end_lr": 1e-7 if size == "l" else 1e-20})
    config.data.batch_size = 512
    config.train.duration = "250200 steps" if base else "125200 steps"


def _d2v(config: ConfigDict, size: str) -> None:
    method, optim, base = config.method, config.optim, size == "b"
    method.encoder = common.beit_encoder()
    method.encoder.update({"preset": SIZES[size], "layer_scale": 1e-4 if base else 1e-5})
    method.encoder.drop_path = 0.2 if base else 0.25
    method.head.init_scale = 0.001
    method.mix.update({"mixup": 0.8, "cutmix": 1.0})
    optim.update({"lr": 4e-3 if base else 5e-3, "layer_decay": 0.65})
    optim.update(
        {"decay_rules": common.DECAY_MATRICES, "warmup": "10 epochs" if base else "5 epochs"}
    )
    config.train.duration = "100 epochs" if base else "50 epochs"


def _moco(config: ConfigDict, size: str) -> None:
    size, _, linear = size.partition("_")
    config.method.encoder = common.moco_encoder(SIZES[size])
    config.method.pool = "cls"
    config.method.head.norm = False
    if linear:
        _frozen(config)
        return
    config.method.encoder.update({"positions": "learned", "drop_path": 0.1})
    config.method.mix.update({"mixup": 0.8, "cutmix": 1.0})
    # 5e-4 times batch / 512
    config.optim.update({"lr": 1e-3, "end_lr": 1e-5, "warmup": "5 epochs"})
    config.train.duration = "300 epochs" if size == "s" else "150 epochs"


def _frozen(config: ConfigDict) -> None:
    """Sets a linear probe: SGD on the class token of the frozen encoder, base rate 3."""
    config.method.update({"frozen": True, "label_smoothing": 0.0})
    config.method.head.init_std = 0.01
    for name in ("rand_augment", "random_erasing"):
        del config.data.transforms[name]
    config.optim.update({"name": "sgd", "lr": 3 * 1024 / 256, "weight_decay": 0.0, "end_lr": 0.0})
    config.optim.update({"betas": (0.9, 0.999), "frozen": ("^encoder/",)})
    config.train.duration = "90 epochs"


def _mimco(config: ConfigDict, size: str) -> None:
    _mae(config, "b")
    config.method.encoder.update({"preset": SIZES[size], "heads": 12})


RECIPES = {"mae": _mae, "dmae": _dmae, "d2v2": _d2v2, "d2v": _d2v, "moco": _moco, "mimco": _mimco}


def _small(config: ConfigDict) -> None:
    config.method.encoder.update({"image_size": 16, "patch_size": 4, "drop_path": 0.0})
    config.method.encoder.update({"depth": 2, "width": 16, "heads": 2, "mlp_width": 32})
    config.method.head.init_std = 0.02
    config.data.update({"image_size": 16, "workers": 0})


def _mini(config: ConfigDict) -> None:
    config.method.encoder.update({"image_size": 32})
    config.method.encoder.update({"depth": 6, "width": 192, "heads": 3, "mlp_width": 768})
    for split, file in (("train", "train"), ("valid", "test")):
        path = f"data/cifar10/{file}.tar"
        config.data[split].images = ConfigDict({"kind": "image_tar", "path": path})
    config.data.transforms = ConfigDict({"random_crop": {"padding": 4}, "flip": {}})
    config.data.eval_transforms = ConfigDict({"center_crop": {"share": 1.0}})
    config.data.update({"image_size": 32, "batch_size": 128})
    config.optim.update({"lr": 1e-3, "warmup": "10%"})
    config.train.duration = "3k steps"
    config.checkpoint.every = config.eval.every = "500 steps"
