"""Canonical phones of a text, from a lexicon and by rule."""

import pytest

from ssl_jax.data import phones, pronouncing
from ssl_jax.data.errors import DataError
from ssl_jax.data.synthetic import espeak


def spelled(text, **options):
    found = pronouncing.words(text, phones.ARPABET, **options)
    return [(word, " ".join(own)) for word, own in found]


def test_a_lexicon_gives_the_first_pronunciation(tmp_path):
    file = tmp_path / "cmudict.txt"
    file.write_text(";;; a comment\nTHE  DH AH0\nTHE(2)  DH IY0\nCAT'S\tK AE1 T S\n")
    assert spelled("The cat\u2019s, the!", lexicon=file) == [
        *(("The", "DH AH"), ("cat\u2019s", "K AE T S"), ("the", "DH AH"))
    ]
    with pytest.raises(DataError, match=r"cmudict.txt has no word 'dog': add a row, such as"):
        spelled("the dog", lexicon=file)
    file.write_text("THE DH AH0\nDOG\n")
    with pytest.raises(DataError, match=r"cmudict.txt, row 2: 'DOG' has no phones"):
        spelled("the", lexicon=file)
    with pytest.raises(DataError, match=r"nowhere is not a file: give a lexicon"):
        spelled("the", lexicon=tmp_path / "nowhere")


def test_rules_of_the_synthesizer_give_arpabet():
    assert dict(spelled("The girl sells bottles; near a church")) == {
        "The": "DH AH",
        "girl": "G ER L",
        "sells": "S EH L Z",
        "bottles": "B AA T AH L Z",
        "near": "N IH R",
        "a": "AH",
        "church": "CH ER CH",
    }
    assert spelled("in the area") == [("in", "IH N"), ("the", "DH AH"), ("area", "EH R IY AH")]
    many = "button film oil world player area poor door car wanted actual vision measure hour thin"
    assert len(spelled(many)) == 15
    with pytest.raises(DataError, match="espeak's phone '!' has no ARPAbet"):
        pronouncing.to_arpabet("!")


def test_a_model_of_other_phones_keeps_the_notation_of_the_synthesizer():
    assert pronouncing.words("sea", ("s", "i:"))[0].phones == ("s", "i:")
    with pytest.raises(DataError, match=r"phone 'k' of 'key' is none of the model: use its phones"):
        pronouncing.words("sea key", ("s", "i:"))
    with pytest.raises(DataError, match=r"'\?!' has no word: give what is said"):
        pronouncing.words("?!", ("s",))


def test_words_of_the_synthesizer():
    voice = espeak.Espeak()
    assert voice.words("Hello, world.") == [["h", "@", "l", "oU"], ["w", "3:", "l", "d"]]
    with pytest.raises(ValueError, match="no voice 'xx': try 'en-us'"):
        voice.words("a", "xx")
