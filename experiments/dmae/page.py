"""The table of the page of the DMAE experiment."""

from experiments import results
from ssl_jax.evals import table


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
