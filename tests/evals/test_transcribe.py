"""Reference and hypothesis are compared with accents and apostrophes in the same form."""

import pytest

from ssl_jax.data import transcripts
from ssl_jax.evals import lexicon, ngram, transcribe
from ssl_jax.evals.transcribe import Utterance, rate, report


@pytest.mark.parametrize("score", ["wer", "cer", "per"])
@pytest.mark.parametrize(
    ("reference", "hypothesis"),
    [("caf\u00e9 a", "cafe\u0301 a"), ("don\u2019t", "don't"), ("e\u0303", "\u1ebd")],
)
def test_two_forms_of_a_word_are_no_error(reference, hypothesis, score):
    assert rate([Utterance(0, reference, hypothesis)], score) == 0
    assert rate([Utterance(0, reference, "x" + hypothesis)], score) > 0


def test_words_of_a_lexicon_and_a_language_model_in_either_form(tmp_path):
    (tmp_path / "w").write_text("don\u2019t\r\ncafe\u0301 c a f \u00e9\r\n", encoding="utf-8-sig")
    vocabulary = ("<blank>", "|", *"caf\u00e9dont\u2019")
    words = lexicon.read(str(tmp_path / "w"), None, vocabulary, "characters")
    assert words is not None and "caf\u00e9" in words and "don\u2019t" in words and len(words) == 2
    arpa = "\\data\\\nngram 1=2\n\n\\1-grams:\n-1.5\tDON\u2019T\n-0.5\tCAFE\u0301\n\n\\end\\\n"
    (tmp_path / "lm").write_text(arpa, encoding="utf-8-sig")
    assert set(ngram.read_arpa(tmp_path / "lm").table) == {("DON\u2019T",), ("CAF\u00c9",)}
    plain = ngram.read_arpa(tmp_path / "lm", transcripts.plain).table
    assert plain[("DON'T",)] == (-1.5, 0.0)


def test_evaluations_of_earlier_versions_are_still_shown():
    new = {"where": "a.wav", "rate": 0.5, "reference": "two words", "hypothesis": "two birds"}
    old = {"where": "a.wav", "rate": 0.5, "said": "two words", "heard": "two birds"}
    pages = [report({"results": [{"split": "test", "worst": [bad]}]}) for bad in (new, old)]
    assert pages[0] == pages[1] and "WORDS" in pages[0] and "BIRDS" in pages[0]


def test_the_name_of_the_version_before_is_still_known():
    assert transcribe.Spoken is transcribe.Utterance
