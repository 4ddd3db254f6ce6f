"""Data sections of corpora that several configs share."""

from ml_collections import ConfigDict

from configs import common


def speech_commands() -> ConfigDict:
    """Returns the data of Speech Commands V2: official splits, 512 clips of one second a batch."""
    data = common.audio_data()
    for split in ("train", "valid", "test"):
        path = "data/speech_commands_v2"
        data[split].sc = ConfigDict({"kind": "speech_commands", "path": path, "part": (0.0, 1.0)})
    data.batch_size = 512
    return data


def librispeech(batch: int) -> ConfigDict:
    """Returns the data of LibriSpeech 960 h: `batch` clips of 20 s or as long in all."""
    data = common.audio_data()
    splits = {
        "train": ("train-clean-100", "train-clean-360", "train-other-500"),
        "valid": ("dev-clean",),
        "test": ("test-clean",),
    }
    for split, folders in splits.items():
        data[split].librispeech = ConfigDict(
            {"kind": "librispeech", "path": "data/LibriSpeech", "splits": folders}
        )
    data.update({"buckets": (4.0, 8.0, 12.0, 14.0, 16.0, 20.0), "min_seconds": 2.0})
    data.update({"batch_size": batch, "constant_seconds": True, "workers": 8})
    return data


def imagenet(batch: int) -> ConfigDict:
    """Returns the data of ImageNet-1K: `batch` crops of a fifth of an image or more."""
    data = common.image_data()
    for split, folder in (("train", "train"), ("valid", "val")):
        path = f"data/imagenet/{folder}"
        data[split].images = ConfigDict({"kind": "image_folder", "path": path})
    crop = {"scale": (0.2, 1.0), "interpolation": "bicubic"}
    data.transforms = ConfigDict({"random_resized_crop": crop, "flip": {}})
    data.update({"batch_size": batch, "workers": 16})
    return data


def use_cifar10(data: ConfigDict, size: int, batch: int) -> None:
    """Puts CIFAR-10, in two tar archives, in place of ImageNet: `batch` crops of `size` pixels."""
    for split, file in (("train", "train"), ("valid", "test")):
        path = f"data/cifar10/{file}.tar"
        data[split].images = ConfigDict({"kind": "image_tar", "path": path})
    data.update({"image_size": size, "batch_size": batch, "workers": 0})


def own_audio(batch: int) -> ConfigDict:
    """Returns the data of a folder of audio: `batch` clips of 4 s or as long in all.

    A twentieth of the files is for validation. Unreadable files are skipped and listed.
    """
    data = common.audio_data()
    for split, part in (("train", (0.0, 0.95)), ("valid", (0.95, 1.0))):
        data[split].own = ConfigDict({"kind": "folder", "path": "", "part": part, "weight": 1.0})
    data.update({"buckets": (1.0, 2.0, 4.0), "min_seconds": 0.2, "batch_size": batch})
    data.update({"constant_seconds": True, "on_bad": "skip", "max_bad_share": 0.1})
    return data


def own_images(batch: int, size: int) -> ConfigDict:
    """Returns the data of a folder of images: `batch` crops of `size` pixels.

    A twentieth of the files is for validation. Unusable images are skipped and listed.
    """
    data = common.image_data()
    for split, part in (("train", (0.0, 0.95)), ("valid", (0.95, 1.0))):
        source = {"kind": "image_folder", "path": "", "part": part, "weight": 1.0}
        data[split].own = ConfigDict(source)
    data.update({"image_size": size, "batch_size": batch, "on_bad": "skip", "max_bad_share": 0.1})
    return data


def own_text(batch: int, tokens: int) -> ConfigDict:
    """Returns the data of a text file, or of a folder of them: `batch` blocks of `tokens` bytes.

    A twentieth of the paragraphs is for validation.
    """
    data = common.text_data()
    for split, part in (("train", (0.0, 0.95)), ("valid", (0.95, 1.0))):
        source = {"kind": "text_files", "path": "", "part": part, "documents": "paragraph"}
        data[split].own = ConfigDict({**source, "weight": 1.0})
    data.update({"block_tokens": tokens, "batch_size": batch})
    data.update({"on_bad": "skip", "max_bad_share": 0.1})
    return data


def books_and_wiki(batch: int) -> ConfigDict:
    """Returns the data of books and Wikipedia: `batch` blocks of 512 RoBERTa tokens."""
    data = common.text_data()
    for split in ("train", "valid"):
        path = f"data/books_wiki/{split}"
        data[split].text = ConfigDict({"kind": "text_files", "path": path})
    data.update({"tokenizer": "data/roberta/tokenizer.json", "block_tokens": 512})
    data.update({"batch_size": batch, "workers": 8})
    return data
