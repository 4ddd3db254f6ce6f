"""The table of model families: their name maps, their options and their heads."""

import dataclasses
import types
from collections.abc import Callable
from typing import Any

from ssl_jax.core.config import suggest
from ssl_jax.hub import (
    audiomae,
    beats,
    conformer,
    data2vec2,
    lighthubert,
    moco,
    mvd,
    speech,
    text,
    videomae,
    vision,
)
from ssl_jax.hub.speech import Config, Options
from ssl_jax.hub.table import Arrays, Row, WeightsError


def _nothing(section: Any) -> dict:
    del section
    return {}


@dataclasses.dataclass(frozen=True)
class Head:
    """What a method here has besides the encoder, and the class of transformers that has it too.

    rows(config.method) is its map, section(config.json) the keys of config.method that it sets, and
    config(config.method) the keys of config.json.
    """

    architecture: str
    rows: Callable[[Any], list[Row]]
    section: Callable[[Config], Options] = _nothing
    config: Callable[[Any], Config] = _nothing


@dataclasses.dataclass(frozen=True)
class Family:
    """One model type of transformers. `kind` is that of config.method.encoder."""

    model_type: str
    kind: str
    architecture: str  # the class without a head
    prefix: str  # of its arrays inside a class with a head
    module: Any  # rows, options, config_of, tidy, dress, preprocessor
    recipe: str  # the config that continues from such weights
    # by method name: heads that transformers has too, and those that only fairseq has
    heads: dict[str, Head] = dataclasses.field(default_factory=dict)
    beside: dict[str, Head] = dataclasses.field(default_factory=dict)
    unused: str = r"$^"  # regex of arrays to ignore
    sizes: dict[int, str] = dataclasses.field(default_factory=dict)  # width: the recipe's argument
    size: str = "base"  # its argument for other widths

    def rows(self, o: Any, method: Any, beside: bool = False) -> list[Row]:
        """Returns the map for an encoder of the options `o` and the section config.method.

        beside: also with what transformers has no place for.
        """
        found, name = self.module.rows(o), method["name"]
        for heads in (self.heads, self.beside) if beside else (self.heads,):
            found = found + (heads[name].rows(method) if name in heads else [])
        return found

    @property
    def instead(self) -> str:
        """The format to export to where another has no such model."""
        if self.architecture:
            return "transformers"
        return "original" if hasattr(self.module, "checkpoint") else "fairseq"

    def head(self, method: Any) -> Head | None:
        """Returns transformers' head for a run's method, if that covers the run's whole head."""
        found = self.heads.get(method["name"])
        return found if found and found.rows(method) else None

    def section(self, method: Any, config: Config) -> Options:
        """Returns the keys of config.method that the source's config determines."""
        head = self.heads.get(method["name"]) or self.beside.get(method["name"])
        return head.section(config) if head else {}


def _ctc(architecture: str) -> dict[str, Head]:
    return {"ctc": Head(architecture, speech.ctc_rows, config=speech.ctc_config)}


