r"""Fine-tuning on sounds: AudioSet, ESC-50, Speech Commands, FSD50K (2207.06405, 2212.09058).

Command: python -m ssl_jax.train --config configs/supervised/sounds.py:audiomae_as20k \
           --workdir runs/as20k --config.init_from=runs/audio_mae
  audiomae_*   after configs/mae/spectrogram.py:audiomae, clips filled up to 10 s of 64 x 8 patches,
               of which a fifth of the time steps and of the mel bands are hidden in training.
  beats_*      after configs/beats/audio.py, with values of a third party, since the authors
               published none; their recipe reached 37.5 mAP on AudioSet-20K.
  *_as20k, *_as2m    AudioSet, 527 tags, the layout of docs/data.md; mAP on its evaluation part. 2M
               draws clips of rare tags more often. Published, AudioMAE and BEATs iteration 3: mAP
               37.1 and 38.3 after 20K, 47.3 and 48.0 after 2M.
  *_esc50_1 to *_esc50_5   ESC-50, the fold with that number held out; the score is the mean of the
               five accuracies. Published 94.1 and 95.6.
  *_ks1        Speech Commands V1, 12 classes, a table as in configs/superb/utterances.py.
               Published 96.9 and 97.7.
  *_ks2        Speech Commands V2, 35 classes. Published 98.3 and 98.3.
  *_fsd50k     FSD50K, 200 tags. A choice: the values of AudioSet-20K; no published number.

One H100: an estimated hour for 20K and half a day for 2M (78k updates of 256), from 3 times the
forward operations at 40 % of peak, not measured; the original used 8 V100.
On AudioSet there is no validation part: valid is the evaluation part, and the score is that of the
last step. AudioMAE reports the best of all epochs on the evaluation part, which
--config.checkpoint.best_metric=valid/average_precision would choose. Choices, where nothing is
published: KS1, KS2 and FSD50K, the shape of the mixup of BEATs, ESC-50 of AudioMAE at 10 s (its
table of positions is made for that) and its stripes. The original means to roll clips in time, but
its code never does; here they roll. Smoothing of tags, of time axes (warping) is left out.
"""

from ml_collections import ConfigDict

from configs import common
from configs.mae import spectrogram

