r"""Speech recognition with CTC from a pre-trained waveform encoder, on 16 kHz LibriSpeech.

Command: python -m ssl_jax.train --config configs/ctc/speech.py:base_100h --workdir runs/asr_100h \
           --config.init_from=runs/pretrained
         python -m ssl_jax.evaluate --run runs/asr_100h --step best \
           --config.eval.decode.beam=500 --config.eval.decode.threshold=100.0 \
           --config.eval.decode.lm=4gram.arpa
         (prints word errors and aligns the worst rows; without the last two lines, greedy decoding)
  base_10m, base_1h, base_10h, base_100h, base_960h
         Base encoder (95 M parameters), settings of the published configs of wav2vec 2.0 Base
         (2006.11477). Published word error rate on test-other, without a language model / with a
         4-gram: 50.9 / 15.6 with 10 minutes of labels, 29.7 / 11.3 with 1 h, 17.6 / 9.5 with
         10 h, 13.3 / 8.0 with 100 h, 8.5 / 6.1 with 960 h.
  large_10m, large_1h, large_10h, large_100h, large_960h
         Large encoder (317 M), as for wav2vec 2.0 Large, pre-trained on 60k hours. Published:
         38.7 / 10.3, 20.3 / 7.1, 10.0 / 5.8, 6.3 / 4.6, 4.5 / 3.6.
  hubert_base_10h
         The one published config of HuBERT (2106.07447): 25k updates, stopped early in a schedule
         of 80k. Published for Base with a 4-gram: test-other 15.3 with 10 minutes, 11.3 with 1 h,
         9.4 with 10 h, 8.1 with 100 h. The paper's settings for the other sets, found by search,
         were never released; use those of wav2vec 2.0 above.
  own    base_10h on your own table, --config.data.train.own.path=index.tsv, with the columns
         path, text and split (train, valid, test); no published number.
  mini   from configs/data2vec/audio.py:mini, on Mini LibriSpeech (openslr.org/31): an estimated 2
         hours on a laptop with 4 cores; no published number.
  A batch is at most 27 minutes of speech. TPU v4-32 (16 chips), estimated from 40 % of peak, not
  measured: 20 minutes for 13k updates of Base, about 8 hours for 320k.

The encoder must match the run in config.init_from: --config.method.encoder.preset=hubert_large for
HuBERT Large, =base and =large for data2vec. The sets of 10 minutes, 1 h and 10 h are those of
Libri-Light: data/librispeech_finetuning with the folders 1h/0 to 1h/5 and 9h.

Recordings are padded, never cropped: one that is longer than the last of config.data.buckets is an
error. HuBERT's config crops all clips of a batch to the shortest but keeps their full transcripts,
which is a mistake. The published dropout before the last layer is 0, as here.
"""

from ml_collections import ConfigDict

from configs import common, datasets

