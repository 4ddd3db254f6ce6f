"""The claims of the keyword experiment and of the quickstart."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.claims import Claim, claim

METRIC = "test accuracy"
PUBLISHED = 0.07  # the least gain of the paper with 20 % of the labels


def _arms(group: Mapping[str, Sequence[float]]) -> tuple[Any, Any]:
    return ("pre-trained", group["pretrained"]), ("scratch", group["scratch"])


def shares(found: Mapping[str, Any]) -> list[Claim]:
    """Returns the claims by share of labels, and the mean over the speakers left out."""
    made = [
        claim(f"pre-training helps with {name}", METRIC, *_arms(group))
        for name, group in found["shares"].items()
    ]
    group = _arms(found["shares"]["20% of labels"])
    text = "with 20% of labels pre-training adds 7 points, as published"
    made.append(claim(text, METRIC, *group, mean_gain=PUBLISHED))
    if found["speakers"]:
        by_speaker = found["speakers"].values()
        means = {
            arm: [sum(v) / len(v) for v in zip(*(g[arm] for g in by_speaker), strict=True)]
            for arm in ("scratch", "pretrained")
        }
        made.append(claim("pre-training helps on unheard speakers", METRIC, *_arms(means)))
    return made


def quickstart(found: Mapping[str, Any]) -> list[Claim]:
    """Returns the claim of the quickstart."""
    text = f"pre-training helps with {found['options']['labels_per_class']} labels per word"
    return [claim(text, METRIC, *_arms(found))]


CLAIMS = {
    "results.json": shares,
    "results_long_spans.json": shares,
    "../quickstart.json": quickstart,
}
"""{results file: maker of its claims}"""
