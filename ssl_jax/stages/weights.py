"""Imports weights of other libraries as run folders and exports runs; the maps are in `hub`."""

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ssl_jax import methods
from ssl_jax.core import atomic, paths
from ssl_jax.core import config as config_lib
from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core import tree as tree_lib
from ssl_jax.core.types import Method, TrainState
from ssl_jax.engine import checkpoint, hosts, optim, setup
from ssl_jax.engine import step as step_lib
from ssl_jax.hub import data2vec2_config, fairseq, families, files, lighthubert, table, vocabulary
from ssl_jax.hub.families import Family
from ssl_jax.hub.files import Source
from ssl_jax.hub.speech import LETTERS
from ssl_jax.hub.table import Arrays, WeightsError
from ssl_jax.nn import build

STATISTICS = "/running_norm/(mean|var)$"
FORMATS = ("transformers", "s3prl", "fairseq", "original")
# heads of other tasks, which the method of a run may lack
HEADS = re.compile(
    r"(lm_head|classifier|projector|pooler|layer_weights|tdnn|objective|quantizer|project_hid|"
    r"project_q|final_proj|label_embs_concat|regression_head|decoder|dropout|cls)\b"
)
Notify = Callable[[str], None]
Shapes = dict[str, tuple[int, ...]]


def import_run(
    source: str | Path,
    run: str | Path,
    recipe: str = "",
    overrides: Sequence[str] = (),
    notify: Notify = print,
    method: str = "",
) -> int:
    """Makes a run folder from weights and returns the step of its checkpoint.

    source: a folder of transformers, a .safetensors file next to its config.json, or a file of
    fairseq, s3prl, MoCo v3 or BEATs. recipe: the config of the method that continues with them
    (default: that of the family, for its size); its encoder options come from the weights. method:
    the module of yours that a recipe of a run folder, its config.json, may import. Adam's moments
    and teacher are taken from the source, where it has them. Raises WeightsError and ConfigError.
    """
    run = paths.of(run)
    there = (run / "checkpoints").iterdir() if (run / "checkpoints").is_dir() else ()
    if any(path.name.isdigit() for path in there):  # other names are left by a killed import
        raise WeightsError(f"{run} has checkpoints already: give --to a new folder")
    found = _read(paths.fetched(source))
    family = families.by_type(found.config["model_type"], found.where)
    found = _plain(family, found)
    config = _config(family, found, recipe, overrides)
    methods.check_file(recipe, config.method, method)
    _, _, shapes, extra = _optimizer(config, _method(config))
    mapped = _mapped(family, found, config, shapes, extra)
    step = create(run, config, lambda state: _filled(state, mapped, found.updates))
    _report(notify, family, found, mapped)
    return step


def create(run: Path, config: ConfigDict, filled: Callable[[TrainState], TrainState]) -> int:
    """Makes a run folder of a config whose state is `filled` of a fresh one; returns its step."""
    made = _method(config)
    tx, batch, *_ = _optimizer(config, made)
    mesh = mesh_lib.make_mesh({"data": -1})
    state = filled(step_lib.init_state(made, tx, config.seed, mesh, batch)[0])
    step = int(state.step)
    with hosts.holding(run):
        setup.write_folder(run, config, tuple(config.data.classes), state)
        checkpoints = checkpoint.Checkpoints(run, config)
        checkpoints.save(step, state)
        checkpoints.close()
    return step


class Mapped(NamedTuple):
    """The arrays of a source by their names here, and what neither side could match."""

    weights: Arrays
    teacher: Arrays
    moments: list[Arrays]
    unused: list[str]
    fresh: list[str]


def _read(path: Path) -> Source:
    if path.suffix in (".pt", ".pth", ".ckpt", ".tar"):
        return fairseq.read(path)
    return files.read(path)


def _plain(family: Family, found: Source) -> Source:
    """Strips prefixes and brings all arrays to the form that the map expects."""

    def plain(arrays: Arrays) -> Arrays:
        try:
            return family.module.tidy(families.split_prefix(family, arrays), found.config)
        except ValueError as error:
            raise WeightsError(f"{found.where}: {error}") from error

    weights = plain(found.arrays)
    teacher = plain({**found.arrays, **found.teacher}) if found.teacher else {}
    first, second = (plain(m) if m else {} for m in found.moments)
    return Source(found.config, weights, found.where, teacher, (first, second), found.updates)


