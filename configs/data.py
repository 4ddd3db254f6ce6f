"""The data sections that configs start from, one per modality; configs/common.py has them too."""

from ml_collections import ConfigDict


def audio_data() -> ConfigDict:
    """Returns the data section for audio."""
    return ConfigDict(
        {
            # audio | image | text | video | pair, of sound and picture
            "modality": "audio",
            # named sources, each {kind, path, weight, ...}; see ssl_jax/data/readers/sources.py;
            # in valid and test, path '' means that of the source of the same name in train
            "train": ConfigDict({}),
            "valid": ConfigDict({}),
            "test": ConfigDict({}),
            # frame-label stores, one per set of labels; see ssl_jax/data/frame_labels.py
            "units": {"train": (), "valid": (), "test": ()},
            "sample_rate": 16000,
            # one fixed shape per bucket, in seconds; longer clips are cropped to the last bucket
            "buckets": (1.0,),
            "min_seconds": 0.0,
            # global batch size in the longest bucket; shorter buckets have the same, or with
            # `constant_seconds` more, so that every batch has as many seconds
            "batch_size": 0,
            "constant_seconds": False,
            # ordered class names; () = the sorted labels of the training split
            "classes": (),
            # tokens of transcripts: letters | characters | phones | pieces of words | a file with a
            # model of these; see ssl_jax/data/transcripts.py
            "spelling": "letters",
            # pieces: the size of the vocabulary that is learned from the training split
            "pieces": 1024,
            # keep this many labelled training rows per class (0 = all), chosen by label_seed
            "labels_per_class": 0,
            "label_share": 1.0,
            "label_seed": 0,
            # raise | skip: what to do with a broken, empty, too short or silent file
            "on_bad": "raise",
            "max_bad_share": 0.01,
            "workers": 0,
            "threads": 2,
        }
    )


def image_data() -> ConfigDict:
    """Returns the data section for images; see audio_data() for the keys that both have."""
    return ConfigDict(
        {
            "modality": "image",
            "train": ConfigDict({}),
            "valid": ConfigDict({}),
            "test": ConfigDict({}),
            "image_size": 224,  # side of the square images that the transforms return
            # {name: options}, see ssl_jax/data/transforms.py: one crop, and any others; they are
            # applied in the order listed there
            "transforms": ConfigDict({"random_resized_crop": {"scale": (0.2, 1.0)}, "flip": {}}),
            "eval_transforms": ConfigDict({"center_crop": {"share": 0.875}}),
            # more than 1: `image` has an axis of views, each with random numbers of its own;
            # view_transforms: {"view2": {name: options}} in place of `transforms` for that view
            "views": 1,
            "view_transforms": ConfigDict({}),
            # images with a shorter side, or with more megapixels, are invalid
            "min_side": 8,
            "max_megapixels": 64,
            # MiB of decoded images to keep in memory, so that small ones are decoded only once
            "keep_mb": 256,
            "batch_size": 0,
            "classes": (),
            "labels_per_class": 0,
            "label_share": 1.0,
            "label_seed": 0,
            # raise | skip: what to do with a broken, blank, too small or too large file
            "on_bad": "raise",
            "max_bad_share": 0.01,
            "workers": 0,
            "threads": 2,
            # images have no duration: one shape for all
            "sample_rate": 0,
            "buckets": (1.0,),
        }
    )


def text_data() -> ConfigDict:
    """Returns the data section for text; see audio_data() for the keys that both have."""
    return ConfigDict(
        {
            "modality": "text",
            "train": ConfigDict({}),
            "valid": ConfigDict({}),
            "test": ConfigDict({}),
            # byte (261 ids), or a JSON file of the tokenizers library
            "tokenizer": "byte",
            # tokens per example, including <s>; the tokens are cached in $SSL_JAX_CACHE
            "block_tokens": 512,
            # none: blocks may span documents | complete_doc: they are cut from one document each
            "break_mode": "none",
            "batch_size": 0,
            "classes": (),
            "labels_per_class": 0,
            "label_share": 1.0,
            "label_seed": 0,
            # raise | skip: what to do with a document that is not UTF-8
            "on_bad": "raise",
            "max_bad_share": 0.01,
            "workers": 0,
            "threads": 2,
            # text has no duration: one shape for all
            "sample_rate": 0,
            "buckets": (1.0,),
        }
    )
