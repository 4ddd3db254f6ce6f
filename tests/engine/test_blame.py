"""How the errors of the guard describe the rows of a batch."""

import dataclasses

import numpy as np
import pytest
import soundfile

from configs import common
from ssl_jax.data.corpus import make_schedule, open_split
from ssl_jax.engine import blame, hooks


@pytest.fixture
def spoken(tmp_path):
    """Returns make(samples of each clip) -> (corpus, its schedule); clips are rows of a table."""

    def make(clips, classes=("a", "b")):
        lines = ["path\tlabel\tscore"]
        for i, samples in enumerate(clips):
            soundfile.write(tmp_path / f"{i}.wav", samples, 16000, subtype="PCM_16")
            lines.append(f"{i}.wav\t{'ab'[i % 2]}\t{i / 8}")
        (tmp_path / "index.tsv").write_text("\n".join(lines) + "\n")
        data = common.audio_data()
        data.train.t = {"kind": "table", "path": str(tmp_path), "target": "score", "label": "label"}
        data.update({"batch_size": len(clips), "buckets": (0.1,), "classes": classes})
        corpus = open_split(data, "train")
        return corpus, make_schedule(corpus, data, seed=0)

    return make


def tones(*hz, samples=1200):
    return [0.3 * np.sin(np.arange(samples) / 16000 * 6.28 * f) for f in hz]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"score": np.inf}, r"2\.wav, row 4\D.*: its target is \[inf\]$"),
        ({"score": 5e8}, r"2\.wav, row 4\D.*: its target is \[500000000.0\]$"),
        ({"score": np.nan}, r"2\.wav, row 4\D.*: its target is \[nan\] \(nan means unknown"),
        ({"label": 7}, r"2\.wav, row 4\D.*: its label is 7$"),
        ({"transcript": 2}, r"2\.wav, row 4\D.*: its transcript is \[0, 2\]$"),
    ],
)
def test_a_loss_that_is_not_finite_names_the_rows_with_a_bad_target(spoken, change, expected):
    corpus, plan = spoken(tones(200, 300, 400))
    scores, labels = corpus.fields["target"].copy(), corpus.labels.copy()
    units = np.array([[1, -1], [0, 1], [0, change.get("transcript", 1)]], np.int32)
    scores[2], labels[2] = change.get("score", 0.1), change.get("label", 1)
    fields = {"target": scores, "transcript": units, "transcript_len": np.array([1, 2, 9])}
    odd = dataclasses.replace(corpus, labels=labels, fields=fields)
    with (
        pytest.raises(hooks.NotFiniteError, match=f"step 2. (?s:.*) learned: .*{expected}"),
        blame.explained(odd, plan, None),
    ):
        raise hooks.not_finite(2, "none yet")


def test_good_targets_are_not_blamed(spoken):
    corpus, plan = spoken(tones(200, 300, 400))
    with (
        pytest.raises(hooks.NotFiniteError, match=r"precision='float32'$"),
        blame.explained(corpus, plan, None),
    ):
        raise hooks.not_finite(1, "none yet")
    with pytest.raises(hooks.NotFiniteError) as caught:
        hooks.check_ceiling(40, 1e5, [1.0], 10)
    assert caught.value.steps == range(31, 41)


@pytest.mark.parametrize(
    ("clips", "frames", "expected"),
    [
        (tones(200, 200, 200), 9, r"the 3 examples of the batch are the same \(.*0\.wav.*1\.wav"),
        (tones(200, 300), 0, r"no example of the batch has a complete frame \(.*0\.wav.*1200 samp"),
        (tones(200), 9, r"the batch holds only one example \(.*0\.wav"),
    ],
)
def test_data_that_cannot_be_told_apart_are_no_collapse(spoken, clips, frames, expected):
    corpus, plan = spoken(clips)
    with (
        pytest.raises(hooks.CollapseError, match=f"{expected}.*only looks like a collapse: the t"),
        blame.explained(corpus, plan, lambda lengths: lengths * 0 + frames),
    ):
        hooks.check_floors(4, {"target_std": 0.001}, {"target_std": 0.1})


def test_a_collapse_on_good_data_says_no_more(spoken):
    corpus, plan = spoken(tones(200, 200, 300))
    with (
        pytest.raises(hooks.CollapseError, match=r"^the targets collapsed"),
        blame.explained(corpus, plan, None),
    ):
        hooks.check_floors(4, {"target_std": 0.001}, {"target_std": 0.1})
