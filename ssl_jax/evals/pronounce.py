"""Feedback on pronunciation: what was heard in place of each canonical phone, and when."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.data import phones, pronouncing, transcripts
from ssl_jax.data.pronouncing import Word
from ssl_jax.evals import edit_distance, goodness, table
from ssl_jax.ops.ctc import BLANK

_REACH = 0.1  # seconds that a phone is drawn out at most on either side of its frames
_NEVER = -1e30


class Phone(NamedTuple):
    """A phone of a recording.

    canonical: as it should be; "" for one that was inserted. heard: by the model, without the text;
    "" for one that was left out. score: the probability of the canonical phone, if all others are
    as they should be (`posterior` of `goodness`); NaN for an inserted one. start, end: seconds.
    word: that of the text, or "".
    """

    canonical: str
    heard: str
    score: float
    start: float
    end: float
    word: str

    @property
    def mistaken(self) -> bool:
        """Whether another phone was heard than the canonical one."""
        return self.canonical != self.heard


class Pronunciation(Sequence):
    """The phones of a recording in order: a sequence of Phone, printed as a table."""

    def __init__(self, found: Sequence[Phone]):
        self.phones = tuple(found)

    def __len__(self) -> int:
        return len(self.phones)

    def __getitem__(self, i: Any) -> Any:
        return self.phones[i]

    def __repr__(self) -> str:
        rows = [
            {
                "word": phone.word,
                "canonical": phone.canonical or phones.GAP,
                "heard": phone.heard or phones.GAP,
                "score": "" if math.isnan(phone.score) else table.cell(phone.score),
                "seconds": f"{phone.start:.2f} - {phone.end:.2f}",
                "": "<-" if phone.mistaken else "",
            }
            for phone in self
        ]
        return table.text_table(rows)


def as_words(
    given: str | Sequence[str], vocabulary: Sequence[str], lexicon: str = ""
) -> list[Word]:
    """Returns the words of a text, or phones as one word without text; all are of the vocabulary.

    Raises DataError, naming the word, for phones that are not in it; see `pronouncing.words`.
    """
    known = [name for name in vocabulary if name not in transcripts.SILENT]
    known = [name for name in known if not phones.silent(name)]
    if isinstance(given, str):
        return pronouncing.words(given, known, lexicon)
    found = [Word("", tuple(given))]
    pronouncing.check(found, known)
    return found


def judge(
    log_probs: np.ndarray,
    words: Sequence[Word],
    vocabulary: Sequence[str],
    times: np.ndarray,
    step: float,
) -> Pronunciation:
    """Returns what is heard and scored for words whose phones are of the vocabulary.

    log_probs (S, V) of CTC; times (S,): the centres of the frames in seconds, `step` apart. Pauses
    of the vocabulary count as blanks. What is heard is the best path, aligned to the canonical
    phones by `edit_distance.align`. Raises ValueError where the frames are too few.
    """
    log_probs = _without_pauses(np.asarray(log_probs, np.float64), vocabulary)
    number = {name: i for i, name in enumerate(vocabulary)}
    canonical = [(word.text, phone) for word in words for phone in word.phones]
    tokens = [number[phone] for _, phone in canonical]
    scored = goodness.goodness(log_probs, tokens)
    spans = _spans(scored.start, scored.stop, times, step)
    heard = _best_path(log_probs)
    first, after = np.array([run[1:] for run in heard], int).reshape(-1, 2).T
    heard_spans = _spans(first, after, times, step)
    found = []
    for i, j in edit_distance.align(tokens, [token for token, *_ in heard]):
        name = "" if j is None else vocabulary[heard[j][0]]
        if i is not None:
            word, phone = canonical[i]
            found.append(Phone(phone, name, math.exp(scored.posterior[i]), *spans[i], word))
        elif j is not None:
            found.append(Phone("", name, math.nan, *heard_spans[j], ""))
    return Pronunciation(found)


def _without_pauses(log_probs: np.ndarray, vocabulary: Sequence[str]) -> np.ndarray:
    """Returns log_probs whose blank has the probability of all pauses."""
    silent = [
        i for i, name in enumerate(vocabulary) if name in transcripts.SILENT or phones.silent(name)
    ]
    out = log_probs.copy()
    out[:, silent] = _NEVER
    out[:, BLANK] = np.logaddexp.reduce(log_probs[:, [*{BLANK, *silent}]], axis=1)
    return out


def _best_path(log_probs: np.ndarray) -> list[tuple[int, int, int]]:
    """Returns (token, first frame, frame after its last) of the best path, without blanks."""
    found, at = [], 0
    for token, run in itertools.groupby(log_probs.argmax(1).tolist()):
        size = len(list(run))
        if token != BLANK:
            found.append((token, at, at + size))
        at += size
    return found


def _spans(
    start: np.ndarray, stop: np.ndarray, times: np.ndarray, step: float
) -> list[tuple[float, float]]:
    """Returns (start, end) in seconds of runs of frames, drawn out to half of the gaps between
    them, since CTC predicts a phone in few of its frames."""
    if not len(start):
        return []
    begin, end = times[start] - step / 2, times[stop - 1] + step / 2
    half = np.clip((begin[1:] - end[:-1]) / 2, 0, _REACH)
    begin, end = begin - np.append(0, half), end + np.append(half, 0)
    return list(zip(np.maximum(begin, 0).tolist(), end.tolist(), strict=True))
