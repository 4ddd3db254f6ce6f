"""The claims of the Music2Vec experiment."""

from collections.abc import Mapping
from typing import Any

from experiments.claims import Claim, claim

SCORES = {"instrument": "accuracy", "pitch": "accuracy", "key": "weighted_key", "tempo": "r2"}


def probes(found: Mapping[str, Any]) -> list[Claim]:
    """Returns the claims that frozen features are ahead of an untrained encoder and of log-mel."""
    made = []
    for task, score in SCORES.items():
        run, random, raw = (
            found["probes"][name][task][score] for name in ("this run", "random encoder", "log-mel")
        )
        others = {"an untrained encoder": random, "log-mel": [*raw] * len(run)}
        for name, values in others.items():
            metric = f"ridge probe, {score.replace('_', ' ')}"
            pair = ("Music2Vec", run), (name, values)
            made.append(claim(f"{task}: ahead of {name}", metric, *pair))
    return made


CLAIMS = {"results.json": probes}
"""{results file: maker of its claims}"""
