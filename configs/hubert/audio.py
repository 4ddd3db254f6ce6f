r"""HuBERT on 16 kHz speech (2106.07447, section III).

Command: python -m ssl_jax.train --config configs/hubert/audio.py:base --workdir runs/hubert_it1
  base      iteration 1: 12 blocks of width 768, 95 M parameters, 100 clusters of MFCC at 100 Hz,
            LibriSpeech 960 h, 250k updates of 46 minutes of speech. TPU v4-32 (16 chips): about 5
            hours, from 3.2e19 FLOP at 40 % of peak, not measured; the paper: 32 GPUs, 9.5 hours per
            100k updates. Published phone-normalized mutual information: 0.68 for 500 clusters of
            its layer 6, 0.25 for its own targets.
  base_it2  iteration 2, from scratch: 500 clusters of layer 6 of iteration 1 at 50 Hz, 400k
            updates, about 8 hours. Published word error rate on test-clean / test-other, fine-tuned
            with CTC and a 4-gram language model: 9.7 / 15.3 with 10 minutes of labels, 6.1 / 11.3
            with 1 h, 4.3 / 9.4 with 10 h, 3.4 / 8.1 with 100 h.
  large     24 blocks of width 1024, 317 M parameters, 500 clusters of layer 9 of base_it2,
            Libri-Light 60k h, 400k updates of 117 minutes. TPU v4-128 (64 chips): about 14 hours
            by the same estimate; the paper: 128 GPUs. Published, with a Transformer language model:
            4.7 / 7.6, 2.9 / 5.4, 2.4 / 4.6, 2.1 / 3.9, and 1.9 / 3.3 with 960 h.
  xlarge    48 blocks of width 1280, 964 M parameters, like large, sharded over 8 chips, with full
            rematerialization. TPU v4-128: about 30 hours; the paper: 256 GPUs. Published:
            4.6 / 6.8, 2.8 / 4.8, 2.3 / 4.0, 1.9 / 3.5, 1.8 / 2.9.
  mini      4 blocks of width 192 on Mini LibriSpeech (openslr.org/31, 0.3 GB), iteration 1: an
            estimated 2 hours on a laptop with 4 cores; no published number.
  mini_it2  the same for iteration 2, from 500 clusters of layer 3.

The labels in config.data.units come from k-means on the features of the previous iteration. This
command makes them, runs all iterations, and resumes where it was killed:
    python -m ssl_jax.pipeline experiments/hubert/paper.py --size=base --workdir runs/hubert
A run refuses labels of another rate, vocabulary or k-means. Clips are batched by length and padding
is masked; the original crops every batch to its shortest clip. Rows therefore keep their own number
of masked frames, 57 % on average; trimming them to the fewest of 8 rows would leave 53 %. large and
xlarge normalize clips after cropping, the original before.
"""

from ml_collections import ConfigDict

from configs import common, datasets

SIZES = ("base", "base_it2", "large", "xlarge", "mini", "mini_it2", "toy")
# name of the label folder, number of units, labels per second
MFCC = ("mfcc_100", 100, 100.0)
ITERATION_2 = ("it1_layer6_500", 500, 50.0)
ITERATION_3 = ("it2_layer9_500", 500, 50.0)
MINI_2 = ("it1_layer3_500", 500, 50.0)


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: base (default), base_it2, large, xlarge, mini, mini_it2 or toy."""
    size = arg or "base"
    common.check(size, SIZES)
    config = common.base()
    config.method = common.hubert()
    config.method.encoder = ConfigDict({"kind": "waveform", "preset": "wav2vec2_base"})
    config.method.mask.same_count = False
    config.data = datasets.librispeech(176)
    config.data.buckets = (4.0, 8.0, 12.0, 14.0, 15.625)
    _labels(config, *(ITERATION_2 if size == "base_it2" else MFCC))
    config.optim.update({"lr": 5e-4, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.01})
    config.optim.update({"schedule": "linear", "warmup": "8%", "clip": 10.0})
    config.train.duration = "400k steps" if size == "base_it2" else "250k steps"
    config.checkpoint.every = config.eval.every = "5k steps"
    config.guard.floors = ConfigDict(
        {"prediction_std": 0.01, "prediction_entropy": 0.3, "frontend_std": 0.01}
    )
    if size in ("large", "xlarge"):
        _large(config, size)
    if size.startswith("mini"):
        _mini(config)
    if size == "mini_it2":
        _labels(config, *MINI_2)
    if size == "toy":
        _toy(config)
    return config


def _labels(config: ConfigDict, folder: str, units: int, rate: float) -> None:
    config.method.units.update({"classes": (units,), "rate": rate})
    for split in ("train", "valid", "test"):
        config.data.units[split] = (f"data/hubert/{folder}/{split}",)


def _large(config: ConfigDict, size: str) -> None:
    xlarge = size == "xlarge"
    config.method.encoder.preset = "hubert_xlarge" if xlarge else "hubert_large"
    if xlarge:
        common.shard(config)
    config.method.head.width = 1024 if xlarge else 768
    _labels(config, *ITERATION_3)
    config.data.train = ConfigDict(
        {"librilight": {"kind": "fairseq_tsv", "path": "data/librilight/train.tsv"}}
    )
    config.data.batch_size = 384 if xlarge else 448
    config.optim.update({"lr": 3e-3 if xlarge else 1.5e-3, "clip": 1.0})
    config.train.duration = "400k steps"


def _mini(config: ConfigDict) -> None:
    encoder, data = config.method.encoder, config.data
    encoder.update({"depth": 4, "width": 192, "heads": 3, "mlp_width": 768, "conv_channels": 128})
    encoder.layerdrop = 0.0
    data.train.librispeech.splits = ("train-clean-5",)
    data.valid.librispeech.splits = data.test.librispeech.splits = ("dev-clean-2",)
    data.update({"buckets": (4.0,), "batch_size": 16, "constant_seconds": False, "workers": 0})
    config.train.duration = "10k steps"
    config.checkpoint.every = config.eval.every = "500 steps"
    config.guard.after = 2_000


def _toy(config: ConfigDict) -> None:
    common.toy(config)
    method = config.method
    method.encoder.update({"depth": 2, "width": 16, "heads": 2, "mlp_width": 32})
    method.encoder.update({"conv_channels": 16, "position_groups": 4, "position_kernel": 8})
    method.encoder.update({"conv_kernels": (10, 8, 8), "conv_strides": (5, 8, 8)})
    method.units.classes = (8,)
    method.mask.length = 3
    method.head.width = 8
    config.data.update({"constant_seconds": False, "workers": 0})
