"""The claims of the LightHuBERT experiment; the bars were fixed before the run."""

from collections.abc import Mapping
from typing import Any

from experiments.claims import Claim, claim

LOSS = "absolute error on held-out audio"
RELATIVE = "absolute error over that of the separate model"
NEAR = 1.05


def sizes(found: Mapping[str, Any]) -> list[Claim]:
    """Returns the claims about subnets with the weights of the supernet, at every size."""
    arms, made = found["arms"], []
    own = {share: row["loss"] for share, row in arms["searched"].items()}
    for share, values in own.items():
        size = f"at {100 * float(share):g} % of the parameters"
        pruned = arms["pruned"][share]["loss"]
        text = f"the searched subnet is nearer to the teacher than the pruned student {size}"
        made.append(claim(text, LOSS, ("searched", values), ("pruned", pruned), better="lower"))
        alone = arms["separate, same steps"][share]["loss"]
        ratios = [a / b for a, b in zip(values, alone, strict=True)]
        text = f"the searched subnet is within 5 % of a model trained alone {size}"
        limit = ("5 % more", [NEAR] * len(ratios))
        made.append(claim(text, RELATIVE, ("searched", ratios), limit, better="lower"))
    text = "subnets are ahead of three models that together had the steps of the supernet"
    third = _mean({k: v["loss"] for k, v in arms["separate, third of the steps"].items()})
    pair = ("searched, mean of sizes", _mean(own)), ("separate, third of the steps", third)
    return [*made, claim(text, LOSS, *pair, better="lower", seeds=2)]


def _mean(losses: Mapping[str, list[float]]) -> list[float]:
    """Returns the mean over sizes of each seed."""
    return [sum(each) / len(each) for each in zip(*losses.values(), strict=True)]


CLAIMS = {"results.json": sizes}
"""{results file: maker of its claims}"""
