"""Word-piece models that a user brings: files of sentencepiece, and of the library tokenizers.

config.data.spelling names the file: `pieces.model`, as sentencepiece writes it, or `tokenizer.json`
of Hugging Face with the pre-tokenizer Metaspace. The pieces are cut as the file says, and one that
begins a word begins with the mark START. They are stored with the run as its classes; the file is
needed to read transcripts, not to write them.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from ssl_jax.core import paths
from ssl_jax.data.errors import DataError

START = "\u2581"  # of a word, as sentencepiece writes it
_KEY = "config.data.spelling"
_KINDS = (".model", ".json")
_SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<mask>", "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")


class PieceModel(NamedTuple):
    """pieces: the vocabulary, in the order of the file, without special ones. cut: of a text."""

    pieces: tuple[str, ...]
    cut: Callable[[str], list[str]]


def is_file(spelling: str) -> bool:
    """Returns whether config.data.spelling names a file, and not a kind of token."""
    return spelling.endswith(_KINDS)


@functools.cache
def open_model(path: str) -> PieceModel:
    """Reads a file once. Raises DataError for one that is missing, damaged or of another kind."""
    file = paths.expanded(path)
    if not file.is_file():
        raise DataError(
            f"{_KEY} is {path!r}, which does not exist: give a file of sentencepiece "
            f"(pieces.model) or of tokenizers (tokenizer.json), or 'pieces' to learn them"
        )
    read = _sentencepiece if path.endswith(".model") else _tokenizers
    try:
        model = read(str(file))
    except DataError:
        raise
    except Exception as error:  # both libraries raise bare ones
        raise DataError(f"{_KEY}={path!r} cannot be read: {error}") from error
    if not any(piece.startswith(START) for piece in model.pieces):
        raise DataError(
            f"{_KEY}={path!r} has no piece that begins a word with {START!r}: use a model of "
            f"sentencepiece, or a tokenizer.json with the pre-tokenizer Metaspace"
        )
    return model


def _sentencepiece(path: str) -> PieceModel:
    library = _library("sentencepiece")
    model = library.SentencePieceProcessor(model_file=path)
    every = range(model.get_piece_size())
    real = [i for i in every if not (model.is_control(i) or model.is_unknown(i))]
    pieces = tuple(model.id_to_piece(i) for i in real)
    return PieceModel(pieces, lambda text: list(model.encode(text, out_type=str)))


def _tokenizers(path: str) -> PieceModel:
    model = _library("tokenizers").Tokenizer.from_file(path)
    model.no_padding()
    model.no_truncation()
    named = sorted(model.get_vocab().items(), key=lambda pair: pair[1])
    pieces = tuple(piece for piece, _ in named if piece not in _SPECIAL)
    return PieceModel(pieces, lambda text: model.encode(text, add_special_tokens=False).tokens)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)  # an optional dependency
    except ImportError as error:
        raise DataError(
            f"{_KEY} names a file of {name}, which is not installed: pip install {name}, or learn "
            f"the pieces with {_KEY}='pieces'"
        ) from error
