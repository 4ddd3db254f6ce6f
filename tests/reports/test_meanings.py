"""What the curves of a report mean, in a line each."""

import re

import pytest

from ssl_jax.core import config as config_lib
from ssl_jax.evals import split_scores, transcribe
from ssl_jax.reports import meanings


def test_every_metric_of_the_page_and_every_score_has_a_line(root):
    page = (root / "docs" / "metrics.md").read_text(encoding="utf-8")
    table = page.partition("## Metrics of pre-training")[2].partition("## Monitors")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    names = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    names |= {
        *split_scores.SCORES,
        *transcribe.scores_of("letters"),
        *transcribe.scores_of("phones"),
    }
    assert len(names) > 25 and not [name for name in names if not meanings.of(name)]
    assert meanings.of("masked_accuracy_2") == meanings.of("masked_accuracy")
    assert meanings.of("mine") == ""
    assert max(map(len, meanings.MEANINGS.values())) < 100


@pytest.mark.parametrize(
    ("name", "off", "masks"),
    [
        ("data2vec/kws.py:toy", "dropout", True),
        ("hubert/audio.py:toy", "", True),
        ("mae/image.py:toy", "augmentation", True),
        ("ctc/speech.py:toy", "dropout and masks", False),
        ("supervised/kws.py:toy", "dropout, augmentation and label smoothing", False),
    ],
)
def test_why_validation_differs_is_said_of_the_config(root, name, off, masks):
    text = meanings.of_validation(config_lib.load(f"{root}/configs/{name}"))
    step = "with the parameters of that step"
    without = f", without {off}" if off else ""
    under = ", under the same masks each time" if masks else ""
    assert text.startswith(
        f"Validation: examples that are not trained on, {step}{without}{under}. "
    )
    assert (f"since the point before, with {off}. " in text) == bool(off)
