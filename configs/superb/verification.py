r"""SUPERB (2105.01051), speaker verification: x-vectors on a frozen speech encoder, VoxCeleb1.

Command: python -m ssl_jax.train --config configs/superb/verification.py:base --workdir runs/asv \
           --config.init_from=runs/pretrained
         python -m ssl_jax.evaluate --run runs/asv
  base   wav2vec 2.0 or HuBERT Base. 200k updates of 50 crops of 8 s, 1,211 speakers; an
         estimated 20 hours on one accelerator, not measured. Published (unverified) equal error
         rate: wav2vec 2.0 Base 6.02 %, HuBERT Base 5.11 %, HuBERT Large 5.98 %; log-mel 9.56 %.
  large  the same with a Large encoder; --config.method.encoder.preset=hubert_large for HuBERT.
  mini   from configs/data2vec/audio.py:mini, 1k updates of 8 crops: an estimated hour on a laptop.
Data: data/voxceleb1/index.tsv with the columns path and speaker (the development set), the folder
data/voxceleb1/test/wav, and its list of trials, voxceleb1_test_v2.txt.

The optimizer is AdamW at 1e-4 with weight decay 0.01, PyTorch's default, which the original keeps;
recordings shorter than 2 s are left out. The protocol has no validation set: it reports the best
test score of the checkpoints, saved every 20k updates. Here the last checkpoint is tested; `--step`
selects another.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: base (default), large, mini or toy."""
    size = arg or "base"
    common.check(size, ("base", "large", "mini", "toy"))
    config = common.base()
    preset = {"large": "wav2vec2_large", "base": "wav2vec2_base"}.get(size, "base")
    config.method = common.speaker()
    config.method.encoder = ConfigDict({"kind": "waveform", "preset": preset})
    table = {"kind": "table", "path": "data/voxceleb1", "label": "speaker"}
    config.data.train.vox = ConfigDict(table)
    config.data.test.vox = ConfigDict({"kind": "folder", "path": "data/voxceleb1/test/wav"})
    config.data.update({"buckets": (8.0,), "min_seconds": 2.0, "batch_size": 50, "workers": 8})
    config.data.update({"on_bad": "skip", "max_bad_share": 0.1})
    config.optim.update({"lr": 1e-4, "schedule": "constant", "weight_decay": 0.01, "clip": 1e3})
    config.optim.frozen = ("^encoder/",)
    config.train.duration = "200k steps"
    config.checkpoint.update({"every": "20k steps", "keep_last": 10})
    config.eval.trials = "data/voxceleb1/voxceleb1_test_v2.txt"
    if size == "mini":
        _mini(config)
    if size == "toy":
        _toy(config)
    return config


def _mini(config: ConfigDict) -> None:
    encoder = config.method.encoder
    encoder.update({"depth": 4, "width": 192, "heads": 3, "mlp_width": 768, "conv_channels": 128})
    config.data.update({"batch_size": 8, "workers": 0})
    config.train.duration = config.checkpoint.every = "1k steps"


def _toy(config: ConfigDict) -> None:
    common.toy(config)
    config.method.head.update({"width": 16, "pooled": 24})
    encoder = config.method.encoder
    encoder.update({"depth": 2, "width": 16, "heads": 2, "mlp_width": 32})
    encoder.update({"conv_channels": 16, "position_groups": 4, "position_depth": 2})
    encoder.update({"conv_kernels": (10, 8, 8), "conv_strides": (5, 8, 8)})
    config.data.workers = 0
