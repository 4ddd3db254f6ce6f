"""Names of the previous version in users' files: accepted, with a warning."""

import warnings
from typing import Any

METRICS = {"target_own_share": "instance_variance_ratio"}
"""Old name of a metric -> its name now."""


def metric(name: str) -> str:
    """Returns the name that a metric has now, with its prefix: "valid/loss" stays as it is."""
    prefix, slash, last = name.rpartition("/")
    if last not in METRICS:
        return name
    _warn(last)
    return f"{prefix}{slash}{METRICS[last]}"


def config(tree: dict[str, Any]) -> dict[str, Any]:
    """Returns a config, as plain dicts, with the present names of metrics."""
    out = dict(tree)
    guard, checkpoint = out.get("guard"), out.get("checkpoint")
    if isinstance(guard, dict) and isinstance(guard.get("floors"), dict):
        floors = {metric(name): floor for name, floor in guard["floors"].items()}
        out["guard"] = {**guard, "floors": floors}
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get("best_metric"), str):
        out["checkpoint"] = {**checkpoint, "best_metric": metric(checkpoint["best_metric"])}
    return out


def _warn(name: str) -> None:
    warnings.warn(f"the metric {name} is now named {METRICS[name]}", stacklevel=3)
