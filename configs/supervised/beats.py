r"""Fine-tuning of BEATs: AudioSet, ESC-50, Speech Commands, FSD50K (2212.09058, section 4).

Command: python -m ssl_jax.train --config configs/supervised/beats.py:as20k --workdir runs/beats \
           --config.init_from=runs/pretrained
  as2m   527 tags, 2 M clips of 10 s, 25 epochs. One H100: about 10 hours, from 1.5e19 FLOP at
         40 % of peak, not measured. Published mAP: 48.0 after iteration 3, 48.6 after iteration 3+.
  as20k  the balanced 20,666 clips, 160 epochs. Published 38.3 and 38.9; in the code of a third
         party, 37.5 from the published weights and 31.3 from its own pre-training.
  esc50_1 to esc50_5   the fold with that number held out; the score is the mean of the five
         accuracies. Published 95.6 %. All five, and then their mean:
         python -m ssl_jax.sweep --config configs/supervised/beats.py:esc50_1 --launch local \
           --workdir runs/esc50 --config.init_from=runs/pretrained
         python -m ssl_jax.sweep --workdir runs/esc50 --report --metric valid/accuracy
  ks1, ks2  Speech Commands V1 (a table as in configs/superb/utterances.py) and V2. Published 97.7
         and 98.3 %.
  fsd50k  FSD50K, 200 tags; no published number.
runs/pretrained is a run of configs/beats/audio.py, or imported:
         python -m ssl_jax.convert import --from BEATs_iter3.pt --to runs/pretrained

The layouts of the data are in docs/data.md. The values are those of a third party, since the
paper's are not public; ks1 and ks2 have those of ESC-50, fsd50k those of as20k. Its time warp is
left out, as is its smoothing of tags, and the share of mixup is drawn as in AudioMAE. The gradient
falls from block to block (encoder.layer_gradient_decay), which under Adam is not the same as a
falling rate (config.optim.layer_decay): its scale nearly cancels, except in the clipping.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common, sounds

# task: gradient decay, 0.2 of the others
DECAYS = {"as2m": 0.6, "as20k": 0.3, "fsd50k": 0.3}
ESC50_CELLS = {"mean": 11.72215, "std": 10.60431}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: as2m (default), another of configs/sounds.py, or toy."""
    size = arg or "as2m"
    common.check(size, (*sounds.TASKS, "toy"))
    task = "fsd50k" if size == "toy" else size
    config = common.base()
    config.method = common.supervised()
    sounds.tune(config, task)
    method, kind = config.method, task.partition("_")[0]
    method.encoder = ConfigDict({"kind": "beats", "preset": "base", "layerdrop": 0.1})
    method.encoder.layer_gradient_decay = DECAYS.get(kind, 0.2)
    method.encoder.update(ESC50_CELLS if kind == "esc50" else {})
    method.update({"pool": "frames", "augment": ConfigDict({"roll": {}})})
    method.head.norm = False
    # one stripe of up to 6 % of a clip
    frames = round(6 * sounds.SECONDS.get(kind, 10.0))
    method.spec_augment.update({"time_masks": 1, "time_width": frames})
    config.optim.update({"betas": (0.9, 0.98), "weight_decay": 0.01, "clip": 1.0, "end_lr": 5e-6})
    if kind in sounds.TAGS:
        method.mix.update({"mixup": 10.0, "prob": 0.8, "mode": "example"})
        whole = kind == "as2m"
        config.data.batch_size = 500 if whole else 80
        config.optim.update({"lr": 1e-4 if whole else 3e-5, "warmup": "2.5%" if whole else "8.4%"})
        config.train.duration = "25 epochs" if whole else "160 epochs"
    else:
        method.label_smoothing = method.head.dropout = 0.1
        method.augment.roll = ConfigDict({"samples": 16_000} if kind == "esc50" else {})
        config.data.batch_size = 128
        config.optim.update({"lr": 5e-5, "warmup": "5%"})
        config.train.duration = "6k steps"
    return _toy(config) if size == "toy" else config


def sweep(s: Any, arg: str | None) -> Any:
    """Returns the folds of ESC-50 for one of them, three seeds of another task."""
    return sounds.folds(s, arg or "as2m")


def _toy(config: ConfigDict) -> ConfigDict:
    encoder = config.method.encoder
    encoder.update({"depth": 2, "width": 16, "heads": 2, "mlp_width": 32, "layerdrop": 0.0})
    encoder.update({"num_mels": 16, "patch": (4, 8), "patch_width": 8})
    encoder.update({"position_kernel": 4, "position_groups": 2})
    encoder.update({"num_buckets": 8, "max_distance": 12})
    config.method.spec_augment.time_width = 2
    config.method.mix.mixup = 0.0  # its partners are other rows
    config.data.classes, config.data.workers = ("a", "b", "c", "d"), 0
    config.checkpoint.best_metric = ""
    return common.toy(config)
