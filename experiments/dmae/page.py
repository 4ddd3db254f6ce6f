"""The table of the page of the DMAE experiment."""

from experiments import results
from ssl_jax.evals import table


def few_labels() -> list[dict[str, str]]:
    """Returns the accuracy of fine-tuned students by share of the labels."""
    found = results.read("dmae/results.json").get("few labels", {})
    made = []
    for name in dict.fromkeys(name for arms in found.values() for name in arms):
        values = {share: arms[name] for share, arms in found.items()}
        cells = {f"{share} of the labels": table.cell(_once(v)) for share, v in values.items()}
        made.append({"arm": name} | cells)
    return made or [{"arm": "not run for these results"}]


def _once(values: list[float]) -> list[float]:
    """Returns one value for a baseline without a seed."""
    return values if len(set(values)) > 1 else values[:1]


def rows() -> list[dict[str, str]]:
    """Returns the probes of the students, of the teacher, and of the baselines."""
    found = results.read("dmae/results.json")
    made = []
    for name, values in found["probe"].items():
        other = found["other"].get(name)
        row = {"features": name, "CIFAR-10": table.cell(values)}
        row["Caltech-101"] = table.cell(other) if other else "-"
        made.append(row | {"seeds": str(len(values)) if len(set(values)) > 1 else "1"})
    return made
