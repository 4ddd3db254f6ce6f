"""The config and the checkpoint of fairseq's data2vec 2.0 (`data2vec_multi`)."""

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.hub import data2vec2, table
from ssl_jax.hub.speech import Config, Options
from ssl_jax.hub.table import Arrays, WeightsError

NAME = "data2vec_multi"
MODALITIES = ("AUDIO", "IMAGE", "TEXT")
# fairseq's defaults for keys that a checkpoint's config leaves out
_MODEL: Config = {
    "num_heads": 12,
    "norm_eps": 1e-6,
    "loss_beta": 0.0,
    "loss_scale": None,
    "average_top_k_layers": 8,
    "clone_batch": 1,
    "ema_decay": 0.999,
    "ema_end_decay": 0.9999,
    "ema_encoder_only": True,
}
_MODALITY: Config = {
    "prenet_depth": 4,
    "mask_prob": 0.7,
    "mask_prob_adjust": 0.0,
    "mask_length": 5,
    "inverse_mask": False,
    "mask_noise_std": 0.01,
    "ema_local_encoder": False,
    "use_alibi_encoder": False,
    "learned_alibi_scale": False,
}
_OWN: dict[str, Config] = {
    "AUDIO": {
        "extractor_mode": "layer_norm",
        "conv_pos_width": 95,
        "conv_pos_groups": 16,
        "conv_pos_depth": 5,
    },
    "IMAGE": {"input_size": 224, "patch_size": 16, "fixed_positions": True},
    "TEXT": {},
}
_DECODER: Config = {
    "decoder_dim": 384,
    "decoder_groups": 16,
    "decoder_kernel": 5,
    "decoder_layers": 5,
    "input_dropout": 0.1,
    "decoder_residual": True,
    "projection_layers": 1,
    "projection_ratio": 2.0,
}
# values that a key must have, if present, for the encoder here to compute the same function
_FIXED: Config = {
    "layer_norm_first": False,
    "norm_affine": True,
    "batch_norm_target_layer": False,
    "shared_decoder": None,
}
_FIXED_MODALITY: Config = {
    "conv_pos_pre_ln": False,
    "learned_alibi": False,
    "learned_alibi_scale_per_layer": False,
    "transformer_decoder": False,
    "in_chans": 3,
    "learned_pos": True,
    "no_scale_embedding": True,
    "layernorm_embedding": True,
    "no_token_positional_embeddings": False,
}
_FIXED_OWN: dict[str, Config] = {
    "AUDIO": {"num_extra_tokens": 0},
    "IMAGE": {"use_alibi_encoder": False},
    "TEXT": {"use_alibi_encoder": False, "num_extra_tokens": 0, "prenet_depth": 0},
}
# (key of fairseq's decoder, key of config.method.decoder, its type)
_DECODER_KEYS: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("decoder_dim", "dim", int),
    ("decoder_groups", "groups", int),
    ("decoder_kernel", "kernel", int),
    ("decoder_layers", "layers", int),
    ("input_dropout", "input_dropout", float),
    ("decoder_residual", "residual", bool),
    ("projection_layers", "projection_layers", int),
    ("projection_ratio", "ratio", float),
)
_NORMS = {"instance": "instance_norm", "layer": "layer_norm"}
_TASKS = {"AUDIO": "audio_pretraining", "IMAGE": "mae_image_pretraining", "TEXT": "masked_lm"}


def is_model(name: str, arrays: Arrays) -> bool:
    """Returns whether a model is data2vec 2.0, by its name or, if it has none, its arrays."""
    start = "modality_encoders."
    return name.startswith(NAME) or (not name and any(n.startswith(start) for n in arrays))


