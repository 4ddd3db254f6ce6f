"""Prefix beam search against the enumeration of all transcripts; the language model by hand."""

import itertools

import numpy as np
import pytest

from ssl_jax.core.config import ConfigError
from ssl_jax.data import transcripts
from ssl_jax.data.errors import DataError
from ssl_jax.evals import decode, ngram

VOCABULARY = ("<blank>", "|", "A", "B")
ARPA = """
\\data\\
ngram 1=5
ngram 2=4

\\1-grams:
-1.0\t<s>\t-0.5
-0.8\t</s>
-0.5\tA\t-0.25
-0.7\tAB\t-0.1
-2.0\t<unk>

\\2-grams:
-0.3\t<s> A
-0.2\tA AB
-0.6\tAB </s>
-0.4\tA </s>

\\end\\
"""


@pytest.fixture
def lm(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA)
    return str(path)


def collapsed(path):
    return tuple(u for u, _ in itertools.groupby(path) if u)


def likelihood(log_probs, tokens):
    """Returns log p of a transcript, over all its paths."""
    frames, units = log_probs.shape
    paths = itertools.product(range(units), repeat=frames)
    same = [log_probs[range(frames), path].sum() for path in paths if collapsed(path) == tokens]
    return np.log(np.exp(same).sum())


def best_of_all(log_probs, score, vocabulary=VOCABULARY):
    """Returns the transcript with the best score, by summing over all paths of each transcript."""
    frames, units = log_probs.shape
    shares: dict[tuple, float] = {}
    for path in itertools.product(range(units), repeat=frames):
        p = np.exp(log_probs[range(frames), path].sum())
        shares[collapsed(path)] = shares.get(collapsed(path), 0.0) + p
    return max(shares, key=lambda y: np.log(shares[y]) + score([vocabulary[u] for u in y]))


def emissions(count, frames=5, units=4):
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 1.5, (count, frames, units))
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def search(spelling="letters", vocabulary=VOCABULARY, **options):
    wide = {"beam": 10_000, "threshold": 1e9, "unit_threshold": 1e9}
    return decode.BeamSearch(decode.Options(**{**wide, **options}), vocabulary, spelling)


def test_without_a_model_of_language_it_finds_the_likeliest_transcript():
    found = search(word_score=0.0)
    for log_probs in emissions(12):
        assert tuple(found(log_probs)) == best_of_all(log_probs, lambda units: 0.0)


def test_with_one_it_finds_the_best_score_of_words(lm):
    found, model = search(lm=lm, lm_weight=1.5, word_score=0.7), ngram.read_arpa(lm)

    def score(units):
        words = transcripts.join(units, "letters").split()
        return 1.5 * model.sentence(words) + 0.7 * len(words)

    changed = 0
    for log_probs in emissions(12):
        best = best_of_all(log_probs, score)
        assert tuple(found(log_probs)) == best
        assert found.best(log_probs)[1] == pytest.approx(
            likelihood(log_probs, best) + score([VOCABULARY[u] for u in best])
        )
        changed += best != best_of_all(log_probs, lambda units: 0.0)
    assert changed


@pytest.mark.parametrize("given", ["words", "lm"])
def test_with_a_lexicon_it_finds_the_best_score_of_its_words(given, lm, tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("a\tA |\n\nAB A B\n")
    options = {"lm": lm, "lm_weight": 0.3, "word_score": 0.7}
    found = search(**options, lexicon="lm" if given == "lm" else str(path))
    assert len(found.words) == 2 and "AB" in found.words and "B" not in found.words
    model = ngram.read_arpa(lm)

    def score(units):
        words = transcripts.join(units, "letters").split()
        bonus = 0.3 * model.sentence(words) + 0.7 * len(words)
        return bonus if {"A", "AB"} >= set(words) else -np.inf

    changed = 0
    for log_probs in emissions(12):
        assert tuple(found(log_probs)) == best_of_all(log_probs, score)
        changed += search(**options)(log_probs) != found(log_probs)
    assert changed


def test_what_begins_no_whole_word_is_dropped(tmp_path):
    (tmp_path / "w").write_text("AB\n")
    sure = np.full((3, 4), -20.0)
    sure[[0, 1, 2], [2, 0, 2]] = 0.0  # A, blank, A: neither is a word
    narrow = search(beam=1, lexicon=str(tmp_path / "w"))
    assert narrow(sure) == []
    sure[[0, 1, 2], [2, 3, 1]] = 1.0
    assert narrow(sure) == [2, 3, 1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("AB\nAC\n", r"row 2: 'AC' has 'C', not in the vocabulary A B: leave the word out"),
        ("AB A\n", r"row 1: 'AB' is spelled 'A': use its own letters, such as 'A B'"),
        ("\n", r"has no word for config.eval.decode.lexicon"),
    ],
)
def test_a_lexicon_that_cannot_be_used_is_named(rows, message, tmp_path):
    (tmp_path / "w").write_text(rows)
    with pytest.raises(DataError, match=message):
        search(lexicon=str(tmp_path / "w"))
    with pytest.raises(DataError, match=r"does not exist: give config\.eval\.decode\.lexicon"):
        search(lexicon=str(tmp_path / "x"))
    with pytest.raises(ConfigError, match=r"config\.data\.spelling is 'phones'"):
        search("phones", lexicon=str(tmp_path / "w"))


