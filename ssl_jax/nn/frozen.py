"""Frozen teachers: the encoder of a finished run, by its folder or the beginning of its signature.

`config.method.teachers.<name>` names the run. A method declares what it needs of it with `encoder`,
and the engine puts the parameters at extra["frozen"][name]. In `loss`, and not in `make`, the
method reads the run: its own features can then be loaded without the teacher.

    teacher = frozen.read(options.teachers["teacher"], "config.method.teachers.teacher")
    encoder = teacher.encoder(precision, depth=18)
    params = extra["frozen"]["teacher"]["encoder"]

A config file in place of a run, such as configs/mae/image.py:large, describes a teacher that is not
there yet: enough to plan a run, not to train one.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

import jax
from ml_collections import ConfigDict

from ssl_jax.core import config as config_lib
from ssl_jax.core import run_lookup
from ssl_jax.core import tree as tree_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.precision import compute_dtype
from ssl_jax.core.types import Array, Frozen, Tree
from ssl_jax.nn import build
from ssl_jax.nn import encoder as encoder_lib

BLOCKS = "/blocks/"  # in the names of parameters that are stacked over the blocks
CONFIG = re.compile(r".*\.py(:.*)?")


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A run that teaches: its folder (None: a config file that no run was made of), its config and
    signature; `key` is the config key that names it."""

    key: str
    reference: str
    folder: Path | None
    config: ConfigDict
    signature: str

    @property
    def depth(self) -> int:
        """The number of blocks of the run's encoder."""
        return int(build.settings(self._section())["depth"])

    def encoder(
        self, precision: str, depth: int | None = None, image_size: int | None = None
    ) -> encoder_lib.Encoder:
        """Returns the run's own encoder, or the part of it up to the output of `depth` blocks.

        A part has no final norm. image_size: in place of its own. Raises ConfigError for a depth
        that it has not.
        """
        section = {**self._section(), "remat": "none"}  # nothing is kept for a backward pass
        if image_size is not None:
            section |= {"image_size": image_size}
        if depth is not None:
            self.check_depth(depth)
            section |= {"depth": depth, "final_norm": False}
        rate = int(self.config.data.sample_rate)
        return build.encoder(section, precision=precision, sample_rate=rate)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the run's classes in order; () where they are unknown."""
        path = None if self.folder is None else self.folder / "classes.json"
        if path is None or not path.is_file():
            return ()
        return tuple(json.loads(path.read_text(encoding="utf-8")))

    def check_depth(self, depth: int) -> None:
        """Raises ConfigError unless the encoder has `depth` blocks."""
        if not 1 <= depth <= self.depth:
            raise ConfigError(
                f"{self.key} {self.reference} has {self.depth} blocks, and block {depth} of it is "
                f"asked for: use a depth of 1 to {self.depth}"
            )

    def check_patches(
        self, encoder: encoder_lib.Encoder, own: encoder_lib.Encoder, class_token: bool
    ) -> None:
        """Raises ConfigError unless the run's encoder reads images in the patches of `own`.

        class_token: both must have a class token, or neither.
        """
        same = encoder.grid == own.grid and encoder.reads == own.reads
        if not same or (class_token and encoder.prefix != own.prefix):
            raise ConfigError(
                f"{self.key} {self.reference} reads {_input(encoder)}, and the student "
                f"{_input(own)}: use a teacher with the student's config.method.encoder.image_size "
                f"and patch_size{', and its class_token' if class_token else ''}"
            )

    def check_tokens(
        self, encoder: encoder_lib.Encoder, own: encoder_lib.Encoder, sample_rate: int
    ) -> None:
        """Raises ConfigError unless the run's encoder has the tokens of `own`, place by place."""
        there = (encoder.reads, encoder.grid, encoder.rate, int(self.config.data.sample_rate))
        if there != (own.reads, own.grid, own.rate, sample_rate):
            raise ConfigError(
                f"{self.key} {self.reference} has {_tokens(encoder, there[-1])}, and "
                f"config.method.encoder here {_tokens(own, sample_rate)}: use a run with the same "
                f"patches and config.data.sample_rate"
            )

    def check_reads(self, encoder: encoder_lib.Encoder, own: encoder_lib.Encoder) -> None:
        """Raises ConfigError unless the run's encoder reads the examples that `own` reads."""
        if encoder.reads != own.reads:
            raise ConfigError(
                f"{self.key} {self.reference} reads {_input(encoder)}, and the student "
                f"{_input(own)}: use a teacher that reads what the student reads"
            )

    def _section(self) -> dict:
        section = self.config.method.get("encoder")
        if not section:
            raise ConfigError(
                f"{self.key} {self.reference} is a run of {self.config.method.name!r}, which has "
                f"no config.method.encoder: use a run that has one, such as one of configs/mae"
            )
        return section.to_dict()


