"""The tables of the page of the noisy student experiment."""

from experiments import results
from ssl_jax.evals import table

# end of the name of a table: its results
FILES = {"": "noisy_student/results.json", "_grid": "noisy_student/results_grid.json"}


def rows(file: str) -> list[dict[str, str]]:
    """Returns the word errors of every arm by generation, in the domain and out of it."""
    made = []
    for name, arm in results.read(file)["wer"].items():
        for number, (inside, outside) in arm.items():
            row = {"arm": name, "generation": number, "in the domain": table.cell(inside)}
            row["other domain"] = table.cell(outside)
            made.append(row | {"seeds": str(len(inside))})
    return made


def labels(file: str) -> list[dict[str, str]]:
    """Returns the word errors of the pseudo-labels of every arm, and the share that is kept."""
    made = []
    for name, arm in results.read(file)["labels"].items():
        for number, (every, kept, share) in arm.items():
            row = {"arm": name, "for generation": number, "errors": table.cell(every)}
            made.append(row | {"errors, kept": table.cell(kept), "share kept": table.cell(share)})
    return made
