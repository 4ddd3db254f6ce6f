"""The tables of the page of the BEATs experiment."""

from experiments import results
from ssl_jax.evals import table


def probes() -> list[dict[str, str]]:
    """Returns the probes of every arm, by task."""
    found = results.read("beats/results.json")["probe"]
    arms = next(iter(found.values()))
    return [
        {"features": arm} | {task: table.cell(values[arm]) for task, values in found.items()}
        for arm in arms
    ]


def tokens() -> list[dict[str, str]]:
    """Returns how good the tokens of every tokenizer are."""
    found = results.read("beats/results.json")["tokens"]
    heads = {
        "perplexity": "codes in use",
        "information": "nats of the class",
        "consistency": "share that noise does not change",
    }
    return [
        {"tokens": name} | {head: table.cell(found[key][name]) for key, head in heads.items()}
        for name in found["perplexity"]
    ]
