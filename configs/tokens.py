"""The methods that learn or predict tokens of sound; configs/common.py has them too."""

from ml_collections import ConfigDict


def beats_tokenizer() -> ConfigDict:
    """Returns config.method of the tokenizer; ssl_jax/methods/beats_tokenizer.py explains it."""
    return ConfigDict(
        {
            "name": "beats_tokenizer",
            "encoder": ConfigDict({}),
            "teachers": {"teacher": ""},
            "target": "features",
            "codebook": {
                "codes": 1024,
                "width": 256,
                "decay": 0.99,
                "commitment": 1.0,
                "dead_after": 100,
                "restart": False,
            },
            "estimator": {
                "width": 768,
                "depth": 3,
                "heads": 12,
                "mlp_width": 3072,
                "positions": "relative",
            },
            "center": "none",
            "center_decay": 0.9,
        }
    )


def beats() -> ConfigDict:
    """Returns config.method of BEATs; ssl_jax/methods/beats.py explains every key."""
    return ConfigDict(
        {
            "name": "beats",
            "encoder": ConfigDict({}),
            "teachers": {"tokenizer": ""},
            "labels": "random",
            "units": {"classes": (1024,), "rate": 50.0},
            "random": {
                "seed": 0,
                "hidden": 512,
                "width": 256,
                "norm": "layer",
                "normalize_patches": False,
            },
            "mask_ratio": 0.75,
            "predictor": {
                "width": 768,
                "depth": 3,
                "heads": 12,
                "mlp_width": 3072,
                "positions": "relative",
            },
            "mask_token": "zeros",
            "label_smoothing": 0.0,
        }
    )
