"""The subnets of a supernet, as plain numbers: what is allowed, how large, how to name one.

LightHuBERT (2203.15610): one width for the residual stream; in each layer a number of attention
heads and a ratio of the feed-forward width; and a depth. No arrays of parameters here.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ssl_jax.nn.conv import KERNELS, STRIDES

KEY = "config.method.subnet"


@dataclasses.dataclass(frozen=True)
class FrontEnd:
    """The part that no subnet shrinks: parameters, and products for each frame.

    `channels` is the size of a frame before it is projected to the width of a subnet.
    """

    params: int
    channels: int
    products: int


def waveform_frontend(
    channels: int = 512, kernels: Sequence[int] = KERNELS, strides: Sequence[int] = STRIDES
) -> FrontEnd:
    """Returns the front end of convolutions without bias, each with a LayerNorm, and one more."""
    params, products, rate = 2 * channels, 0, math.prod(strides)
    inputs = 1
    for kernel, stride in zip(kernels, strides, strict=True):
        rate //= stride  # outputs of this layer for each frame of the last
        weights = inputs * channels * kernel
        params += weights + 2 * channels
        products += rate * weights
        inputs = channels
    return FrontEnd(params, channels, products)


@dataclasses.dataclass(frozen=True)
class Subnet:
    """One subnet: heads and feed-forward ratio of each kept layer, in their order."""

    embed: int
    heads: tuple[int, ...]
    ratios: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.heads) != len(self.ratios) or not self.heads:
            raise ValueError(
                f"{KEY} has heads of {len(self.heads)} layers and ratios of {len(self.ratios)}: "
                f"give both for each layer that is kept, such as '384/6x12/4x12'"
            )

    @property
    def depth(self) -> int:
        """The number of layers that are kept."""
        return len(self.heads)

    @property
    def mlp_widths(self) -> tuple[int, ...]:
        """The width of the feed-forward part of each kept layer."""
        return tuple(int(ratio * self.embed) for ratio in self.ratios)

    def __str__(self) -> str:
        """Returns text that `parse` reads: '384/6x12/4x12', '256/4,6x9/3.5x10'."""
        return f"{self.embed}/{_runs(self.heads)}/{_runs(self.ratios)}"


@dataclasses.dataclass(frozen=True)
class Space:
    """All subnets of a supernet, each a choice of leading slices of its parameters.

    `width`, `heads_full` and `blocks` are those of the supernet: its feed-forward part is seen as
    `blocks` blocks of `width` units. `drop_order`: layers that go first when depth falls; empty:
    `default_drop_order`. `named`: subnets that have a name, as text.
    """

    embed: tuple[int, ...]
    heads: tuple[int, ...]
    ratios: tuple[float, ...]
    depths: tuple[int, ...]
    layers: int = 12
    head_width: int = 64
    width: int = 768
    heads_full: int = 12
    blocks: int = 4
    position_kernel: int = 128
    position_groups: int = 16
    frontend: FrontEnd = dataclasses.field(default_factory=waveform_frontend)
    drop_order: tuple[int, ...] = ()
    named: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        limits = {
            "embed": self.width,
            "heads": self.heads_full,
            "ratios": self.blocks,
            "depths": self.layers,
        }
        for key, most in limits.items():
            values = getattr(self, key)
            good = values and list(values) == sorted(set(values)) and values[0] > 0
            if not good or values[-1] > most:
                raise ValueError(
                    f"config.method.space.{key} is {values}: use ascending numbers above 0 and of "
                    f"at most {most}, which is what the supernet has"
                )
        odd = [size for size in self.embed if size % self.position_groups]
        if odd:
            near = -(-odd[0] // self.position_groups) * self.position_groups
            raise ValueError(
                f"config.method.space.embed has {odd[0]}, which the {self.position_groups} groups "
                f"of the position convolution do not divide: use a multiple, such as {near}"
            )
        order = self.order
        wrong = sorted(set(order)) != sorted(order) or not set(order) <= set(range(self.layers))
        if wrong or len(order) < self.layers - self.depths[0]:
            raise ValueError(
                f"config.method.space.drop_order is {order}: name at least "
                f"{self.layers - self.depths[0]} layers from 0 to {self.layers - 1}, each once"
            )

    @property
    def order(self) -> tuple[int, ...]:
        """The layers in the order in which they are dropped."""
        return self.drop_order or default_drop_order(self.layers)

    def kept(self, depth: int) -> tuple[int, ...]:
        """Returns the layers of the supernet that a subnet of this depth keeps, ascending."""
        gone = set(self.order[: self.layers - depth])
        return tuple(layer for layer in range(self.layers) if layer not in gone)

    def keep_table(self) -> np.ndarray:
        """Returns bool (number of depths, layers): row i is what `depths[i]` keeps."""
        rows = [np.isin(np.arange(self.layers), self.kept(depth)) for depth in self.depths]
        return np.stack(rows)

    def size(self) -> int:
        """Returns the number of different subnets."""
        each = len(self.heads) * len(self.ratios)
        return len(self.embed) * sum(each**depth for depth in self.depths)

    def sample(self, rng: np.random.Generator) -> Subnet:
        """Draws a subnet: depth, embed, then ratio and heads of each layer, each uniformly."""

        def draw(values: Sequence) -> Any:
            return values[int(rng.integers(len(values)))]

        depth, embed = draw(self.depths), draw(self.embed)
        ratios = tuple(float(draw(self.ratios)) for _ in range(depth))
        heads = tuple(draw(self.heads) for _ in range(depth))
        return Subnet(embed, heads, ratios)

    def largest(self) -> Subnet:
        """Returns the subnet with the most parameters."""
        return self.uniform(self.embed[-1], self.heads[-1], self.ratios[-1], self.depths[-1])

    def smallest(self) -> Subnet:
        """Returns the subnet with the fewest parameters."""
        return self.uniform(self.embed[0], self.heads[0], self.ratios[0], self.depths[0])

    def full(self) -> Subnet:
        """Returns the whole supernet, which a smaller space need not contain."""
        return self.uniform(self.width, self.heads_full, self.blocks, self.layers)

    def uniform(self, embed: int, heads: int, ratio: float, depth: int) -> Subnet:
        """Returns the subnet whose layers are all alike; it is not checked."""
        return Subnet(embed, (heads,) * depth, (float(ratio),) * depth)

    def parse(self, text: str, key: str = KEY) -> Subnet:
        """Returns the subnet of a text: a name, or 'embed/heads/ratios' with '6x12' for 12 times 6.

        Names are largest, smallest and those of `named`. Raises ValueError, naming `key`.
        """
        names = {"largest": str(self.largest()), "smallest": str(self.smallest()), **self.names}
        parts = names.get(text, text).split("/")
        try:
            embed, heads, ratios = parts
            found = Subnet(
                int(embed), tuple(map(int, _items(heads))), tuple(map(float, _items(ratios)))
            )
        except ValueError:
            raise ValueError(
                f"{key} is {text!r}: use {', '.join(names)}, or embed/heads/ratios with a value "
                f"for each layer, such as '{self.largest()}'"
            ) from None
        self.check(found, key)
        return found

    @property
    def names(self) -> dict[str, str]:
        """The subnets that have a name, as text."""
        return dict(self.named)

    def check(self, subnet: Subnet, key: str = KEY) -> None:
        """Raises ValueError unless the subnet is in the space; one clear line, naming `key`."""
        asked = {
            "width": ([subnet.embed], self.embed),
            "number of heads": (subnet.heads, self.heads),
            "feed-forward ratio": (subnet.ratios, self.ratios),
            "depth": ([subnet.depth], self.depths),
        }
        for what, (values, allowed) in asked.items():
            for value in values:
                if value not in allowed:
                    raise ValueError(
                        f"{key} is '{subnet}', whose {what} {value:g} is not in the space: use "
                        f"one of {', '.join(f'{a:g}' for a in allowed)}, such as "
                        f"'{self.largest()}' for the largest subnet"
                    )

    def params(self, subnet: Subnet) -> int:
        """Returns the number of parameters of the encoder of a subnet.

        As the paper counts: with the whole mask vector, without the head that predicts the targets
        and without the gains of the weight norm.
        """
        e, n, p = subnet.embed, self.frontend.channels, self.position_kernel
        total = self.frontend.params + (n + 1) * e + self.width
        total += e * (e // self.position_groups) * p + e + 2 * e
        for heads, hidden in zip(subnet.heads, subnet.mlp_widths, strict=True):
            inner = heads * self.head_width
            total += 3 * (e + 1) * inner + (inner + 1) * e
            total += (e + 1) * hidden + (hidden + 1) * e + 4 * e
        return total

    def flops(self, subnet: Subnet, frames: int = 500) -> int:
        """Returns the operations of one clip of `frames` frames, two for each product.

        Norms, activations and the softmax are not counted.
        """
        e, s = subnet.embed, frames
        products = self.frontend.products + self.frontend.channels * e
        products += e * (e // self.position_groups) * self.position_kernel
        for heads, hidden in zip(subnet.heads, subnet.mlp_widths, strict=True):
            inner = heads * self.head_width
            products += 4 * e * inner + 2 * e * hidden + 2 * inner * s
        return 2 * s * products

    def hidden_units(self, embed: int, ratio: float) -> np.ndarray:
        """Returns the feed-forward units of the supernet that a layer of a subnet uses.

        The first `embed` units of each whole block, and the first part of the next one.
        """
        whole = math.floor(ratio)
        sizes = [embed] * whole + [int((ratio - whole) * embed)]
        return np.concatenate(
            [np.arange(size) + block * self.width for block, size in enumerate(sizes)]
        )

    def arrays(self, subnet: Subnet) -> dict[str, np.ndarray]:
        """Returns a subnet by layers of the supernet, so that many can be stacked.

        embed () int32; keep (L,) bool; heads (L,) int32 and ratios (L,) float32, 0 where a layer
        is dropped.
        """
        kept = list(self.kept(subnet.depth))
        keep, heads = np.zeros(self.layers, bool), np.zeros(self.layers, np.int32)
        ratios = np.zeros(self.layers, np.float32)
        keep[kept], heads[kept], ratios[kept] = True, subnet.heads, subnet.ratios
        return {
            "embed": np.asarray(subnet.embed, np.int32),
            "keep": keep,
            "heads": heads,
            "ratios": ratios,
        }

    def stack(self, subnets: Sequence[Subnet]) -> dict[str, np.ndarray]:
        """Returns the `arrays` of several subnets, stacked along a first axis."""
        each = [self.arrays(subnet) for subnet in subnets]
        return {name: np.stack([one[name] for one in each]) for name in each[0]}


def default_drop_order(layers: int) -> tuple[int, ...]:
    """Returns the layers in the order in which they are dropped, as in the paper's tables.

    The last of each group of four, from the top down, then the last but one of each: 11, 7, 3, 10,
    6, 2 for 12 layers. The tables end there; it goes on in the same way, and the first of each
    group goes last.
    """
    groups = [list(range(i, min(i + 4, layers))) for i in range(0, layers, 4)]
    rest = [group.pop() for _ in range(3) for group in reversed(groups) if len(group) > 1]
    return (*rest, *(group[0] for group in reversed(groups[1:])))


def _runs(values: Sequence[float]) -> str:
    """Returns '6x3,8' for (6, 6, 6, 8)."""
    runs: list[list[float]] = []
    for value in values:
        if runs and runs[-1][0] == value:
            runs[-1][1] += 1
        else:
            runs.append([value, 1])
    return ",".join(f"{value:g}x{count}" if count > 1 else f"{value:g}" for value, count in runs)


def _items(text: str) -> Iterator[str]:
    """Yields the values of '6x3,8': 6, 6, 6, 8."""
    for part in text.split(","):
        value, times, count = part.partition("x")
        for _ in range(int(count) if times else 1):
            yield value


BASE = Space(
    embed=(512, 640, 768),
    heads=(8, 10, 12),
    ratios=(3.5, 4.0),
    depths=(12,),
    named=(("a_base", "640/10x12/4x12"),),
)
SMALL = Space(
    embed=(256, 384, 512),
    heads=(4, 6, 8),
    ratios=(3.0, 3.5, 4.0),
    depths=(10, 11, 12),
    named=(("a_small", "384/6x12/4x12"),),
)
PRESETS = {"base": BASE, "small": SMALL}
