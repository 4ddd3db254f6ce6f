r"""BEST-RQ (2202.01855) on 16 kHz speech: a Conformer predicts random codes of masked frames.

Command: python -m ssl_jax.train --config configs/best_rq/speech.py:xl --workdir runs/best_rq_xl
  xl        24 blocks of width 1024 (2010.10504), 0.6 billion parameters, on 60k hours of
            Libri-Light. Published word error rate on test-clean / test-other after fine-tuning on
            960 h, without a language model: 1.6 / 2.9 (from memory, not verified).
  l, xxl, xxl_plus
            the other sizes of 2010.10504, with 0.1, 1.0 and 1.0 billion parameters; no published
            number.
  mini      4 blocks of width 144, frames of 20 ms, on Mini LibriSpeech (openslr.org/31): an
            estimated 2 hours on a laptop with 4 cores; no published number.
  TPU v4-512 (256 chips), estimated from 40 % of peak, not measured: two days for 400k updates.

Crops of 32 s, which were better than 16 s in 2010.10504. Fine-tune with
configs/transducer/speech.py of the same size. The number of updates is a choice.
"""

from ml_collections import ConfigDict

from configs import common, mel_speech

ARGUMENTS = ("l", "xl", "xxl", "xxl_plus", "mini", "toy")


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: xl (default), l, xxl, xxl_plus, mini or toy."""
    size = arg or "xl"
    common.check(size, ARGUMENTS)
    config = mel_speech.pretraining(common.best_rq(), size)
    config.optim.update({"lr": 4e-3, "clip": 0.0})
    config.guard.floors = ConfigDict({"prediction_std": 0.01, "frontend_std": 0.01})
    if size == "mini":
        config.method.labels.update({"codes": 512})
        config.optim.lr = 1e-3
    if size == "toy":
        config.method.mask.length = 2
        config.method.labels.update({"num_mels": 16, "width": 4, "codes": 8})
    return config
