"""What each curve of a report means, in a line; docs/metrics.md tells what a healthy run shows."""

import re
from collections.abc import Mapping

from ml_collections import ConfigDict

from ssl_jax.core import config as config_lib

MEANINGS: Mapping[str, str] = {
    "loss": "What training lowers: a mean over the targets of the batch.",
    "accuracy": "Share of the examples that the head classifies correctly.",
    "squared_error": "Mean squared distance of the predicted numbers from the true ones.",
    "average_precision": "Area under precision over recall, mean over tags; chance is their share.",
    "roc_auc": "Chance that a right tag scores above a wrong one; guessing is 0.5.",
    "d_prime": "How far right tags score above wrong ones, in deviations; guessing is 0.",
    "mcc": "Correlation of predicted and true classes; guessing is 0.",
    "f1": "Harmonic mean of precision and recall.",
    "pearson": "Linear correlation of the predicted and the true numbers.",
    "spearman": "Correlation of the ranks of the predicted and the true numbers.",
    "r2": "Share of the variance that is explained; 0 is the mean, below 0 is worse than that.",
    "wer": "Words wrong, missing or too many, per word of the reference; may exceed 1.",
    "cer": "Characters wrong, missing or too many, per character of the reference.",
    "per": "Phones wrong, missing or too many, per phone of the reference.",
    "regression": "Distance of the predictions from the targets at masked tokens.",
    "cls": "Distance of the class token from the mean target.",
    "target_std": "Spread of the targets over tokens; towards 0, the targets have collapsed.",
    "prediction_std": "Spread of the predictions over tokens; 0 is one guess for every token.",
    "pixel_loss": "Squared error of the pixels of masked patches.",
    "patch_loss": "Loss of the frozen teacher's features of masked patches.",
    "image_loss": "Loss of the frozen teacher's features of whole images.",
    "frame_loss": "Distance from the features that the teacher of images has of hidden tubelets.",
    "clip_loss": "Distance from the features that the teacher of video has of hidden tubelets.",
    "audio_loss": "Squared error of the masked patches of sound, or of their features.",
    "video_loss": "Squared error of the masked patches of the picture, or of their features.",
    "inter_loss": "Contrast between sound and picture of a clip among those of the batch.",
    "intra_loss": "Contrast between two masked views of a stream among those of the batch.",
    "retrieval_accuracy": "Share of clips whose own other stream is the nearest in the batch.",
    "audio_std": "Spread of mean tokens of sound over clips; towards 0, they have collapsed.",
    "video_std": "Spread of mean tokens of pictures over clips; towards 0, they have collapsed.",
    "audio_masked_share": "Share of the patches of sound that are masked.",
    "video_masked_share": "Share of the patches of the picture that are masked.",
    "feature_loss": "Distance of the student's features from the frozen teacher's.",
    "label_loss": "Cross-entropy of the labels.",
    "soft_loss": "Divergence from the outputs of the frozen teacher, at the temperature.",
    "teacher_accuracy": "Share of the examples that the frozen teacher classifies correctly.",
    "feature_std": "Spread of the frozen teacher's features over tokens.",
    "frontend_std": "Spread of the input of the blocks; towards 0, the front end has collapsed.",
    "instance_variance_ratio": "Share of the targets' variance that depends on the example, and "
    "not on the position alone.",
    "teacher_student_cosine": "How alike teacher and student are at masked tokens; 1 is equal.",
    "ema_decay": "Share of the teacher that is kept at each update.",
    "teacher_turnover": "Sum of 1 - decay so far; below 3 the teacher is still its random start.",
    "masked_loss": "Cross-entropy of the units of masked frames.",
    "unmasked_loss": "Cross-entropy of the units of frames that are seen.",
    "masked_accuracy": "Share of the masked frames whose unit is predicted.",
    "unmasked_accuracy": "Share of the frames that are seen whose unit is predicted.",
    "unit_entropy": "How evenly the labels use the units, in nats.",
    "prediction_entropy": "How evenly the predictions use the units, in nats; 0 is a single unit.",
    "codes_used": "Codes that the labels of a batch use.",
    "codes_predicted": "Codes that the predictions for a batch use; 1 is a collapse.",
    "unused_codes": "Codes of the tokenizer that no token has had for many updates.",
    "estimate_loss": "1 - cosine of the teacher's features and their estimate from the codes.",
    "commitment_loss": "Mean square of the tokenizer's vectors minus their codes.",
    "feature_penalty": "Mean energy of the output of the front end.",
    "contrastive_loss": "Cross-entropy of the frame's own code among negatives; chance is the "
    "logarithm of 1 + negatives.",
    "contrastive_accuracy": "Share of the masked frames that find their own code.",
    "contrast_accuracy": "Share of the views that find the other view of their example.",
    "distinct_negatives": "Share of the negatives that have another code than the frame.",
    "code_perplexity": "Codes in use, over all groups.",
    "soft_perplexity": "Codes in use by their probabilities, which the diversity term acts on.",
    "temperature": "Randomness of the choice of codes; falls on a schedule.",
    "blank_share": "Share of the frames without a letter; at 1 the transcripts are empty.",
    "infeasible": "Share of the clips with fewer frames than their transcript needs.",
    "masked_share": "Share of the tokens that are masked.",
    "used_rows": "Share of the rows that are used; the others are padding or unusable.",
    "largest_loss": "Loss of the largest subnet.",
    "smallest_loss": "Loss of the smallest subnet.",
    "lr": "The learning rate.",
    "gradient_norm": "Length of the gradient before clipping; jumps warn of divergence.",
    "parameter_norm": "Length of all parameters as one vector.",
    "teraflop_per_second": "Floating-point operations of the steps, per second.",
    "utilization": "Share of the devices' peak that the steps reach.",
    "examples_per_second": "Examples trained on per second, without pauses.",
    "audio_hours_per_second": "Hours of audio trained on per second, without pauses.",
}
_DROPOUT = re.compile(r"(^|[._])(dropout|layerdrop|drop_path)$")
_AUGMENT = re.compile(r"^method\.(augment|spectral)\.|^data\.transforms\.(?!center_crop)")
_STRIPES = re.compile(r"^method\.spec_augment\.(time|freq)_masks$")
_HIDDEN = re.compile(r"^method\.stripes\.")
_MIX = re.compile(r"^method\.mix\.(mixup|cutmix)$")


