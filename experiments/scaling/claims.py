"""The scaling experiment claims nothing that seeds could decide: it compiles, and has none."""

from collections.abc import Mapping
from typing import Any

from experiments.claims import Claim


def none(found: Mapping[str, Any]) -> list[Claim]:
    """Returns no claim."""
    return []


CLAIMS = {"results.json": none}
"""{results file: maker of its claims}"""