_QUANTIZER = (speech.quantizer_rows, speech.quantizer_section, speech.quantizer_config)
_VIEWS = {"data2vec2": Head("", data2vec2.decoder_rows, data2vec2.decoder_section)}
_DECODER = (vision.decoder_rows, vision.decoder_section, vision.decoder_config)
_BEATS_HEADS = r"^(predictor|quantize_layer|quantize)\."
FAMILIES: dict[str, Family] = {
    f.model_type: f
    for f in (
        Family(
            "hubert",
            "waveform",
            "HubertModel",
            "hubert.",
            speech,
            "configs/hubert/audio.py",
            _ctc("HubertForCTC"),
            sizes={1024: "large", 1280: "xlarge"},
            beside={"hubert": Head("", speech.unit_rows, speech.unit_section)},
        ),
        Family(
            "lighthubert",
            "waveform",
            "",  # a supernet; its subnets are HuBERT's
            "",
            lighthubert,
            "configs/lighthubert/speech.py",
            beside={"lighthubert": Head("", lighthubert.head_rows, lighthubert.section_of)},
        ),
        Family(
            "wav2vec2",
            "waveform",
            "Wav2Vec2Model",
            "wav2vec2.",
            speech,
            "configs/wav2vec2/audio.py",
            {"wav2vec2": Head("Wav2Vec2ForPreTraining", *_QUANTIZER), **_ctc("Wav2Vec2ForCTC")},
            sizes={1024: "large"},
        ),
        Family(
            "wav2vec2-conformer",
            "waveform",
            "Wav2Vec2ConformerModel",
            "wav2vec2_conformer.",
            conformer,
            "configs/wav2vec2/conformer.py",
            {
                "wav2vec2": Head("Wav2Vec2ConformerForPreTraining", *_QUANTIZER),
                **_ctc("Wav2Vec2ConformerForCTC"),
            },
            sizes={1024: "large"},
        ),
        Family(
            "data2vec-audio",
            "waveform",
            "Data2VecAudioModel",
            "data2vec_audio.",
            speech,
            "configs/data2vec/audio.py",
            _ctc("Data2VecAudioForCTC"),
            sizes={1024: "large"},
            beside={"data2vec": Head("", speech.regression_rows)},
        ),
        Family(
            "data2vec-vision",
            "vit",
            "Data2VecVisionModel",
            "data2vec_vision.",
            vision,
            "configs/data2vec/image.py",
            sizes={1024: "large"},
            unused=r"relative_position_index$",
        ),
        Family(
            "data2vec-text",
            "text",
            "Data2VecTextModel",
            "data2vec_text.",
            text,
            "configs/data2vec/text.py",
            beside={"data2vec": Head("", text.regression_rows)},
            unused=r"position_ids$|token_type_ids$",
        ),
        Family(
            "vit_mae",
            "vit",
            "ViTMAEModel",
            "vit.",
            vision,
            "configs/mae/image.py",
            {"mae": Head("ViTMAEForPreTraining", *_DECODER)},
            sizes={1024: "large", 1280: "huge"},
        ),
        Family(
            "videomae",
            "video",
            "VideoMAEModel",
            "videomae.",
            videomae,
            "configs/videomae/video.py",
            {
                "videomae": Head(
                    "VideoMAEForPreTraining",
                    videomae.decoder_rows,
                    videomae.section,
                    videomae.section_config,
                ),
                "supervised": Head("VideoMAEForVideoClassification", videomae.head_rows),
            },
            unused=r"^(mask_token$|encoder_to_decoder\.|fc_norm\.)",
            sizes={384: "small", 1024: "large", 1280: "huge"},
        ),
        Family(
            mvd.MODEL_TYPE,
            "video",
            "",  # its authors publish it, and this one
            "",
            mvd,
            "configs/mvd/video.py",
            sizes={384: "b_s", 1024: "l_l", 1280: "h_h"},
            size="b_b",
            beside={"mvd": Head("", mvd.decoder_rows, mvd.section)},
            unused=r"^(down|decoder|mask_token)_",
        ),
        Family(
            "moco_v3",
            "vit",
            "",  # its authors publish it, transformers has no such class
            "",
            moco,
            "configs/moco_v3/image.py",
            sizes={384: "small"},
            beside={"moco_v3": Head("", moco.head_rows, moco.section)},
            unused=r"^(head|predictor)\.",
        ),
        Family(
            beats.ENCODER,
            "beats",
            "",  # its authors publish it, as the two below
            "",
            beats,
            "configs/beats/audio.py",
            size="iter1",
            unused=_BEATS_HEADS,
        ),
        Family(
            beats.TUNED,
            "beats",
            "",
            "",
            beats,
            "configs/supervised/beats.py",
            size="as2m",
            beside={"supervised": Head("", beats.tag_rows, beats.tag_section)},
            unused=_BEATS_HEADS,
        ),
        Family(
            beats.TOKENIZER,
            "beats",
            "",
            "",
            beats,
            "configs/beats/tokenizer.py",
            size="iter2",
            beside={"beats_tokenizer": Head("", beats.code_rows, beats.code_section)},
            unused=_BEATS_HEADS,
        ),
        Family(
            audiomae.MODEL_TYPE,
            "spectrogram",
            "",
            "",
            audiomae,
            "configs/mae/spectrogram.py",
            # its sizes have one recipe
            sizes=dict.fromkeys((384, 768, 1024), "audiomae"),
            beside={
                "mae": Head("", audiomae.decoder_rows, audiomae.decoder_section),
                "supervised": Head("", audiomae.head_rows, audiomae.head_section),
            },
            unused=r"^(norm\.|fc_norm\.|head\.|mask_token|decoder_)",
        ),
        *(
            Family(
                f"data2vec2-{modality}",
                kind,
                "",  # fairseq has this model, transformers does not
                "",
                data2vec2,
                f"configs/data2vec2/{modality}.py",
                sizes={1024: "large", 1280: "huge14"} if modality == "image" else {1024: "large"},
                beside=_VIEWS | ({"ctc": Head("", speech.ctc_rows)} if modality == "audio" else {}),
            )
            for modality, kind in data2vec2.KINDS.items()
        ),
    )
}


