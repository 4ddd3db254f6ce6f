r"""Distillation of a fine-tuned image model into a smaller one by its outputs (1503.02531).

Command: python -m ssl_jax.train --config configs/distill/image.py:base --workdir runs/distilled \
             --config.method.teachers.teacher=runs/tuned_large --config.init_from=runs/mae_base
  base   Large to Base on ImageNet-1K: the teacher is a run of configs/supervised/imagenet.py:mae_l,
         the student that of dmae_b there. Beside DMAE (configs/dmae/image.py), which aligns middle
         features in pre-training, this is the other way of learning from the same Large encoder.
  small  Base to Small: mae_b teaches dmae_s.
  mini   CIFAR-10 in a tar; the teacher is a run of configs/supervised/imagenet.py:mini, of any
         size: minutes on two cores.

The temperature and both weights are choices, and there is no published number. The student starts
from any run of its encoder, or from nothing without config.init_from. It learns from the teacher
alone with --config.method.soft.label_weight=0, also on images without labels. TPU v4-32 (16 chips):
about 5 hours for base, from 3 forward passes of the student and 1 of the teacher at 40 % of peak,
not measured.
"""

from ml_collections import ConfigDict

from configs import common
from configs.supervised import imagenet

# size: (student, teacher), both of configs/supervised/imagenet.py
SIZES = {
    "base": ("dmae_b", "mae_l"),
    "small": ("dmae_s", "mae_b"),
    "mini": ("mini", "mini"),
    "toy": ("toy", "toy"),
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: base (default), small, mini or toy."""
    size = arg or "base"
    common.check(size, tuple(SIZES))
    student, teacher = SIZES[size]
    config = imagenet.get_config(student)
    config.method = common.distilled(config.method)
    config.method.teachers.teacher = f"configs/supervised/imagenet.py:{teacher}"
    if size == "toy":
        # a few images can be memorized, whatever an untrained teacher says of them
        config.method.soft.update({"weight": 0.05, "label_weight": 1.0})
    return config