def read(
    model: Config,
    task: Config,
    arrays: Arrays,
    layers: Callable[[str | None, str], list[tuple[int, int, int]]],
    where: str,
) -> Config:
    """Returns the config that `data2vec2` takes, from fairseq's configs of model and task.

    layers: parses a list of convolutions. Raises WeightsError, naming the key, if no encoder here
    computes the same function, and for a checkpoint of several modalities.
    """
    found = sorted({n.split(".")[1] for n in arrays if n.startswith("modality_encoders.")})
    if len(found) != 1 or found[0] not in MODALITIES or "blocks.0.mlp.fc1.weight" not in arrays:
        raise WeightsError(
            f"{where} has the modalities {', '.join(found) or 'none'}: only a checkpoint of "
            f"data2vec 2.0 with one of {', '.join(MODALITIES)} and its blocks can be read"
        )
    kind = found[0]
    said = (model.get("modalities") or {}).get(kind.lower()) or {}
    model = _MODEL | {k: v for k, v in model.items() if v is not None}
    own = _MODALITY | _OWN[kind] | {k: v for k, v in said.items() if v is not None}
    for given, fixed in ((model, _FIXED), (own, _FIXED_MODALITY | _FIXED_OWN[kind])):
        for key, value in fixed.items():
            if given.get(key, value) != value:
                raise WeightsError(
                    f"{where}: {key} of its {kind} is {given[key]!r}, which no encoder here "
                    f"computes: only {value!r} can be read"
                )
    hidden = arrays["blocks.0.mlp.fc1.weight"]
    config = {
        "model_type": f"data2vec2-{kind.lower()}",
        "hidden_size": hidden.shape[1],
        "num_hidden_layers": own["prenet_depth"] + _count(arrays),
        "num_attention_heads": model["num_heads"],
        "intermediate_size": len(hidden),
        "layer_norm_eps": float(model["norm_eps"]),
        "prenet_depth": own["prenet_depth"],
        "learned_alibi_scale": bool(own["learned_alibi_scale"]),
        "method": _method(model, own, where),
    }
    return config | _of_modality(kind, own, model, task, layers, where)


def _count(arrays: Arrays) -> int:
    """Returns the number of blocks after those of the modality."""
    return 1 + max(int(n.split(".")[1]) for n in arrays if n.startswith("blocks."))


