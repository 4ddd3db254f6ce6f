"""The sharding of each config's state on two meshes: python tests/conformance/sharding_files.py

Rewrites tests/conformance/sharding/<method>_<name>.txt; a test compares the files with the
rules, so that a change of rules shows in the diff.
"""

import dataclasses
import math
import re
import sys
from pathlib import Path

import cases
import jax
from jax.sharding import AbstractMesh

from ssl_jax.core import config as config_lib
from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core import tree
from ssl_jax.core.types import Rules, TrainState
from ssl_jax.engine import optim, teachers

FOLDER = Path(__file__).parent / "sharding"
# as config.mesh, on v5e:2x4 and 2xv5e:8x16
MESHES = {
    "fsdp=8": AbstractMesh((1, 1, 8, 1), mesh_lib.AXES),
    "slice=2,data=16,fsdp=4,model=2": AbstractMesh((2, 16, 4, 2), mesh_lib.AXES),
}
# of configs with more than one size, the one for which sharding matters most
ARGUMENTS = {
    "configs/hubert/audio.py": "xlarge",
    "configs/mae/image.py": "huge",
    "configs/mvd/video.py": "h_h",
    "configs/videomae/video.py": "huge",
    "configs/data2vec2/image.py": "huge14",
}


@dataclasses.dataclass
class Group:
    """Arrays on one line: their names differ only in numbers and in the kind of copy."""

    shapes: set[tuple[int, ...]] = dataclasses.field(default_factory=set)
    count: int = 0
    bytes: int = 0
    specs: list[set[str]] = dataclasses.field(default_factory=lambda: [set() for _ in MESHES])
    held: list[int] = dataclasses.field(default_factory=lambda: [0 for _ in MESHES])


def state_of(path: str) -> tuple[TrainState, Rules]:
    """Returns the abstract state of a config at paper scale and the rules of its method."""
    config = cases.load(path, ARGUMENTS.get(path, ""))
    method = cases.build(config)
    batch = cases.abstract_batch(method, 2, cases.longest(config))
    params, extra = jax.eval_shape(method.init, jax.random.key(0), batch)
    extra = cases.with_teachers(extra, teachers.shapes(method))

    def to_steps(duration: int | str) -> int:
        return config_lib.steps(
            duration, batch_size=64, examples=6400, seconds_per_step=64.0, total=100_000
        )

    tx, _ = optim.make(
        config.optim, params, total_steps=100_000, to_steps=to_steps, depth=cases.depth_of(params)
    )
    scalar = jax.ShapeDtypeStruct((), "int32")
    moments = jax.eval_shape(tx.init, params)
    return TrainState(scalar, params, extra, moments, scalar), method.rules


def table(path: str) -> str:
    """Returns the lines of a config: name, arrays, shape; spec and bytes per chip on each mesh."""
    state, rules = state_of(path)
    names = sorted((n for n, _ in tree.named_leaves(state.params)), key=len, reverse=True)
    groups: dict[str, Group] = {}
    for full, leaf in tree.named_leaves((state.params, state.extra, state.opt_state)):
        own = next((n for n in names if full.endswith(f"/{n}")), full)
        group = groups.setdefault(re.sub(r"\d+", "*", own), Group())
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        group.shapes.add(leaf.shape)
        group.count += 1
        group.bytes += size
        for i, mesh in enumerate(MESHES.values()):
            spec = mesh_lib.spec_for(full, leaf.shape, rules, mesh)
            cut = math.prod(mesh.shape[axis] for axis in spec if axis)
            group.specs[i].add(_text(spec))
            group.held[i] += size // cut
    lines = [" | ".join(("name", "arrays", "shape", *(f"{m}: spec | bytes" for m in MESHES)))]
    lines += [_line(name, group) for name, group in groups.items()]
    total = [sum(g.held[i] for g in groups.values()) for i in range(len(MESHES))]
    whole = sum(g.bytes for g in groups.values())
    lines.append(f"all | {whole:,} bytes | " + " | ".join(f"{n:,} on a chip" for n in total))
    return "\n".join(lines) + "\n"


def file_of(path: str) -> Path:
    """Returns the file of a config."""
    size = ARGUMENTS.get(path)
    name = "_".join(Path(path).with_suffix("").parts[1:])
    return FOLDER / f"{name}{f'_{size}' if size else ''}.txt"


def _line(name: str, group: Group) -> str:
    shapes = sorted(group.shapes)
    shape = "x".join(map(str, shapes[0])) + (" .." if len(shapes) > 1 else "")
    parts = (
        f"{' or '.join(sorted(specs))} | {held:,}"
        for specs, held in zip(group.specs, group.held, strict=True)
    )
    return f"{name} | {group.count} | {shape} | " + " | ".join(parts)


def _text(spec: jax.sharding.PartitionSpec) -> str:
    return f"({', '.join(axis or '-' for axis in spec)})" if any(spec) else "whole"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for config_path in sys.argv[1:] or cases.config_paths():
        file_of(config_path).write_text(table(config_path))
