"""Checkpoints of fairseq and s3prl: read without torch, written with torch alone.

fairseq, s3prl and omegaconf are not needed, and nothing in a file is executed: objects of the
classes that a checkpoint names are replaced by stubs, from which the config is read.
"""

import ast
import collections
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.core import atomic
from ssl_jax.hub import (
    audiomae,
    beats,
    data2vec2_config,
    families,
    lighthubert,
    moco,
    mvd,
    names,
    table,
    torch_files,
    vocabulary,
)
from ssl_jax.hub.files import Source, check_sizes, torch_for
from ssl_jax.hub.pickles import plain
from ssl_jax.hub.speech import DEFAULTS, Config
from ssl_jax.hub.table import Arrays, WeightsError

# beginning of fairseq's architecture name: model_type of transformers
TYPES = {
    "wav2vec2": "wav2vec2",
    "hubert": "hubert",
    "data2vec_audio": "data2vec-audio",
    "data2vec_text": "data2vec-text",
}
# (key of fairseq's model config, key of config.json)
SPEECH_KEYS = (
    ("encoder_embed_dim", "hidden_size"),
    ("encoder_layers", "num_hidden_layers"),
    ("encoder_attention_heads", "num_attention_heads"),
    ("encoder_ffn_embed_dim", "intermediate_size"),
    ("conv_pos_groups", "num_conv_pos_embedding_groups"),
    ("layer_norm_first", "do_stable_layer_norm"),
    ("conv_bias", "conv_bias"),
    ("latent_vars", "num_codevectors_per_group"),
    ("latent_groups", "num_codevector_groups"),
    ("final_dim", "proj_codevector_dim"),
    ("depthwise_conv_kernel_size", "conv_depthwise_kernel_size"),
)
POSITIONS = {"rel_pos": "relative", "rope": "rotary"}
# not parameters, or not used here
_UNUSED = ("encoder.version", "_float_tensor", ".version", "num_updates")
_MAX_LAYERS = 64  # of convolutions
_ADAM = ("exp_avg", "exp_avg_sq")


def read(path: Path) -> Source:
    """Reads a checkpoint of fairseq, pre-trained or fine-tuned, one converted by s3prl, or one of
    MoCo v3, BEATs, AudioMAE or MVD.

    Adam's moments and the moving average (`_ema`) are kept if the file has all of them. Raises
    WeightsError, naming the file, for a file of another kind or model.
    """
    if not path.is_file():
        raise WeightsError(f"{path} does not exist: --from takes a folder or a file of weights")
    loaded = torch_files.read(path)
    for module in (moco, beats, audiomae, mvd):
        if module.is_checkpoint(loaded):
            return module.source(loaded, path)
    if not isinstance(loaded, dict):
        raise WeightsError(f"{path} holds {type(loaded).__name__}, not a checkpoint of fairseq")
    key = next((k for k in ("model_weight", "model") if k in loaded), None)
    if key is None:
        raise WeightsError(
            f"{path} has {', '.join(map(repr, list(loaded)[:5]))}, but neither 'model' (fairseq) "
            f"nor 'model_weight' (s3prl)"
        )
    try:
        return _source(loaded, key, path)
    except WeightsError:
        raise
    except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise WeightsError(f"{path} is not a checkpoint of fairseq or s3prl: {error!r}") from error


def _source(loaded: dict[str, Any], key: str, path: Path) -> Source:
    model, task = _sections(loaded, path)
    raw = dict(loaded[key])
    teacher = _teacher(raw)
    whole = _arrays({n: x for n, x in raw.items() if not n.endswith(_UNUSED)}, path)
    whole = {_bare(n): x for n, x in whole.items()}
    config = config_of(model, task, whole, str(path))
    check_sizes(config, path)
    if "lm_head.weight" in whole:
        labels = str(task.get("labels") or "ltr")
        found = _targets(loaded) or vocabulary.beside(path, labels)
        config |= {"dictionary": found} if found else {}
    symbols = _symbols(loaded)
    whole, config = _without_special(whole, config, symbols)
    pairs = names.pairs(config)

    def renamed(arrays: Arrays) -> Arrays:
        return {names.renamed(n, pairs): x for n, x in arrays.items()}

    start = _start(teacher, whole)
    averages = {start + n: x for n, x in _arrays(teacher, path).items()}
    moments, updates = _moments(loaded, raw, path)
    moments = [_without_special(m, config, symbols)[0] for m in moments]
    arrays = _with_projection(renamed(whole), config)
    first, second = (renamed(m) for m in moments)
    return Source(config, arrays, str(path), renamed(averages), (first, second), updates)


