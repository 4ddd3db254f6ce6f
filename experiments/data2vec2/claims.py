"""The claims of the data2vec 2.0 experiments on images, audio and text."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.claims import Claim, claim

PROBE = "ridge probe, accuracy"


def images(found: Mapping[str, Any]) -> list[Claim]:
    """Returns the claims about equal time of training, and about the decoder."""
    last = {n: [c["accuracy"][-1] for c in curves] for n, curves in found["curves"].items()}
    own = ("data2vec 2.0", last["data2vec 2.0"])
    made = [
        claim(f"in equal time, data2vec 2.0 is ahead of {name}", PROBE, own, (name, last[name]))
        for name in ("data2vec", "MAE")
    ]
    pixels = ("pixels", found["baselines"]["pixels"] * len(own[1]))
    made.append(claim("data2vec 2.0 is ahead of pixels", PROBE, own, pixels))
    for name, values in last.items():
        pair = (name, values), ("untrained", found["random"][name])
        made.append(claim(f"{name} is ahead of its untrained encoder", PROBE, *pair))
    if found["ablations"]:
        with_, without = (found["ablations"][n] for n in ("as is", "no decoder"))
        text = "the decoder of data2vec 2.0 helps in short runs"
        made.append(claim(text, PROBE, ("decoder", with_), ("no decoder", without)))
    return made


def audio(found: Mapping[str, Any]) -> list[Claim]:
    """Returns the claims about frozen features of audio."""
    return _frozen(found["probes"], "log-mel")


def text(found: Mapping[str, Any]) -> list[Claim]:
    """Returns the claims about frozen features of text."""
    return _frozen(found["probes"], "token counts")


def _frozen(probes: Mapping[str, Mapping[str, Sequence[float]]], raw: str) -> list[Claim]:
    """Returns the claims that a run is ahead of an untrained encoder and of raw features."""
    made = []
    for task, values in probes["this run"].items():
        own = ("data2vec 2.0", values)
        baselines = {"an untrained encoder": probes["random encoder"][task]}
        baselines[raw] = [*probes[raw][task]] * len(values)
        for name, other in baselines.items():
            made.append(claim(f"{task}: ahead of {name}", PROBE, own, (name, other)))
    return made


CLAIMS = {"results.json": images, "results_audio.json": audio, "results_text.json": text}
"""{results file: maker of its claims}"""
