"""The claims of the noisy student experiment; the bars were fixed before the run."""

from collections.abc import Mapping
from typing import Any

from experiments.claims import Claim, claim

WER = "word error rate, without language model"
OTHER = "word error rate in the other domain, without language model"
IN, OUT = 0, 1  # the domain of the test


def generations(found: Mapping[str, Any]) -> list[Claim]:
    """Returns the claims about generations, pre-training, the filter and, where it was run, size.

    Each arm has {generation: [errors in domain, errors out of domain]}, a value per seed.
    """
    wer, made = found["wer"], []
    for start in ("scratch", "pre-trained"):
        arm = wer[f"{start}, with LM"]
        text = f"{start}: with a language model, the last generation is below generation 0"
        made.append(_below(text, WER, _last(start, arm), ("generation 0", arm["0"][IN])))
    best = _last("pre-trained", wer["pre-trained, with LM"])
    last = _last("scratch", wer["scratch, with LM"])
    text = "pre-training and self-training add up: both are below self-training alone"
    made.append(_below(text, WER, best, last))
    zero = "pre-trained, generation 0", wer["pre-trained, with LM"]["0"][IN]
    text = "pre-training and self-training add up: both are below pre-training alone"
    made.append(_below(text, WER, best, zero))
    first = "with LM, generation 1", wer["pre-trained, with LM"]["1"][IN]
    alone = "without LM, generation 1", wer["pre-trained, without LM"]["1"][IN]
    text = "the language model puts in what the student lacks: labels with it are better"
    made.append(_below(text, WER, first, alone))
    kept = "filtered", wer["pre-trained, other domain, filtered"]["1"][OUT]
    every = "not filtered", wer["pre-trained, other domain"]["1"][OUT]
    text = "the filter gains where the unlabelled recordings are of another domain"
    made.append(_below(text, OTHER, kept, every))
    return made + _sizes(found["sizes"])


def _sizes(found: Mapping[str, Any]) -> list[Claim]:
    """Returns the claim that a larger model gains more from pre-training; none for one size."""
    sizes = list(dict.fromkeys(name.partition(", ")[0] for name in found))
    if len(sizes) < 2:
        return []
    small, large = sizes[0], sizes[-1]

    def gain(start: str) -> list[float]:
        pair = (found[f"{size}, {start}"][IN] for size in (small, large))
        return [a - b for a, b in zip(*pair, strict=True)]

    text = f"from {small} to {large}, pre-trained models gain more than those from scratch"
    arms = [(start, gain(start)) for start in ("pre-trained", "scratch")]
    metric = "word error rate that the larger model takes away"
    return [claim(text, metric, arms[0], arms[1], seeds=2)]


def _last(start: str, arm: Mapping[str, Any]) -> tuple[str, list[float]]:
    number = max(map(int, arm))
    return f"{start}, generation {number}", arm[str(number)][IN]


def _below(text: str, metric: str, a: tuple, b: tuple) -> Claim:
    return claim(text, metric, a, b, better="lower", seeds=2)


CLAIMS = {"results.json": generations, "results_grid.json": generations}
"""{results file: maker of its claims}"""
