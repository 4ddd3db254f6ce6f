"""Reads the results files of the experiments for the tables and numbers of the pages."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ARMS = ("scratch", "pretrained")


def read(name: str) -> dict[str, Any]:
    """Returns a results file, whose name is relative to the folder of the experiments."""
    return json.loads((HERE / name).read_text(encoding="utf-8"))


def best_layer(layers: Mapping[str, Any]) -> Any:
    """Returns {score: values} of the layer with the highest PNMI; layers: {layer: scores}."""
    return max(layers.values(), key=lambda scores: statistics.mean(scores["pnmi"]))


def chain(layers: Mapping[str, Mapping[str, Any]]) -> dict[str, Sequence[float]]:
    """Returns {features: PNMI of each seed at their best layer} of MFCC and each iteration."""
    names = ["MFCC", *(name for name in layers if name.startswith("iteration"))]
    return {name: best_layer(layers[name])["pnmi"] for name in names}