def _config(family: Family, found: Source, recipe: str, overrides: Sequence[str]) -> ConfigDict:
    """Returns the recipe's config with the encoder of the weights."""
    options = family.module.options(found.config, found.arrays, found.where)
    path = recipe or _recipe(family, options["width"])
    config = config_lib.load(path).copy_and_resolve_references()
    kind = config.method.get("encoder", {}).get("kind")
    if kind != family.kind:
        raise WeightsError(
            f"the recipe's config.method.encoder.kind is {kind!r}, and {family.model_type} is of "
            f"kind {family.kind!r}: use a recipe such as --config {family.recipe}"
        )
    with config.unlocked():
        config.method.encoder.update(ConfigDict(options))
        config.method.update(ConfigDict(family.section(config.method, found.config)))
        for size in ("image_size", "frames"):
            if size in options and size in config.data:
                config.data[size] = options[size]
        if options.get("depthwise_norm") == "batch":  # weight decay would shrink statistics
            config.optim.frozen = (*config.optim.frozen, STATISTICS)
        if config.method.name == "ctc":
            config.data.classes = _vocabulary(found, config.data)
        if config.method.name == "supervised" and "classes" in found.config:
            config.data.classes = tuple(found.config["classes"])
    return config_lib.override(config, overrides)


def _recipe(family: Family, width: int) -> str:
    """Returns the family's recipe in this package for an encoder of that width."""
    path = config_lib.shipped(family.recipe)
    if path is None:
        raise WeightsError(
            f"this package has no recipe {family.recipe}: give a config file by --config"
        )
    return f"{path}:{family.sizes.get(width, family.size)}"


def _vocabulary(found: Source, data: ConfigDict) -> tuple[str, ...]:
    """Returns the vocabulary for CTC: that of the weights' classifier, which is kept, or else that
    of the recipe, for a new classifier."""
    rows = found.arrays.get("lm_head.weight")
    if rows is not None:
        return vocabulary.tokens(found.config, len(rows), found.where)
    tokens = tuple(data.classes) or (LETTERS if data.get("spelling") == "letters" else ())
    if not tokens:
        raise WeightsError(
            f"{found.where} has no classifier, and the recipe names no tokens for a new one: use "
            f"config.data.spelling='letters', or name them by config.data.classes"
        )
    return tokens


def _method(config: ConfigDict) -> Method:
    return methods.find(config.method.name).make(
        config.method,
        precision=config.precision,
        sample_rate=config.data.sample_rate,
        num_classes=len(config.data.classes),
    )


def _optimizer(config: ConfigDict, method: Method) -> tuple[Any, dict[str, Any], Shapes, Shapes]:
    """Returns (optimizer, shapes of a batch, shapes of the parameters and of extra by name).

    Only the structure of the optimizer's state is used. It does not depend on the length of an
    epoch, which is unknown without the data.
    """
    data = config.data
    if data.get("modality", "audio") == "text":
        size = data.block_tokens
    else:
        size = round(data.buckets[-1] * data.sample_rate)
    batch = {
        name: jax.ShapeDtypeStruct((1, *(size if n is None else n for n in spec.shape)), spec.dtype)
        for name, spec in method.batch.items()
    }
    params, extra = jax.eval_shape(method.init, jax.random.key(0), batch)

    def to_steps(duration: int | str, total: int | None = None) -> int:
        rows = max(1, data.batch_size)
        return config_lib.steps(
            duration,
            batch_size=rows,
            examples=1000 * rows,
            seconds_per_step=rows * float(data.buckets[-1]),
            total=total,
        )

    total = to_steps(config.train.duration)
    tx, _ = optim.make(
        config.optim,
        params,
        total_steps=total,
        to_steps=lambda duration: to_steps(duration, total),
        depth=optim.depth(params),
    )
    of_params, of_extra = (
        {name: x.shape for name, x in tree_lib.named_leaves(tree)} for tree in (params, extra)
    )
    return tx, batch, of_params, of_extra


def _mapped(
    family: Family, found: Source, config: ConfigDict, shapes: Shapes, extra: Shapes
) -> Mapped:
    """Renames the source's arrays to the names here; raises WeightsError where that fails."""
    rows, known = family.rows(_options(config), config.method, beside=True), extra | shapes

    def ours(arrays: Arrays) -> Arrays:
        return table.to_ours(rows, arrays, known, found.where)[0] if arrays else {}

    weights, left = table.to_ours(rows, found.arrays, known, found.where)
    for name in left:
        if not HEADS.match(name) and not re.search(family.unused, name):
            raise WeightsError(
                f"{found.where}: no parameter here matches {name}: its config.json describes "
                f"another {family.model_type}, or the file is of another model"
            )
    fresh = [name for name in shapes if name not in weights]
    return Mapped(weights, ours(found.teacher), [ours(m) for m in found.moments], left, fresh)