def by_type(model_type: str, where: str) -> Family:
    """Returns the family of config.json's model_type; raises WeightsError on another."""
    if model_type not in FAMILIES:
        raise WeightsError(
            f"{where}: model_type is {model_type!r}, which cannot be read: "
            f"{suggest(model_type, list(FAMILIES))}"
        )
    return FAMILIES[model_type]


def of_run(method: Any, o: Any, family: str = "") -> Family:
    """Returns the family of a run: by name, or by the encoder's options and the method.

    HuBERT and wav2vec 2.0 have the same encoder: it counts as HuBERT's if the method is HuBERT, or
    LightHuBERT, whose subnets are HuBERTs.
    Raises WeightsError if no family fits.
    """
    kind = method["encoder"]["kind"]
    known = sorted({f.kind for f in FAMILIES.values()})
    if kind not in known:
        raise WeightsError(
            f"config.method.encoder.kind is {kind!r}, which no family of transformers has: "
            f"only runs with one of {', '.join(known)} can be exported"
        )
    found = by_type(family or _fitting(method["name"], kind, o), "--family")
    if found.kind != kind:
        raise WeightsError(
            f"--family {family} has encoders of kind {found.kind!r}, but the run's is {kind!r}"
        )
    return found


def _fitting(method: str, kind: str, o: Any) -> str:
    """Returns the model type of an encoder here."""
    if method == "data2vec2" or (kind == "waveform" and o.alibi != "none"):
        return next(f"data2vec2-{m}" for m, k in data2vec2.KINDS.items() if k == kind)
    if kind == "waveform" and o.blocks == "conformer":
        return "wav2vec2-conformer"
    if kind == "waveform" and o.positions == "stack":
        return "data2vec-audio"
    if kind == "waveform":
        return "hubert" if method in ("hubert", "lighthubert") else "wav2vec2"
    if kind == "beats":
        return {"supervised": beats.TUNED, "beats_tokenizer": beats.TOKENIZER}.get(
            method, beats.ENCODER
        )
    if kind == "vit":
        return "data2vec-vision" if o.positions == "relative" else "vit_mae"
    return next(f.model_type for f in FAMILIES.values() if f.kind == kind)


def merged(encoder: Any) -> Any:
    """Returns all options of an encoder here as the attributes of one object."""
    parts = (encoder.options, encoder.transformer_options)
    return types.SimpleNamespace(**{k: v for p in parts for k, v in vars(p).items()})


def split_prefix(family: Family, arrays: Arrays) -> Arrays:
    """Removes the family's prefix from the names of the encoder's arrays that have it."""
    return {name.removeprefix(family.prefix): x for name, x in arrays.items()}


def join_prefix(family: Family, head: Head | None, method: Any, arrays: Arrays) -> Arrays:
    """Adds the family's prefix to the names of the encoder's arrays, if there is a head."""
    if head is None:
        return arrays
    own = {n for r in head.rows(method) for names, _ in r.pairs() for n in names}
    own |= {name for name in arrays if name.startswith("decoder.")}
    return {n if n in own else family.prefix + n: x for n, x in arrays.items()}