# positions are not decayed either
DECAY_RULES = ((r"(bias|scale\d?|cls|positions)$", 0.0), (".*", 1.0))
TASKS = ("as20k", "as2m", *(f"esc50_{n}" for n in range(1, 6)), "ks1", "ks2", "fsd50k")
NAMES = tuple(f"{family}_{task}" for family in ("audiomae", "beats") for task in TASKS)
TAGS = ("as20k", "as2m", "fsd50k")
# of the log-mel cells: (mean, standard deviation) for AudioMAE; BEATs keeps those of AudioSet
CELLS = {"esc50": (-6.6268077, 5.358466), "ks1": (-6.845978, 5.5654526)}
CELLS["ks2"] = CELLS["ks1"]
BEATS_CELLS = {"esc50": (11.72215, 10.60431)}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: audiomae_as20k (default), another of NAMES, or toy."""
    name = arg or "audiomae_as20k"
    common.check(name, (*NAMES, "toy"))
    if name == "toy":
        return _toy()
    family, _, task = name.partition("_")
    config = common.base()
    config.method = common.supervised()
    config.method.update({"pool": "frames", "task": "tag" if task in TAGS else "classify"})
    config.method.smoothing_spread = "uniform"
    config.checkpoint.every = config.eval.every = "1 epochs"
    if task in TAGS:
        config.eval.scores = ("average_precision", "roc_auc", "d_prime")
    _data(config, task)
    (_audiomae if family == "audiomae" else _beats)(config, task.partition("_")[0])
    return config


def _data(config: ConfigDict, task: str) -> None:
    data = config.data
    task, _, fold = task.partition("_")
    seconds = {"esc50": 5.0, "ks1": 1.0, "ks2": 1.0}.get(task, 10.0)
    data.update({"buckets": (seconds,), "workers": 8})
    if task in ("as20k", "as2m"):
        parts = ("balanced_train",) + ("unbalanced_train",) * (task == "as2m")
        source = {"kind": "audioset", "path": "data/audioset", "tags": "tags"}
        draw = "balanced" if task == "as2m" else ""
        data.train.audioset = ConfigDict({**source, "segments": parts, "row_weight": draw})
        data.valid.audioset = ConfigDict(source)
    elif task == "esc50":
        others = tuple(n for n in "12345" if n != fold)
        for split, folds in (("train", others), ("valid", (fold,))):
            source = {"kind": "esc50", "path": "data/ESC-50", "where": {"fold": folds}}
            data[split].esc50 = ConfigDict(source)
    else:
        kind = {"ks1": "table", "ks2": "speech_commands", "fsd50k": "fsd50k"}[task]
        path = {"ks1": "data/ks", "ks2": "data/speech_commands_v2", "fsd50k": "data/FSD50K"}[task]
        for split in ("train", "valid", "test"):
            source = {"kind": kind, "path": path, "label": "" if task == "fsd50k" else "label"}
            source |= {"where": {"split": split}} if task == "ks1" else {}
            source |= {"tags": "tags"} if task == "fsd50k" else {}
            data[split][task] = ConfigDict(source)
        config.eval.test = True
        best = "average_precision" if task == "fsd50k" else "accuracy"
        config.checkpoint.best_metric = f"valid/{best}"


def _audiomae(config: ConfigDict, task: str) -> None:
    method, optim = config.method, config.optim
    method.encoder = ConfigDict({"kind": "spectrogram", "preset": "base", "num_mels": 128})
    # KS: a second is 98 frames; the others have the positions of the pre-training at 10 s
    method.encoder.update({"frames": 128 if task in ("ks1", "ks2") else 1024})
    method.encoder.update({"pos_grid": "official", "final_norm": False, "drop_path": 0.1})
    if task in CELLS:
        method.encoder.update(dict(zip(("mean", "std"), CELLS[task], strict=True)))
    method.head.update({"eps": 1e-6, "init_std": 2e-5})
    method.stripes.update({"time": 0.2, "frequency": 0.2})
    method.augment = ConfigDict({"roll": {}, "magnitude": {}})
    wide = task not in ("ks1", "ks2", "esc50")
    # one stripe each, narrower than 192 frames and than 48 mels; fewer of shorter clips
    time, mels = (191, 47) if wide else (95, 23) if task == "esc50" else (24, 23)
    method.spec_augment.update({"time_masks": 1, "time_width": time})
    method.spec_augment.update({"freq_masks": 1, "freq_width": mels})
    optim.update({"layer_decay": 0.75, "decay_rules": DECAY_RULES, "end_lr": 1e-6})
    if not wide:
        method.label_smoothing = 0.1
        config.data.batch_size = 64
        optim.update({"lr": 1e-3 * 64 / 256, "weight_decay": 0.05, "warmup": "4 epochs"})
        config.train.duration = "50 epochs"
        return
    method.mix.update({"mixup": 10.0, "prob": 0.5, "mode": "example"})
    optim.weight_decay = 5e-4
    if task == "as2m":
        # 100 epochs of 200,000 clips that are drawn, 10 of them for the warm-up
        config.data.batch_size = 256
        optim.update({"lr": 2e-4, "warmup": "10%"})
        config.train.duration = "78_100 steps"
        config.checkpoint.every = config.eval.every = "7_810 steps"
    else:
        config.data.batch_size = 32
        optim.update({"lr": 1.25e-4, "warmup": "4 epochs"})
        config.train.duration = "60 epochs"


def _beats(config: ConfigDict, task: str) -> None:
    method, optim = config.method, config.optim
    decay = {"as2m": 0.6, "as20k": 0.3, "fsd50k": 0.3}.get(task, 0.2)
    method.encoder = ConfigDict({"kind": "beats", "preset": "base", "layerdrop": 0.1})
    method.encoder.layer_gradient_decay = decay
    if task in BEATS_CELLS:
        method.encoder.update(dict(zip(("mean", "std"), BEATS_CELLS[task], strict=True)))
    method.head.norm = False
    # one stripe of up to 6 % of a clip
    frames = {"esc50": 29, "ks1": 5, "ks2": 5}.get(task, 59)
    method.spec_augment.update({"time_masks": 1, "time_width": frames})
    method.augment = ConfigDict({"roll": {"samples": 16_000 if task == "esc50" else 1}})
    optim.update({"betas": (0.9, 0.98), "weight_decay": 0.01, "clip": 1.0, "end_lr": 5e-6})
    optim.decay_rules = DECAY_RULES
    if task in TAGS:
        method.mix.update({"mixup": 10.0, "prob": 0.8, "mode": "example"})
        large = task == "as2m"
        config.data.batch_size = 500 if large else 80
        # 10k of 400k and 8k of 95k of its steps, which are shares of an update
        optim.update({"lr": 1e-4 if large else 3e-5, "warmup": "2.5%" if large else "8.4%"})
        config.train.duration = "25 epochs" if large else "160 epochs"
        return
    method.label_smoothing = 0.1
    method.head.dropout = 0.1
    config.data.batch_size = 128
    optim.update({"lr": 5e-5, "warmup": "300 steps"})
    config.train.duration = "6k steps"


def _toy() -> ConfigDict:
    config = get_config("audiomae_fsd50k")
    config.method.encoder = spectrogram.get_config("toy").method.encoder
    config.method.encoder.update({"final_norm": False, "frames": 48})
    config.method.head.init_std = 0.02
    # half of the steps mix nothing and hide little, so that a few clips can be memorized
    config.method.spec_augment.update({"time_width": 4, "freq_width": 2})
    config.data.classes, config.data.workers = ("a", "b", "c", "d"), 0
    config.checkpoint.best_metric = ""
    return common.toy(config)
