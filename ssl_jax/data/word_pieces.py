"""Word pieces: frequent parts of words, learned from transcripts by byte pair encoding.

A piece that ends a word ends with `|`, as in `TRAN` `SCRI` `BE|`, so that pieces joined are the
text. The vocabulary holds every character of the training text alone, then what the library
`tokenizers` joins; it is stored with the run as its classes. A word is cut from the left, each time
at the longest piece, which needs nothing but the vocabulary: neither the library nor a file.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import lines

WORD_END = "|"


def learn(columns: Sequence[np.ndarray], size: int) -> tuple[str, ...]:
    """Returns the pieces of columns of texts, sorted: `size` - 1, as the blank takes a place, or
    fewer where no pair is left to join.

    Raises DataError for a size without room for all characters, and without `tokenizers`.
    """
    words = [marked(word) for column in columns for text in column for word in _words(str(text))]
    letters = sorted(set("".join(words)))
    if size <= len(letters):
        raise DataError(
            f"config.data.pieces is {size}: the transcripts have {len(letters)} characters, and "
            f"the blank needs a place too, so use {len(letters) + 1} or more, such as 1024"
        )
    library = _library()
    model = library.Tokenizer(library.models.BPE())
    model.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size - 1, initial_alphabet=letters, min_frequency=2, show_progress=False
    )
    model.train_from_iterator(words, trainer)
    return tuple(sorted(model.get_vocab()))


def marked(word: str) -> str:
    """Returns a word with the mark of its end."""
    return f"{word.replace(WORD_END, '')}{WORD_END}"


def cut(word: str, vocabulary: Collection[str], longest: int) -> list[str]:
    """Returns the pieces of a marked word, the longest first from the left; a character that is in
    no piece stands alone. longest: of the pieces."""
    out, start = [], 0
    while start < len(word):
        sizes = range(min(longest, len(word) - start), 0, -1)
        size = next((n for n in sizes if word[start : start + n] in vocabulary), 1)
        out.append(word[start : start + size])
        start += size
    return out


def _words(text: str) -> list[str]:
    return lines.composed(text).split()


def _library() -> Any:
    try:
        import tokenizers  # an optional dependency
    except ImportError as error:
        raise DataError(
            "config.data.spelling='pieces' learns them with the library tokenizers: "
            "pip install 'ssl_jax[text]', or set it to 'letters'"
        ) from error
    return tokenizers
