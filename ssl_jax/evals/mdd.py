"""Detection and diagnosis of mispronunciations: the two published ways to count, and their rates.

Three sequences of phones per utterance: canonical (of the text), perceived (by a listener) and
hypothesis (of a model). Silence is left out first. Sequences are aligned by `edit_distance.align`:
unit costs; going back from the end, a match or substitution is preferred to a deletion, and that to
an insertion, as in Kaldi. The two evaluators differ by several points of F1: always say which.

  paper       of 2203.15937 and the papers it compares with: walks what the listener perceived.
              Phones that only the model inserts never count.
  repository  of the code released with that paper: walks the canonical phones; what only the
              model inserts is a false rejection.
"""

import collections
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ssl_jax.data import phones
from ssl_jax.evals import edit_distance, table

PAPER, REPOSITORY = "paper", "repository"
TA, FR, FA, CD, ED = range(5)  # outcomes, in the order of Counts
RATES = ("precision", "recall", "f1", "far", "frr", "der", "accuracy")


class Spoken(NamedTuple):
    """One utterance. pairs: (canonical, perceived) of an annotation, GAP where one is missing;
    the `repository` evaluator takes them in place of an alignment."""

    canonical: Sequence[str]
    perceived: Sequence[str]
    hypothesis: Sequence[str]
    speaker: str = ""
    pairs: Sequence[tuple[str, str]] | None = None


class Event(NamedTuple):
    """What became of one phone: its outcome, and the phones of the three sides ("" for none)."""

    outcome: int
    canonical: str
    perceived: str
    hypothesis: str


class Counts(NamedTuple):
    """Phones that are right and accepted or rejected, wrong and accepted, or rejected with the
    right or a wrong diagnosis. A rate without a phone to count is NaN."""

    true_accept: int
    false_reject: int
    false_accept: int
    correct_diagnosis: int
    error_diagnosis: int

    @property
    def true_reject(self) -> int:
        """Wrong phones that are rejected, whatever the diagnosis."""
        return self.correct_diagnosis + self.error_diagnosis

    @property
    def precision(self) -> float:
        """True over all rejections."""
        return _share(self.true_reject, self.true_reject + self.false_reject)

    @property
    def recall(self) -> float:
        """Rejected wrong phones over all wrong ones; 1 - `far`."""
        return _share(self.true_reject, self.true_reject + self.false_accept)

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        return _f1(self.true_reject, self.false_reject, self.false_accept)

    @property
    def diagnosed_f1(self) -> float:
        """F1 of an older script, where a wrong diagnosis counts as a false acceptance."""
        missed = self.false_accept + self.error_diagnosis
        return _f1(self.correct_diagnosis, self.false_reject, missed)

    @property
    def far(self) -> float:
        """Accepted wrong phones over all wrong ones (false acceptance rate)."""
        return _share(self.false_accept, self.true_reject + self.false_accept)

    @property
    def frr(self) -> float:
        """Rejected right phones over all right ones (false rejection rate)."""
        return _share(self.false_reject, self.true_accept + self.false_reject)

    @property
    def der(self) -> float:
        """Wrong diagnoses over true rejections (diagnosis error rate)."""
        return _share(self.error_diagnosis, self.true_reject)

    @property
    def accuracy(self) -> float:
        """True acceptances and rejections over all phones."""
        return _share(self.true_accept + self.true_reject, sum(self))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _f1(hits: int, false_alarms: int, missed: int) -> float:
    return _share(2 * hits, 2 * hits + false_alarms + missed)


def without_silence(row: Spoken) -> Spoken:
    """Returns a row without its pauses; of pairs, those go whose sides are both silent."""
    canonical, perceived, hypothesis = (
        [p for p in side if not phones.silent(p)]
        for side in (row.canonical, row.perceived, row.hypothesis)
    )
    pairs = row.pairs
    if pairs is not None:
        sides = (tuple("" if phones.silent(p) else p for p in pair) for pair in pairs)
        pairs = [(c, h) for c, h in sides if c or h]
    return Spoken(canonical, perceived, hypothesis, row.speaker, pairs)


def paper(row: Spoken) -> list[Event]:
    """Returns an event for each phone of the canonical or perceived sequence, in order.

    A canonical phone that the listener missed is looked up in the alignment of canonical and
    hypothesis, all others in that of perceived and hypothesis.
    """
    canonical, perceived, hypothesis, *_ = without_silence(row)
    of_canonical = dict(edit_distance.align(canonical, hypothesis))
    of_perceived = dict(edit_distance.align(perceived, hypothesis))
    found = []
    for c, h in edit_distance.align(canonical, perceived):
        j = of_canonical[c] if h is None else of_perceived[h]
        wanted, heard, guess = _named(canonical, c), _named(perceived, h), _named(hypothesis, j)
        found.append(Event(_outcome(wanted, heard, guess), wanted, heard, guess))
    return found


