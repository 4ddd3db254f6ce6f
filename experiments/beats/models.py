"""The configs of the BEATs experiment: models, tokenizers, reconstruction, a classifier."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from configs import common
from experiments.beats import sound
from ssl_jax.core import config as config_lib

# three blocks, so that a seed takes minutes on two cores
SIZE = {"depth": 3, "width": 96, "heads": 4, "mlp_width": 384, "patch_width": 96}
# of predictor, estimator and decoder
SHALLOW = {"depth": 1, "width": 96, "heads": 4, "mlp_width": 384}


def model(data: ConfigDict, steps: int, codes: int, seed: int) -> ConfigDict:
    """Returns a model of random labels."""
    config = _mini("audio", data)
    method = config.method
    method.predictor.update(SHALLOW)
    method.update({"mask_token": "learned", "teachers": ConfigDict({"tokenizer": ""})})
    method.units.classes = (codes,)
    method.random.seed = seed
    return _timed(config, steps, seed)


def tokenizer(data: ConfigDict, steps: int, codes: int, seed: int) -> ConfigDict:
    """Returns a tokenizer, whose teacher is to be set."""
    config = _mini("tokenizer", data)
    config.method.estimator.update(SHALLOW)
    config.method.codebook.codes = codes
    config.method.teachers.teacher = ""
    return _timed(config, steps, seed)


def reconstruction(data: ConfigDict, steps: int, seed: int) -> ConfigDict:
    """Returns a masked autoencoder with the encoder and the mask of a model."""
    config = _mini("audio", data)
    encoder = config.method.encoder
    config.method = common.mae()
    config.method.encoder = encoder
    config.method.decoder.update(SHALLOW)
    config.guard.floors = ConfigDict({"prediction_std": 0.001})
    return _timed(config, steps, seed)


def classifier(folder: str, steps: int, batch: int, seed: int) -> ConfigDict:
    """Returns a classifier of the recordings of a folder, to start from a model."""
    source: Mapping = {"kind": "table", "path": folder, "label": "label"}
    config = _mini("audio", None)
    encoder = config.method.encoder
    config.method = common.supervised()
    config.method.encoder = encoder
    config.data.train, config.data.valid = ConfigDict({"esc10": source}), ConfigDict({})
    config.data.update({"buckets": (sound.SECONDS,), "batch_size": batch})
    config.optim.lr = 5e-4
    config.guard.floors = ConfigDict({})
    return _timed(config, steps, seed)


def _mini(name: str, data: ConfigDict | None) -> ConfigDict:
    """Returns a mini config at the size of this experiment."""
    config = config_lib.load(f"configs/beats/{name}.py:mini").copy_and_resolve_references()
    config.unlock()
    config.method.encoder.update(SIZE)
    if data is not None:
        config.data = data
    return config


def _timed(config: ConfigDict, steps: int, seed: int) -> ConfigDict:
    changes = [f"train.duration={steps} steps", f"checkpoint.every={steps} steps", f"seed={seed}"]
    changes += [f"eval.every={steps} steps", "eval.valid=False", "log.every=25 steps"]
    return config_lib.override(config, [*changes, f"guard.after={max(200, steps // 2)}"])
