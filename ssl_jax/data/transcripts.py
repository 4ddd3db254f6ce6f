"""What is said in a recording, as units of a vocabulary: letters, characters or phones.

config.data.spelling says what a unit is:
  letters     26 capital letters, the apostrophe and `|`, which ends every word: the dictionary of
              wav2vec 2.0 and HuBERT, with its order and its four special units. Text becomes
              upper case, a typographic apostrophe a plain one.
  characters  the characters of the training split, sorted, and `|`, which ends every word.
  phones      what stands between spaces, in the training split, sorted; `|`, which divides words,
              is left out.
Accents are joined to their letters (NFC) before text is cut. Unit 0 is the blank of CTC. The
vocabulary is stored with the run as its classes.
"""

import dataclasses
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import lines
from ssl_jax.data.readers.base import Source

Config = Mapping[str, Any]

# quotation marks and a letter that stand for it, and its wide form
_APOSTROPHES = dict.fromkeys(map(ord, "\u2019\u2018\u02bc\uff07"), "'")
SPELLINGS = ("letters", "characters", "phones")
BLANK, WORD_END = "<blank>", "|"
SPECIAL = (BLANK, "<pad>", "</s>", "<unk>")
SILENT = (*SPECIAL, "<s>")  # units that say nothing; the last is of other vocabularies
LETTERS = (*SPECIAL, WORD_END, *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")


@dataclasses.dataclass(frozen=True)
class Transcripts:
    """Units of n rows as an array (n, L) int32 that is made row by row, -1 behind the end.

    The units of row i are codes[starts[i] : starts[i + 1]], in as few bytes as the vocabulary
    needs, since every worker has a copy; L is the length of the longest.
    """

    starts: np.ndarray
    codes: np.ndarray
    dtype = np.dtype(np.int32)

    @property
    def lengths(self) -> np.ndarray:
        """Units (n,) int32 of each row."""
        return np.diff(self.starts).astype(np.int32)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and units of the longest."""
        return len(self.starts) - 1, int(self.lengths.max(initial=1))

    @property
    def needed(self) -> np.ndarray:
        """Frames (n,) that CTC needs for each row: its units, and a blank inside every repeat."""
        again = np.zeros(len(self.codes) + 1, np.int64)
        again[2:] = np.cumsum(self.codes[1:] == self.codes[:-1])
        # a unit that equals the last one of the row before is no repeat
        first = np.minimum(self.starts[:-1] + 1, self.starts[1:])
        return self.lengths + again[self.starts[1:]] - again[first]

    def __getitem__(self, ids: np.ndarray) -> np.ndarray:
        out = np.full((len(ids), self.shape[1]), -1, self.dtype)
        for row, i in enumerate(np.asarray(ids).tolist()):
            own = self.codes[self.starts[i] : self.starts[i + 1]]
            out[row, : len(own)] = own
        return out


def columns(sources: Sequence[Source], options: Sequence[Config]) -> list[np.ndarray] | None:
    """Returns of each source the column `transcript`; None where no source names one.

    Raises DataError for a column that does not exist, and where only some sources name one or a
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
                f"{key}.transcript is {name!r}, beside label {option.get('label')!r} and tags "
                f"{option.get('tags')!r}: where one source has a transcript, every one needs one "
                f"and no label or tags"
            )
        name = lines.composed(name)
        if name not in source.columns:
            raise DataError(
                f"{key}.transcript is {name!r}: its columns are {sorted(source.columns)}"
            )
        found.append(source.columns[name])
    return found


def vocabulary(
    config: Config,
    split: str,
    given: Sequence[str] | None,
    texts: Sequence[np.ndarray],
    of_train: Callable[[], tuple[str, ...]],
) -> tuple[str, ...]:
    """Returns the units in order, the blank first: those given, config.data.classes, those of
    `letters`, or what the training split holds."""
    kind = config.get("spelling", "")
    if kind not in SPELLINGS:
        raise DataError(f"config.data.spelling is {kind!r}: use one of {', '.join(SPELLINGS)}")
    chosen = tuple(config["classes"]) if given is None else tuple(given)
    if chosen:
        if len(chosen) < 2 or len(set(chosen)) < len(chosen):
            raise DataError(
                f"config.data.classes is {chosen}: as a vocabulary it needs different units, two "
                f"or more, and unit 0 is the blank"
            )
        return chosen
    if kind == "letters":
        return LETTERS
    if given is None and split != "train" and len(config["train"]):
        return of_train()
    found: set[str] = set()
    for column in texts:
        for text in column:
            found.update(spell(str(text), kind))
    ends = (WORD_END,) if kind == "characters" else ()
    return (BLANK, *ends, *sorted(found - {WORD_END}))


def spell(text: str, kind: str) -> Sequence[str]:
    """Returns the units of a text: "a b" -> "a|b|", or ["AA", "B"] of phones."""
    words = lines.composed(text).split()
    if kind == "phones":
        return [word for word in words if word != WORD_END]
    joined = "".join(f"{word}{WORD_END}" for word in words)
    return plain(joined.upper()) if kind == "letters" else joined


def plain(text: str) -> str:
    """Returns a text with accents joined to their letters and the apostrophe of a typewriter."""
    return text if text.isascii() else lines.composed(text).translate(_APOSTROPHES)


def join(units: Iterable[str], kind: str) -> str:
    """Returns the text of units, in which a special one is nothing: undoes `spell`."""
    real = [unit for unit in units if unit not in SILENT]
    if kind == "phones":
        return " ".join(real)
    return " ".join("".join(real).replace(WORD_END, " ").split())


def _numbers(vocabulary: Sequence[str]) -> dict[str, int]:
    """Returns the place of every unit, by its composed form too."""
    number = {lines.composed(unit): i for i, unit in reversed([*enumerate(vocabulary)])}
    return {**number, **{unit: i for i, unit in enumerate(vocabulary)}}


def _known(units: Sequence[str], number: Mapping[str, int]) -> Sequence[str]:
    """Returns units in which a letter that the vocabulary has only apart from its accent is so.

    Such is the vocabulary of a run that was trained, before text was composed, on a Mac's text.
    """
    if all(unit in number for unit in units):
        return units
    apart = (() if unit in number else unicodedata.normalize("NFD", unit) for unit in units)
    found = zip(units, apart, strict=True)
    return [p for u, a in found for p in (a if a and all(x in number for x in a) else (u,))]


def encode(
    texts: Sequence[np.ndarray], vocabulary: tuple[str, ...], kind: str
) -> tuple[Transcripts, dict[int, str]]:
    """Turns columns of text into units -> (Transcripts, {row: why it cannot be used})."""
    number = _numbers(vocabulary)
    small = np.min_scalar_type(len(vocabulary))
    codes = [np.zeros(0, small)]
    counts, refused = [0], {}
    for text in (str(text) for column in texts for text in column):
        units = _known(spell(text, kind), number)
        own = [number.get(unit, -1) for unit in units]
        if not own:
            refused[len(counts) - 1] = (
                "its transcript is empty: write what is said, or set config.data.on_bad='skip'"
            )
        elif -1 in own or 0 in own:
            odd = sorted({u for u, code in zip(units, own, strict=True) if code < 1})
            refused[len(counts) - 1] = (
                f"its transcript {text[:60]!r} has {', '.join(map(repr, odd[:8]))}, not in the "
                f"vocabulary {' '.join(vocabulary[1:41])} (config.data.spelling={kind!r}, or "
                f"config.data.classes)"
            )
            own = []
        codes.append(np.array(own, small))
        counts.append(len(own))
    return Transcripts(np.cumsum(counts), np.concatenate(codes)), refused