def test_phones_are_words_of_their_own(lm):
    vocabulary = ("<blank>", "A", "AB")
    found, model = search("phones", vocabulary, lm=lm), ngram.read_arpa(lm)

    def score(units):
        return 2.0 * model.sentence(list(units)) - len(units)

    for log_probs in emissions(8, units=3):
        assert tuple(found(log_probs)) == best_of_all(log_probs, score, vocabulary)


def test_a_narrow_beam_is_quick_and_finds_what_is_clear():
    draw = np.random.default_rng(1)
    path = draw.integers(0, 4, 400)
    logits = np.full((400, 4), -8.0)
    logits[range(400), path] = 8.0
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert tuple(search(beam=4)(log_probs)) == collapsed(path)


def test_back_off_by_hand(lm):
    model = ngram.read_arpa(lm)
    assert model.order == 2
    # <s> A, A AB, AB </s>: all known
    assert model.sentence(["A", "AB"]) == pytest.approx(-0.3 - 0.2 - 0.6)
    # <s> backs off to AB, AB backs off to A, A </s>
    assert model.sentence(["AB", "A"]) == pytest.approx((-0.5 - 0.7) + (-0.1 - 0.5) - 0.4)
    # an unknown word, and the end after it
    assert model.sentence(["C"]) == pytest.approx((-0.5 - 2.0) - 0.8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "is not an ARPA file"),
        (ARPA.replace("-0.2\tA AB", "-0.2\tA"), r"row 15: expected a number, 2 words"),
        (ARPA.replace("-0.7\tAB", "x\tAB"), r"row 10: expected a number"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, message):
    (tmp_path / "x.arpa").write_text(text)
    with pytest.raises(DataError, match=message):
        ngram.read_arpa(tmp_path / "x.arpa")
    with pytest.raises(DataError, match="does not exist"):
        ngram.read_arpa(tmp_path / "y.arpa")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": -1}, "config.eval.decode.beam is -1"),
        ({"lm": "x.arpa"}, "config.eval.decode.lm needs a search"),
        ({"lexicon": "words.txt"}, "config.eval.decode.lexicon needs a search"),
        ({"beam": 5, "lexicon": "lm"}, "config.eval.decode.lexicon is 'lm', but"),
        ({"threshold": 0.0}, "config.eval.decode.threshold is 0.0"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(ConfigError, match=message):
        decode.Options(**options)


def test_an_estimated_model_is_a_distribution_that_its_file_keeps(tmp_path):
    texts = ["a b a", "a b", "c b  a", "b"]
    model = ngram.estimate(texts, 3)
    words = ["a", "b", "c", ngram.END, ngram.UNKNOWN]
    for state in ((ngram.BEGIN,), ("a", "b"), ("b", "a"), ("c",), ("z", "b"), ("a", "c")):
        assert sum(10 ** model.score(state, w)[0] for w in words) == pytest.approx(1)
    # "b a" is half of what follows "b" three times out of five, half a count discounted
    unigram = {w: (n - 0.5) / 13 + 0.5 * 4 / 13 / 5 for w, n in (("a", 4), ("b", 4))}
    bigram = (2 - 0.5) / 4 + 0.5 * 2 / 4 * unigram["a"]
    assert 10 ** model.table[("b", "a")][0] == pytest.approx(bigram)
    ngram.write_arpa(tmp_path / "lm.arpa", model)
    again = ngram.read_arpa(tmp_path / "lm.arpa")
    assert again.order == 3 and set(again.table) == set(model.table)
    for text in ("a b", "c c a", "x", ""):
        assert again.sentence(text.split()) == pytest.approx(model.sentence(text.split()), abs=1e-4)
    with pytest.raises(ValueError, match="no words"):
        ngram.estimate(["", " "], 2)