def _arrays(tensors: dict[str, Any], where: Path) -> Arrays:
    return {n: torch_files.as_numpy(x, n, where) for n, x in tensors.items()}


def _teacher(raw: dict[str, Any]) -> dict[str, Any]:
    """Removes and returns the moving average of a model: `_ema`, under `encoder.` for text."""
    key = next((n for n in raw if n == "_ema" or n.endswith("._ema")), None)
    return dict(raw.pop(key) or {}) if key is not None else {}


def _sections(loaded: Any, path: Path) -> tuple[Config, Config]:
    """Returns the configs of model and task, however they were written."""
    if "model_weight" in loaded:
        model, task = plain(loaded.get("model_cfg")), plain(loaded.get("task_cfg"))
    elif loaded.get("cfg"):
        whole = plain(loaded["cfg"])
        model, task = whole.get("model"), whole.get("task") or {}
    else:
        model = task = plain(loaded.get("args"))
    if not isinstance(model, dict):
        raise WeightsError(f"{path} has no model config: neither 'cfg' nor 'args'")
    inner = model.get("w2v_args")  # a fine-tuned model keeps its encoder's config here
    if isinstance(inner, dict):
        name = inner.get("model", inner)
        own = {k: v for k, v in model.items() if k == "normalize"}
        model, task = {**own, **name}, {**(inner.get("task") or inner), **task}
    return model, task


def _bare(name: str) -> str:
    """Returns a name of a fine-tuned model as a pre-trained one has it; its classifier: lm_head."""
    name = name.removeprefix("w2v_encoder.w2v_model.")
    return name.replace("w2v_encoder.proj.", "lm_head.", 1)


