"""Where the time of traced steps went, by the named scopes of their method.

A trace names operations as the compiler does; the text of the compiled program has the scope of
each, and whether it belongs to the gradient. A fusion counts for the scope of its result, or where
that has none, for the scope of most of its parts.
"""

import bisect
import collections
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

OWN = ("optimizer", "update")
"""The scopes of the engine, in addition to those of the method."""
WAIT, STEP = "data wait", "train"
"""What the host marks in a trace: waiting for a batch, and a step."""
OTHER, OUTSIDE, IDLE = "other", "other programs", "idle"
"""Time in no scope, in programs other than the step, and in nothing."""

# these only contain other operations, which the trace shows too
_CONTAINERS = ("while", "conditional", "call")
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.-]+).*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.-]+) = .*?\s([a-z][\w-]*)\(")
_SCOPED = re.compile(r'op_name="([^"]*)"')
_CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.-]+)")

Label = tuple[str, str]
"""(scope, "forward" or "backward")."""


class Table(NamedTuple):
    """Milliseconds of one step on one device.

    scopes: name -> {"forward": ms, "backward": ms}, with those of the engine, OTHER and OUTSIDE,
    such as an evaluation between two steps. data_wait: the device was idle and the loop
    waited for a batch; idle: it was idle for another reason. All of these add up to `step`.
    """

    scopes: dict[str, dict[str, float]]
    data_wait: float
    idle: float
    step: float
    steps: int
    devices: int


class Op(NamedTuple):
    """An operation in a trace: its device, program, name, and when it ran in nanoseconds.

    path: its scope, if the trace has it. alone: what it contains is not
    shown separately, as on the streams of a GPU.
    """

    device: str
    program: tuple[str, str]  # module, id
    name: str
    start: float
    stop: float
    path: str = ""
    alone: bool = False


def attribute(data: Any, programs: Sequence[str], scopes: Sequence[str]) -> Table:
    """Returns where the time of the steps in a trace went.

    data: a jax.profiler.ProfileData with STEP and WAIT marked. programs: the texts of the
    compiled steps in the order of their first use. Operations that run at once share the time.
    Raises ValueError for a trace that shows no step.
    """
    known = (*scopes, *(name for name in OWN if name not in scopes))
    modules = {text.split(None, 2)[1].rstrip(",") for text in programs}
    ops, steps = [*_ops(data)], [*_marks(data, STEP)]
    own = [op for op in ops if op.program[0] in modules]
    if not steps or not own:
        raise ValueError(
            "the trace shows no operation of a step: this backend does not report them; "
            "open the trace in xprof"
        )
    alone = all(op.alone for op in own)  # all are of one platform
    label = _labeller(own, [labels(text, known, alone) for text in programs], known)
    waits = [*_marks(data, WAIT)]
    first = min(start for start, _ in (*steps, *waits))
    last = max(op.stop for op in own)
    spans: dict[str, list[tuple[float, float, Label]]] = {op.device: [] for op in own}
    for op in ops:
        where = label(op) if op.program[0] in modules else (OUTSIDE, "forward")
        if op.device in spans and where is not None:
            spans[op.device].append((op.start, op.stop, where))
    total: dict[Any, float] = collections.defaultdict(float)
    for found in spans.values():
        waiting = [(start, stop, WAIT) for start, stop in waits]
        for name, time in _shares([*found, *waiting], first, last).items():
            total[name] += time
    per = {name: time / 1e6 / len(steps) / len(spans) for name, time in total.items()}
    ways = ("forward", "backward")
    rows = {name: {w: per.get((name, w), 0.0) for w in ways} for name in (*known, OTHER, OUTSIDE)}
    whole = (last - first) / 1e6 / len(steps)
    return Table(rows, per.get(WAIT, 0.0), per.get(IDLE, 0.0), whole, len(steps), len(spans))


def as_text(table: Table) -> str:
    """Returns the table as text, in milliseconds and as shares of a step."""
    rows: list[tuple[str, ...]] = [("ms per step", "forward", "backward", "both", "share")]
    for name, ways in table.scopes.items():
        if any(ways.values()):
            each = (f"{ways[way]:.3f}" for way in ("forward", "backward"))
            rows.append((name, *each, *_both(sum(ways.values()), table)))
    for name, value in ((WAIT, table.data_wait), (IDLE, table.idle), ("step", table.step)):
        rows.append((name, "", "", *_both(value, table)))
    first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        "  ".join([name.ljust(first), *map(str.rjust, numbers, widths)]) for name, *numbers in rows
    )


def _both(value: float, table: Table) -> tuple[str, str]:
    return f"{value:.3f}", f"{value / table.step:.1%}"


