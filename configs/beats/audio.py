r"""BEATs: masked prediction of audio tokens, AudioSet without labels (2212.09058).

Command: python -m ssl_jax.train --config configs/beats/audio.py:iter1 --workdir runs/beats1
         python -m ssl_jax.train --config configs/beats/tokenizer.py:iter2 \
             --workdir runs/tokenizer2 --config.method.teachers.teacher=runs/beats1
         python -m ssl_jax.train --config configs/beats/audio.py:iter2 --workdir runs/beats2 \
             --config.method.teachers.tokenizer=runs/tokenizer2
  iter1  labels from a random projection: 12 blocks of width 768 on 10 s, 62 x 8 patches of 16 x 16,
         75 % masked. 400k updates of 560 clips. One H100: about a day, from 3e19 FLOP at 40 % of
         peak, not measured. Published after fine-tuning: mAP 47.9 on AudioSet-2M, 36.0 on
         AudioSet-20K, 94.0 % on ESC-50. A third-party reproduction: 29.7 on AudioSet-20K, 93.4 %.
  iter2  labels from the tokenizer that learned from iter1, in every step: about half as much again.
         Published 48.1, 38.3 and 95.1 %; third party 31.3 on AudioSet-20K, 93.4 % on ESC-50.
  iter3  the same from iter2. Published 48.0, 38.3 and 95.6 %; where the teacher of the tokenizer
         was fine-tuned on AudioSet (iter3+), 48.6, 38.9 and 98.1 % with a supervised stage.
  mini   4 blocks of width 128 on 2.6 s of 64 mels in 16 x 4 patches (ESC-10 as a table with
         columns path, label and fold), 256 codes: an estimated 15 minutes on two cores; no
         published number. Random labels here come from normalized patches, since the plain
         projection uses 10 of 256 codes on so little sound.

Each iteration trains a new model. Where the paper is silent the values are those of the third
party: AdamW with betas (0.9, 0.98), weight decay 0.01, clipping at 1, 32k updates of warm-up.
The random start may collapse to one code: guard.floors then names the part; use a longer warm-up.
"""

from ml_collections import ConfigDict

from configs import common

ITERATIONS = ("iter1", "iter2", "iter3")


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: one of ITERATIONS (default iter1), mini or toy."""
    size = arg or "iter1"
    common.check(size, (*ITERATIONS, "mini", "toy"))
    config = common.base()
    config.method = common.beats()
    config.method.encoder = common.beats_encoder()
    if size in ("iter2", "iter3"):
        config.method.labels = "tokenizer"
        config.method.teachers.tokenizer = f"configs/beats/tokenizer.py:{size}"
    for split, part in (("train", "unbalanced_train"), ("valid", "eval")):
        path = f"data/audioset/{part}.tsv"
        config.data[split].audioset = ConfigDict({"kind": "table", "path": path})
    config.data.update({"buckets": (10.0,), "batch_size": 560, "workers": 16, "min_seconds": 1.0})
    config.optim.update({"lr": 5e-4, "betas": (0.9, 0.98), "weight_decay": 0.01, "clip": 1.0})
    config.optim.update({"schedule": "linear", "warmup": "32k steps"})
    config.train.duration = "400k steps"
    config.checkpoint.every = config.eval.every = "10k steps"
    config.guard.after = 20_000
    # the labels that the tokenizer gives, and those that the model predicts, in nats
    config.guard.floors = ConfigDict({"unit_entropy": 1.0, "prediction_entropy": 0.3})
    if size == "mini":
        _mini(config)
    if size == "toy":
        _toy(config)
    return config


def _mini(config: ConfigDict) -> None:
    method = config.method
    method.encoder.update({"depth": 4, "width": 128, "heads": 4, "mlp_width": 512})
    # 64 tokens have no use for distances of 800
    method.encoder.update({"num_mels": 64, "num_buckets": 64, "max_distance": 64})
    method.encoder.update({"patch_width": 128, "position_kernel": 32, "layerdrop": 0.0})
    # over the cells of ESC-50
    method.encoder.update({"mean": 11.72215, "std": 10.60431})
    method.predictor.update({"depth": 2, "width": 128, "heads": 4, "mlp_width": 512})
    method.units.update({"classes": (256,), "rate": 25.0})
    method.random.update({"hidden": 0, "width": 64, "normalize_patches": True})
    del config.data.train.audioset, config.data.valid.audioset
    for split, folds in (("train", (1, 2, 3, 4)), ("valid", (5,))):
        config.data[split].esc10 = ConfigDict(
            {"kind": "table", "path": "data/esc10", "where": {"fold": folds}}
        )
    config.data.update({"buckets": (2.6,), "batch_size": 64, "workers": 0})
    config.optim.update({"lr": 1e-3, "warmup": "20%"})
    config.train.duration = "3k steps"
    config.checkpoint.every = config.eval.every = "500 steps"
    config.guard.after = 2_000


def _toy(config: ConfigDict) -> None:
    common.toy(config)
    method = config.method
    method.encoder.update({"depth": 2, "width": 16, "heads": 2, "mlp_width": 32})
    method.encoder.update({"num_mels": 16, "patch": (4, 8), "patch_width": 8})
    method.encoder.update({"position_kernel": 4, "position_groups": 2, "layerdrop": 0.0})
    method.encoder.update({"num_buckets": 8, "max_distance": 12})
    method.predictor.update({"depth": 1, "width": 16, "heads": 2, "mlp_width": 32})
    method.mask_token = "learned"
    method.units.update({"classes": (8,), "rate": 50.0})
    method.random.update({"hidden": 8, "width": 8})
    config.data.workers = 0
