"""The tables of the page of the scaling experiment."""

from collections.abc import Mapping
from typing import Any

from experiments import results


def rows(part: str) -> list[dict[str, str]]:
    """Returns the table of a part: "weak" and "fit" by compilation, "overhead" by time."""
    found = results.read("scaling/results.json")[part]
    if part == "overhead":
        return [_timed(row, found[0]["seconds"]) for row in found]
    order = sorted(found, key=lambda row: (row["config"], row["chips"]))
    return [_compiled(row) for row in order]


def _timed(found: Mapping[str, Any], first: float) -> dict[str, str]:
    row = {"config": found["config"], "devices": str(found["devices"])}
    row["seconds per step"] = f"{found['seconds']:.3f}"
    return row | {"relative to one device": f"{found['seconds'] / first:.2f}"}


def _compiled(found: Mapping[str, Any]) -> dict[str, str]:
    used, limit = sum(found["memory"].values()) / 2**30, found["limit"] / 2**30
    between = sum(k["sent"] for name, k in found["collectives"].items() if "between" in name)
    return {
        "config": found["config"],
        "topology": found["topology"],
        "chips": f"{found['chips']:,}",
        "TFLOP per chip": f"{found['flops'] / 1e12:.2f}",
        "memory per chip": f"{used:.1f} of {limit:.2f} GiB",
        "sent per chip": f"{(found['sent'] - between) / 2**30:.2f} GiB",
        "to other slices": f"{between / 2**30:.3f} GiB" if between else "-",
        "predicted efficiency": f"{found['efficiency']:.3f}",
    }
