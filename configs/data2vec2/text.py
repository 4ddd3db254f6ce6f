r"""data2vec 2.0 on English text, books and Wikipedia (2212.07525, sections 3 and 4.3).

Command: python -m ssl_jax.train --config configs/data2vec2/text.py:base --workdir runs/d2v2_base
  base   12 layers of width 768 on blocks of 512 tokens, 8 masks a block, 266 tokens visible. 1M
         updates of 32 blocks, as the stated 4.1 epochs and hours imply; the released config has 64.
         TPU v4-32 (16 chips): about 10 hours, from 6.3e19 FLOP at 40 % of peak, not measured; the
         paper: 28 hours on 16 A100. Published GLUE average (development sets, 5 runs): 82.6.
         52 % of the tokens stay visible, as in the released config; the paper says 58 %.
  large  24 layers of width 1024, half of the tokens visible, 600k updates of 64 blocks: about 31
         hours by the same estimate. No published number is known.
  large_1m  the same for 1M updates with a smooth L1 loss, and a group of its own for the decoder:
         --config.optim.lr_rules="(('^decoder/',10.0),)" gives it ten times the learning rate. The
         released config has 1e-4 in both groups. About 52 hours; no published number is known.
  mini   4 layers of width 128 on blocks of 128 bytes, 4 masks, any folder of text files: an
         estimated half hour or less on two cores; no published number. What it learns is not
         measured: if train/frontend_std falls, targets encode little but the position of a byte.
  own    like mini, with a held-out twentieth of the paragraphs, on a text file or any folder of
         them: --config.data.train.own.path=PATH (docs/data.md); no published number.

Base and large read RoBERTa's byte-level BPE from config.data.tokenizer. The corpus is text files
below config.data.train.text.path, one document each. Weight decay applies to all parameters, as in
the released runs.
"""

from ml_collections import ConfigDict

from configs import common, datasets

# the teacher uses the student's token embedding, positions and their norm
EMA_RULES = (("^encoder/blocks/", "average"), (".*", "absent"))
BYTES = 261  # 256 bytes and the special tokens of the byte tokenizer


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the run of `arg`: base (default), large, large_1m, mini, own or toy."""
    size = arg or "base"
    common.check(size, ("base", "large", "large_1m", "mini", "own", "toy"))
    config = common.base()
    config.method = common.data2vec2()
    _method(config.method)
    config.data = datasets.books_and_wiki(32)
    config.optim.update({"lr": 2e-4, "warmup": "4k steps", "weight_decay": 0.01, "clip": 1.0})
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
    if size in ("large", "large_1m"):
        _large(config)
    if size == "large_1m":
        config.method.loss.beta = 4.0
        config.optim.lr_rules = (("^decoder/", 1.0),)
        config.train.duration = "1M steps"
    if size in ("mini", "own"):
        _mini(config)
    if size == "own":
        config.data = datasets.own_text(16, 128)
    if size == "toy":
        _toy(config)
    return config


def _method(method: ConfigDict) -> None:
    method.encoder = ConfigDict({"kind": "text", "preset": "base", "vocab_size": 50265})
    method.encoder.update({"max_tokens": 512, "position_std": 768**-0.5})
    method.mask.update({"kind": "random", "ratio": 0.48})
    method.decoder.update({"dim": 768, "groups": 1, "kernel": 9, "layers": 5, "residual": False})
    method.decoder.update({"projection_layers": 2, "init": "bert"})
    method.targets.layers = 12
    method.loss.scale = 1.0
    method.ema.update({"start": 0.9999, "end": 0.99999, "anneal": 100_000, "rules": EMA_RULES})


def _large(config: ConfigDict) -> None:
    method = config.method
    method.encoder.update({"preset": "large", "position_std": 1024**-0.5})
    method.mask.ratio = 0.5
    method.targets.update({"layers": 24, "layer_norm": "layer", "final_norm": "instance"})
    config.optim.lr = 1e-4
    config.data.batch_size = 64
    config.train.duration = "600k steps"


def _mini(config: ConfigDict) -> None:
    method = config.method
    method.encoder.update({"depth": 4, "width": 128, "heads": 4, "mlp_width": 512})
    # larger ones outweigh the byte embedding, and the first targets encode only the position
    method.encoder.update({"vocab_size": BYTES, "max_tokens": 128, "position_std": 0.01})
    method.clones = 4
    method.decoder.update({"dim": 128, "groups": 4, "layers": 3})
    method.targets.layers = 4
    method.ema.update({"start": 0.998, "end": 0.9999, "anneal": 1_000})
    config.data.update({"tokenizer": "byte", "block_tokens": 128, "workers": 0})
    config.data.batch_size = 16
    config.optim.update({"lr": 1e-3, "warmup": "10%"})
    config.train.duration = "1k steps"
    config.checkpoint.every = config.eval.every = "250 steps"
    config.guard.after = 500


def _toy(config: ConfigDict) -> None:
    common.toy(config)
    method = config.method
    method.encoder.update({"depth": 2, "width": 16, "heads": 2, "mlp_width": 32})
    method.encoder.update({"vocab_size": BYTES, "max_tokens": 24, "position_std": 0.25})
    method.clones = 2
    method.decoder.update({"dim": 16, "kernel": 3, "layers": 2})
    method.targets.layers = 2
    config.data.update({"tokenizer": "byte", "block_tokens": 24, "workers": 0})