# subset: updates; then, for Base and for Large: learning rate, masking probabilities of time and
# channels, and the updates during which only the head is trained
RECIPES = {
    "10m": ("13k steps", (5e-5, 0.65, 0.25, "10k steps"), (1e-4, 0.65, 0.25, "10k steps")),
    "1h": ("13k steps", (5e-5, 0.65, 0.25, "10k steps"), (3e-4, 0.75, 0.25, "10k steps")),
    "10h": ("20k steps", (5e-5, 0.65, 0.5, "10k steps"), (1e-4, 0.75, 0.25, "10k steps")),
    "100h": ("80k steps", (3e-5, 0.65, 0.5, "0 steps"), (3e-5, 0.5, 0.5, "10k steps")),
    "960h": ("320k steps", (1e-4, 0.5, 0.1, "0 steps"), (3e-5, 0.5, 0.25, "10k steps")),
}
ARGUMENTS = (
    *(f"{size}_{subset}" for size in ("base", "large") for subset in RECIPES),
    *("hubert_base_10h", "own", "mini", "toy"),
)


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`, by default base_100h; see above."""
    name = arg or "base_100h"
    common.check(name, ARGUMENTS)
    config = common.base()
    config.method = common.ctc()
    size, _, subset = name.removeprefix("hubert_").partition("_")
    config.method.encoder = ConfigDict({"kind": "waveform", "preset": "wav2vec2_base"})
    if size == "large":
        config.method.encoder.preset = "wav2vec2_large"
    _quiet(config.method.encoder)
    subset = "10h" if name == "own" else subset or "100h"
    config.data = _data(subset)
    _optim(config, size, subset)
    config.checkpoint.update({"best_metric": "valid/wer", "best_mode": "min"})
    config.eval.scores = ("wer", "cer")
    config.eval.decode = common.decode()
    config.checkpoint.every = config.eval.every = "1k steps"
    if name == "hubert_base_10h":
        _hubert(config)
    if name == "own":
        _own(config.data)
    if name == "mini":
        _mini(config)
    if name == "toy":
        _toy(config)
    return config


def _quiet(encoder: ConfigDict) -> None:
    """Sets the dropout rates of fine-tuning."""
    encoder.update({"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.1})
    encoder.update({"input_dropout": 0.0, "embed_dropout": 0.0, "layerdrop": 0.1})


def _data(subset: str) -> ConfigDict:
    """Returns the data section of a labelled subset of LibriSpeech."""
    data = datasets.librispeech(48)
    data.update({"buckets": (4.0, 8.0, 12.0, 14.0, 16.0, 20.0, 25.0, 36.0), "min_seconds": 0.0})
    parts = {"10m": ("1h/0",), "1h": tuple(f"1h/{i}" for i in range(6))}
    parts["10h"] = (*parts["1h"], "9h")
    if subset == "100h":
        data.train.librispeech.splits = ("train-clean-100",)
    if subset in parts:
        data.train = ConfigDict({})
        for part in parts[subset]:
            path = f"data/librispeech_finetuning/{part}"
            source = {"kind": "librispeech", "path": path, "splits": ("clean", "other")}
            data.train[f"part_{part.replace('/', '_')}"] = ConfigDict(source)
    for split in (data.train, data.valid, data.test):
        for source in split.values():
            source.transcript = "text"
    return data


def _optim(config: ConfigDict, size: str, subset: str) -> None:
    duration, base, large = RECIPES[subset]
    rate, time, channels, freeze = large if size == "large" else base
    config.train.duration = duration
    config.method.mask.update({"prob": time, "channel_prob": channels})
    if size != "large" and subset == "10h":
        config.method.encoder.layerdrop = 0.05
    if size == "large" and subset == "960h":
        config.data.batch_size = 56
    config.optim.update({"lr": rate, "betas": (0.9, 0.98), "eps": 1e-8})
    config.optim.update({"schedule": "tri_stage", "stages": (0.1, 0.4, 0.5)})
    config.optim.update({"frozen": ("^encoder/frontend/convs/",), "freeze_until": freeze})
    if freeze != "0 steps":
        config.optim.frozen_first = ("^encoder/", "^mask/")


def _hubert(config: ConfigDict) -> None:
    """Applies the settings in which HuBERT's config for Base, 10 h, differs."""
    config.train.duration = "25k steps"
    config.method.mask.update({"prob": 0.75, "channel_prob": 0.5})
    config.method.encoder.layerdrop = 0.1
    # 8k updates of warm-up, then the first 17k of a decay to 0.05 over 72k
    config.optim.update({"lr": 2e-5, "stages": (0.32, 0.0, 0.68)})
    config.optim.end_factor = 0.05 ** (17 / 72)


def _own(data: ConfigDict) -> None:
    for split in ("train", "valid", "test"):
        source = {"kind": "table", "path": "", "transcript": "text", "where": {"split": split}}
        data[split] = ConfigDict({"own": source})


def _mini(config: ConfigDict) -> None:
    encoder, data = config.method.encoder, config.data
    encoder.update({"preset": "base", "depth": 4, "width": 192, "heads": 3, "mlp_width": 768})
    encoder.update({"conv_channels": 128, "layerdrop": 0.0})
    config.method.mask.update({"channel_prob": 0.25, "channel_length": 16})
    data.train.librispeech.splits = ("train-clean-5",)
    data.valid.librispeech.splits = data.test.librispeech.splits = ("dev-clean-2",)
    data.update({"batch_size": 4, "workers": 0})
    config.optim.update({"lr": 3e-4, "freeze_until": "10%"})
    config.optim.frozen_first = ("^encoder/", "^mask/")
    config.train.duration = "5k steps"
    config.checkpoint.every = config.eval.every = "500 steps"


def _toy(config: ConfigDict) -> None:
    common.toy(config)
    encoder = config.method.encoder
    encoder.update({"preset": "base", "depth": 2, "width": 16, "heads": 2, "mlp_width": 32})
    encoder.update({"conv_channels": 16, "position_groups": 4, "position_depth": 2})
    encoder.update({"conv_kernels": (10, 8, 8), "conv_strides": (5, 8, 8)})
    encoder.layerdrop = 0.0
    config.method.mask.update({"length": 3, "channel_prob": 0.0})
    config.data.update({"constant_seconds": False, "workers": 0})
