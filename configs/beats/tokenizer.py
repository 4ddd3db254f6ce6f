r"""The self-distilled tokenizer of BEATs, AudioSet without labels (2212.09058, section 3.2).

Command: python -m ssl_jax.train --config configs/beats/tokenizer.py:iter2 \
             --workdir runs/tokenizer2 --config.method.teachers.teacher=runs/beats1
  iter2      12 blocks of width 768 and an estimator of 3, taught by a run of
             configs/beats/audio.py:iter1: 1024 codes of width 256. 400k updates of 140 clips of
             10 s. One H100: about 17 hours, from 2.4e19 FLOP at 40 % of peak, not measured.
  iter3      the same, taught by iter2.
  iter3plus  taught by the logits of a fine-tuned run, with a learning rate of 5e-4 in place of
             5e-5; the paper says of which iteration in two ways, so name the run that you mean.
  mini       4 blocks of width 128, 256 codes of width 64, taught by mini of configs/beats/audio.py;
             the teacher's features are centred, and codes that nothing uses are replaced: a few
             minutes on two cores.

Published results are those of the models that predict these tokens, in configs/beats/audio.py. The
first batch starts the codebook, so it should hold ten times as many tokens as there are codes.
"""

from ml_collections import ConfigDict

from configs import common
from configs.beats import audio

TAUGHT_BY = {"iter2": "iter1", "iter3": "iter2", "mini": "mini", "toy": "toy"}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: a key of TAUGHT_BY (default iter2), or iter3plus."""
    size = arg or "iter2"
    common.check(size, (*TAUGHT_BY, "iter3plus"))
    config = audio.get_config(size if size in ("mini", "toy") else "iter1")
    model = config.method
    config.method = common.beats_tokenizer()
    config.method.encoder = model.encoder
    config.method.teachers.teacher = f"configs/beats/audio.py:{TAUGHT_BY.get(size, 'iter2')}"
    # the part that a collapse would show in: the codebook, and the estimates of the teacher
    config.guard.floors = ConfigDict({"code_perplexity": 3.0, "prediction_std": 0.01})
    config.data.batch_size = 140 if config.data.batch_size == 560 else config.data.batch_size
    if size not in ("mini", "toy"):
        config.optim.lr = 5e-5
    if size == "iter3plus":
        config.method.target = "logits"
        config.method.teachers.teacher = ""
        config.optim.lr = 5e-4
    if size == "mini":
        config.method.codebook.update({"codes": 256, "width": 64, "restart": True})
        config.method.estimator.update({"depth": 1, "width": 128, "heads": 4, "mlp_width": 512})
        config.method.center = "batch"
        config.train.duration = "1k steps"
        config.guard.after = 500
    if size == "toy":
        config.method.codebook.update({"codes": 8, "width": 8})
        config.method.estimator.update({"depth": 1, "width": 16, "heads": 2, "mlp_width": 32})
    return config
