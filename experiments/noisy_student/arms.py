"""The arms of the noisy student experiment, its encoders, and what is measured of a run."""

import dataclasses

from ssl_jax.evals.label_filters import Filters
from ssl_jax.pipeline import Pipe
from ssl_jax.reports import figures
from ssl_jax.stages.graph import Stage

SIZES = {
    "small": {"depth": 4, "width": 64, "heads": 4, "mlp_width": 256},
    "large": {"depth": 8, "width": 96, "heads": 4, "mlp_width": 384},
}
# a frame every 20 ms, as there are up to 15 letters a second
ENCODER = {"depthwise_kernel": 15, "conv_channels": 16, "num_mels": 40, "strides": (2, 1)}
ENCODER |= {"depthwise_norm": "layer", "dropout": 0.1, "embed_dropout": 0.0}
STARTS = ("scratch", "pre-trained")
ALL = Filters()
# what hypotheses of the other domain must agree in, with and without language model
STRICT = Filters(disagreement=0.1)
CROP = 3.0  # seconds, of pre-training


@dataclasses.dataclass(frozen=True)
class Arm:
    """How the unlabelled recordings get their labels."""

    name: str
    pool: str  # the split of the recordings
    lm: bool
    filters: Filters = ALL
    starts: tuple[str, ...] = STARTS
    generations: int = 0  # at most; 0: all


ARMS = (
    Arm("with LM", "train", True),
    Arm("without LM", "train", False, starts=("pre-trained",), generations=1),
    Arm("filtered", "train", True, STRICT, starts=("pre-trained",), generations=1),
    Arm("other domain", "other", True, starts=("pre-trained",), generations=1),
    Arm("other domain, filtered", "other", True, STRICT, ("pre-trained",), 1),
)


def errors(pipe: Pipe, run: Stage) -> tuple[float, float]:
    """Returns the word error rates of a run without language model, in and out of domain."""
    folder = pipe.folder(run)
    names = ("valid/wer", "test/wer")
    inside, outside = (float(figures.read_metrics(folder, name)[1][-1]) for name in names)
    return inside, outside