def encoder(reference: str, precision: str, depth: int | None = None) -> Frozen:
    """Returns the declaration of a teacher that is the encoder of a run, or the part of it up to
    the output of `depth` blocks; reads nothing."""
    keep = "^encoder/" if depth is None else "^encoder/(?!final_norm/)"
    return Frozen(reference, (keep,), depth, precision)


def check_names(teachers: Mapping, name: str) -> None:
    """Raises ConfigError unless config.method.teachers has the one teacher `name`."""
    if set(teachers) != {name}:
        raise ConfigError(
            f"config.method.teachers has the keys {sorted(teachers)}: use "
            f"config.method.teachers.{name} alone"
        )


def read(reference: str, key: str) -> Teacher:
    """Returns the run that `key`, such as config.method.teachers.teacher, names.

    Raises ConfigError for a folder that is no run's, one without a complete checkpoint, and a
    signature that none or several runs have.
    """
    if CONFIG.fullmatch(reference):
        config = config_lib.load(reference)
        return Teacher(key, reference, None, config, config_lib.sign(config))
    if not reference:
        raise ConfigError(
            f"{key} is empty: set it to the folder of a finished run, such as runs/mae_large, or "
            f"to the beginning of its signature"
        )
    try:
        folder = run_lookup.located(reference)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}: {error}") from error
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{key} is {reference}, which is no run folder, as it has no config.json: use the "
            f"--workdir of a finished run of `python -m ssl_jax.train`"
        )
    if not run_lookup.complete_steps(folder):
        raise ConfigError(
            f"{key} is {reference}, a run without a complete checkpoint: let it finish first, or "
            f"use the folder of a finished run"
        )
    config = config_lib.of_file(folder / "config.json")
    return Teacher(key, reference, folder, config, run_lookup.signature(folder))


def init(teacher: Teacher, declared: Frozen, key: Array) -> Tree:
    """Returns parameters as `declared` keeps them, with initial values: for plans and tests."""
    whole = teacher.encoder(declared.precision)
    batch: dict = {}
    for name, spec in whole.reads.items():
        sizes = (1, *(_longest(teacher.config) if n is None else n for n in spec.shape))
        batch[name] = jax.ShapeDtypeStruct(sizes, spec.dtype)
    if declared.fresh is not None:
        batch |= {"id": jax.ShapeDtypeStruct((1,), "uint32")}
        batch |= {"weight": jax.ShapeDtypeStruct((1,), "float32")}
        return part(declared.fresh(teacher, key, batch), declared, teacher)
    params, _ = encoder_lib.init(whole, key, batch)
    return part({"encoder": params}, declared, teacher)


def part(params: Tree, declared: Frozen, teacher: Teacher) -> Tree:
    """Returns the parameters of a run that a declaration keeps, blocks cut off at its depth.

    Raises ConfigError for a regex that fits no parameter and for a depth that the run has not.
    """
    named = dict(tree_lib.named_leaves(params))
    for pattern in declared.keep:
        if not any(re.search(pattern, name) for name in named):
            raise ConfigError(
                f"{teacher.key} {teacher.reference} has no parameter that fits {pattern!r}: use a "
                f"run that has one; it has {', '.join(sorted(named)[:3])}, ..."
            )
    dtype = compute_dtype(declared.precision)

    def cut(name: str, x: Array) -> Array:
        if declared.depth is not None and BLOCKS in name:
            teacher.check_depth(declared.depth)
            x = x[: declared.depth]
        # as an encoder casts matrices when it computes; norms and heads stay float32
        cast = name.endswith("kernel") and not name.startswith("head/")
        return x.astype(dtype) if cast and x.dtype != dtype else x

    return tree_lib.nested(
        {
            name: cut(name, x)
            for name, x in named.items()
            if any(re.search(pattern, name) for pattern in declared.keep)
        }
    )


def _longest(config: ConfigDict) -> int:
    """Returns the length of the longest example of a run, in samples or tokens."""
    data = config.data
    if data.get("modality", "audio") == "text":
        return int(data.block_tokens)
    return round(float(data.buckets[-1]) * data.sample_rate)


def _input(encoder: encoder_lib.Encoder) -> str:
    """Returns what an encoder reads, as text."""
    if "image" not in encoder.reads:
        return " and ".join(encoder.reads)
    shape, token = encoder.reads["image"].shape, "a" if encoder.prefix else "no"
    grid = " x ".join(map(str, encoder.grid))
    return f"images of {shape[0]} x {shape[1]} in {grid} patches, with {token} class token"


def _tokens(encoder: encoder_lib.Encoder, sample_rate: int) -> str:
    """Returns the tokens of an encoder, as text."""
    each = " x ".join(map(str, encoder.grid[1:])) or "1"
    return f"{each} tokens at {encoder.rate:g} steps per second of {sample_rate} Hz"
