r"""Keyword spotting on Speech Commands V2, 35 words, from scratch or from data2vec (2210.01703).

Command: python -m ssl_jax.train --config configs/supervised/kws.py:kwt1 --workdir runs/kwt1 \
           --config.init_from=runs/d2v_kwt1      (omit the last line to train from scratch)
  kwt1, kwt2, kwt3: Keyword Transformers of 559,075, 2,397,603 and 5,365,859 parameters. 140 epochs
  of the labelled 20 % (16,969 clips), 512 a step: 4,760 updates; an estimated 10 to 20 minutes on
  one accelerator, not measured. Published test accuracy with 20 % of the labels:
                        kwt1    kwt2    kwt3
    from scratch        86.22   85.75   83.98
    after data2vec      92.94   95.07   95.29
    data2vec, frozen    42.92   49.74   49.60
  All labels: --config.data.train.sc.part='(0.0, 1.0)'; published from scratch 96.38, 94.98, 90.79.
  mini: the few-label config of experiments/quickstart.py and experiments/kws, for two cores.
  Frozen: --config.method.frozen=True --config.optim.frozen="('^encoder/',)".
"""

from ml_collections import ConfigDict

from configs import common, datasets


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: kwt1 (default), kwt2, kwt3, mini or toy."""
    size = arg or "kwt1"
    common.check(size, ("kwt1", "kwt2", "kwt3", "mini", "toy"))
    if size == "mini":
        return _mini()
    config = common.base()
    config.method = common.supervised()
    config.method.encoder = common.keyword_encoder(size)
    config.method.label_smoothing = 0.1
    # two stripes each, narrower than 25 frames and than 7 coefficients
    config.method.spec_augment.update({"time_masks": 2, "freq_masks": 2})
    config.data = datasets.speech_commands()
    config.data.train.sc.part = (0.8, 1.0)
    config.optim.update({"lr": 1e-3, "weight_decay": 0.1, "warmup": "10 epochs", "end_lr": 1e-8})
    config.train.duration = "140 epochs"
    config.checkpoint.every = config.eval.every = "1 epochs"
    config.checkpoint.best_metric = "valid/accuracy"
    if size == "toy":
        common.toy(config)
    return config


def _mini() -> ConfigDict:
    """Returns the config of experiments/quickstart.py and experiments/kws, for two cores."""
    config = common.base()
    config.method = common.supervised()
    config.method.encoder = common.small_keyword_encoder()
    config.method.update({"label_smoothing": 0.1, "smoothing_spread": "uniform"})
    config.method.spec_augment.update({"time_masks": 2, "time_width": 12, "fill_mean": True})
    config.method.spec_augment.update({"freq_masks": 2, "freq_width": 6})
    config.method.spectral = ConfigDict(
        {
            "shift": {"max_frames": 3},
            "warp": {"max_share": 0.05},
            "equalize": {"std_db": 2.0},
            "mix": {"max_share": 0.1},
            "add_floor": {"below_db": (15.0, 45.0)},
        }
    )
    config.data = datasets.speech_commands()
    config.data.batch_size = 64
    config.optim.update({"lr": 3e-3, "weight_decay": 0.05, "warmup": "10%", "clip": 1.0})
    config.train.duration = "400 steps"
    config.checkpoint.update({"every": "100%", "keep_last": 1})
    config.eval.update({"every": "50 steps", "test": True})
    config.log.every = "50 steps"
    return config
