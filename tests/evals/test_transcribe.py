"""What is said and what is heard are compared in one form of accents and apostrophes."""

import pytest

from ssl_jax.data import transcripts
from ssl_jax.evals import lexicon, ngram
from ssl_jax.evals.transcribe import Utterance, rate


@pytest.mark.parametrize("score", ["wer", "cer", "per"])
@pytest.mark.parametrize(
    ("said", "heard"),
    [("caf\u00e9 a", "cafe\u0301 a"), ("don\u2019t", "don't"), ("e\u0303", "\u1ebd")],
)
def test_two_forms_of_a_word_are_no_error(said, heard, score):
    assert rate([Utterance(0, said, heard)], score) == 0
    assert rate([Utterance(0, said, "x" + heard)], score) > 0


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
