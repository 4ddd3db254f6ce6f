"""Methods of sound and picture, and the data section of clips that have both."""

from ml_collections import ConfigDict

from configs.data import audio_data


def pair_data() -> ConfigDict:
    """Returns the data section for clips with sound and picture; see configs/data.py for the keys
    of sound."""
    data = audio_data()
    data.update(
        {
            "modality": "pair",
            # the column of a video file or a folder of frames; "": the file of the sound
            "picture": "",
            "image_size": 224,  # side of the square frames
            "frames": 8,  # of a clip, evenly spaced over its seconds
            "fps": 25.0,  # of folders of frames
            # as of images, with the same random numbers for all frames of a clip
            "transforms": ConfigDict({"random_resized_crop": {"scale": (0.2, 1.0)}, "flip": {}}),
            "eval_transforms": ConfigDict({"center_crop": {"share": 1.0}}),
        }
    )
    return data


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
