"""The plan of a run as text: one step, the whole run, and changes that would help."""

import dataclasses
from collections.abc import Sequence

from ml_collections import ConfigDict

from ssl_jax.core import config as config_lib
from ssl_jax.core.chips import GIB, Topology
from ssl_jax.planning import collectives
from ssl_jax.planning.estimate import Estimate

PARTS = {
    "dot": "matrix products",
    "conv": "convolutions",
    "attention": "fused attention",
    "fused": "other fused kernels (norms, softmax, optimizer)",
    "move": "sorts and gathers",
    "gaps": "gaps between kernels",
    "communication": "communication, none of it overlapped",
}
NAMES = {"extra": "teacher and extra", "temporaries": "activations and buffers"}


@dataclasses.dataclass(frozen=True)
class Run:
    """A whole run: its steps, or why they are unknown, and how much data it consumes, as text."""

    steps: int
    missing: str
    data: str


def whole_run(config: ConfigDict, examples: int = 0, hours: float = 0.0) -> Run:
    """Returns the length of the run of `config` over that many examples or hours of audio.

    Every batch counts as full clips of the longest bucket, so the hours of audio are an upper
    bound.
    """
    data = config.data
    clip = float(data.buckets[-1]) if data.modality in ("audio", "pair") else 0.0
    if hours and clip and not examples:
        examples = max(round(hours * 3600 / clip), 1)
    try:
        steps = config_lib.steps_of(config, examples)
    except config_lib.ConfigError:
        need = "--examples N, or --hours H of audio" if clip else "--examples N"
        return Run(0, f"{config.train.duration}; to convert that to steps, give {need}", "")
    rows = steps * data.batch_size
    if clip:
        consumed = f"at most {rows * clip / 3600:,.0f} hours of audio in {rows:,} clips"
    elif data.modality == "text":
        consumed = f"{rows * data.block_tokens:,} tokens in {rows:,} blocks"
    else:
        consumed = f"{rows:,} {'clips' if data.modality == 'video' else 'images'}"
    return Run(steps, "", consumed)


def text(
    title: str,
    config: ConfigDict,
    topology: Topology,
    found: Estimate,
    run: Run,
    notes: Sequence,
    turnover: str = "",
) -> str:
    """Returns the plan as lines of text; turnover: that of the teacher, '' without one."""
    chip, times = topology.chip, found.times
    rows = [("parameters", f"{found.parameters:,}")]
    rows += [("memory per chip", _memory(found))]
    per_chip = found.flops / found.chips
    intensity = per_chip / max(found.moved, 1)
    rows += [
        (
            "work per step",
            f"{found.flops:.4g} FLOP; per chip {per_chip:.4g}, over {found.moved / 1e9:.1f} GB of "
            f"memory traffic: {intensity:.0f} FLOP/byte, where {chip.name} balances at "
            f"{chip.flops / chip.hbm_rate:.0f}",
        ),
        ("communication", _communication(found)),
        (
            "time per step",
            f"{times.total * 1e3:.1f} ms: "
            + ", ".join(f"{PARTS[k]} {v * 1e3:.1f}" for k, v in vars(times).items() if v),
        ),
        (
            "utilization",
            f"{found.utilization(chip.flops):.1%} of peak compute, "
            f"{found.moved / times.total / chip.hbm_rate:.1%} of memory bandwidth, "
            f"{sum(c.sent for c in found.collectives) / times.total / chip.link_rate:.1%} of links",
        ),
        ("whole run", _run(found, run)),
    ]
    rows += [("teacher turnover", turnover)] if turnover else []
    rows += [("note", note) for note in notes]
    mesh = ", ".join(f"{axis} {size}" for axis, size in config.mesh.items())
    head = f"{title} on {topology.name}, {found.chips} chips (config.mesh: {mesh})"
    return "\n".join([head, *(f"  {name:<18} {value}" for name, value in rows)])


def table(rows: Sequence[tuple[dict, Estimate]]) -> str:
    """Returns a table of variants by predicted time; those that do not fit come last."""
    ranked = sorted(rows, key=lambda row: (row[1].spare < 0, row[1].times.total))
    lines = [("rank", "remat", "fsdp", "accumulate", "ms per step", "GiB per chip", "")]
    for i, (changes, found) in enumerate(ranked, 1):
        used = (found.limit - found.spare) / GIB
        short = -found.spare / GIB
        lines.append(
            (
                str(i),
                next((str(v) for key, v in changes.items() if key.endswith(".remat")), "-"),
                str(changes["mesh.fsdp"]),
                str(changes["train.accumulate"]),
                f"{found.times.total * 1e3:.1f}",
                f"{used:.2f}",
                "fits" if found.spare >= 0 else f"does not fit, by {short:.2f} GiB",
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(7)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _memory(found: Estimate) -> str:
    used, limit = sum(found.memory.values()) / GIB, found.limit / GIB
    shown = {NAMES.get(k, k): v / GIB for k, v in found.memory.items()}
    parts = ", ".join(
        f"{name} {v:.2f}" if v > 0.005 else f"{name} {v:.1g}"
        for name, v in shown.items()
        if v > min(used, 1) / 200
    )
    fits = f"fits, {limit - used:.2f} to spare"
    if found.spare < 0:
        fits = f"DOES NOT FIT, by {used - limit:.2f}; --search looks for settings that would"
    source = "as compiled" if found.compiled else "estimated from shapes"
    return f"{parts}; {used:.2f} of {limit:.2f} GiB: {fits} ({source})"


def _communication(found: Estimate) -> str:
    totals = collectives.totals(found.collectives)
    if not totals:
        return "none"
    kinds = ", ".join(
        f"{row['sent'] / GIB:.3g} GiB in {row['count']:,.0f} {kind}" for kind, row in totals.items()
    )
    source = "as compiled" if found.communication_compiled else "from the sharding rules"
    return f"each chip sends {kinds} ({source})"


def _run(found: Estimate, run: Run) -> str:
    if run.missing:
        return run.missing
    hours = run.steps * found.times.total / 3600
    spent = f"{hours:,.1f} hours, {hours * found.chips:,.0f} chip-hours"
    return f"{run.steps:,} steps: {spent}; {run.data}"
