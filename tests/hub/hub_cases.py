"""Models of transformers for the tests of the hub: their configs, and random weights for them."""

import importlib
import json
import re
from pathlib import Path

import numpy as np

from ssl_jax.ops.patches import sincos_table

KEYS = Path(__file__).parent / "keys.json"
BLOCKS = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
CONVS = {"conv_dim": [8, 8, 8], "conv_kernel": [10, 8, 8], "conv_stride": [5, 8, 8]}
SPEECH = {**BLOCKS, **CONVS, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
CODES = {"num_codevectors_per_group": 6, "codevector_dim": 8, "proj_codevector_dim": 8}
IMAGE = {**BLOCKS, "image_size": 16, "patch_size": 4}
BEIT = {"use_shared_relative_position_bias": True, "use_mask_token": True}
DECODER = {
    "decoder_hidden_size": 8,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16,
}
AUDIO = "configs/data2vec/audio.py"

# name: (class of transformers, its config, the recipe that trains it further)
CASES = {
    "hubert": ("HubertModel", SPEECH, "configs/hubert/audio.py"),
    "hubert large": ("HubertModel", SPEECH | LARGE, "configs/hubert/audio.py"),
    "hubert ctc": ("HubertForCTC", SPEECH | {"vocab_size": 32}, "configs/ctc/speech.py"),
    "wav2vec2": ("Wav2Vec2ForPreTraining", SPEECH | CODES, "configs/wav2vec2/audio.py"),
    "wav2vec2 large": ("Wav2Vec2Model", SPEECH | LARGE, AUDIO),
    "conformer": (
        "Wav2Vec2ConformerForPreTraining",
        SPEECH | CODES | {"hidden_act": "swish", "conv_depthwise_kernel_size": 5},
        "configs/wav2vec2/audio.py",
    ),
    "conformer rotary": (
        "Wav2Vec2ConformerModel",
        SPEECH | LARGE | {"hidden_act": "swish", "position_embeddings_type": "rotary"},
        AUDIO,
    ),
    "data2vec audio": (
        "Data2VecAudioModel",
        {**BLOCKS, **CONVS, "num_conv_pos_embeddings": 2, "num_conv_pos_embedding_groups": 4},
        AUDIO,
    ),
    "data2vec vision": (
        "Data2VecVisionModel",
        {**IMAGE, **BEIT, "use_mean_pooling": False, "layer_norm_eps": 1e-6},
        "configs/data2vec/image.py",
    ),
    "data2vec text": (
        "Data2VecTextModel",
        {**BLOCKS, "vocab_size": 261, "max_position_embeddings": 26, "layer_norm_eps": 1e-5},
        "configs/data2vec/text.py",
    ),
    "vit mae": (
        "ViTMAEForPreTraining",
        {**IMAGE, **DECODER, "layer_norm_eps": 1e-6, "norm_pix_loss": True},
        "configs/mae/image.py",
    ),
    "videomae": (
        "VideoMAEForPreTraining",
        {
            **IMAGE,
            **DECODER,
            # its positions need a multiple of 16 here
            "decoder_hidden_size": 16,
            "num_frames": 4,
            "layer_norm_eps": 1e-6,
            "use_mean_pooling": False,
        },
        "configs/videomae/video.py",
    ),
}
# vocab.json of the published CTC models
UNITS = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
VOCAB = {unit: i for i, unit in enumerate(UNITS)}
OF_TEXT = {"type_vocab_size": 1, "pad_token_id": 1}
_TYPES = {
    "Hubert": "hubert",
    "Wav2Vec2": "wav2vec2",
    "Data2VecAudio": "data2vec-audio",
    "Data2VecVision": "data2vec-vision",
    "Data2VecText": "data2vec-text",
    "ViTMAE": "vit_mae",
    "VideoMAE": "videomae",
    "Wav2Vec2Conformer": "wav2vec2-conformer",
}
# in an encoder without its own positions, no parameter matches the recipe's rule for them
RULES = "(('^encoder/frontend/','absent'),('.*','average'))"
CHANGES = {"conformer rotary": (f"method.ema.rules={RULES}",)}


def config_json(name: str) -> dict:
    """Returns the values in config.json of a case that differ from the defaults of its class."""
    architecture, config, _ = CASES[name]
    model_type = _TYPES[re.sub("Model|ForPreTraining|ForCTC", "", architecture)]
    more = OF_TEXT if model_type == "data2vec-text" else {}
    return {"model_type": model_type, "architectures": [architecture], **more, **config}


def random_model(name: str, **more):
    """Returns a transformers model in evaluation mode, every weight moved off its initial value."""
    torch, transformers = (importlib.import_module(m) for m in ("torch", "transformers"))
    given = config_json(name) | more
    architecture = given.pop("architectures")[0]
    kind = re.sub("Model|ForPreTraining|ForCTC", "", architecture) + "Config"
    given.pop("model_type")
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(getattr(transformers, kind)(**given)).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            fixed = architecture.startswith("ViTMAE") and weight.dim() == 3 and "pos" in key
            if fixed:  # zero as initialized, but not in published weights
                table = sincos_table((4, 4), weight.shape[2])
                weight[0, 1:], weight[0, 0] = torch.tensor(table), 0
            else:
                weight.add_(torch.randn_like(weight) * 0.05)
        for key, x in model.named_buffers():
            if key.endswith(("running_mean", "running_var")):
                x.add_(torch.rand_like(x))
    return model


def golden(name: str) -> dict[str, tuple[int, ...]]:
    """Returns name -> shape of the arrays that transformers writes for a case."""
    return unfolded(json.loads(KEYS.read_text())[name])


def folded(arrays: dict[str, tuple[int, ...]]) -> dict[str, list]:
    """Joins arrays whose names differ only in a number: "name#  shape" -> numbers."""
    out: dict[str, list] = {}
    for name, shape in sorted(arrays.items()):
        number = re.search(r"(?<=\.)\d+(?=\.)", name)
        key = name if number is None else f"{name[: number.start()]}#{name[number.end() :]}"
        key = f"{key} {'x'.join(map(str, shape))}"
        out.setdefault(key, []).append(-1 if number is None else int(number[0]))
    return out


def unfolded(keys: dict[str, list]) -> dict[str, tuple[int, ...]]:
    """The reverse of `folded`."""
    out = {}
    for key, numbers in keys.items():
        name, shape = key.split(" ")
        sizes = tuple(int(n) for n in shape.split("x") if n)
        out |= {name.replace("#", str(i)): sizes for i in numbers}
    return out


def audio(rows: int, samples: int, lengths) -> tuple[np.ndarray, np.ndarray]:
    """Returns noise (rows, samples), zero after the end of each row, and a mask of real samples."""
    noise = np.random.default_rng(0).standard_normal((rows, samples)).astype(np.float32)
    real = np.arange(samples) < np.asarray(lengths)[:, None]
    return noise * real, real
