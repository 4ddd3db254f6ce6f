"""The tables of the page of the LightHuBERT experiment."""

import statistics

from experiments import results
from ssl_jax.evals import table

FILE = "lighthubert/results.json"
PICTURE = "![Error, units and time against the size of the students](results.png)"
HEADS = {"loss": "error", "pnmi": "PNMI", "per": "phone errors"}


def arms() -> list[dict[str, str]]:
    """Returns the scores of every arm at every size; sizes vary with the seed."""
    found, made = results.read(FILE)["arms"], []
    for arm, sizes in found.items():
        for share, row in sizes.items():
            params = statistics.mean(row["params"]) / 1e3 if "params" in row else 0
            line = {"student": arm, "budget": f"{100 * float(share):g} %"}
            line["thousand parameters"] = f"{params:.0f}" if params else "-"
            scores = {head: row.get(key) for key, head in HEADS.items()}
            line |= {head: table.cell(v) if v else "-" for head, v in scores.items()}
            made.append(line)
    return made


def latency() -> list[dict[str, str]]:
    """Returns the time of each extracted model of the first seed, by its operations."""
    rows = sorted(results.read(FILE)["latency"], key=lambda row: row["flops"])
    return [
        {
            "model": row["model"],
            "subnet": f"`{row['subnet']}`",
            "GFLOP": f"{row['flops'] / 1e9:.2f}",
            "milliseconds": f"{row['ms']:.1f}",
            "of all cores together": f"{row['core_ms']:.1f}",
        }
        for row in rows
    ]


def notes() -> str:
    """Returns how long the searches took, and the picture."""
    found = results.read(FILE)["searches"]
    subnets, seconds = (sum(row[key] for row in found) for key in ("subnets", "seconds"))
    each = 1000 * seconds / subnets / 60
    return (
        f"The {len(found)} searches scored {subnets:,} subnets in {seconds / 60:.1f} minutes, "
        f"compilation included: {each:.1f} minutes per thousand.\n\n{PICTURE}\n"
    )
