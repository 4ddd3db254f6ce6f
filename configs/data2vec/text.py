r"""data2vec v1 on English text, books and Wikipedia, based on RoBERTa (2202.03555, section 4.3).

Command: python -m ssl_jax.train --config configs/data2vec/text.py:base --workdir runs/d2v_text
  base   12 blocks of width 768; 512 tokens of one document an example, 256 a step, 1M updates.
         TPU v4-32 (16 chips): about 16 hours, from 1.0e20 FLOP at 40 % of peak, not measured;
         the paper: 69 hours on 16 A100. Published GLUE average (development sets, 5 runs): 82.9
         with spans of four words, as here, 82.7 with BERT's mask, 82.5 for RoBERTa retrained. The
         EMA decay stops rising at 300k updates, as in the released config; the paper has 100k.
  mini   4 blocks of width 128 on blocks of 128 bytes, any folder of text files: minutes on two
         cores; no published number.

BERT's mask: --config.method.mask.prob=0.15 --config.method.mask.length=1
--config.method.mask.random=0.1 --config.method.mask.keep=0.1 --config.method.mask.first_id=4.
Base reads RoBERTa's byte-level BPE from config.data.tokenizer. The corpus is text files below
config.data.train.text.path, one document each. Then fine-tune with configs/supervised/glue.py.
"""

from ml_collections import ConfigDict

from configs import common, datasets

# the teacher uses the student's token embedding, positions and their norm
EMA_RULES = (("^encoder/blocks/", "average"), (".*", "absent"))
BYTES = 261  # 256 bytes and the special tokens of the byte tokenizer


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: base (default), mini or toy."""
    size = arg or "base"
    common.check(size, ("base", "mini", "toy"))
    config = common.base()
    config.method = common.data2vec()
    _method(config.method)
    config.data = datasets.books_and_wiki(256)
    config.data.break_mode = "complete_doc"
    config.optim.update({"lr": 2e-4, "warmup": "10k steps", "weight_decay": 0.01, "clip": 5.0})
    config.optim.update({"betas": (0.9, 0.98), "eps": 1e-6})
    config.train.duration = "1M steps"
    config.checkpoint.every = config.eval.every = "10k steps"
    config.guard.floors = ConfigDict(
        {
            "target_std": 0.1,
            "prediction_std": 0.01,
            "frontend_std": 0.001,
            "instance_variance_ratio": 0.1,
        }
    )
    if size == "mini":
        _mini(config)
    if size == "toy":
        _toy(config)
    return config


def _method(method: ConfigDict) -> None:
    method.encoder = ConfigDict(
        {"kind": "text", "preset": "base", "vocab_size": 50265, "max_tokens": 512}
    )
    method.mask.update({"kind": "text", "prob": 0.35, "length": 4, "vector_std": 0.02})
    method.targets.update({"layers": 10, "layer_norm": "layer"})
    method.predictor.update({"layers": 2, "init": "bert"})
    method.loss.update({"beta": 4.0, "scale": 1.0})
    method.ema.update({"start": 0.999, "end": 0.9999, "anneal": 300_000, "rules": EMA_RULES})


def _mini(config: ConfigDict) -> None:
    method = config.method
    method.encoder.update({"depth": 4, "width": 128, "heads": 4, "mlp_width": 512})
    method.encoder.update({"vocab_size": BYTES, "max_tokens": 128})
    method.targets.layers = 4
    method.ema.update({"start": 0.99, "end": 0.999, "anneal": 2_000})
    config.data.update({"tokenizer": "byte", "block_tokens": 128, "workers": 0})
    config.data.update({"batch_size": 64})
    config.optim.update({"lr": 1e-3, "warmup": "10%"})
    config.train.duration = "5k steps"
    config.checkpoint.every = config.eval.every = "500 steps"
    config.guard.after = 2_000


def _toy(config: ConfigDict) -> None:
    common.toy(config)
    method = config.method
    method.encoder.update({"depth": 2, "width": 16, "heads": 2, "mlp_width": 32})
    method.encoder.update({"vocab_size": BYTES, "max_tokens": 24})
    method.targets.layers = 2
    config.data.update({"tokenizer": "byte", "block_tokens": 24, "workers": 0})
