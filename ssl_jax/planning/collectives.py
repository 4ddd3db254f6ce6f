"""The communication of a step: the collectives of a compiled program, parsed from its text.

A collective inside a loop counts as often as the loop runs. The text is that of
`compiled.as_text()`, one program that every chip runs, so sizes are per chip. With several TPU
slices it is the program of one slice, which passes data for the other slices to its host.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BETWEEN = "_xla_megascale_transfer_type"
# the compiler's name for a function that all-reduces and keeps one shard of the sum
SCATTERS = "all-reduce-scatter"
WIDTHS = {"pred": 1, "c64": 8, "c128": 16, "token": 0}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]+\d*(?:e\d\w*)?)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(calls|to_apply|body|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)")
_CONSTANT = re.compile(r"^s(?:32|64)\[\][^ ]* constant\((-?\d+)\)")


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective: its kind, bytes contributed by a chip, group size, and runs per step.

    between: it crosses the network between slices; `group` is then the number of slices.
    """

    kind: str
    bytes: int
    group: int
    times: float
    between: bool = False

    @property
    def sent(self) -> float:
        """Bytes that a chip sends in a step with ring algorithms."""
        others = self.group - 1
        factor = {
            "all-reduce": 2 * others / self.group,
            "all-gather": others,
            "reduce-scatter": others / self.group,
            "all-to-all": others / self.group,
            "collective-permute": 1.0,
        }
        return self.times * self.bytes * factor[self.kind]


@dataclasses.dataclass(frozen=True)
class _Line:
    name: str
    type: str
    opcode: str
    rest: str
    within: str  # the computation that contains it

    @property
    def between(self) -> bool:
        """Whether it passes data to the host for other slices."""
        return self.opcode == "send" and BETWEEN in self.rest

    @property
    def kind(self) -> str:
        """The kind of collective that it is, "" if it is none."""
        if self.between:
            named = re.search(rf'{BETWEEN}="(\w+)"', self.rest)
            kind = named[1].lower().replace("_", "-") if named else ""
            return kind if kind in KINDS else "collective-permute"
        kind = next((k for k in KINDS if self.opcode in (k, f"{k}-start")), "")
        scatters = kind == "all-reduce" and self.within.startswith(SCATTERS)
        return "reduce-scatter" if scatters else kind


def parse(text: str, chips: int, slices: int = 1) -> list[Collective]:
    """Returns the collectives of a compiled program over `chips` chips in `slices` TPU slices.

    Collectives with a group of one chip are left out. Raises ValueError if one is inside a loop
    whose length the text does not state.
    """
    computations, entry = _read(text)
    types = {line.name: line.type for lines in computations.values() for line in lines}
    found, seen = [], set()
    for line, times in _walk(computations, entry, 1.0):
        # a collective split into parts that overlap with products has one channel for all of them
        part = re.search(r'channel_id=(\d+), .*\bchain_id="\d+"', line.rest)
        if not line.kind or (part and part[1] in seen):
            continue
        seen |= {part[1]} if part else set()
        operands = re.findall(r"%([\w.\-]+)", line.rest.split("), ")[0])
        group = slices if line.between else _group(line.rest, chips // slices)
        if group > 1:
            size = sum(size_of(types[name]) for name in operands)
            found.append(Collective(line.kind, size, group, times, line.between))
    return found


def totals(found: Sequence[Collective]) -> dict[str, dict[str, float]]:
    """Returns {kind: count, bytes a chip contributes, bytes it sends} for one step.

    Collectives between slices are kinds of their own.
    """
    out: dict[str, dict[str, float]] = {}
    for c in found:
        kind = f"{c.kind} between slices" if c.between else c.kind
        row = out.setdefault(kind, {"count": 0.0, "bytes": 0.0, "sent": 0.0})
        row["count"] += c.times
        row["bytes"] += c.times * c.bytes
        row["sent"] += c.sent
    return out


def size_of(type_text: str) -> int:
    """Returns the bytes of an array type, for example f32[8,64]{1,0}, or of a tuple of them."""
    total = 0
    for kind, shape in _SHAPE.findall(type_text):
        bits = re.search(r"\d+", kind)
        width = WIDTHS[kind] if kind in WIDTHS else int(bits[0]) / 8 if bits else 0
        total += math.ceil(width * math.prod(int(n) for n in shape.split(",") if n))
    return total


def _read(text: str) -> tuple[dict[str, list[_Line]], str]:
    """Returns the instructions of each computation, and the name of the entry computation."""
    computations: dict[str, list[_Line]] = {}
    entry, inside, lines = "", "", []
    for row in text.splitlines():
        if head := _COMPUTATION.match(row):
            inside, lines = head[2], computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif part := _INSTRUCTION.match(row):
            lines.append(_Line(part[1], part[2], part[3], part[4], inside))
    return computations, entry


def _walk(
    computations: dict[str, list[_Line]], name: str, times: float
) -> Iterator[tuple[_Line, float]]:
    for line in computations[name]:
        yield line, times
        if line.opcode.endswith(("-done", "-update")):
            continue  # repeats the computation of its start
        for role, called in _CALLED.findall(line.rest):
            for inner in re.findall(r"[\w.\-]+", called):
                inside = list(_walk(computations, inner, 1.0))
                if not any(x.kind for x, _ in inside):
                    continue
                often = _trips(line, computations) if role == "body" else 1.0
                yield from ((x, times * often * n) for x, n in inside)


def _trips(loop: _Line, computations: dict[str, list[_Line]]) -> float:
    """Returns how often a loop runs: stated by the compiler, or counted up to a constant."""
    if stated := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest):
        return float(stated[1])
    condition = re.search(r"\bcondition=%?([\w.\-]+)", loop.rest)
    lines = computations[condition[1]] if condition else []
    ends = [_CONSTANT.match(f"{x.type} {x.opcode}({x.rest}") for x in lines]
    numbers = {int(m[1]) for m in ends if m}
    if len(numbers) != 1:
        raise ValueError(f"the loop {loop.name} contains collectives but has no known length")
    return float(numbers.pop())


def _group(attributes: str, chips: int) -> int:
    """Returns the group size from replica_groups, given as a list, an iota or mesh axes."""
    if re.search(r"source_target_pairs=\{\{", attributes):
        return 2
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return len(listed[1].split(","))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(iota[1])
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\].*? \{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
    return chips