def _filled(state: TrainState, mapped: Mapped, updates: int) -> TrainState:
    """Returns a fresh state with the weights, teacher and moments of the source.

    If the source has no teacher, it starts as a copy of the student. The step is that of the
    source only if its moments are there: without them the schedule begins anew.
    """
    teacher = mapped.teacher or mapped.weights
    params = tree_lib.map_named(lambda n, x: _as(mapped.weights.get(n), x), state.params)
    extra = tree_lib.map_named(lambda n, x: _as(_owned(n, teacher), x), state.extra)
    if not mapped.moments[0]:
        return dataclasses.replace(state, params=params, extra=extra)
    fill = _optimizer_leaf(mapped.moments, updates)
    opt_state = tree_lib.map_named(fill, state.opt_state)
    return TrainState(jnp.int32(updates), params, extra, opt_state, state.key)


def _report(notify: Notify, family: Family, found: Source, mapped: Mapped) -> None:
    kept = [
        name
        for name, there in (("teacher", mapped.teacher), ("Adam's moments", mapped.moments[0]))
        if there
    ]
    notify(f"{len(mapped.weights)} parameters of {family.model_type} from {found.where}")
    notify(f"new, as the source has none: {', '.join(mapped.fresh) or 'none'}")
    notify(f"of the source, not used: {', '.join(mapped.unused) or 'none'}")
    notify(f"beside the weights: {' and '.join(kept) or 'nothing'} after {found.updates} updates")


def _options(config: ConfigDict) -> Any:
    encoder = build.encoder(
        config.method.encoder.to_dict(),
        precision="float32",
        sample_rate=config.data.sample_rate,
    )
    return families.merged(encoder)


def _owned(name: str, arrays: Arrays) -> np.ndarray | None:
    """Returns the array whose name is the path `name` or a suffix of it, if there is one."""
    parts = name.split("/")
    tails = ("/".join(parts[i:]) for i in range(len(parts)))
    return next((arrays[tail] for tail in tails if tail in arrays), None)


def _as(value: np.ndarray | None, x: jax.Array) -> jax.Array:
    return x if value is None or value.shape != x.shape else jnp.asarray(value, x.dtype)


def _optimizer_leaf(moments: list[Arrays], updates: int) -> Callable:
    """Returns fn(name, leaf) that fills Adam's moments and counts."""

    def fill(name: str, x: jax.Array) -> jax.Array:
        if x.shape == () and jnp.issubdtype(x.dtype, jnp.integer):
            return jnp.asarray(updates, x.dtype)
        which = {"mu": 0, "nu": 1}
        of = next((which[part] for part in name.split("/") if part in which), None)
        return x if of is None else _as(_owned(name, moments[of]), x)

    return fill


def export_run(
    run: str | Path,
    folder: str | Path,
    to_format: str = "transformers",
    step: int | str | None = None,
    family: str = "",
    notify: Notify = print,
    stream: str = "",
) -> Path:
    """Writes the weights of a run for another library and returns the file or folder.

    transformers: model.safetensors, config.json and preprocessor_config.json, no torch needed.
    s3prl: the file of its *_custom upstreams, by torch; see `hub.fairseq.write`. fairseq: the
    checkpoint of data2vec 2.0, by torch, with the run's teacher. original: the file of the authors
    of BEATs or AudioMAE, by torch. step: a saved one, "best", or None for the newest. stream: which
    encoder of a run that has several. Raises WeightsError where the format has no such model.
    """
    if to_format not in FORMATS:
        raise WeightsError(f"--to-format is {to_format!r}: use one of {', '.join(FORMATS)}")
    run, folder = paths.of(run), paths.local(folder, "--to")
    if not (run / "config.json").is_file():
        raise WeightsError(f"{run} is no run folder: it has no config.json; give a --workdir")
    config = _of_stream(config_lib.of_file(run / "config.json"), stream, run)
    o = _options(config)
    supernet = config.method.name == "lighthubert" and to_format == "fairseq"
    own = families.of_run(config.method, o, "lighthubert" if supernet else family)
    params = dict(tree_lib.named_leaves(checkpoint.restore_params(run, step)))
    if stream:
        inner = ((name.partition(f"encoder/{stream}/"), x) for name, x in params.items())
        params = {f"encoder/{rest}": x for (before, cut, rest), x in inner if cut and not before}
    if to_format != "fairseq":
        o, params = lighthubert.even(o, params)
    if to_format == "s3prl":
        path, left = fairseq.write(folder, own, o, config.method, params)
    elif to_format == "fairseq":
        teacher = _teacher(run, step, config)
        path, left = _write_fairseq(folder, own, o, config.method, params, teacher)
    else:
        tokens = json.loads((run / "classes.json").read_text(encoding="utf-8"))
        if to_format == "original":
            params |= dict(tree_lib.named_leaves(checkpoint.restore_extra(run, step)))
            path, left = _write_original(folder, own, o, config.method, params, tokens)
        else:
            path, left = folder, _write(folder, own, o, config.method, params, tokens)
    notify(f"{own.model_type} of {to_format} in {path}")
    notify(f"left out, as {to_format} has no place for it: {', '.join(left) or 'nothing'}")
    return path


