"""The keys of config.method of methods of sound and picture, with their defaults."""

from ml_collections import ConfigDict


def mavil() -> ConfigDict:
    """Returns config.method of MAViL; ssl_jax/methods/mavil.py explains every key.

    Unverified: the weights and temperatures of both contrasts, and norm_targets.
    """
    decoder = {"width": 512, "depth": 8, "heads": 16, "mlp_width": 2048}
    return ConfigDict(
        {
            "name": "mavil",
            "encoders": ConfigDict(
                {
                    "audio": {"kind": "spectrogram", "frames": 1024, "final_norm": False},
                    "video": {
                        "kind": "video",
                        "frames": 8,
                        "positions": "space_time",
                        "class_token": True,
                        "key_bias": True,
                        "final_norm": False,
                    },
                }
            ),
            "fusion": {"kind": "joint", "depth": 2, "tokens": 4},
            "decoders": {"audio": dict(decoder), "video": dict(decoder)},
            "mask_ratio": {"audio": 0.8, "video": 0.8},
            "raw": 1.0,
            "norm_pix": True,
            "norm_targets": True,
            "inter": {"weight": 0.1, "temperature": 0.1},
            "intra": {"weight": 0.01, "temperature": 0.1},
            "teachers": ConfigDict({}),
        }
    )
