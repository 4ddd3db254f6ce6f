r"""SUPERB (2105.01051), phone recognition: CTC on the hidden states of a frozen speech encoder.

Command: python -m ssl_jax.train --config configs/superb/phones.py:base --workdir runs/pr \
           --config.init_from=runs/pretrained
  base   wav2vec 2.0 or HuBERT Base. 100k updates of 32 utterances of LibriSpeech train-clean-100;
         an estimated 8 hours on one accelerator, not measured. Published (unverified) phone error
         rate on test-clean: wav2vec 2.0 Base 5.74, HuBERT Base 5.41, wav2vec 2.0 Large 4.75,
         HuBERT Large 3.53; log-mel 82.01.
  large  the same with a Large encoder; --config.method.encoder.preset=hubert_large for HuBERT.
  mini   from configs/data2vec/audio.py:mini, 1k updates: an estimated hour on a laptop.
Table: index.tsv with the columns path, phones (such as `HH AH L OW`) and split (train, valid,
test). The original looks up every word in a lexicon and drops stress marks.

The head is that of the protocol: a learned weighted sum of all hidden states, a linear layer to
256, and a linear layer to the phones, trained with Adam at 1e-2 and gradients clipped to norm 1.
The paper searched for the learning rate. The checkpoint that is best on validation is kept, and the
protocol tests it:
    python -m ssl_jax.evaluate --run runs/pr --step best
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: base (default), large, mini or toy."""
    size = arg or "base"
    common.check(size, ("base", "large", "mini", "toy"))
    config = common.base()
    config.method = common.ctc()
    preset = {"large": "wav2vec2_large", "base": "wav2vec2_base"}.get(size, "base")
    config.method.encoder = ConfigDict({"kind": "waveform", "preset": preset})
    config.method.encoder.input_dropout = 0.0
    config.method.mask.update({"prob": 0.0, "channel_prob": 0.0})
    config.method.head.update({"mix": True, "projection": 256})
    config.method.frozen = "encoder"
    for split in ("train", "valid", "test"):
        source = {"kind": "table", "path": "data/pr", "transcript": "phones"}
        source["where"] = ConfigDict({"split": split})
        config.data[split].pr = ConfigDict(source)
    config.data.update({"spelling": "phones", "buckets": (4.0, 8.0, 12.0, 16.0, 25.0, 36.0)})
    config.data.update({"batch_size": 32, "workers": 8})
    config.optim.update({"lr": 1e-2, "schedule": "constant", "clip": 1.0})
    config.optim.frozen = ("^encoder/",)
    config.train.duration = "100k steps"
    config.checkpoint.every = config.eval.every = "1k steps"
    config.checkpoint.update({"best_metric": "valid/per", "best_mode": "min"})
    config.eval.scores = ("per",)
    config.eval.decode = common.decode()
    if size == "mini":
        _mini(config)
    if size == "toy":
        _toy(config)
    return config


def _mini(config: ConfigDict) -> None:
    encoder = config.method.encoder
    encoder.update({"depth": 4, "width": 192, "heads": 3, "mlp_width": 768, "conv_channels": 128})
    config.data.update({"batch_size": 8, "workers": 0})
    config.train.duration = "1k steps"
    config.checkpoint.every = config.eval.every = "250 steps"


def _toy(config: ConfigDict) -> None:
    common.toy(config)
    config.method.head.projection = 8
    encoder = config.method.encoder
    encoder.update({"depth": 2, "width": 16, "heads": 2, "mlp_width": 32})
    encoder.update({"conv_channels": 16, "position_groups": 4, "position_depth": 2})
    encoder.update({"conv_kernels": (10, 8, 8), "conv_strides": (5, 8, 8)})
    config.data.workers = 0