def of(name: str) -> str:
    """Returns what a metric, named without its split, means; "" if it is a method's own."""
    return MEANINGS.get(re.sub(r"_\d+$", "", name), "")


def of_validation(config: ConfigDict) -> str:
    """Returns why the losses of training and validation differ, for the config of a run."""
    flat = config_lib.flatten(config)

    def anywhere(*patterns: re.Pattern[str]) -> bool:
        return any(value for k, value in flat.items() for p in patterns if p.search(k))

    method = config.get("method", {})
    off = ["dropout"] * anywhere(_DROPOUT) + ["augmentation"] * anywhere(_AUGMENT, _STRIPES, _MIX)
    off += ["label smoothing"] * bool(method.get("label_smoothing"))
    tunes = "frozen" in method  # masks are then noise of the training, else they set the task
    hidden = (method.get("mask", {}).get("prob"), method.get("mask_ratio"), anywhere(_HIDDEN))
    off += ["masks"] * (tunes and any(hidden))
    without, with_ = (f", {word} {_listed(off)}" if off else "" for word in ("without", "with"))
    masked = not tunes and ("mask" in method or "mask_ratio" in method)
    masks = ", under the same masks each time" if masked else ""
    return (
        f"Validation: examples that are not trained on, with the parameters of that step{without}"
        f"{masks}. Training: the mean over the steps since the point before{with_}. Where "
        f"validation is higher and the gap grows, training examples are being learned by heart; a "
        f"gap that is there from the start comes from these differences."
    )


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
