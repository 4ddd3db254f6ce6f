"""Fills the tables of the READMEs from the results files: python experiments/tables.py"""

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_jax.evals import table

HERE = Path(__file__).resolve().parent
ARMS = ("scratch", "pretrained")


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Returns rows of {column: text} as a markdown table with a last newline."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([row[c] for c in columns] for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def arms(first: str, groups: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Returns the table of {group: {arm: accuracy of each seed}}: mean, interval and gain."""
    rows = []
    for name, group in groups.items():
        gain = [b - a for a, b in zip(group["scratch"], group["pretrained"], strict=True)]
        row = {first: name} | {arm: table.cell(group[arm]) for arm in ARMS}
        rows.append(row | {"gain": table.cell(gain), "seeds": str(len(gain))})
    return markdown(rows)


def quickstart() -> str:
    """Returns the table of the quickstart, with its wall time."""
    found = _read("quickstart.json")
    o = found["options"]
    name = f"{o['labels_per_class']} labels per word"
    text = arms("test accuracy", {name: {arm: found[arm] for arm in ARMS}})
    minutes = found["seconds"] / 60
    return f"{text}\n{minutes:.1f} minutes on {found['cores']} cores ({o['clips']} clips).\n"


def shares() -> str:
    """Returns the table of the keyword experiment by share of labels."""
    return arms("labels", _read("kws/results.json")["shares"])


def long_spans() -> str:
    """Returns the table of the same experiment with `--mask_length=8`, spans of half a second."""
    return arms("labels", _read("kws/results_long_spans.json")["shares"])


def speakers() -> str:
    """Returns the table of the keyword experiment by the speaker left out, and over all of them."""
    found = _read("kws/results.json")["speakers"]
    if not found:
        return "Not run for these results.\n"
    means = {arm: [statistics.mean(group[arm]) for group in found.values()] for arm in ARMS}
    last = arms("speaker left out", {"over the speakers": means}).splitlines(keepends=True)[-1]
    return arms("speaker left out", found) + last.replace(f"| {len(found)} |", "|  |")


def benchmarks() -> str:
    """Returns one line per benchmark that has a results file."""
    rows = []
    loop, loader, startup = (_read(f"benchmarks/{n}.json") for n in ("loop", "loader", "startup"))
    rows.append(
        {
            "benchmark": "`loop.py`: engine against a bare jitted loop of the same step",
            "result": f"{loop['ratio']:.2f} of its steps per second",
        }
    )
    ratios = {n: r["ratio"] for n, r in loader["hours_per_second"].items()}
    text = ", ".join(f"{r:.2f} with {n} worker{'s' * (n != '1')}" for n, r in ratios.items())
    rows.append(
        {"benchmark": "`loader.py`: hours of audio per second over torch's", "result": text}
    )
    deep = startup["compile_ratio_deepest_to_shallowest"]
    rows.append(
        {
            "benchmark": "`startup.py`: compile time at the deepest over the shallowest",
            "result": f"{deep:.2f}",
        }
    )
    return markdown(rows)


def _read(name: str) -> dict[str, Any]:
    return json.loads((HERE / name).read_text())


TABLES = {
    "../README.md": {"quickstart": quickstart, "benchmarks": benchmarks},
    "kws/README.md": {"shares": shares, "long_spans": long_spans, "speakers": speakers},
}


def fill(path: Path, name: str, made: str) -> None:
    """Replaces what stands between <!-- table:NAME --> and <!-- end:NAME -->."""
    start, end = f"<!-- table:{name} -->\n", f"<!-- end:{name} -->"
    text = path.read_text()
    if start not in text or end not in text:
        raise ValueError(f"{path} has no lines {start.strip()} and {end}: add them")
    path.write_text(re.sub(f"{start}.*?{end}", f"{start}{made}{end}", text, flags=re.DOTALL))


if __name__ == "__main__":
    for file, tables in TABLES.items():
        for name, make in tables.items():
            fill(HERE / file, name, make())
