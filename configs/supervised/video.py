r"""Clips with labels: fine-tuning of VideoMAE and MVD as in their papers.

Command: python -m ssl_jax.train --config configs/supervised/video.py:k400_b --workdir runs/ft \
             --config.init_from=RUN
  k400_s, k400_b, k400_l, k400_h: from configs/videomae/video.py (2203.12602) on Kinetics-400, 150,
      75, 35 and 50 epochs. Published top-1, mean of 5 x 3 views: 79.0, 81.5, 85.2 and 86.6.
  ssv2_s, ssv2_b: from configs/videomae/video.py:ssv2_* on Something-Something v2, 40 and 30 epochs,
      without flips. Published, mean of 2 x 3 views: 66.8 and 70.8.
  ucf101_b, hmdb51_b: on small sets, 100 epochs. Published 91.3 and 62.6, and 96.1 and 73.3 from
      Kinetics-400. The recipe of hmdb51_b is that of ucf101_b: a choice.
  mvd_k400_s, mvd_k400_b, mvd_k400_l, mvd_k400_h: from configs/mvd/video.py (2212.04500), 150, 75,
      50 and 50 epochs. Published 81.0, 83.4, 86.4 and 87.3, with the larger teachers for s and b.
  mvd_ssv2_s, mvd_ssv2_b, mvd_ssv2_l, mvd_ssv2_h: the same, 40, 30, 30 and 30 epochs. Published
      70.9, 73.7, 76.7 and 77.3.
  own: from configs/videomae/video.py:own, the folders of your videos are the classes.
  mini: from configs/videomae/video.py:mini, drawn clips: minutes on two cores, no published number.

TPU v4-64 (32 chips): an estimated hour and a half for k400_b, from 3 times the forward operations
at 40 % of peak, not measured. Most published runs see each decoded clip twice a step, with two
augmentations, which takes twice as long. Tokens are averaged, normalized and classified; the final
norm of pre-training is dropped.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import clips, common

DECAY_RULES = (("(bias|scale)$", 0.0), (".*", 1.0))
SIZES = {"s": "small", "b": "base", "l": "large", "h": "huge"}
_LARGE = {"drop_path": 0.3, "dropout": 0.5}
_SMALL_SET = {"rate": 5e-4, "epochs": 100, "batch": 128, "layer_decay": 0.7, "drop_path": 0.2}
_SMALL_SET |= {"dropout": 0.5}
# rate: for 256 clips, as `end` is
RECIPES: dict[str, dict[str, Any]] = {
    "k400_s": {"rate": 5e-4, "epochs": 150},
    "k400_b": {"rate": 5e-4, "epochs": 75},
    "k400_l": {"rate": 2e-3, "epochs": 35, "batch": 128},
    "k400_h": {"rate": 1e-3, "epochs": 50, "batch": 512, "drop_path": 0.2, "dropout": 0.5},
    "ssv2_s": {"rate": 1e-3, "epochs": 40, "layer_decay": 0.7},
    "ssv2_b": {"rate": 5e-4, "epochs": 30},
    "ucf101_b": _SMALL_SET,
    "hmdb51_b": _SMALL_SET,
    "mvd_k400_s": {"rate": 5e-4, "epochs": 150},
    "mvd_k400_b": {"rate": 5e-4, "epochs": 75},
    "mvd_k400_l": {"rate": 1e-3, "epochs": 50, **_LARGE},
    "mvd_k400_h": {"rate": 1e-3, "epochs": 50, **_LARGE},
    "mvd_ssv2_s": {"rate": 1e-3, "epochs": 40, "layer_decay": 0.7},
    "mvd_ssv2_b": {"rate": 5e-4, "epochs": 30},
    "mvd_ssv2_l": {"rate": 5e-4, "epochs": 30, **_LARGE},
    "mvd_ssv2_h": {"rate": 5e-4, "epochs": 30, **_LARGE},
}
_ENDS = {"k400_h": 1e-5, "mvd_ssv2_h": 1e-5}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: k400_b (default), another of RECIPES, mini, own or toy."""
    name = arg or "k400_b"
    common.check(name, (*RECIPES, "mini", "own", "toy"))
    config, known = common.base(), name if name in RECIPES else "k400_b"
    recipe, (*before, corpus, size) = RECIPES[known], known.split("_")
    batch = recipe.get("batch", 384)
    config.method = common.supervised()
    config.method.update({"pool": "frames", "label_smoothing": 0.1, "smoothing_spread": "uniform"})
    config.method.mix.update({"mixup": 0.8, "cutmix": 1.0})
    config.method.head.update({"eps": 1e-6, "init_std": 0.02, "init_scale": 0.001})
    config.method.head.dropout = recipe.get("dropout", 0.0)
    encoder = {"kind": "video", "preset": SIZES[size], "final_norm": False}
    positions = "space_time" if before else "flat"
    drop_path = recipe.get("drop_path", 0.1)
    config.method.encoder = ConfigDict({**encoder, "positions": positions, "drop_path": drop_path})
    if size == "h":
        common.shard(config)
    config.data = clips.labelled(corpus, batch)
    end = _ENDS.get(known, 1e-6) * batch / 256
    config.optim.update({"lr": recipe["rate"] * batch / 256, "end_lr": end, "weight_decay": 0.05})
    config.optim.update({"layer_decay": recipe.get("layer_decay", 0.75), "warmup": "5 epochs"})
    config.optim.decay_rules = DECAY_RULES
    config.train.duration = f"{recipe['epochs']} epochs"
    config.checkpoint.update({"every": "1 epochs", "best_metric": "valid/accuracy"})
    config.eval.every = "1 epochs"
    if name in ("mini", "own"):
        _mini(config)
    if name == "own":
        config.method.encoder.update(clips.OWN)
        config.data = clips.own(32)
        config.data.transforms = clips.labelled("k400", 32).transforms
        for split in ("train", "valid"):
            config.data[split].own.label = "label"
    if name == "toy":
        _toy(config)
    return config


def _mini(config: ConfigDict) -> None:
    config.method.encoder.update({**clips.MINI, "drop_path": 0.0})
    config.data = clips.moving_objects(64)
    for split in ("train", "valid"):
        config.data[split].clips.label = "direction"
    config.optim.update({"lr": 1e-3, "end_lr": 0.0, "warmup": "10%"})
    config.train.duration = "1k steps"
    config.checkpoint.every = config.eval.every = "250 steps"


def _toy(config: ConfigDict) -> None:
    common.toy(config)
    config.method.encoder.update({**clips.TOY, "drop_path": 0.0})
    config.method.head.update({"init_scale": 1.0, "dropout": 0.0})
    # half of the steps mix nothing, so that a few clips can be memorized
    config.method.mix.update({"mode": "example", "prob": 0.5})
    config.checkpoint.best_metric = ""
    config.data.update({"image_size": 16, "frames": 4, "workers": 0})
