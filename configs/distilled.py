"""The sections config.method of methods with a frozen teacher; configs/common.py has them too."""

from ml_collections import ConfigDict


def dmae() -> ConfigDict:
    """Returns config.method of DMAE; ssl_jax/methods/dmae.py explains every key."""
    return ConfigDict(
        {
            "name": "dmae",
            "encoder": ConfigDict({}),
            # the folder of a finished run, or the beginning of its signature; for a plan, a config
            # such as configs/mae/image.py:large will do
            "teachers": {"teacher": ""},
            "mask_ratio": 0.75,
            "rounding": "floor",
            "norm_pix": False,
            "masked_only": True,
            "decoder": {"width": 512, "depth": 8, "heads": 16, "mlp_width": 2048},
            "align": {
                "student": (9,),
                "teacher": (18,),
                "projector": "linear",
                "alpha": 1.0,
                "normalize_features": "l2",
                "center": "none",
                "center_decay": 0.9,
            },
        }
    )


def mimco() -> ConfigDict:
    """Returns config.method of MimCo; ssl_jax/methods/mimco.py explains every key.

    Only the two contrastive losses and the frozen teacher are known: each number is a choice.
    """
    return ConfigDict(
        {
            "name": "mimco",
            "encoder": ConfigDict({}),
            "teachers": {"teacher": ""},
            "mask_ratio": 0.75,
            "decoder": {"width": 384, "depth": 1, "heads": 12, "mlp_width": 1536},
            "hidden": 4096,
            "patch": {
                "weight": 1.0,
                "loss": "infonce",
                "temperature": 0.1,
                "negatives": "image",
                "beta": 1.0,
                "center": "none",
                "center_decay": 0.9,
            },
            "image": {
                "weight": 1.0,
                "loss": "infonce",
                "temperature": 0.2,
                "beta": 1.0,
                "pool": "frames",
            },
        }
    )


def lighthubert() -> ConfigDict:
    """Returns config.method of LightHuBERT; ssl_jax/methods/lighthubert.py explains every key."""
    return ConfigDict(
        {
            "name": "lighthubert",
            "encoder": ConfigDict({}),
            "teachers": {"teacher": ""},
            "space": {
                "embed": (512, 640, 768),
                "heads": (8, 10, 12),
                "ratios": (3.5, 4.0),
                "depths": (12,),
                "drop_order": (),
                "named": (("a_base", "640/10x12/4x12"),),
            },
            "sample": "uniform",
            "subnet": "",
            "mask": {"prob": 0.65, "length": 10, "min_spans": 2, "same_count": False},
            "targets": {
                "layers": 8,
                "source": "ffn",
                "layer_norm": "none",
                "final_norm": "none",
                "include_prefix": True,
                "center": "none",
                "center_decay": 0.9,
                "standardize": False,
            },
            "masked_only": True,
        }
    )


def mvd() -> ConfigDict:
    """Returns config.method of MVD; ssl_jax/methods/mvd.py explains every key."""
    return ConfigDict(
        {
            "name": "mvd",
            "encoder": ConfigDict({}),
            # as in `dmae`; either may be left out
            "teachers": ConfigDict({"image": "", "video": ""}),
            "mask": {"kind": "tube", "ratio": 0.9},
            "decoder": {"width": 768, "depth": 2, "heads": 12, "mlp_width": 3072},
            "targets": {
                "norm": "none",
                "loss": "smooth_l1",
                "beta": 1.0,
                "image_weight": 1.0,
                "video_weight": 1.0,
                "resize": False,
            },
        }
    )
