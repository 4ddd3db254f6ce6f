"""Transcripts of recordings, as tokens of a vocabulary: letters, characters, phones or pieces.

config.data.spelling names the kind of token:
  letters     26 capital letters, the apostrophe and `|`, which ends every word: the dictionary of
              wav2vec 2.0 and HuBERT, in its order and with its four special tokens. Text is
              converted to upper case, and typographic apostrophes to plain ones.
  characters  the characters of the training split, sorted, and `|`, which ends every word.
  phones      the words between spaces in the training split, sorted; `|`, which separates words,
              is left out.
  pieces      frequent parts of words, config.data.pieces of them, learned from the training split;
              one that ends a word ends with `|`: see ssl_jax/data/word_pieces.py.
  pieces.model, tokenizer.json
              the word pieces of a file of yours: see ssl_jax/data/piece_models.py.
Accents are joined to their letters (NFC) before text is split. Token 0 is the CTC blank. The
vocabulary is stored with the run as its classes.
"""

import dataclasses
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.data import labels, piece_models, word_pieces
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import lines
from ssl_jax.data.readers.base import Source

Config = Mapping[str, Any]

# quotation marks and a letter that are used for it, and its full-width form
_APOSTROPHES = dict.fromkeys(map(ord, "\u2019\u2018\u02bc\uff07"), "'")
SPELLINGS = ("letters", "characters", "phones", "pieces")
BLANK, WORD_END = "<blank>", word_pieces.WORD_END
SPECIAL = (BLANK, "<pad>", "</s>", "<unk>")
SILENT = (*SPECIAL, "<s>")  # tokens that stand for no text; <s> is one of other vocabularies
LETTERS = (*SPECIAL, WORD_END, *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")


@dataclasses.dataclass(frozen=True)
class Transcripts:
    """Tokens of n rows as an array (n, L) int32, padded with -1, whose rows are made when indexed.

    The tokens of row i are codes[starts[i] : starts[i + 1]], in as few bytes as the vocabulary
    needs, since every worker has a copy; L is the length of the longest.
    """

    starts: np.ndarray
    codes: np.ndarray
    dtype = np.dtype(np.int32)

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens (n,) int32 of each row."""
        return np.diff(self.starts).astype(np.int32)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, tokens of the longest)."""
        return len(self.starts) - 1, int(self.lengths.max(initial=1))

    @property
    def needed(self) -> np.ndarray:
        """Frames (n,) that CTC needs for each row: one per token, and a blank in every repeat."""
        repeats = np.zeros(len(self.codes) + 1, np.int64)
        repeats[2:] = np.cumsum(self.codes[1:] == self.codes[:-1])
        # a token equal to the last one of the previous row is not a repeat
        first = np.minimum(self.starts[:-1] + 1, self.starts[1:])
        return self.lengths + repeats[self.starts[1:]] - repeats[first]

    def __getitem__(self, ids: np.ndarray) -> np.ndarray:
        out = np.full((len(ids), self.shape[1]), -1, self.dtype)
        for row, i in enumerate(np.asarray(ids).tolist()):
            own = self.codes[self.starts[i] : self.starts[i + 1]]
            out[row, : len(own)] = own
        return out


def columns(sources: Sequence[Source], options: Sequence[Config]) -> list[np.ndarray] | None:
    """Returns the transcript column of each source; None where no source names one.

    Raises DataError for a column that does not exist, where only some sources name one, and where a
    source has a label or tags too.
    """
    named = [str(o.get("transcript") or "") for o in options]
    if not any(named):
        return None
    found = []
    for source, option, name in zip(sources, options, named, strict=True):
        key = f"config.data.{source.name}"
        if not name or option.get("tags") or option.get("label"):
            raise DataError(
                f"{key}.transcript is {name!r}, with label {option.get('label')!r} and tags "
                f"{option.get('tags')!r}: where one source has a transcript, all sources need one, "
                f"and no label or tags"
            )
        found.append(labels.column(source, name, "transcript"))
    return found


def vocabulary(
    config: Config,
    split: str,
    given: Sequence[str] | None,
    texts: Sequence[np.ndarray],
    of_train: Callable[[], tuple[str, ...]],
) -> tuple[str, ...]:
    """Returns the tokens in order, the blank first: those given, else config.data.classes, else
    those of `letters` or of the training split."""
    kind = config.get("spelling", "")
    if kind not in SPELLINGS and not piece_models.is_file(kind):
        raise DataError(
            f"config.data.spelling is {kind!r}: use one of {', '.join(SPELLINGS)}, or a file such "
            f"as pieces.model"
        )
    chosen = tuple(config["classes"]) if given is None else tuple(given)
    if chosen:
        if len(chosen) < 2 or len(set(chosen)) < len(chosen):
            raise DataError(
                f"config.data.classes is {chosen}: a vocabulary needs two or more distinct tokens, "
                f"the first of them the blank"
            )
        return chosen
    if kind == "letters":
        return LETTERS
    if piece_models.is_file(kind):
        return (BLANK, *piece_models.open_model(kind).pieces)
    if given is None and split != "train" and len(config["train"]):
        return of_train()
    if kind == "pieces":
        return (BLANK, *word_pieces.learn(texts, config["pieces"]))
    found: set[str] = set()
    for column in texts:
        for text in column:
            found.update(spell(str(text), kind))
    ends = (WORD_END,) if kind == "characters" else ()
    return (BLANK, *ends, *sorted(found - {WORD_END}))


def spell(text: str, kind: str, vocabulary: Collection[str] = ()) -> Sequence[str]:
    """Returns the tokens of a text: "a b" -> "a|b|", or ["AA", "B"] for phones; for pieces, those
    of the `vocabulary`."""
    words = lines.composed(text).split()
    if piece_models.is_file(kind):
        return piece_models.open_model(kind).cut(" ".join(words))
    if kind == "pieces":
        longest = max(map(len, vocabulary), default=1)
        cuts = (word_pieces.cut(word_pieces.marked(w), vocabulary, longest) for w in words)
        return [piece for pieces in cuts for piece in pieces]
    if kind == "phones":
        return [word for word in words if word != WORD_END]
    joined = "".join(f"{word}{WORD_END}" for word in words)
    return plain(joined.upper()) if kind == "letters" else joined


def plain(text: str) -> str:
    """Returns a text with accents joined to their letters and plain apostrophes."""
    return text if text.isascii() else lines.composed(text).translate(_APOSTROPHES)


def join(tokens: Iterable[str], kind: str) -> str:
    """Returns the text of tokens, without special ones: the inverse of `spell`."""
    real = [token for token in tokens if token not in SILENT]
    if kind == "phones":
        return " ".join(real)
    if piece_models.is_file(kind):
        return " ".join("".join(real).replace(piece_models.START, " ").split())
    return " ".join("".join(real).replace(WORD_END, " ").split())


def _numbers(vocabulary: Sequence[str]) -> dict[str, int]:
    """Returns the index of every token, also by its composed form."""
    return {**labels.numbers_of(vocabulary), **{token: i for i, token in enumerate(vocabulary)}}


def _known(tokens: Sequence[str], number: Mapping[str, int]) -> Sequence[str]:
    """Returns tokens with a letter and its accent separated where the vocabulary has only that.

    Runs that were trained on decomposed (NFD) text, before text was composed, have such one.
    """
    if all(token in number for token in tokens):
        return tokens
    out: list[str] = []
    for token in tokens:
        parts = [token] if token in number else [*unicodedata.normalize("NFD", token)]
        out += parts if all(part in number for part in parts) else [token]
    return out


def encode(
    texts: Sequence[np.ndarray], vocabulary: tuple[str, ...], kind: str
) -> tuple[Transcripts, dict[int, str]]:
    """Turns columns of text into tokens -> (Transcripts, {row: why it cannot be used})."""
    number = _numbers(vocabulary)
    small = np.min_scalar_type(len(vocabulary))
    codes = [np.zeros(0, small)]
    counts, refused = [0], {}
    for text in (str(text) for column in texts for text in column):
        tokens = _known(spell(text, kind, number), number)
        own = [number.get(token, -1) for token in tokens]
        if not own:
            refused[len(counts) - 1] = (
                "its transcript is empty: fill it in, or set config.data.on_bad='skip'"
            )
        elif -1 in own or 0 in own:
            odd = sorted({t for t, code in zip(tokens, own, strict=True) if code < 1})
            refused[len(counts) - 1] = (
                f"its transcript {text[:60]!r} has {', '.join(map(repr, odd[:8]))}, not in the "
                f"vocabulary {' '.join(vocabulary[1:41])} (config.data.spelling={kind!r}, or "
                f"config.data.classes)"
            )
            own = []
        codes.append(np.array(own, small))
        counts.append(len(own))
    return Transcripts(np.cumsum(counts), np.concatenate(codes)), refused
