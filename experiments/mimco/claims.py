"""The claims of the MimCo experiment; the bars were fixed before the run."""

from collections.abc import Mapping
from typing import Any

from experiments.claims import Claim, claim

PROBE = "ridge probe, accuracy"
TUNED = "fine-tuned with a tenth of the labels, accuracy"


def arms(found: Mapping[str, Any]) -> list[Claim]:
    """Returns the claims about frozen features and about fine-tuning."""
    probe, tuned = found["ridge"], found["fine-tuned"]
    made = [
        claim(f"{name} is ahead of MAE", PROBE, (name, probe[name]), ("MAE", probe["MAE"]))
        for name in ("MoCo v3", "MimCo")
    ]
    for other in ("MoCo v3", "MAE"):
        own, theirs = ("MimCo", tuned["MimCo"]), (other, tuned[other])
        # "not behind" is decided by the mean over seeds
        made.append(claim(f"fine-tuned, MimCo is not behind {other}", TUNED, own, theirs, seeds=0))
    return made


CLAIMS = {"results.json": arms}
"""{results file: maker of its claims}"""
