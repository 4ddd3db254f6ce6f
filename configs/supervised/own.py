r"""Classification of your own recordings, images or texts with a pre-trained encoder.

Command: python -m ssl_jax.train --config configs/supervised/own.py:own --workdir runs/tuned \
           --config.init_from=runs/own --config.data.train.own.path=labels.csv
  own    the encoder of configs/data2vec2/audio.py:own; without init_from, it starts from scratch.
  base   the encoder of configs/data2vec2/audio.py:own_base.
  tags   any number of tags for each recording: a column tags, with "|" between them, in place of
         label; the encoder of configs/mae/spectrogram.py:own. The scores are mAP, ROC-AUC and d'.
  beats, beats_tags
         label or tags with the Base encoder of configs/beats/audio.py, for published weights too.
  spectrogram, image, text
         those of configs/mae/spectrogram.py:own, configs/mae/image.py:own and
         configs/data2vec2/text.py:own.
  To freeze the encoder: --config.method.frozen=True --config.optim.frozen="('^encoder/',)".

The table is that of `python -m ssl_jax.evaluate --labels`: the columns path (of texts: text), label
and split (train, valid, test); without a column split, a fifth of the rows each is held out for
validation and test (docs/finetune.md). The step that is best on validation is kept; the test split
is evaluated once, at the end. No published number.
"""

from ml_collections import ConfigDict

from configs import common
from configs.beats import audio as beats
from configs.data2vec2 import audio, text
from configs.mae import image, spectrogram

# config whose encoder is fine-tuned, its argument, and the kind of a table of its data
ENCODERS = {
    "own": (audio, "own", "table"),
    "base": (audio, "own_base", "table"),
    "toy": (audio, "own_toy", "table"),
    "spectrogram": (spectrogram, "own", "table"),
    "tags": (spectrogram, "own", "table"),
    "beats": (beats, "iter1", "table"),
    "beats_tags": (beats, "iter1", "table"),
    "image": (image, "own", "table"),
    "text": (text, "own", "text_table"),
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: own (default), another of ENCODERS, or toy."""
    size = arg or "own"
    common.check(size, tuple(ENCODERS))
    module, argument, kind = ENCODERS[size]
    pretrained = module.get_config(argument)
    config = common.base()
    config.method = common.supervised()
    config.method.update({"encoder": pretrained.method.encoder, "pool": "frames"})
    config.method.update({"label_smoothing": 0.1, "smoothing_spread": "uniform"})
    config.data = pretrained.data
    for split in ("train", "valid", "test"):
        source = {"kind": kind, "path": "", "label": "label", "where": {"split": split}}
        source |= {"columns": ("text",)} if kind == "text_table" else {}
        config.data[split] = ConfigDict({"own": source})
    small = size not in ("base", "beats", "beats_tags")
    config.optim.update({"lr": 1e-3 if small else 5e-5, "weight_decay": 0.01})
    config.optim.update({"warmup": "10%", "clip": 1.0})
    config.train.duration = "20 epochs"
    config.checkpoint.update({"every": "1 epochs", "best_metric": "valid/accuracy"})
    config.eval.update({"every": "1 epochs", "test": True})
    if module is beats:  # a head as that of the published files
        config.method.head.norm = False
        config.data.update({"batch_size": 16, "workers": 0, "min_seconds": 0.2})
    if size in ("tags", "beats_tags"):
        _tags(config)
    if size == "toy":
        common.toy(config)
    return config


def _tags(config: ConfigDict) -> None:
    config.method.task = "tag"
    for split in ("train", "valid", "test"):
        config.data[split].own.update({"label": "", "tags": "tags"})
    config.eval.scores = ("average_precision", "roc_auc", "d_prime")
    config.checkpoint.best_metric = "valid/average_precision"
