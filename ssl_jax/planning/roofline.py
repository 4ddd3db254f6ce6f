"""A roofline model: how long a chip takes for each kernel, limited by compute or by memory."""

import dataclasses
import math
from collections.abc import Sequence

from ssl_jax.core.chips import Chip
from ssl_jax.planning.collectives import Collective
from ssl_jax.planning.kernels import Kernel


@dataclasses.dataclass(frozen=True)
class Attainable:
    """Fractions of the peak rates that good kernels reach, and the seconds between two kernels."""

    dot: float
    conv: float
    grouped: float  # convolutions with several groups
    attention: float  # fused into one kernel
    vector: float
    hbm: float
    links: float
    gap: float


ATTAINABLE = {
    "tpu": Attainable(0.80, 0.60, 0.40, 0.50, 0.6, 0.80, 0.9, 0.2e-6),
    "gpu": Attainable(0.55, 0.40, 0.15, 0.35, 0.7, 0.65, 0.8, 3.0e-6),
    "cpu": Attainable(0.80, 0.50, 0.40, 0.50, 0.5, 0.70, 0.8, 5.0e-6),
}
"""Assumptions, not measurements; experiments/benchmarks compares the predictions with timings."""


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of a step on one chip by kind of kernel; `communication`: none of it overlapped."""

    dot: float
    conv: float
    attention: float
    fused: float
    move: float
    gaps: float
    communication: float

    @property
    def compute(self) -> float:
        """Seconds without communication between chips."""
        return self.dot + self.conv + self.attention + self.fused + self.move + self.gaps

    @property
    def total(self) -> float:
        """Seconds of a step."""
        return self.compute + self.communication


def predict(kernels: Sequence[Kernel], collectives: Sequence[Collective], chip: Chip) -> Times:
    """Returns the predicted times of a step on `chip`."""
    times = dict.fromkeys(("dot", "conv", "attention", "fused", "move"), 0.0)
    for kernel in kernels:
        times[kernel.kind] += kernel.times * seconds(kernel, chip)
    count = sum(k.times for k in kernels if k.bytes > 0)
    gaps = count * ATTAINABLE[chip.platform].gap
    communication = sum(communication_seconds(c, chip) for c in collectives)
    return Times(**times, gaps=gaps, communication=communication)


def seconds(kernel: Kernel, chip: Chip) -> float:
    """Returns the seconds of a kernel: the slowest of products, other operations and memory."""
    share = ATTAINABLE[chip.platform]
    memory = kernel.bytes / (share.hbm * chip.hbm_rate)
    vector = kernel.simple / (share.vector * chip.vector)
    return max(memory, vector, product_seconds(kernel, chip))


def product_seconds(kernel: Kernel, chip: Chip) -> float:
    """Returns the seconds of a product whose axes are padded to whole tiles."""
    if not kernel.flops:
        return 0.0
    share = ATTAINABLE[chip.platform]
    peak = chip.flops32 if kernel.wide else chip.flops
    if kernel.exact and kernel.wide:  # six passes of bfloat16, or no tensor cores
        peak = chip.flops / 6 if chip.platform == "tpu" else 2 * chip.vector
    reached = share.grouped if kernel.groups > 1 else getattr(share, kernel.kind)
    padding = math.prod(math.ceil(n / chip.tile) * chip.tile / n for n in kernel.sizes)
    return kernel.flops * padding / (reached * peak)


def communication_seconds(collective: Collective, chip: Chip) -> float:
    """Returns the seconds that a chip spends sending, within its host or slice and beyond."""
    share = ATTAINABLE[chip.platform].links
    if collective.between:
        return collective.sent / (share * chip.network_rate)
    inside = collective.sent / (share * chip.link_rate)
    hosts = math.ceil(collective.group / chip.per_link) if chip.per_link else 1
    if hosts == 1:
        return inside
    # sums within a host cross between hosts once
    crossing = collective.times * collective.bytes * 2 * (hosts - 1) / hosts / chip.per_link
    return inside + crossing / (share * chip.network_rate)
