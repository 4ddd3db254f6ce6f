"""Sizes of small encoders of clips, and data sections of corpora that configs of video share."""

from ml_collections import ConfigDict

MINI = {"image_size": 32, "frames": 8, "patch_size": 4}
MINI |= {"depth": 4, "width": 96, "heads": 3, "mlp_width": 384}
OWN = MINI | {"image_size": 64, "patch_size": 8}
TOY = {"image_size": 16, "frames": 4, "patch_size": 4}
TOY |= {"depth": 2, "width": 16, "heads": 2, "mlp_width": 32}
# frames between two of a clip
STRIDES = {"k400": 4, "ssv2": 2, "ucf101": 4, "hmdb51": 4}


def video_data() -> ConfigDict:
    """Returns the data section for clips; see configs/data.py for the keys that all have."""
    return ConfigDict(
        {
            "modality": "video",
            "train": ConfigDict({}),
            "valid": ConfigDict({}),
            "test": ConfigDict({}),
            "image_size": 224,  # side of the square frames
            "frames": 16,  # of a clip, `stride` of the video apart
            "stride": 4,
            "fps": 0.0,  # frames per second that are counted; 0.0: those of the video
            # dense: frames in a row, from a random place on, in evaluation from the middle |
            # segments: one frame of each of as many equal parts of the video, without `stride`
            "sampling": "dense",
            # of a video shorter than a clip: hold (its last frame is repeated) | error
            "short": "hold",
            # as of images, with the same random numbers for all frames of a clip
            "transforms": ConfigDict({"random_resized_crop": {"scale": (0.2, 1.0)}, "flip": {}}),
            "eval_transforms": ConfigDict({"center_crop": {"share": 1.0}}),
            "batch_size": 0,
            "classes": (),
            "labels_per_class": 0,
            "label_share": 1.0,
            "label_seed": 0,
            "on_bad": "raise",
            "max_bad_share": 0.01,
            "workers": 0,
            "threads": 2,
            "sample_rate": 0,
            "buckets": (1.0,),
        }
    )


def pretraining(corpus: str, batch: int) -> ConfigDict:
    """Returns the data of k400, ssv2 or ucf101 without labels: `batch` clips of 16 frames."""
    data = video_data()
    for split in ("train", "valid"):
        path = f"data/{corpus}/{split}"
        data[split].clips = ConfigDict({"kind": "video_folder", "path": path})
    data.update({"stride": STRIDES[corpus], "batch_size": batch, "workers": 16})
    return data


def labelled(corpus: str, batch: int) -> ConfigDict:
    """Returns the data of k400, ssv2, ucf101 or hmdb51 with labels, augmented as for VideoMAE."""
    data = pretraining(corpus, batch)
    steps = {
        "random_resized_crop": {"scale": (0.08, 1.0), "interpolation": "bilinear"},
        "flip": {},
        "rand_augment": {"layers": 4, "magnitude": 7.0, "std": 0.5},
        "random_erasing": {"prob": 0.25},
    }
    if corpus == "ssv2":  # whose classes tell left from right
        del steps["flip"]
    data.transforms = ConfigDict(steps)
    return data


def own(batch: int) -> ConfigDict:
    """Returns the data of a folder of video files: `batch` clips of 8 frames of 64 pixels.

    A twentieth of the files is for validation. Unusable videos are skipped and listed.
    """
    data = video_data()
    for split, part in (("train", (0.0, 0.95)), ("valid", (0.95, 1.0))):
        source = {"kind": "video_folder", "path": "", "part": part, "weight": 1.0, "label": ""}
        data[split].own = ConfigDict(source)
    data.update({"image_size": 64, "frames": 8, "stride": 2, "batch_size": batch})
    data.update({"on_bad": "skip", "max_bad_share": 0.1})
    return data


def moving_objects(batch: int) -> ConfigDict:
    """Returns the data of drawn clips: `batch` of 8 frames of 32 pixels."""
    data = video_data()
    for split in ("train", "valid"):
        path = f"data/moving_objects/{split}"
        data[split].clips = ConfigDict({"kind": "table", "path": path, "label": ""})
    # whole frames, as motion to the left and to the right must not be confused
    data.transforms = ConfigDict({"center_crop": {"share": 1.0}})
    data.update({"image_size": 32, "frames": 8, "stride": 1, "batch_size": batch})
    return data
