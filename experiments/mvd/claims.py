"""The claims of the MVD experiment; the bars were fixed before the run."""

from collections.abc import Mapping
from typing import Any

from experiments.claims import Claim, claim

SPACE, TIME = ("object",), ("direction", "speed", "order", "playback")
METRIC = "ridge probe, accuracy"
POINT = 0.01


def students(found: Mapping[str, Any]) -> list[Claim]:
    """Returns the claims about students of one teacher or the other, and of both."""
    probe, made = found["probe"], []
    image, video, both = (probe[n] for n in ("image teacher", "video teacher", "both"))
    # the interaction: both must hold in every seed
    text = "a teacher of images is ahead of one of video in what a frame tells"
    made.append(claim(text, METRIC, ("image", mean(image, SPACE)), ("video", mean(video, SPACE))))
    text = "a teacher of video is ahead of one of images in what motion tells"
    made.append(claim(text, METRIC, ("video", mean(video, TIME)), ("image", mean(image, TIME))))
    for labels, what in ((SPACE, "in space"), (TIME, "in time")):
        pair = {"image": mean(image, labels), "video": mean(video, labels)}
        best = max(pair, key=lambda name: sum(pair[name]))
        text = f"both teachers together are within a point of the better one {what}"
        given = (("both", mean(both, labels)), (best, pair[best]))
        made.append(claim(text, METRIC, *given, mean_gain=-POINT, seeds=0))
    alone = probe["VideoMAE alone"]
    for labels, what in ((SPACE, "in space"), (TIME, "in time")):
        text = f"both teachers are ahead of VideoMAE alone, of equal work, {what}"
        given = (("both", mean(both, labels)), ("VideoMAE alone", mean(alone, labels)))
        made.append(claim(text, METRIC, *given, seeds=2))
    return made


def mean(arm: Mapping[str, list[float]], labels: tuple[str, ...]) -> list[float]:
    """Returns the mean accuracy over labels, by seed."""
    columns = [arm[label] for label in labels]
    return [sum(each) / len(each) for each in zip(*columns, strict=True)]


CLAIMS = {"results.json": students}
"""{results file: maker of its claims}"""
