"""The words that beam search may find: those of a file, one per row, or of the language model."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ssl_jax.core import paths
from ssl_jax.core.config import ConfigError
from ssl_jax.data import piece_models, transcripts
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import lines
from ssl_jax.evals import ngram

OF_LM = "lm"
_KEY = "config.eval.decode.lexicon"


class Lexicon:
    """Words, and the tokens that may follow each of their prefixes."""

    def __init__(self, words: Iterable[str], vocabulary: Sequence[str]):
        self._words = frozenset(words)
        self._vocabulary = tuple(vocabulary)
        self._begun = {word[:end] for word in self._words for end in range(1, len(word) + 1)}
        self._found: dict[str, np.ndarray] = {}

    def __contains__(self, word: str) -> bool:
        return word in self._words

    def __len__(self) -> int:
        return len(self._words)

    def follows(self, prefix: str) -> np.ndarray:
        """Returns which tokens (V,) bool may follow the prefix of a word; "" is between words."""
        found = self._found.get(prefix)
        if found is None:
            allowed = [self._allows(prefix, token) for token in self._vocabulary]
            found = self._found[prefix] = np.array(allowed)
        return found

    def _allows(self, prefix: str, token: str) -> bool:
        longer = prefix + token.removesuffix(transcripts.WORD_END)
        if token.endswith(transcripts.WORD_END):
            return not longer or longer in self._words
        return longer in self._begun


def read(
    given: str, lm: ngram.NGram | None, vocabulary: Sequence[str], spelling: str
) -> Lexicon | None:
    """Returns the lexicon of config.eval.decode.lexicon; None for "".

    A file has a word in the first column of each row. Further columns may spell it, as in lexicons
    of flashlight (`WORD W O R D |`); the spelling must be that of the word. "lm" takes the words
    of the language model that the vocabulary can spell. Raises ConfigError for phones, which are
    not words, and DataError, naming the row, for a word that the vocabulary cannot spell.
    """
    if not given:
        return None
    if spelling == "phones":
        raise ConfigError(
            f"{_KEY} is {given!r}, but config.data.spelling is 'phones', where tokens do not "
            f"form words: use '', or a run of letters"
        )
    if piece_models.is_file(spelling):
        raise ConfigError(
            f"{_KEY} is {given!r}, but config.data.spelling is {spelling!r}, whose pieces do not "
            f"show where a word ends: use ''"
        )
    # of word pieces, which may be of several letters, each letter is one too
    known = {name.removesuffix(transcripts.WORD_END) for name in vocabulary}
    known -= {"", *transcripts.SILENT}
    if given == OF_LM and lm is not None:
        singles = (words[0] for words in lm.table if len(words) == 1)
        words = {word for word in singles if word not in ngram.SPECIAL and known.issuperset(word)}
        where = "config.eval.decode.lm"
    else:
        words, where = set(_rows(given, known, spelling)), given
    if not words:
        raise DataError(
            f"{where} has no word for {_KEY}: use one with words spelled by {_few(known)}"
        )
    return Lexicon(words, vocabulary)


def _rows(given: str, known: set[str], spelling: str) -> Iterator[str]:
    path = paths.of(given)
    if not path.is_file():
        raise DataError(f"{path} does not exist: give {_KEY} a file with a word in each row")
    for number, line in lines.filled(path):
        fields = lines.words(line)
        word, spelled = (
            transcripts.join(transcripts.spell(text, spelling, known), spelling)
            for text in (fields[0], "".join(fields[1:]) or fields[0])
        )
        odd = sorted(set(word) - known)
        if odd:
            raise DataError(
                f"{path}, row {number}: {fields[0]!r} has {', '.join(map(repr, odd[:8]))}, "
                f"not in the vocabulary {_few(known)}: leave the word out, or spell it so"
            )
        if spelled != word:
            raise DataError(
                f"{path}, row {number}: {fields[0]!r} is spelled {' '.join(fields[1:])!r}: "
                f"use its own letters, such as {' '.join(word)!r}, or none"
            )
        yield word


def _few(tokens: set[str]) -> str:
    return " ".join(sorted(tokens)[:40])
