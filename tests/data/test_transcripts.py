"""Transcripts as units: vocabularies, what is refused and why, and the batch arrays."""

import numpy as np
import pytest
import soundfile

from ssl_jax.core import config as config_lib
from ssl_jax.data import corpus as corpus_lib
from ssl_jax.data import loader, transcripts
from ssl_jax.data.errors import BadFile, DataError


@pytest.fixture
def spoken(root, tmp_path, tone):
    """Returns spoken(rows, **data) -> a config over a table of (text, seconds) rows."""

    def make(rows, **data):
        lines = ["path\ttext"]
        for i, (text, seconds) in enumerate(rows):
            soundfile.write(tmp_path / f"{i}.wav", tone(seconds), 16000, subtype="PCM_16")
            lines.append(f"{i}.wav\t{text}")
        (tmp_path / "index.tsv").write_text("\n".join(lines) + "\n")
        config = config_lib.load(str(root / "configs/ctc/speech.py:toy")).unlock().data
        source = {"kind": "table", "path": str(tmp_path), "transcript": "text"}
        for split in ("train", "valid"):
            config[split] = type(config)({"mine": source})
        config.update({"batch_size": 2, **data})
        return config

    return make


def test_letters_are_those_of_wav2vec2():
    assert len(transcripts.LETTERS) == 32
    assert transcripts.LETTERS[4:8] == ("|", "E", "T", "A")
    assert set(transcripts.LETTERS[4:]) == set("ABCDEFGHIJKLMNOPQRSTUVWXYZ'|")


@pytest.mark.parametrize(
    ("kind", "text", "units", "again"),
    [
        ("letters", " it's  so ", list("IT'S|SO|"), "IT'S SO"),
        ("letters", "don\u2019t don\u02bct", list("DON'T|DON'T|"), "DON'T DON'T"),
        ("characters", "né a", list("né|a|"), "né a"),
        ("characters", "ne\u0301 don\u2019t", list("n\u00e9|don\u2019t|"), "n\u00e9 don\u2019t"),
        ("phones", "e\u0303 B", ["\u1ebd", "B"], "\u1ebd B"),
        ("phones", "AH0 B | K", ["AH0", "B", "K"], "AH0 B K"),
    ],
)
def test_spell_and_join(kind, text, units, again):
    assert list(transcripts.spell(text, kind)) == units
    assert transcripts.join(["<blank>", *units, "<pad>", "<s>"], kind) == again


def test_batches_hold_units_and_their_number(spoken):
    config = spoken([("ab a", 0.4), ("c", 0.3), ("bb", 0.4)], spelling="characters")
    corpus = corpus_lib.open_split(config, "train")
    assert corpus.classes == ("<blank>", "|", "a", "b", "c")
    plan = corpus_lib.make_schedule(corpus, config, seed=0, shuffle=False)
    arrays, bads = next(loader.batches(corpus, plan))
    assert arrays["transcript"].tolist() == [[2, 3, 1, 2, 1], [4, 1, -1, -1, -1]]
    assert arrays["transcript_len"].tolist() == [5, 2] and not bads
    assert arrays["transcript"].dtype == arrays["transcript_len"].dtype == np.int32
    assert corpus.fields["transcript"].needed.tolist() == [5, 2, 4]


def test_other_splits_have_the_vocabulary_of_training(spoken):
    config = spoken([("AH B", 0.4), ("B K", 0.3)], spelling="phones")
    config.valid.mine.where = {"text": "B K"}
    config.unlock()
    assert corpus_lib.open_split(config, "valid").classes == ("<blank>", "AH", "B", "K")
    assert corpus_lib.open_split(config, "valid", ("x", "B", "K")).classes == ("x", "B", "K")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("A", 0.4), ("", 0.4)], r"row 3.*transcript is empty: fill it in.*'skip'"),
        ([("A", 0.4), ("A 2&", 0.4)], r"row 3.*'A 2&' has '&', '2', not in the vocabulary"),
        ([("A", 0.4), ("A", 0.7)], r"row 3.*0.700 s and would be cut at 0.5 s.*at 0.7 or more"),
    ],
)
def test_what_cannot_be_used_is_named_or_skipped(spoken, rows, message):
    with pytest.raises(BadFile, match=message):
        corpus_lib.open_split(spoken(rows), "train")
    config = spoken(rows, on_bad="skip")
    corpus = corpus_lib.open_split(config, "train")
    plan = corpus_lib.make_schedule(corpus, config, seed=0, shuffle=False)
    arrays, bads = next(loader.batches(corpus, plan))
    assert arrays["weight"].tolist() == [1, 0]
    assert [bad.id for bad in bads] == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": {"transcript": "words"}}, r"train\.mine\.transcript is 'words', not a column"),
        ({"train": {"label": "text"}}, r"with label 'text'"),
        ({"spelling": "runes"}, r"config\.data\.spelling is 'runes': use one of letters"),
        ({"classes": ("a", "a")}, r"config\.data\.classes is \('a', 'a'\)"),
    ],
)
def test_a_wrong_key_is_named(spoken, change, message):
    config = spoken([("A", 0.4)])
    config.train.mine.update(change.pop("train", {}))
    config.update(change)
    with pytest.raises(DataError, match=message):
        corpus_lib.open_split(config, "train")


def test_the_vocabulary_of_an_older_run_may_have_accents_apart():
    texts = [np.array(["ne\u0301", "n\u00e9", "\u00f6"], np.dtypes.StringDType())]
    apart = ("<blank>", "|", "n", "e", "\u0301")
    found, refused = transcripts.encode(texts, apart, "characters")
    assert found[np.array([0, 1])].tolist() == [[2, 3, 4, 1]] * 2 and list(refused) == [2]
    both = (*apart, "\u00e9")
    assert transcripts.encode(texts, both, "characters")[0][np.array([0])].tolist() == [[2, 5, 1]]
