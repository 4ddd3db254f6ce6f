"""The claims of the wav2vec 2.0 experiment."""

from collections.abc import Mapping
from typing import Any

from experiments.claims import Claim, claim

PUBLISHED = "as published"
MISTAKES = ("diversity beside the sum", "negatives of all frames")


def codes(found: Mapping[str, Any]) -> list[Claim]:
    """Returns the claims that more codes stay in use as published than with each mistake."""
    used = {name: arm["code_perplexity"] for name, arm in found["arms"].items()}
    own = (PUBLISHED, used[PUBLISHED])
    return [
        claim(f"more codes in use than with {name}", "code perplexity", own, (name, used[name]))
        for name in MISTAKES
    ]


CLAIMS = {"results.json": codes}
"""{results file: maker of its claims}"""
