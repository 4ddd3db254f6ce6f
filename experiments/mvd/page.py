"""The tables of the page of the MVD experiment."""

from collections.abc import Mapping

from experiments import results
from experiments.mvd import claims
from ssl_jax.evals import table

FILE = "mvd/results.json"
PICTURES = (
    "![Probes of space and time](results.png)",
    "![Clips, what the encoder sees, and reconstructions](clips.png)",
)


def rows() -> list[dict[str, str]]:
    """Returns the probes of every arm: each label, and the means over those of time."""
    made = []
    for arm, found in results.read(FILE)["probe"].items():
        row = {"features": arm} | {label: _cell(values) for label, values in found.items()}
        made.append(row | {"time, mean": _cell(claims.mean(found, claims.TIME))})
    return made


def droid() -> list[dict[str, str]]:
    """Returns the probes of real videos."""
    found: Mapping[str, Mapping[str, list[float]]] = results.read(FILE)["droid"]
    made = [
        {"features": arm} | {label: _cell(values) for label, values in labels.items()}
        for arm, labels in found.items()
    ]
    return made or [{"features": "not run for these results"}]


def notes() -> str:
    """Returns the pictures."""
    return "\n\n".join(PICTURES) + "\n"


def _cell(values: list[float]) -> str:
    """Returns one value for a baseline without a seed."""
    return table.cell(values if len(set(values)) > 1 else values[:1])
