"""The claims of the BEATs experiment; the bars were fixed before the run."""

from collections.abc import Mapping
from typing import Any

from experiments.claims import Claim, claim

PROBE = "ridge probe, accuracy"
FIRST, SECOND = "iteration 1", "iteration 2"
KMEANS, DISTILLED = "k-means of patches", "tokenizer 2"


def tokens(found: Mapping[str, Any]) -> list[Claim]:
    """Returns the claims about iterations, about tokens, and about reconstruction."""
    made = []
    for task in ("class", "class in noise"):
        arms = found["probe"][task]
        pairs = [(FIRST, "untrained")]
        if SECOND in arms:
            pairs += [(SECOND, FIRST), (SECOND, "iteration 1, twice as long")]
        # tokens against reconstruction, as it comes
        pairs += [(FIRST, "MAE")]
        for new, old in pairs:
            text = f"{task}: {new} is ahead of {_named(old)}"
            made.append(claim(text, PROBE, (new, arms[new]), (old, arms[old])))
    for score, what in (
        ("information", "know more of the class than k-means of patches, in nats"),
        ("consistency", "stay the same in noise more often than k-means of patches"),
    ):
        arms = found["tokens"][score]
        if DISTILLED in arms:
            pair = ((name, arms[name]) for name in (DISTILLED, KMEANS))
            made.append(claim(f"tokens of iteration 2 {what}", f"tokens, {score}", *pair))
    return made


def _named(arm: str) -> str:
    return "the untrained encoder" if arm == "untrained" else arm


CLAIMS = {"results.json": tokens}
"""{results file: maker of its claims}"""
