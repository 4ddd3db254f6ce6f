"""Word pieces: learned from texts, the longest first, and joined to the text again."""

import numpy as np
import pytest

from ssl_jax.data import transcripts, word_pieces
from ssl_jax.data.errors import DataError

TEXTS = ["the theme of the thesis", "the other them", "other themes of mothers"] * 3


def column(texts):
    return np.array(texts, np.dtypes.StringDType())


@pytest.fixture(scope="module")
def vocabulary():
    pytest.importorskip("tokenizers")
    config = {"spelling": "pieces", "pieces": 24, "classes": (), "train": {}}
    return transcripts.vocabulary(config, "train", None, [column(TEXTS)], tuple)


def test_learned_pieces_are_frequent_parts_of_words(vocabulary):
    assert len(vocabulary) == len(set(vocabulary)) == 24 and vocabulary[0] == "<blank>"
    letters = set("".join(TEXTS).replace(" ", "")) | {"|"}
    assert letters < set(vocabulary)
    assert any(len(piece) > 2 and piece in "the|" for piece in vocabulary)
    again = word_pieces.learn([column(TEXTS[::-1])], 24)
    assert again == vocabulary[1:]


def test_texts_become_pieces_and_texts_again(vocabulary):
    for text in ("the theme", "mothers of them", "fees"):
        tokens = transcripts.spell(text, "pieces", vocabulary)
        assert set(tokens) < set(vocabulary) and transcripts.join(tokens, "pieces") == text
    found, refused = transcripts.encode([column(["the hose", "the zoo"])], vocabulary, "pieces")
    names = [vocabulary[i] for i in found[np.array([0])][0] if i >= 0]
    assert transcripts.join(names, "pieces") == "the hose"
    assert "'z'" in refused[1] and "not in the vocabulary" in refused[1]


def test_the_longest_piece_is_taken():
    known = ("<blank>", "a", "b", "|", "ab", "ab|", "ba", "aba")
    assert transcripts.spell("abab ab", "pieces", known) == ["aba", "b", "|", "ab|"]
    assert transcripts.spell("axb", "pieces", known) == ["a", "x", "b", "|"]


@pytest.mark.parametrize("size", [0, 5])
def test_a_vocabulary_without_room_for_the_letters_is_refused(size):
    pytest.importorskip("tokenizers")
    with pytest.raises(DataError, match=rf"config.data.pieces is {size}: .* 10 .* use 11 or more"):
        word_pieces.learn([column(TEXTS)], size)
