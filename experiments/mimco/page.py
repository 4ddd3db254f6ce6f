"""The table of the page of the MimCo experiment."""

from experiments import results
from ssl_jax.evals import table

COLUMNS = {
    "ridge": "ridge probe",
    "knn": "nearest neighbours",
    "fine-tuned": "fine-tuned with a tenth of the labels",
}


def rows() -> list[dict[str, str]]:
    """Returns the accuracy of each encoder by each way of using it."""
    found = results.read("mimco/results.json")
    made = []
    for name in dict.fromkeys(name for column in COLUMNS for name in found[column]):
        values = {column: found[column].get(name) for column in COLUMNS}
        # pixels are the same for all seeds
        once = all(v is None or len(set(v)) == 1 for v in values.values())
        cells = {
            COLUMNS[column]: table.cell(v[:1] if once else v) if v else "-"
            for column, v in values.items()
        }
        seeds = 1 if once else max(len(v) for v in values.values() if v)
        made.append({"encoder": name} | cells | {"seeds": str(seeds)})
    return made
