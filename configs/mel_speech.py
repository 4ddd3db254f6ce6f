"""What configs of pre-training on log-mel share (2010.10504): sizes, Libri-Light, schedule."""

from ml_collections import ConfigDict

from configs import common, datasets


def mel_encoder(size: str) -> ConfigDict:
    """Returns the Conformer of a size: l, xl, xxl, xxl_plus, mini or toy."""
    preset = "l" if size in ("mini", "toy") else size
    encoder = ConfigDict({"kind": "mel_conformer", "preset": preset})
    if size == "mini":
        encoder.update({"depth": 4, "width": 144, "heads": 4, "mlp_width": 576})
        encoder.update({"depthwise_kernel": 15, "conv_channels": 32, "strides": (2, 1)})
    if size == "toy":
        encoder.update({"depth": 2, "width": 16, "heads": 2, "mlp_width": 32})
        encoder.update({"depthwise_kernel": 4, "num_mels": 16, "conv_channels": 4})
        encoder.update({"dropout": 0.0, "embed_dropout": 0.0})
    return encoder


def pretraining(method: ConfigDict, size: str) -> ConfigDict:
    """Returns a run that pre-trains an encoder of that size on 60k hours of Libri-Light.

    2,048 crops of 32 s; 25k updates of warm-up, then the inverse square root. XXL and XXL+ have
    Adafactor, whose state is half as large as that of Adam. The norm after the depthwise
    convolution is a LayerNorm: for the paper's BatchNorm, over the real frames of the global batch,
    set config.method.encoder.depthwise_norm='batch' and batch_momentum=0.01.
    """
    config = common.base()
    config.method = method
    config.method.encoder = mel_encoder(size)
    config.data = datasets.librispeech(2048)
    source = {"kind": "fairseq_tsv", "path": "data/libri_light/train.tsv", "rate": 16000}
    config.data.train = ConfigDict({"libri_light": source})
    config.data.update({"buckets": (8.0, 16.0, 24.0, 32.0)})
    config.optim.update({"lr": 2e-3, "betas": (0.9, 0.98), "eps": 1e-9, "clip": 20.0})
    config.optim.update({"schedule": "inverse_sqrt", "warmup": "25k steps"})
    config.train.duration = "400k steps"
    config.checkpoint.every = config.eval.every = "5k steps"
    if size in ("xl", "xxl", "xxl_plus"):
        common.shard(config)
    if size in ("xxl", "xxl_plus"):
        config.optim.name = "adafactor"
    if size == "mini":
        config.data.train = datasets.librispeech(8).train
        config.data.train.librispeech.splits = ("train-clean-5",)
        config.data.valid.librispeech.splits = ("dev-clean-2",)
        config.data.test.librispeech.splits = ("dev-clean-2",)
        config.data.update({"buckets": (4.0, 8.0), "batch_size": 16, "workers": 0})
        config.optim.warmup = "1k steps"
        config.train.duration = "10k steps"
        config.checkpoint.every = config.eval.every = "500 steps"
    if size == "toy":
        common.toy(config)
        config.data.update({"constant_seconds": False, "workers": 0})
    return config
