r"""Classification of your own recordings with an encoder of configs/data2vec2 (docs/finetune.md).

Command: python -m ssl_jax.train --config configs/supervised/own.py:own --workdir runs/tuned \
           --config.init_from=runs/own --config.data.train.own.path=runs/own/labels.tsv
  own    the encoder of audio.py:own; without init_from it is trained from scratch.
  base   the encoder of audio.py:own_base.
  To freeze the encoder: --config.method.frozen=True --config.optim.frozen="('^encoder/',)".

The table is that of `python -m ssl_jax.evaluate --labels`, with the columns path, label and split
(train, valid, test). The step that is best on validation is kept; the test split is evaluated once,
at the end. No published number.
"""

from ml_collections import ConfigDict

from configs import common
from configs.data2vec2 import audio


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: own (default), base or toy."""
    size = arg or "own"
    common.check(size, ("own", "base", "toy"))
    pretrained = audio.get_config({"own": "own", "base": "own_base", "toy": "own_toy"}[size])
    config = common.base()
    config.method = common.supervised()
    config.method.update({"encoder": pretrained.method.encoder, "pool": "frames"})
    config.method.update({"label_smoothing": 0.1, "smoothing_spread": "uniform"})
    config.data = pretrained.data
    for split in ("train", "valid", "test"):
        where = ConfigDict({"split": split})
        config.data[split] = ConfigDict(
            {"own": {"kind": "table", "path": "", "label": "label", "where": where}}
        )
    config.optim.update({"lr": 5e-5 if size == "base" else 1e-3, "weight_decay": 0.01})
    config.optim.update({"warmup": "10%", "clip": 1.0})
    config.train.duration = "20 epochs"
    config.checkpoint.update({"every": "1 epochs", "best_metric": "valid/accuracy"})
    config.eval.update({"every": "1 epochs", "test": True})
    if size == "toy":
        common.toy(config)
    return config
