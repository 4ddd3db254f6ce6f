"""Subnets of a LightHuBERT run as runs of their own, and the losses of many of them at once."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ssl_jax.core import config as config_lib
from ssl_jax.core import paths, rng
from ssl_jax.core.mesh import make_mesh
from ssl_jax.core.types import FROZEN, Batch, Method, TrainState, Tree
from ssl_jax.engine import checkpoint, splits, teachers
from ssl_jax.methods import lighthubert
from ssl_jax.nn.elastic_space import Subnet
from ssl_jax.stages import weights

Student = lighthubert.LightHubert


def student(config: ConfigDict, source: str | Path) -> Student:
    """Returns the functions of a run of LightHuBERT; raises ConfigError for another method's."""
    if config.method.name != "lighthubert":
        raise config_lib.ConfigError(
            f"{source} is a run of {config.method.name!r}, which has no subnets: use one of "
            f"configs/lighthubert"
        )
    rate = int(config.data.sample_rate)
    return lighthubert.student(config.method, precision="float32", sample_rate=rate)


def chosen(config: ConfigDict, subnet: str, source: str | Path) -> tuple[ConfigDict, Method]:
    """Returns the config of a run with config.method.subnet set, and its method.

    Raises ValueError for a subnet outside the space, ConfigError for a run of another method.
    """
    student(config, source).space.parse(subnet, "--subnet")
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.method.subnet = subnet
    rate = int(config.data.sample_rate)
    given: Any = {"precision": "float32", "sample_rate": rate, "num_classes": 0}
    return config, lighthubert.make(config.method, **given)


def extract_run(
    source: str | Path, target: str | Path, subnet: str = "", step: int | str | None = None
) -> Subnet:
    """Makes an ordinary run folder of a subnet, with its weights as they are; returns the subnet.

    subnet: text or name (default: that of the run's config.method.subnet). step: a saved one,
    "best", or None for the newest. Raises ValueError for a subnet outside the space.
    """
    source, target = paths.of(source), paths.of(target)
    if (target / "checkpoints").is_dir():
        raise ValueError(f"{target} has checkpoints already: give --to a new folder")
    config = config_lib.of_file(source / "config.json")
    own = student(config, source)
    found = own.space.parse(subnet, "--subnet") if subnet else own.subnet()
    section, params = own.extracted(checkpoint.restore_params(source, step), found)
    write(target, config, section, params)
    return found


def write(target: Path, config: ConfigDict, section: dict[str, Any], params: Tree) -> None:
    """Makes a run folder of config.method and parameters; the rest of its config is `config`'s."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.method, config.init_from = ConfigDict(section), ""

    def filled(state: TrainState) -> TrainState:
        shapes = jax.tree.map(jnp.shape, params)
        if shapes != jax.tree.map(jnp.shape, state.params):
            raise ValueError(f"{target}: the parameters do not fit config.method.encoder")
        return dataclasses.replace(state, params=jax.tree.map(jnp.asarray, params))

    weights.create(target, config_lib.override(config, []), filled)


def scorer(
    source: Path, data: ConfigDict | None = None, split: str = "valid"
) -> tuple[Student, Callable[[Sequence[Subnet | None]], list[float]]]:
    """Returns the student of a run, and the function that scores its subnets on held-out data.

    data: config.data to take the split of (default: the run's own).
    The loss is that of the run over the whole split, with masks drawn as for step 0. Front end and
    teacher are computed once; one compilation serves all subnets, which pass one after the other.
    None stands for the whole student.
    """
    config = config_lib.of_file(source / "config.json").copy_and_resolve_references()
    with config.unlocked():
        config.data = config.data if data is None else data
    own = student(config, source)
    params = jax.device_put(checkpoint.restore_params(source))
    held = _held(own, params, config, source, split)

    def mean(error: Callable, params: Tree, held: list) -> jax.Array:
        pairs = [error(params, batch) for batch in held]
        return sum(e * n for e, n in pairs) / sum(n for _, n in pairs)  # type: ignore

    @jax.jit
    def of_genes(params: Tree, held: list, genes: Tree) -> jax.Array:
        def one(genes: Tree) -> jax.Array:
            return mean(lambda p, h: own.error_of(p, h, genes), params, held)

        return jax.lax.map(one, genes)

    @jax.jit
    def of_whole(params: Tree, held: list) -> jax.Array:
        return mean(lambda p, h: own.error_of(p, h, None), params, held)

    def score(subnets: Sequence[Subnet | None]) -> list[float]:
        nets = [subnet for subnet in subnets if subnet is not None]
        found = iter(_in_block(of_genes, params, held, own, nets))
        whole = float(of_whole(params, held)) if len(nets) < len(subnets) else 0.0
        return [whole if subnet is None else next(found) for subnet in subnets]

    return own, score


def _in_block(
    run: Callable, params: Tree, held: list, own: Student, nets: Sequence[Subnet]
) -> list[float]:
    """Returns losses in one call, filled up to a power of two so that few sizes are compiled."""
    if not nets:
        return []
    size = 1 << (len(nets) - 1).bit_length()
    genes = own.space.stack([*nets, *[nets[-1]] * (size - len(nets))])
    return np.asarray(run(params, held, genes))[: len(nets)].tolist()


def _held(own: Student, params: Tree, config: ConfigDict, source: Path, split: str) -> list:
    """Returns what the subnets share of each batch of a split."""
    rate, mesh = int(config.data.sample_rate), make_mesh({"data": -1})
    method = lighthubert.make(config.method, precision="float32", sample_rate=rate, num_classes=0)
    extra = {**checkpoint.restore_extra(source), FROZEN: teachers.load(method)[0]}
    names = sorted({"id", "weight", *method.batch})
    batches = splits.open_split(config, source, split).in_order(mesh.size, names, mesh)

    @jax.jit
    def held(params: Tree, extra: Tree, batch: Batch) -> lighthubert.Held:
        streams = rng.Streams(rng.key_data(0), jnp.zeros((), jnp.int32), batch["id"])
        return own.held(params, extra, batch, streams)

    extra = jax.device_put(extra)
    return [held(params, extra, batch) for batch in batches()]