def _of_stream(config: ConfigDict, stream: str, run: Path) -> ConfigDict:
    """Returns the config of a run with the encoder of one stream as its only one."""
    several = config.method.get("encoders") or {}
    if not several and stream:
        raise WeightsError(f"--stream is {stream!r}, but {run} has one encoder: leave it out")
    if not several:
        return config
    if stream not in several:
        raise WeightsError(
            f"--stream is {stream!r}, and {run} has the encoders {', '.join(sorted(several))}: "
            f"name one of them"
        )
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.method.encoder = several[stream]
    return config


def _teacher(run: Path, step: int | str | None, config: ConfigDict) -> Arrays:
    """Returns the teacher of a run of data2vec 2.0 by the student's names, {} for other runs."""
    if config.method.name != "data2vec2":
        return {}
    extra = tree_lib.named_leaves(checkpoint.restore_extra(run, step))
    return {n.removeprefix("teacher/"): x for n, x in extra if n.startswith("teacher/")}


def _write_fairseq(
    folder: Path, family: Family, o: Any, method: Any, params: Arrays, teacher: Arrays
) -> tuple[Path, list[str]]:
    """Writes a checkpoint of fairseq; returns (the file, the parameters left out)."""
    if family.model_type == "lighthubert":
        content, left = lighthubert.checkpoint(family, o, method, params)
    elif family.model_type.startswith("data2vec2-"):
        content, left = data2vec2_config.checkpoint(family, o, method, params, teacher)
    else:
        raise WeightsError(
            f"--to-format fairseq is for data2vec 2.0 and LightHuBERT only, not "
            f"{family.model_type}: use transformers"
        )
    _check_left(family, left)
    torch = files.torch_for(folder / f"{family.model_type}.pt")
    return data2vec2_config.write(folder, family, content, torch), left


def _write_original(
    folder: Path, family: Family, o: Any, method: Any, arrays: Arrays, classes: Sequence[str]
) -> tuple[Path, list[str]]:
    """Writes the file of a model's authors; returns (the file, the arrays left out)."""
    if family.instead != "original":
        raise WeightsError(
            f"--to-format original is for BEATs and AudioMAE only, not {family.model_type}: use "
            f"{family.instead}"
        )
    content, left = family.module.checkpoint(family, o, method, arrays, tuple(classes))
    _check_left(family, left)
    path = folder / f"{family.model_type}.pt"
    torch = files.torch_for(path)
    model = {n: torch.from_numpy(np.array(x, np.float32)) for n, x in content["model"].items()}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic.making(path) as part:
        torch.save(content | {"model": model}, part)
    return path, left


def _check_left(family: Family, left: Sequence[str]) -> None:
    stuck = [name for name in left if name.startswith("encoder/")]
    if stuck:
        raise WeightsError(f"{family.model_type} has no place for {', '.join(stuck)}")


def _write(
    folder: Path, family: Family, o: Any, method: Any, params: Arrays, tokens: Sequence[str]
) -> list[str]:
    """Writes a folder of transformers; returns the parameters left out."""
    (arrays, about), left = _theirs(family, o, method, params)
    texts = {
        "preprocessor_config.json": family.module.preprocessor(o),
        "vocab.json": vocabulary.vocab_json(tokens if "lm_head.bias" in arrays else ()),
        "config.json": about,  # last: it marks a complete folder
    }
    files.write(folder, arrays, texts)
    return left


def _theirs(
    family: Family, o: Any, method: Any, params: Arrays
) -> tuple[tuple[Arrays, dict[str, Any]], list[str]]:
    """Returns ((arrays, config.json), the parameters left out)."""
    if not family.architecture:
        raise WeightsError(
            f"transformers has no class for {family.model_type}: use --to-format {family.instead}"
        )
    config = family.module.config_of(o, family.model_type)
    arrays, left = table.to_theirs(family.rows(o, method), params)
    _check_left(family, left)
    head = family.head(method)
    config |= head.config(method) if head else {}
    arrays, config = family.module.dress(arrays, config)
    config["architectures"] = [head.architecture if head else family.architecture]
    return (families.join_prefix(family, head, method, arrays), config), left
