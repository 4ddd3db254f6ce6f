"""The claims of the HuBERT experiment."""

import itertools
from collections.abc import Mapping
from typing import Any

from experiments import results
from experiments.claims import Claim, claim

PNMI = "PNMI of the best layer"


def chain(found: Mapping[str, Any]) -> list[Claim]:
    """Returns the claims about each iteration, and about few transcribed utterances."""
    made = []
    for old, new in itertools.pairwise(results.chain(found["units"]).items()):
        text = f"units of {new[0]} are closer to phones than those of {old[0]}"
        made.append(claim(text, PNMI, new, old))
    for task, arms in found["recognition"].items():
        for score, values in arms["HuBERT"].items():
            for name in ("no pre-training", "wav2vec 2.0"):
                text = f"{task}: HuBERT makes fewer errors than {name}"
                pair = ("HuBERT", values), (name, arms[name][score])
                made.append(claim(text, score.upper(), *pair, better="lower"))
    return made


CLAIMS = {"results.json": chain, "results_synthesized.json": chain}
"""{results file: maker of its claims}"""
