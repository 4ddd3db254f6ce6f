"""The claims of the DMAE experiment; the bars were fixed before the run."""

from collections.abc import Mapping
from typing import Any

from experiments.claims import Claim, claim

PROBE = "ridge probe, accuracy"
LOSS = "ridge probe, accuracy lost from 75 to 95 % masking"


def students(found: Mapping[str, Any]) -> list[Claim]:
    """Returns the claims about students of equal steps, of more steps, and of harder masks."""
    made = []
    for key, data in (("probe", ""), ("other", ", on images never trained on")):
        arms = found[key]
        if not arms:
            continue
        own, same, longer = (
            (name, arms[name]) for name in ("DMAE 75 %", "MAE 75 %", "MAE 75 %, longer")
        )
        text = f"DMAE is ahead of MAE in the same steps{data}"
        made.append(claim(text, PROBE, own, same))
        text = f"DMAE is not behind MAE in four times the steps{data}"
        # "not behind" is decided by the mean over seeds
        made.append(claim(text, PROBE, own, longer, seeds=0))
    lost = {n: _lost(found["probe"], n) for n in ("DMAE", "MAE")}
    text = "from 75 to 95 % masking, DMAE loses less than MAE"
    arms = (("DMAE", lost["DMAE"]), ("MAE", lost["MAE"]))
    made.append(claim(text, LOSS, *arms, better="lower", seeds=2))
    return made


def _lost(probe: Mapping[str, list[float]], name: str) -> list[float]:
    pairs = zip(probe[f"{name} 75 %"], probe[f"{name} 95 %"], strict=True)
    return [easy - hard for easy, hard in pairs]


CLAIMS = {"results.json": students}
"""{results file: maker of its claims}"""
