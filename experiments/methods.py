"""The table of methods in the README; docs/methods.md has the claims, configs and details."""

import re
from typing import NamedTuple

from experiments import miniatures, results


class Row(NamedTuple):
    """One system: what it is for, what its paper reports, and the miniature that tests it.

    published: percentages are accuracies unless the text says otherwise.
    """

    system: str
    purpose: str
    published: str
    miniature: str = ""

    @property
    def anchor(self) -> str:
        """The anchor of its section in docs/methods.md, as GitHub makes it of the heading."""
        kept = (c for c in self.system.lower().replace(" ", "-") if c.isalnum() or c in "-_")
        return "".join(kept)


ROWS = (
    Row("data2vec, keywords", "spoken commands, few labels", "86.2 → 92.9 %", "kws"),
    Row("data2vec, speech", "speech recognition", "6.8 % word errors, 100 h of labels"),
    Row(
        "data2vec, images and text",
        "features of images, of sentences",
        "ImageNet 84.2 %, GLUE 82.9",
        "data2vec",
    ),
    Row(
        "data2vec 2.0",
        "the same, 2 to 16 times faster",
        "ImageNet 84.5 %; 6.4 % word errors, 100 h",
        "data2vec2",
    ),
    Row("HuBERT", "units of speech, recognition", "PNMI 0.25 → 0.68 → 0.70", "hubert"),
    Row(
        "wav2vec 2.0",
        "recognition from minutes of labels",
        "8.0 % word errors, 100 h",
        "wav2vec2",
    ),
    Row(
        "wav2vec 2.0 with Conformer blocks",
        "the same, with convolutions in every block",
        "4.0 % word errors, 960 h",
    ),
    Row(
        "Conformers on log-mel",
        "recognition with up to a billion parameters",
        "3.3 % word errors, 960 h",
    ),
    Row(
        "Noisy student training",
        "recognition, taught by what a model transcribes",
        "3.3 → 2.7 % word errors, 960 h",
    ),
    Row(
        "MAE, images and spectrograms",
        "features of images, of sounds",
        "ImageNet 83.6 %; AudioSet 46.8 mAP",
        "mae",
    ),
    Row("AudioMAE", "tags of sounds", "AudioSet 47.3 mAP, ESC-50 94.1 %"),
    Row(
        "DMAE",
        "a small MAE taught by a larger one",
        "ImageNet 84.0 % after 100 epochs",
        "dmae",
    ),
    Row(
        "VideoMAE",
        "features of video",
        "Kinetics-400 81.5 %, Something-Something v2 70.8 %",
    ),
    Row(
        "MVD",
        "features of video, taught by images and video",
        "Kinetics-400 82.7 %, Something-Something v2 72.5 %",
        "mvd",
    ),
    Row("MAViL", "features of sound and picture", "AudioSet 53.3 mAP, VGGSound 67.1 %"),
    Row("BEATs", "features and tokens of any sound", "AudioSet 48.6 mAP, ESC-50 98.1 %", "beats"),
    Row(
        "LightHuBERT",
        "HuBERT in a third of its size",
        "SUPERB score 79.1, HuBERT 80.8",
        "lighthubert",
    ),
    Row("MoCo v3", "features of images", "ImageNet 83.2 %, linear probe 76.7 %", "moco_v3"),
    Row(
        "MimCo-style prediction",
        "masked images, taught by MoCo v3",
        "ImageNet 82.5 % after 100 epochs",
        "mimco",
    ),
    Row("Music2Vec", "tags, genre and key of music", "MagnaTagATune 90.0 ROC-AUC", "music2vec"),
)

# systems of experiments/benchmarks/step_vs_torch.py
SHORT = {
    "hubert_audio": "HuBERT",
    "wav2vec2_audio": "wav2vec 2.0",
    "data2vec_audio": "data2vec",
    "data2vec2_audio": "data2vec 2.0 on speech",
    "lighthubert_audio": "LightHuBERT",
    "data2vec2_image": "data2vec 2.0 on images",
    "beats": "BEATs",
    "beats_tokenizer": "BEATs' tokenizer",
    "mae": "MAE",
    "dmae": "DMAE",
    "moco_v3": "MoCo v3",
}


def table() -> list[dict[str, str]]:
    """Returns the rows of the table."""
    made = {name: make() for name, make in miniatures.MINIATURES.items()}
    return [
        {
            "system": row.system,
            "what it is for": row.purpose,
            "published": row.published,
            "ours, in miniature": made.get(row.miniature, miniatures.NOT_RUN),
            "details": f"[more](docs/methods.md#{row.anchor})",
        }
        for row in ROWS
    ]


def status() -> str:
    """Returns what has been run and what compiled, on which hardware, by the results files."""
    gpu = results.read("benchmarks/step_vs_torch_gpu.json")
    card = gpu["machine"].split(", ")[-1]
    found = results.read("scaling/results.json")
    rows = [row for part in ("weak", "fit") for row in found[part]]
    chips = [row["chips"] for row in rows]
    kinds = " and ".join(sorted({re.sub(r"^\d+x|:.*", "", row["topology"]) for row in rows}))
    return (
        "**Status.** CPU: run and tested. GPU: the pre-training step of "
        f"{' and '.join(SHORT[name] for name in gpu['systems'])} was timed on one {card}, and "
        f"[nothing else](docs/speed.md) has run there. TPU: the steps of "
        f"{len({row['config'] for row in rows})} recipes were compiled for {kinds} slices of "
        f"{min(chips)} to {max(chips):,} chips ([up to machine code](experiments/scaling/README.md)"
        "), and none has run on one.\n"
    )
