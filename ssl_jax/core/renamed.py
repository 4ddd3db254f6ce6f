"""What users' files of earlier versions have otherwise: old names (with a warning), no new keys."""

import warnings
from typing import Any

METRICS = {"target_own_share": "instance_variance_ratio"}
"""Old name of a metric -> its name now."""
_CENTER = {"targets.center": "none", "targets.center_decay": 0.9}
_AUDIOMAE = {
    "stripes": {"time": 0.0, "frequency": 0.0},
    "attention": "global",
    "local": {"window": (4, 4), "shift": (2, 0), "bias_width": 384, "bias_dropout": 0.0},
    "augment": {},
}
NEWER: dict[str, dict[str, Any]] = {
    "ctc": {"head.blank_bias": 0.0},
    "data2vec": _CENTER,
    "data2vec2": _CENTER,
    "mae": _AUDIOMAE,
    "wav2vec2": {"targets": "codes"},
    "supervised": {"mask_ratio": 0.0, "stripes": {"time": 0.0, "frequency": 0.0}},
}
"""Method -> keys of config.method that earlier versions lack, and the values they amount to."""


def metric(name: str) -> str:
    """Returns the name that a metric has now, with its prefix: "valid/loss" stays as it is."""
    prefix, slash, last = name.rpartition("/")
    if last not in METRICS:
        return name
    _warn(last)
    return f"{prefix}{slash}{METRICS[last]}"


def config(tree: dict[str, Any]) -> dict[str, Any]:
    """Returns a config, as plain dicts, with the present names of metrics and the newer keys."""
    out = dict(tree)
    guard, checkpoint = out.get("guard"), out.get("checkpoint")
    if isinstance(guard, dict) and isinstance(guard.get("floors"), dict):
        floors = {metric(name): floor for name, floor in guard["floors"].items()}
        out["guard"] = {**guard, "floors": floors}
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get("best_metric"), str):
        out["checkpoint"] = {**checkpoint, "best_metric": metric(checkpoint["best_metric"])}
    if isinstance(out.get("eval"), dict):
        out["eval"] = {"pool": "raw_mean_std", **out["eval"]}  # what earlier versions did
    if isinstance(out.get("method"), dict):
        out["method"] = _with_newer(out["method"])
    return out


def _with_newer(method: dict[str, Any]) -> dict[str, Any]:
    """Returns config.method with the keys that it lacks because it is older than they are."""
    out = dict(method)
    for key, value in NEWER.get(str(method.get("name")), {}).items():
        section, _, name = key.rpartition(".")
        if not section:
            out.setdefault(name, value)
        elif isinstance(out.get(section), dict):
            out[section] = {name: value, **out[section]}
    return out


def _warn(name: str) -> None:
    warnings.warn(f"the metric {name} is now named {METRICS[name]}", stacklevel=3)
