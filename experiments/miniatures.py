"""One number per miniature, for the table of methods in the README."""

from collections.abc import Callable, Mapping, Sequence

from experiments import results
from experiments.mvd import claims as mvd
from ssl_jax.evals import table

NOT_RUN = "not run yet"
MVD_ARMS = ("image teacher", "video teacher", "both")


def percent(values: Sequence[float]) -> str:
    """Returns the mean and interval of shares as percentages, such as 43.9 ± 3.1."""
    return table.cell([100 * value for value in values], 1)


def _seeds(found: Mapping[str, Sequence[float]], names: Sequence[str]) -> str:
    return " → ".join(table.cell(found[name]) for name in names)


def _keywords() -> str:
    share = results.read("kws/results.json")["shares"]["20% of labels"]
    return f"{' → '.join(percent(share[arm]) for arm in results.ARMS)} %"


def _image_probe(name: str) -> str:
    found = results.read("data2vec2/results.json")
    last = [curve["accuracy"][-1] for curve in found["curves"][name]]
    random = percent(found["random"][name])
    return f"CIFAR-10 probe {percent(last)} %, untrained {random} %"


def _students() -> str:
    found = results.read("dmae/results.json")["probe"]
    own, alone = (percent(found[f"{name} 75 %"]) for name in ("DMAE", "MAE"))
    return f"CIFAR-10 probe {own} %, MAE in the same updates {alone} %"


def _contrastive(name: str) -> str:
    found = results.read("mimco/results.json")["ridge"]
    own, pixels = percent(found[name]), percent(found["MAE"])
    return f"CIFAR-10 probe {own} %, MAE {pixels} %: not reproduced"


def _phone_units() -> str:
    best = results.chain(results.read("hubert/results.json")["units"])
    return f"PNMI {_seeds(best, list(best))}"


def _codes() -> str:
    found = results.read("wav2vec2/results.json")
    names = ("as published", "diversity beside the sum")
    used, less = (table.cell(found["arms"][n]["code_perplexity"], 1) for n in names)
    return f"{used} of {found['codes']} codes in use; {less} with a mistake of known ports"


def _pitch() -> str:
    found = results.read("music2vec/results.json")["probes"]
    own, random = (percent(found[n]["pitch"]["accuracy"]) for n in ("this run", "random encoder"))
    return f"pitch {own} %, untrained {random} %: not reproduced"


def _audio_tokens() -> str:
    found = results.read("beats/results.json")["probe"]["class"]
    arms = [arm for arm in ("iteration 1", "iteration 2") if arm in found]
    chain = " → ".join(percent(found[arm]) for arm in arms)
    return f"ESC-10 probe {chain} %, untrained {percent(found['untrained'])} %"


def _sizes() -> str:
    found = results.read("lighthubert/results.json")
    arms, shares = found["arms"], sorted(found["arms"]["searched"])
    middle = shares[len(shares) // 2]
    names = ("searched", "separate, same steps", "pruned")
    own, alone, pruned = (table.cell(arms[name][middle]["loss"]) for name in names)
    held = sum(claim["held"] for claim in found["claims"])
    return (
        f"at {100 * float(middle):g} % of its size: error {own}, trained alone {alone}, pruned "
        f"{pruned}; {held} of {len(found['claims'])} bars met"
    )


def _clips() -> str:
    found = results.read("mvd/results.json")
    arms, held = found["probe"], sum(claim["held"] for claim in found["claims"])
    parts = []
    for what, labels in (("space", mvd.SPACE), ("time", mvd.TIME)):
        chain = " / ".join(percent(mvd.mean(arms[arm], labels)) for arm in MVD_ARMS)
        parts.append(f"{what} {chain} %")
    return (
        f"taught by images / video / both: {', '.join(parts)}; {held} of {len(found['claims'])} "
        f"claims hold"
    )


def once_run(folder: str, make: Callable[[], str]) -> Callable[[], str]:
    """Returns a maker of a text that says `NOT_RUN` while the results of a folder are missing."""
    path = results.HERE / folder / "results.json"
    return lambda: make() if path.exists() else NOT_RUN


MINIATURES = {
    "kws": _keywords,
    "data2vec": lambda: _image_probe("data2vec"),
    "data2vec2": lambda: _image_probe("data2vec 2.0"),
    "dmae": _students,
    "lighthubert": once_run("lighthubert", _sizes),
    "mvd": once_run("mvd", _clips),
    "mimco": lambda: _contrastive("MimCo"),
    "moco_v3": lambda: _contrastive("MoCo v3"),
    "mae": lambda: _image_probe("MAE"),
    "hubert": _phone_units,
    "wav2vec2": _codes,
    "music2vec": _pitch,
    "beats": once_run("beats", _audio_tokens),
}
"""By system, the text of its cell in the table of methods (experiments/methods.py)."""
