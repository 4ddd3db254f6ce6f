r"""Speech recognition with a transducer: a Conformer over log-mel frames, on 16 kHz LibriSpeech.

Command: python -m ssl_jax.train --config configs/transducer/speech.py:xl --workdir runs/asr_xl \
           --config.init_from=runs/pretrained_xl
         python -m ssl_jax.evaluate --run runs/asr_xl --step best \
           --config.eval.decode.beam=8 --config.eval.decode.lm=3gram.arpa
         (prints word errors and aligns the worst rows; without the last line, greedy decoding)
  l         17 blocks of width 512 with relative positions, 119 M parameters with the LSTM decoder,
            trained on 960 h (2005.08100). Published word error rate on test-clean / test-other:
            2.1 / 4.3 without a language model, 1.9 / 3.9 with one.
  xl, xxl   24 and 42 blocks of width 1024 without relative positions, 0.6 and 1.0 billion
            parameters (2010.10504), from a pre-trained encoder. Published, without a language model
            / with one: XL 1.7 / 3.5, 1.5 / 3.2; XXL 1.6 / 3.3, 1.5 / 3.1. From scratch they are
            worse than L: 2.3 / 4.9 and 2.6 / 5.6.
  xxl_plus  one block more, and half as many frames: 2.7 on test-other in the third generation of
            noisy student training.
  g1, g2, g3
            generations 1 to 3 of noisy student training: XL, XXL and XXL+, each from its own
            pre-trained encoder (--config.init_from), with 9 of 10 rows of every batch from 60k
            hours of Libri-Light, which the generation before has transcribed with a language model
            (config.data.train.libri_light.pseudo_labels; see docs/noisy_student.md), without a
            filter. Generation 0 is xl. Published on test-clean / test-other, without a language
            model / with one, read off a plot except for the last: 1.6 / 3.1, 1.4 / 2.9; 1.5 / 2.7,
            1.4 / 2.7; 1.5 / 2.7, 1.4 / 2.6. Estimated from 40 % of peak, not measured: two days
            each on TPU v4-128, and a third of a day to transcribe with a beam of 8.
  mini      4 blocks of width 144, frames of 20 ms and letters, on Mini LibriSpeech
            (openslr.org/31): an estimated 3 hours on a laptop with 4 cores; no published number.
  TPU v4-128 (64 chips), estimated from 40 % of peak, not measured: a day for 100k updates of XL.

1,024 word pieces are learned from the training transcripts; config.data.spelling='letters' takes
letters instead. Recordings are padded, never cropped. Where this config differs from the paper:
one schedule, by which the encoder has 0.3 of the rate, where the decoder
warms up in 1.5k updates; and the number of updates, which was not published.
"""

from ml_collections import ConfigDict

from configs import common, datasets, mel_speech

GENERATIONS = {"g1": "xl", "g2": "xxl", "g3": "xxl_plus"}
ARGUMENTS = ("l", "xl", "xxl", "xxl_plus", *GENERATIONS, "mini", "toy")


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`, by default xl; see above."""
    name = arg or "xl"
    common.check(name, ARGUMENTS)
    size = GENERATIONS.get(name, name)
    config = common.base()
    config.method = common.transducer()
    config.method.encoder = mel_speech.mel_encoder(size)
    large = size in ("xl", "xxl", "xxl_plus")
    config.method.predictor.layers = 2 if large else 1
    config.data = datasets.librispeech(256)
    config.data.update({"buckets": (4.0, 8.0, 12.0, 14.0, 16.0, 20.0, 25.0, 36.0)})
    config.data.update({"min_seconds": 0.0, "spelling": "pieces", "pieces": 1024})
    for split in (config.data.train, config.data.valid, config.data.test):
        split.librispeech.transcript = "text"
    config.optim.update({"lr": 1e-3, "betas": (0.9, 0.98), "eps": 1e-9, "clip": 20.0})
    config.optim.update({"schedule": "inverse_sqrt", "warmup": "5k steps"})
    config.optim.lr_rules = (("^(encoder|mask)/", 0.3), (".*", 1.0))
    config.train.duration = "100k steps"
    config.checkpoint.update({"best_metric": "valid/wer", "best_mode": "min"})
    config.checkpoint.every = config.eval.every = "1k steps"
    config.eval.scores = ("wer", "cer")
    config.eval.decode = common.decode()
    if large:
        common.shard(config)
    if size in ("xxl", "xxl_plus"):
        config.optim.name = "adafactor"
    if name in GENERATIONS:
        _students(config.data)
    if size == "l":
        config.optim.lr_rules = ()
        config.optim.lr = 2e-3
    if size == "mini":
        _mini(config)
    if size == "toy":
        _toy(config)
    return config


def _students(data: ConfigDict) -> None:
    """Adds Libri-Light with pseudo-labels: 9 of 10 rows of every batch."""
    data.train.librispeech.batch_share = 0.1
    source = {"kind": "fairseq_tsv", "path": "data/libri_light/train.tsv", "rate": 16000}
    source |= {"transcript": "text", "pseudo_labels": "data/libri_light/labels"}
    data.train.libri_light = ConfigDict(source | {"batch_share": 0.9})


def _mini(config: ConfigDict) -> None:
    data = config.data
    config.method.predictor.update({"embed": 64, "width": 144})
    config.method.joint.width = 144
    data.train.librispeech.splits = ("train-clean-5",)
    data.valid.librispeech.splits = data.test.librispeech.splits = ("dev-clean-2",)
    data.update({"batch_size": 8, "workers": 0, "spelling": "letters"})
    config.optim.update({"lr": 1e-3, "lr_rules": (), "warmup": "500 steps"})
    config.train.duration = "5k steps"
    config.checkpoint.every = config.eval.every = "500 steps"


def _toy(config: ConfigDict) -> None:
    common.toy(config)
    method = config.method
    method.predictor.update({"embed": 4, "width": 8})
    method.joint.update({"width": 8, "block": 4})
    method.spec_augment.update({"time_masks": 0, "freq_masks": 0})
    config.data.update({"constant_seconds": False, "workers": 0, "spelling": "letters"})