def repository(row: Spoken) -> list[Event]:
    """Returns an event for each canonical phone, and for phones that listener or model inserted.

    Where both insert phones at one place, as many as both have are true rejections.
    """
    row = without_silence(row)
    canonical, hypothesis = list(row.canonical), list(row.hypothesis)
    guesses, guessed_extra = _by_place(_pairs(canonical, hypothesis))
    heard, heard_extra = _by_place(row.pairs or _pairs(canonical, list(row.perceived)))
    found = []
    for place in range(len(canonical) + 1):
        extra = heard_extra[place], guessed_extra[place]
        for n in range(max(map(len, extra))):
            h, p = (side[n] if n < len(side) else "" for side in extra)
            found.append(Event(CD if h and p else FA if h else FR, "", h, p))
        if place < len(canonical):
            sides = canonical[place], heard[place], guesses[place]
            found.append(Event(_outcome(*sides), *sides))
    return found


EVALUATORS: dict[str, Callable[[Spoken], list[Event]]] = {PAPER: paper, REPOSITORY: repository}


def _outcome(canonical: str, perceived: str, hypothesis: str) -> int:
    """Returns the outcome of a place from the phones of its three sides, "" for none."""
    if perceived == canonical:
        return TA if hypothesis == canonical else FR
    if hypothesis == perceived:
        return CD
    return FA if hypothesis == canonical else ED


def _named(side: Sequence[str], place: int | None) -> str:
    return "" if place is None else side[place]


def _pairs(one: Sequence[str], other: Sequence[str]) -> list[tuple[str, str]]:
    aligned = edit_distance.align(one, other)
    return [(_named(one, i), _named(other, j)) for i, j in aligned]


def _by_place(pairs: Sequence[tuple[str, str]]) -> tuple[list[str], dict[int, list[str]]]:
    """Returns what stands at each canonical phone, and what is inserted before each place."""
    own: list[str] = []
    extra: dict[int, list[str]] = collections.defaultdict(list)
    for canonical, other in pairs:
        if canonical:
            own.append(other)
        else:
            extra[len(own)].append(other)
    return own, extra


def count(events: Iterable[Event]) -> Counts:
    """Returns the counts of events."""
    found = collections.Counter(event.outcome for event in events)
    return Counts(*(found[outcome] for outcome in (TA, FR, FA, CD, ED)))


def per(rows: Iterable[Spoken]) -> float:
    """Returns the phone error rate of hypotheses against what was perceived, without silence."""
    kept = map(without_silence, rows)
    return edit_distance.total(
        edit_distance.edits(row.perceived, row.hypothesis) for row in kept
    ).rate


def evaluate(rows: Sequence[Spoken]) -> dict[str, Any]:
    """Returns {"per": rate, "paper": scores, "repository": scores} of a corpus.

    Scores are the `Counts` by name, and RATES of them.
    """
    out: dict[str, Any] = {"per": per(rows)}
    for name, events in EVALUATORS.items():
        out[name] = scores(count(event for row in rows for event in events(row)))
    return out


def scores(counts: Counts) -> dict[str, float]:
    """Returns counts and rates by name."""
    return {**counts._asdict(), **{name: getattr(counts, name) for name in RATES}}


def by_speaker(rows: Sequence[Spoken], evaluator: str = PAPER) -> list[dict[str, Any]]:
    """Returns a row for each speaker, by name: utterances, phones, the share of these that was
    mispronounced, `per` and the rates."""
    groups: dict[str, list[Spoken]] = collections.defaultdict(list)
    for row in rows:
        groups[row.speaker].append(row)
    found = []
    for speaker, own in sorted(groups.items()):
        counts = count(event for row in own for event in EVALUATORS[evaluator](row))
        shown = {"utterances": len(own), **_summary(counts), "per": per(own)}
        found.append({"speaker": speaker, **shown, **_rates(counts)})
    return found


def by_phone(rows: Sequence[Spoken], evaluator: str = PAPER) -> list[dict[str, Any]]:
    """Returns a row for each canonical phone (GAP: inserted ones), the most mispronounced first.

    `heard_as` is what listeners heard most often in its place, GAP where it was left out.
    """
    groups: dict[str, list[Event]] = collections.defaultdict(list)
    for row in rows:
        for event in EVALUATORS[evaluator](row):
            groups[event.canonical or phones.GAP].append(event)
    found = []
    for phone, own in sorted(groups.items()):
        counts = count(own)
        wrong = collections.Counter(
            event.perceived or phones.GAP for event in own if event.perceived != event.canonical
        )
        most = wrong.most_common(1)[0][0] if wrong else ""
        found.append({"phone": phone, **_summary(counts), "heard_as": most, **_rates(counts)})
    return sorted(found, key=lambda row: -row["mispronounced"])


def _summary(counts: Counts) -> dict[str, Any]:
    wrong = counts.true_reject + counts.false_accept
    return {"phones": sum(counts), "mispronounced": _share(wrong, sum(counts))}


def _rates(counts: Counts) -> dict[str, float]:
    return {name: getattr(counts, name) for name in ("precision", "recall", "f1", "far", "frr")}


def report(rows: Sequence[Spoken]) -> str:
    """Returns the scores by both evaluators, then the tables of speakers and phones, as text."""
    found = evaluate(rows)
    both = [{"evaluator": name, "per": found["per"], **found[name]} for name in EVALUATORS]
    tables = both, by_speaker(rows), by_phone(rows)
    return "\n\n".join(table.text_table([_cells(row) for row in rows]) for rows in tables)


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: table.cell(value) if isinstance(value, float) else value
        for name, value in row.items()
    }