def _of_modality(
    kind: str, own: Config, model: Config, task: Config, layers: Callable, where: str
) -> Config:
    if kind == "TEXT":
        if float(model["norm_eps"]) != 1e-5:  # that of the tokens' norm, which fairseq fixes
            raise WeightsError(
                f"{where}: norm_eps of its TEXT is {model['norm_eps']}: only 1e-5 can be read"
            )
        return {}
    if kind == "IMAGE":
        if own.get("num_extra_tokens", 0) not in (0, 1):
            raise WeightsError(
                f"{where}: num_extra_tokens of its IMAGE is {own['num_extra_tokens']}: only 0 "
                f"or 1 can be read"
            )
        return {
            "image_size": own["input_size"],
            "patch_size": own["patch_size"],
            "class_token": own.get("num_extra_tokens", 0) == 1,
            "fixed_positions": bool(own["fixed_positions"]),
        }
    convs = layers(own.get("feature_encoder_spec"), where)
    if type(own["conv_pos_depth"]) is not int or own["conv_pos_depth"] < 1:
        raise WeightsError(f"{where}: conv_pos_depth is {own['conv_pos_depth']!r}: use 1 or more")
    if len({c for c, _, _ in convs}) != 1:
        raise WeightsError(
            f"{where}: feature_encoder_spec has layers of different widths: only equal widths can "
            f"be read"
        )
    depth = own["conv_pos_depth"]
    return {
        "conv_channels": convs[0][0],
        "conv_kernels": tuple(k for _, k, _ in convs),
        "conv_strides": tuple(s for _, _, s in convs),
        "conv_norm": "layer" if own["extractor_mode"] == "layer_norm" else "group",
        "normalize": bool(task.get("normalize", model.get("normalize", False))),
        "position_depth": depth,
        "position_kernel": max(3, own["conv_pos_width"] // depth),
        "position_groups": own["conv_pos_groups"],
        "alibi": bool(own["use_alibi_encoder"]),
    }


def _method(model: Config, own: Config, where: str) -> Options:
    """Returns the keys of config.method of data2vec2."""
    decoder = own.get("decoder")
    block = own["mask_length"] > 1
    ema: Options = {"start": float(model["ema_decay"]), "end": float(model["ema_end_decay"])}
    if isinstance(model.get("ema_anneal_end_step"), int):  # else a reference to another key
        ema["anneal"] = model["ema_anneal_end_step"]
    if model["ema_encoder_only"] and own["prenet_depth"]:
        raise WeightsError(
            f"{where}: ema_encoder_only with a prenet_depth of {own['prenet_depth']}: the teacher "
            f"here has all blocks or none; only False can be read"
        )
    found: Options = {
        "clones": int(model["clone_batch"]),
        "prenet_depth": own["prenet_depth"],
        "mask": {
            "kind": "block" if block else "random",
            "ratio": float(own["mask_prob"]),
            "adjust": float(own["mask_prob_adjust"]),
            "block": int(own["mask_length"]),
            "inverse": bool(own["inverse_mask"]),
        },
        "targets": {
            "layers": int(model["average_top_k_layers"]),
            "source": "block" if model.get("end_of_block_targets") else "ffn",
            "layer_norm": _norm_of(model, "target_layer", where),
            "final_norm": _norm_of(model, "targets", where),
        },
        "loss": {"beta": float(model["loss_beta"])},
        "ema": ema | {"rules": _rules(model["ema_encoder_only"], own["ema_local_encoder"])},
    }
    if model.get("loss_scale") is not None:
        found["loss"]["scale"] = float(model["loss_scale"])
    if isinstance(decoder, dict):
        given = _DECODER | {k: v for k, v in decoder.items() if v is not None}
        if given.get("add_positions_masked") or given.get("add_positions_all"):
            raise WeightsError(
                f"{where}: its decoder adds positions (add_positions_masked or add_positions_all), "
                f"which no decoder here does"
            )
        section = {ours: kind(given[theirs]) for theirs, ours, kind in _DECODER_KEYS}
        found["decoder"] = section | {"noise_std": float(own["mask_noise_std"])}
    return found


def _norm_of(model: Config, what: str, where: str) -> str:
    named = [ours for ours, theirs in _NORMS.items() if model.get(f"{theirs}_{what}")]
    if len(named) > 1:
        raise WeightsError(f"{where}: it has two norms of {what}: only one or none can be read")
    return named[0] if named else "none"


def _rules(encoder_only: bool, local: bool) -> tuple[tuple[str, str], ...]:
    """Returns config.method.ema.rules: which parameters the teacher has of its own."""
    if encoder_only:
        return (("^encoder/blocks/", "average"), (".*", "absent"))
    absent = () if local else (("^encoder/frontend/", "absent"),)
    return (*absent, (".*", "average"))


def checkpoint(
    family: Any, o: Any, method: Any, params: Arrays, teacher: Arrays
) -> tuple[dict[str, Any], list[str]]:
    """Returns (the content of fairseq's checkpoint, with arrays for tensors; the names left out).

    teacher: its parameters by their names here, {} if the run has none.
    """
    kind = data2vec2.modality(family.model_type).upper()
    config = data2vec2.config_of(o, family.model_type)
    own = method["name"] == "data2vec2"
    config["prenet_depth"] = method["prenet_depth"] if own else 0
    if own and kind == "IMAGE" and method["decoder"]["projection_layers"] != 1:
        raise WeightsError(
            "config.method.decoder.projection_layers is 2: fairseq's image decoder has 1"
        )
    rows = family.rows(o, method, beside=own)
    arrays, left = table.to_theirs(rows, params)
    model: dict[str, Any] = collections.OrderedDict(data2vec2.dress(arrays, config)[0])
    said = _model_config(o, config, kind) | (_method_config(method) if own else {})
    said["skip_ema"] = not teacher
    said["modalities"] = {kind.lower(): _modality_config(o, config, kind, method if own else None)}
    if teacher:
        averaged, _ = table.to_theirs(rows, teacher)
        only = all(name.startswith("blocks.") for name in averaged)
        dressed = data2vec2.dress(averaged, config)[0]
        start = "blocks." if only else ""
        blocks = {n: x for n, x in dressed.items() if n.startswith("blocks.") or not only}
        model["_ema"] = {n.removeprefix(start): x for n, x in blocks.items()}
        said["ema_encoder_only"] = only
        local = any(".local_encoder." in name for name in model["_ema"])
        said["modalities"][kind.lower()]["ema_local_encoder"] = local
    task: Config = {"_name": _TASKS[kind]}
    task |= {"normalize": o.normalize, "sample_rate": 16000} if kind == "AUDIO" else {}
    return {"cfg": {"model": said, "task": task}, "model": model}, left


def _model_config(o: Any, config: Config, kind: str) -> Config:
    return {
        "_name": NAME,
        "supported_modality": kind,
        "depth": o.depth - config["prenet_depth"],
        "embed_dim": o.width,
        "num_heads": o.heads,
        "mlp_ratio": o.mlp_width / o.width,
        "norm_eps": o.eps,
        "layer_norm_first": False,
        "norm_affine": True,
        "encoder_dropout": o.dropout,
        "post_mlp_drop": o.dropout,
        "attention_dropout": o.attention_dropout,
        "activation_dropout": o.activation_dropout,
        "layerdrop": o.layerdrop,
        "end_drop_path_rate": o.drop_path,
    }


def _method_config(method: Any) -> Config:
    """Returns the keys of fairseq's model config for config.method of data2vec2."""
    targets, ema = method["targets"], method["ema"]
    found = {
        "loss_beta": method["loss"]["beta"],
        "loss_scale": method["loss"]["scale"],
        "average_top_k_layers": targets["layers"],
        "end_of_block_targets": targets["source"] == "block",
        "clone_batch": method["clones"],
        "ema_decay": ema["start"],
        "ema_end_decay": ema["end"],
        "ema_anneal_end_step": ema["anneal"],
    }
    for what, key in (("target_layer", "layer_norm"), ("targets", "final_norm")):
        found |= {f"{name}_{what}": targets[key] == ours for ours, name in _NORMS.items()}
    return found


def _modality_config(o: Any, config: Config, kind: str, method: Any) -> Config:
    """Returns the section of a modality; method: config.method, None if not of data2vec2."""
    found: Config = {"type": kind, "prenet_depth": config["prenet_depth"], "decoder": None}
    found |= {"prenet_dropout": o.embed_dropout, "use_alibi_encoder": False}
    if kind == "AUDIO":
        layers = zip([o.conv_channels] * 99, o.conv_kernels, o.conv_strides, strict=False)
        found |= {
            "extractor_mode": "layer_norm" if o.conv_norm == "layer" else "default",
            "feature_encoder_spec": repr(list(layers)),
            "conv_pos_depth": o.position_depth,
            "conv_pos_width": o.position_depth * o.position_kernel,
            "conv_pos_groups": o.position_groups,
            "use_alibi_encoder": config["alibi"],
            "learned_alibi_scale": o.alibi == "learned",
            "learned_alibi_scale_per_head": o.alibi == "learned",
            "local_grad_mult": o.grad_mult,
        }
    if kind == "IMAGE":
        found |= {"input_size": o.image_size, "patch_size": o.patch_size, "embed_dim": o.width}
        found |= {"num_extra_tokens": int(o.class_token), "fixed_positions": True}
        found["fixed_positions"] = config["fixed_positions"]
    if kind == "TEXT":
        found |= {"max_source_positions": o.max_tokens, "dropout": o.embed_dropout}
    if method is None:
        return found
    mask, decoder = method["mask"], method["decoder"]
    found |= {
        "mask_prob": mask["ratio"],
        "mask_prob_adjust": mask["adjust"],
        "mask_length": mask["block"] if mask["kind"] == "block" else 1,
        "inverse_mask": mask["inverse"] and mask["kind"] == "block",
        "mask_noise_std": decoder["noise_std"],
    }
    return found | {"decoder": {theirs: decoder[ours] for theirs, ours, _ in _DECODER_KEYS}}


def write(folder: Path, family: Any, content: dict[str, Any], torch: Any) -> Path:
    """Writes FOLDER/<model type>.pt with the arrays as tensors."""

    def tensors(value: Any) -> Any:
        if isinstance(value, dict):
            return type(value)((k, tensors(v)) for k, v in value.items())
        return torch.from_numpy(np.array(value, np.float32)) if hasattr(value, "shape") else value

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{family.model_type}.pt"
    torch.save(tensors(content), path)
    return path
