"""One table of accelerators: their peak figures, and the topologies that can be planned for.

Figures are the manufacturers': docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x} (v4 also
2304.01433, table 4; v4 and v5p with the two cores of a chip as one device), and the data sheets of
NVIDIA's cards (dense, without sparsity). Send rates are half of the stated bidirectional
bandwidth. Vector rates of TPUs are from jax-ml.github.io/scaling-book/tpus. Memory is what a
program can use (on a TPU as its compiler reports, on a GPU without the driver's share), in GiB.
The figures of a CPU core are orders of magnitude.
"""

import dataclasses
import math
import re

from ssl_jax.core.config import ConfigError

GIB, TERA, GIGA = 2**30, 1e12, 1e9


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device. Rates are peaks per second; what programs attain of them is in `Attainable`."""

    name: str
    platform: str  # cpu | gpu | tpu
    flops: float  # matrix products in bfloat16
    flops32: float  # matrix products of float32 operands: tf32 on GPU, one pass of bfloat16 on TPU
    vector: float  # simple float32 operations outside matrix products
    hbm: float  # bytes
    hbm_rate: float  # bytes / s
    link_rate: float  # bytes / s that it can send to its neighbours (ICI, NVLink)
    network_rate: float  # bytes / s that it can send to another slice or host
    tile: int  # axes of a matrix product are padded to multiples of this
    per_link: int = 0  # chips connected at link_rate; 0: all of a slice


# name, platform, bf16, f32, vector (T/s), HBM (GiB), HBM, links, network (GB/s), tile, linked
_ROWS = (
    ("v4", "tpu", 275, 275, 4.3, 30.75, 1200, 300, 3.1, 128, 0),
    ("v5e", "tpu", 197, 197, 6.1, 15.75, 819, 200, 3.1, 128, 0),
    ("v5p", "tpu", 459, 459, 14.0, 95.73, 2765, 600, 6.2, 128, 0),
    ("v6e", "tpu", 918, 918, 7.0, 31.24, 1638, 400, 12.5, 256, 0),
    ("a100", "gpu", 312, 156, 9.7, 78, 2039, 300, 25.0, 64, 8),
    ("h100", "gpu", 989, 495, 33.5, 78, 3350, 450, 50.0, 64, 8),
    ("h200", "gpu", 989, 495, 33.5, 139, 4800, 450, 50.0, 64, 8),
    ("l4", "gpu", 121, 60, 15.1, 22, 300, 32, 6.2, 64, 8),
    ("cpu", "cpu", 0.05, 0.05, 0.02, 16, 20, 10, 1.0, 16, 0),
)
CHIPS = {
    name: Chip(
        name,
        platform,
        bf16 * TERA,
        f32 * TERA,
        vector * TERA,
        hbm * GIB,
        rate * GIGA,
        links * GIGA,
        network * GIGA,
        tile,
        linked,
    )
    for name, platform, bf16, f32, vector, hbm, rate, links, network, tile, linked in _ROWS
}

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES: tuple[str, ...] = (
    "2x2x1",
    "2x2x2",
    "2x2x4",
    "2x4x4",
    "4x4x4",
    "4x4x8",
    "4x8x8",
    "8x8x8",
    "8x8x16",
)
_CUBES += ("8x16x16", "16x16x16")
SHAPES = {"v4": _CUBES, "v5p": _CUBES, "v5e": _FLAT, "v6e": _FLAT}
"""The slices that can be requested; several are written as 2xv5e:16x16."""

_NAME = re.compile(r"(?:(\d+)x(?=[a-z]))?([a-z]\w*)(?::([\dx]+))?")


@dataclasses.dataclass(frozen=True)
class Topology:
    """A number of chips; for a TPU, `slices` times the shape of one slice."""

    chip: Chip
    shape: str
    slices: int = 1

    @property
    def name(self) -> str:
        """The name that `topology` parses."""
        several = f"{self.slices}x" if self.slices > 1 else ""
        return f"{several}{self.chip.name}:{self.shape}"

    @property
    def chips(self) -> int:
        """The number of chips in all slices."""
        return self.slices * math.prod(int(n) for n in self.shape.split("x"))


def topology(name: str) -> Topology:
    """Returns the topology of "v5e:16x16", "2xv5e:16x16" (two slices), "h100:8" or "cpu:8".

    Raises ConfigError listing those that exist.
    """
    match = _NAME.fullmatch(name)
    if not match or match[2] not in CHIPS:
        raise ConfigError(f"there is no topology {name!r}: use one of {listing()}")
    slices, chip, shape = int(match[1] or 1), CHIPS[match[2]], match[3] or ""
    if chip.platform != "tpu":
        shape = shape or "1"
        if slices != 1 or not shape.isdigit() or int(shape) < 1:
            raise ConfigError(f"there is no topology {name!r}: use {chip.name}:8 for 8 of them")
    elif slices < 1 or shape not in SHAPES[chip.name]:
        sizes = ", ".join(f"{chip.name}:{s}" for s in SHAPES[chip.name])
        raise ConfigError(f"there is no topology {name!r}: use one of {sizes}")
    return Topology(chip, shape, slices)


def smaller(asked: Topology, chips: int) -> Topology:
    """Returns `chips` of the same kind. Raises ConfigError if no slice has that many."""
    if chips < 1:
        raise ConfigError(f"--chips is {chips}: use 1 or more")
    if asked.chip.platform != "tpu":
        return dataclasses.replace(asked, shape=str(chips))
    found = {Topology(asked.chip, s).chips: s for s in SHAPES[asked.chip.name]}
    if chips not in found:
        raise ConfigError(f"no slice of {asked.chip.name} has {chips} chips: use one of {[*found]}")
    return Topology(asked.chip, found[chips])


def of_device(kind: str) -> Chip | None:
    """Returns the chip of a jax device by its `device_kind`; None when unknown."""
    known = {
        "TPU v4": "v4",
        "TPU v5 lite": "v5e",
        "TPU v5": "v5p",
        "TPU v6 lite": "v6e",
        "NVIDIA A100": "a100",
        "NVIDIA H100 80GB HBM3": "h100",  # not the slower cards of this name
        "NVIDIA H200": "h200",
        "NVIDIA L4": "l4",
    }
    found = [name for start, name in known.items() if kind == start or kind.startswith(f"{start} ")]
    return CHIPS[max(found, key=len)] if found else None


def listing() -> str:
    """Returns the names of all topologies as text."""
    shapes = [f"{chip}:{shapes[0]} to {chip}:{shapes[-1]}" for chip, shapes in SHAPES.items()]
    others = [f"{c.name}:N" for c in CHIPS.values() if c.platform != "tpu"]
    return ", ".join([*shapes, *others])