def labels(text: str, known: Sequence[str], alone: bool = False) -> dict[str, Label | None]:
    """Returns operation -> where its time counts, from the text of a compiled program.

    None for an operation that only contains others, unless these are not shown separately
    (`alone`); ("other", way) for one in no scope of `known`.
    """
    paths, called, opcodes = {}, {}, {}
    inside: dict[str, list[str]] = {}
    computation = ""
    for line in text.splitlines():
        if found := _INSTRUCTION.match(line):
            name = found[2]
            opcodes[name] = found[3]
            inside[computation].insert(0 if found[1] else len(inside[computation]), name)
            if path := _SCOPED.search(line):
                paths[name] = path[1]
            if call := _CALLED.search(line):
                called[name] = call[1]
        elif opened := _COMPUTATION.match(line):
            computation = opened[1]
            inside[computation] = []

    def label(name: str) -> Label:
        here = scope_of(paths.get(name, ""), known)
        if here[0] != OTHER:
            return here
        parts = map(label, inside.get(called.get(name, ""), ()))
        votes = collections.Counter(part for part in parts if part[0] != OTHER)
        return votes.most_common(1)[0][0] if votes else here

    dropped = () if alone else _CONTAINERS
    return {name: None if op in dropped else label(name) for name, op in opcodes.items()}


def scope_of(path: str, known: Sequence[str]) -> Label:
    """Returns the outermost known scope of a path such as "jit(run)/transpose(jvp(encoder))/dot".

    What is transposed is backward, as is what is recomputed there.
    """
    way = "backward" if "transpose(" in path else "forward"
    names = (part.rstrip(")").rpartition("(")[2] for part in path.split("/"))
    return next((name for name in names if name in known), OTHER), way


def _labeller(
    ops: Sequence[Op], found: Sequence[Mapping[str, Label | None]], known: Sequence[str]
) -> Callable[[Op], Label | None]:
    """Returns label(op), by the labels of the program that ran it, else by its own path.

    The programs of a trace and their texts are matched by the order of their first use.
    """
    ids = list(dict.fromkeys(op.program for op in sorted(ops, key=lambda op: op.start)))
    if len(ids) != len(found):  # a backend that does not tell programs apart: the first label
        merged = dict(collections.ChainMap(*map(dict, found)))
        return lambda op: merged.get(op.name, scope_of(op.path, known))
    by_id = dict(zip(ids, found, strict=True))
    return lambda op: by_id[op.program].get(op.name, scope_of(op.path, known))


def _marks(data: Any, name: str) -> Iterator[tuple[float, float]]:
    """Yields (start, stop) of what the host marked by this name, in order."""
    spans = [
        (event.start_ns, event.end_ns)
        for plane in data.planes
        if plane.name.startswith("/host:")
        for line in plane.lines
        for event in line.events
        if event.name == name
    ]
    yield from sorted(spans)


def _ops(data: Any) -> Iterator[Op]:
    """Yields the operations of a trace: of the threads of a CPU, the streams of a GPU, a TPU."""
    for plane in data.planes:
        if plane.name.startswith("/device:TPU"):
            yield from _tpu_ops(plane)
            continue
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                if "hlo_op" in stats:
                    device = f"{plane.name}:{stats.get('device_ordinal', '')}"
                    program = str(stats.get("hlo_module", "")), str(stats.get("program_id", ""))
                    name, alone = str(stats["hlo_op"]), plane.name.startswith("/device:")
                    path = str(stats.get("tf_op", "") or stats.get("name", ""))
                    yield Op(device, program, name, event.start_ns, event.end_ns, path, alone)


def _tpu_ops(plane: Any) -> Iterator[Op]:
    """Yields the operations of a TPU: named by their instruction, below runs of `module(id)`.

    Copies that run meanwhile, sparse cores and the like have lines and planes of other names.
    """
    lines = {line.name: list(line.events) for line in plane.lines}
    runs = sorted((e.start_ns, e.name) for e in lines.get("XLA Modules", ()))
    for event in lines.get("XLA Ops", ()):
        at = bisect.bisect(runs, (event.start_ns, "\uffff")) - 1
        module, _, number = runs[at][1].partition("(") if at >= 0 else ("", "", "")
        name = event.name.split(" = ")[0].lstrip("%")
        yield Op(plane.name, (module, number.rstrip(")")), name, event.start_ns, event.end_ns)


def _shares(
    spans: Iterable[tuple[float, float, Any]], first: float, last: float
) -> Mapping[Any, float]:
    """Returns label -> time within [first, last]; what runs at once shares it in equal parts.

    Time in which only WAIT runs counts as WAIT, and time in which nothing runs as IDLE.
    """
    edges = []
    for start, stop, label in spans:
        start, stop = max(start, first), min(stop, last)
        if start < stop:
            edges += [(start, 1, label), (stop, -1, label)]
    edges.sort(key=lambda edge: edge[0])
    running: collections.Counter[Any] = collections.Counter()
    shares: dict[Any, float] = collections.defaultdict(float)
    now = first
    for time, change, label in [*edges, (last, 0, IDLE)]:
        busy = {k: n for k, n in running.items() if n > 0 and k != WAIT}
        busy = busy or {WAIT if running[WAIT] > 0 else IDLE: 1}
        for name, n in busy.items() if time > now else ():
            shares[name] += (time - now) * n / sum(busy.values())
        running[label] += change
        now = time
    return shares