def config_of(model: Config, task: Config, arrays: Arrays, where: str) -> Config:
    """Returns config.json for fairseq's configs of model and task; raises WeightsError."""
    name = model.get("_name") or model.get("arch") or ""
    if data2vec2_config.is_model(name, arrays):
        return data2vec2_config.read(model, task, arrays, conv_layers, where)
    if lighthubert.is_model(name):
        return lighthubert.read_config(model, arrays, conv_layers, where)
    name = name or _guess(arrays)
    kind = next((t for start, t in TYPES.items() if name.startswith(start)), None)
    if kind is None:
        raise WeightsError(
            f"{where}: its model is {name!r}: only {', '.join(TYPES)} and data2vec_multi of "
            f"fairseq can be read"
        )
    if kind == "data2vec-text":
        return _text_config(model, arrays)
    layers = conv_layers(model.get("conv_feature_layers"), where)
    config = {theirs: model[ours] for ours, theirs in SPEECH_KEYS if model.get(ours) is not None}
    config |= {
        "model_type": kind,
        "conv_dim": [c for c, _, _ in layers],
        "conv_kernel": [k for _, k, _ in layers],
        "conv_stride": [s for _, _, s in layers],
        "feat_extract_norm": "layer" if model.get("extractor_mode") == "layer_norm" else "group",
        "do_normalize": bool(task.get("normalize", model.get("normalize", False))),
    }
    if kind == "wav2vec2" and model.get("layer_type") == "conformer":
        positions = model.get("pos_enc_type", "abs")
        if positions not in POSITIONS:  # with 'abs', fairseq takes them from convolutions
            raise WeightsError(
                f"{where}: pos_enc_type is {positions!r}: for Conformers, only "
                f"{' and '.join(POSITIONS)} can be read"
            )
        config["model_type"] = "wav2vec2-conformer"
        config["position_embeddings_type"] = POSITIONS[positions]
        config["hidden_act"] = "swish"
        config["norm_before_layers"] = not model.get("layer_norm_first", False)
    width = model.get("final_dim") or config.get("hidden_size", DEFAULTS["hidden_size"])
    if kind != "data2vec-audio":
        config["num_conv_pos_embeddings"] = model.get("conv_pos", 128)
        config["proj_codevector_dim"] = width
        config["codevector_dim"] = model.get("latent_dim") or width
        return config | {"label_rate": task.get("label_rate", 0), "final_dim": width}
    depth = model.get("pos_conv_depth", 5)
    return config | {
        "num_conv_pos_embeddings": depth,
        "conv_pos_kernel_size": max(3, model.get("conv_pos", 95) // depth),
    }


def _guess(arrays: Arrays) -> str:
    """Infers the model of an s3prl file, whose config does not name it."""
    if "encoder.pos_conv.4.0.weight" in arrays or "encoder.pos_conv.1.0.weight" in arrays:
        return "data2vec_audio"
    return "wav2vec2" if "project_q.weight" in arrays else "hubert"


def _text_config(model: Config, arrays: Arrays) -> Config:
    model = {**model, **(model.get("transformer") or {})}
    encoder = model.get("encoder")
    inner = encoder if isinstance(encoder, dict) else {}
    flat = {**{f"encoder_{k}": v for k, v in inner.items()}, **model}
    tokens = arrays["encoder.sentence_encoder.embed_tokens.weight"]
    layers = flat.get("encoder_layers", 12)
    hidden = arrays["encoder.sentence_encoder.layers.0.fc1.weight"]
    return {
        "model_type": "data2vec-text",
        "hidden_size": tokens.shape[1],
        "vocab_size": tokens.shape[0],
        "num_hidden_layers": layers,
        "num_attention_heads": flat.get("encoder_attention_heads", 12),
        "intermediate_size": len(hidden),
        "max_position_embeddings": len(arrays["encoder.sentence_encoder.embed_positions.weight"]),
        "layer_norm_eps": 1e-5,
    }


def conv_layers(text: str | None, where: str) -> list[tuple[int, int, int]]:
    """Parses '[(512, 10, 5)] + [(512, 3, 2)] * 4', a sum of lists, without running it.

    Raises WeightsError for anything but such a sum, and for more than 64 layers.
    """
    if not text:
        c = DEFAULTS
        return list(zip(c["conv_dim"], c["conv_kernel"], c["conv_stride"], strict=True))

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return value(node.left) + value(node.right)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            left, right = value(node.left), value(node.right)
            if not isinstance(left, list) or not isinstance(right, int) or right > _MAX_LAYERS:
                raise ValueError(f"only a list times at most {_MAX_LAYERS} can be read")
            return left * right
        return ast.literal_eval(node)

    try:
        if len(text) > 1000:
            raise ValueError("it is longer than 1000 characters")
        layers = [tuple(map(int, layer)) for layer in value(ast.parse(text, mode="eval").body)]
        if len(layers) > _MAX_LAYERS or any(len(layer) != 3 for layer in layers):
            raise ValueError(f"use at most {_MAX_LAYERS} layers of (channels, kernel, stride)")
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise WeightsError(f"{where}: conv_feature_layers is {text[:80]!r}: {error}") from error
    return layers  # type: ignore[return-value]


def _symbols(loaded: Any) -> list[list[str]]:
    """Returns the classes of each set of HuBERT's labels, [] where the file names none."""
    if "dictionaries_symbols" in loaded:
        return [list(s) for s in loaded["dictionaries_symbols"] if s is not None]
    found = (loaded.get("task_state") or {}).get("dictionaries") or []
    states = [getattr(d, "state", None) for d in found]
    return [plain(s["symbols"]) for s in states if isinstance(s, dict) and "symbols" in s]


def _targets(loaded: Any) -> list[str]:
    """Returns the symbols of a fine-tuned model's targets, [] where the file has none."""
    found = (loaded.get("task_state") or {}).get("target_dictionary")
    state = getattr(found, "state", None)
    return plain(state["symbols"]) if isinstance(state, dict) and "symbols" in state else []


def _without_special(
    arrays: Arrays, config: Config, symbols: list[list[str]]
) -> tuple[Arrays, Config]:
    """Drops the classes of special symbols, which no frame has, from HuBERT's labels."""
    vectors = arrays.get("label_embs_concat")
    if vectors is None or config["model_type"] != "hubert":
        return arrays, config
    if sum(map(len, symbols)) != len(vectors):
        symbols = [[*vocabulary.SPECIAL, *map(str, range(len(vectors) - len(vocabulary.SPECIAL)))]]
    starts = np.cumsum([0, *map(len, symbols)])
    kept = [
        np.arange(
            start + (len(vocabulary.SPECIAL) if tuple(s[:4]) == vocabulary.SPECIAL else 0),
            start + len(s),
        )
        for start, s in zip(starts[:-1], symbols, strict=True)
    ]
    arrays = arrays | {"label_embs_concat": vectors[np.concatenate(kept)]}
    return arrays, config | {"label_classes": [len(k) for k in kept]}


def _with_projection(arrays: Arrays, config: Config) -> Arrays:
    """Adds the projection that fairseq leaves out if both sides have the same width."""
    name, size = "feature_projection.projection", config["hidden_size"]
    if "conv_dim" not in config or f"{name}.weight" in arrays:
        return arrays
    if config["conv_dim"][-1] != size:
        return arrays
    eye, zeros = np.eye(size, dtype=np.float32), np.zeros(size, np.float32)
    return arrays | {f"{name}.weight": eye, f"{name}.bias": zeros}


def _start(teacher: dict[str, Any], arrays: Arrays) -> str:
    """Returns the prefix that the averaged names lack: they may start below the encoder."""
    shapes = {name: x.shape for name, x in arrays.items()}

    def known(start: str) -> int:
        return sum(shapes.get(start + n) == tuple(x.shape) for n, x in teacher.items())

    return max(("", "encoder.", "encoder.sentence_encoder.", "blocks."), key=known)


def _moments(loaded: Any, model: dict[str, Any], where: Path) -> tuple[list[Arrays], int]:
    """Returns Adam's moments by the names of the model, and the number of updates done.

    fairseq keeps them by index, in the order of the parameters, or all in one vector (fp16). If
    their sizes do not fit the parameters of the file, none are returned.
    """
    history = loaded.get("optimizer_history") or [{}]
    updates = int(history[-1].get("num_updates", 0) or 0)
    states = (loaded.get("last_optimizer_state") or {}).get("state") or {}
    buffers = ("running_mean", "running_var", "num_batches_tracked", "inv_freq")
    own = {n: x for n, x in model.items() if not n.endswith(_UNUSED + buffers)}
    if not states or any(k not in s for s in states.values() for k in _ADAM):
        return [{}, {}], updates
    found = []
    for key in _ADAM:
        rows = [torch_files.as_numpy(states[i][key], key, where).ravel() for i in sorted(states)]
        flat = np.concatenate(rows)
        if flat.size != sum(x.size for x in own.values()):
            return [{}, {}], updates
        ends = np.cumsum([x.size for x in own.values()])[:-1]
        parts = zip(own.items(), np.split(flat, ends), strict=True)
        found.append({_bare(n): p.reshape(tuple(x.shape)) for (n, x), p in parts})
    return found, updates


def write(
    folder: Path, family: families.Family, o: Any, method: Any, params: Arrays
) -> tuple[Path, list[str]]:
    """Writes FOLDER/<model type>.pt as s3prl's *_custom upstreams read it; needs torch.

    Returns (the file, parameters without a place in it). Its keys are task_cfg, model_cfg,
    model_weight and, for HuBERT, dictionaries_symbols; for data2vec, model_weight also holds an
    `_ema`, which the loader deletes. The loaders of HuBERT and wav2vec 2.0 require the heads of
    pre-training: for a run of another method these are zeros, on which no feature depends. Loaded
    by s3prl 0.4.18, it gives our hidden states; see tests/hub/test_hub_s3prl.py. Raises
    WeightsError for a family that s3prl has no loader for.
    """
    if family.model_type not in ("hubert", "wav2vec2", "data2vec-audio"):
        raise WeightsError(
            f"s3prl has no upstream that loads {family.model_type}: use --to-format "
            f"{family.instead}"
        )
    config = family.module.config_of(o, family.model_type)
    arrays, left = table.to_theirs(family.rows(o, method, beside=True), params)
    head = family.head(method)
    config |= head.config(method) if head else {}
    arrays, config = family.module.dress(arrays, config)
    pairs = names.pairs(config)
    weights = {names.renamed(n, pairs, back=True): x for n, x in arrays.items()}
    model, task = _fairseq_config(o, config, method)
    out: dict[str, Any] = {"task_cfg": task, "model_cfg": model}
    if family.model_type == "hubert":
        classes = method["units"]["classes"] if method["name"] == "hubert" else ()
        out["dictionaries_symbols"] = [[str(i) for i in range(n)] for n in classes] or [None]
    weights = _strict(weights, family.model_type, model, o)
    path = folder / f"{family.model_type}.pt"
    torch = torch_for(path)
    tensors = {n: torch.from_numpy(np.array(x, np.float32)) for n, x in weights.items()}
    out["model_weight"] = collections.OrderedDict(tensors)
    if family.model_type == "data2vec-audio":
        out["model_weight"]["_ema"] = {}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic.making(path) as part:
        torch.save(out, part)
    return path, left


def _fairseq_config(o: Any, config: Config, method: Any) -> tuple[Config, Config]:
    """Returns fairseq's configs of model and task, the inverse of `config_of`."""
    model = {ours: config[theirs] for ours, theirs in SPEECH_KEYS if theirs in config}
    layers = zip(config["conv_dim"], o.conv_kernels, o.conv_strides, strict=True)
    model |= {
        "conv_feature_layers": repr([tuple(layer) for layer in layers]),
        "extractor_mode": "layer_norm" if o.conv_norm == "layer" else "default",
        "conv_pos": o.position_kernel,
        "dropout": o.dropout,
        "attention_dropout": o.attention_dropout,
        "activation_dropout": o.activation_dropout,
        "encoder_layerdrop": o.layerdrop,
        "feature_grad_mult": o.grad_mult,
    }
    task: Config = {"normalize": o.normalize, "sample_rate": 16000}
    if config["model_type"] == "data2vec-audio":
        model |= {"pos_conv_depth": o.position_depth}
        model["conv_pos"] = o.position_depth * o.position_kernel
    if config["model_type"] == "hubert":
        own = method["name"] == "hubert"
        rate = float(method["units"]["rate"]) if own else 50.0
        task["label_rate"] = model["label_rate"] = rate
        model["final_dim"] = method["head"]["width"] if own else 256
        sets = len(method["units"]["classes"]) if own else 1
        model["untie_final_proj"] = own and sets > 1 and not method["units"]["tied"]
    if config["model_type"] == "wav2vec2":
        model["quantize_targets"] = method["name"] == "wav2vec2"
        model.setdefault("final_dim", 256)
    return model, task


def _strict(weights: Arrays, model_type: str, model: Config, o: Any) -> Arrays:
    """Adds zeros for the heads that a loader requires."""
    if model_type == "data2vec-audio":
        return weights
    size = model["final_dim"]
    heads = {"final_proj.weight": (size, o.width), "final_proj.bias": (size,)}
    if model_type == "wav2vec2":
        heads |= {"project_q.weight": (size, o.conv_channels), "project_q.bias": (size,)}
    return {n: np.zeros(s, np.float32) for n, s in heads.items()} | weights
