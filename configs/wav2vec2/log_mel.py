r"""Contrastive pre-training of Conformers on log-mel, without codes (2010.10504).

Command: python -m ssl_jax.train --config configs/wav2vec2/log_mel.py:xl --workdir runs/mel_xl
  l, xl, xxl, xxl_plus
            0.1, 0.6, 1.0 and 1.0 billion parameters. Published word error rate on test-clean /
            test-other after fine-tuning on 960 h, without a language model: L 2.0 / 4.5 (without
            relative attention), XL 1.7 / 3.5, XXL 1.6 / 3.3.
  mini      4 blocks of width 144, frames of 20 ms, on Mini LibriSpeech (openslr.org/31): an
            estimated 2 hours on a laptop with 4 cores; no published number.
  XXL and XXL+ have Adafactor, as in the paper.
  TPU v4-512 (256 chips), estimated from 40 % of peak, not measured: two days for 400k updates of
  XL.

Masked frames are told from 100 other masked frames of the clip; their number and the temperature,
0.1, were not published. Fine-tune with configs/transducer/speech.py of the same size. If the loss
stays at the logarithm of 101, use shorter spans, or configs/best_rq/speech.py.
"""

from ml_collections import ConfigDict

from configs import common, mel_speech

ARGUMENTS = ("l", "xl", "xxl", "xxl_plus", "mini", "toy")


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: xl (default), l, xxl, xxl_plus, mini or toy."""
    size = arg or "xl"
    common.check(size, ARGUMENTS)
    method = common.wav2vec2()
    method.targets = "linear"
    method.mask.same_count = False
    method.loss.update({"diversity": 0.0, "penalty": 0.0})
    config = mel_speech.pretraining(method, size)
    config.guard.floors = ConfigDict(
        {"target_std": 0.01, "prediction_std": 0.01, "frontend_std": 0.01}
    )
    if size == "mini":
        method.quantizer.width = 64
    if size == "toy":
        method.mask.length = 2
        method.quantizer.width = 8
        method.negatives.count = 5
    return config
