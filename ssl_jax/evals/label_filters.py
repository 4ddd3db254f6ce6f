"""Which transcripts that a model made are fit to train on: filters, and balance of their tokens.

Noisy student training of speech (2005.09629) filters by a normalized score, and balances tokens;
2010.10504 does neither. Where the recordings are of another domain than the labelled ones, the
agreement of the hypotheses with and without a language model is the filter that has been found to
matter (the recipe of WeNet for AISHELL). Empty transcripts are never kept.
"""

import dataclasses
import heapq
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ssl_jax.core.config import ConfigError
from ssl_jax.evals import edit_distance


class Hypothesis(NamedTuple):
    """What a model says of one recording.

    text: with the language model. plain: the best path, without one. score: of `text`, in nats,
    with that of the language model. reference: what is said, where it is known.
    """

    key: str
    text: str
    plain: str
    score: float
    tokens: int
    seconds: float
    reference: str = ""


@dataclasses.dataclass(frozen=True)
class Filters:
    """What is kept of the hypotheses of a model; as it stands, all that are not empty."""

    # most character edits between the hypotheses with and without language model, as a share of
    # the latter's length, such as 0.1
    disagreement: float = math.inf
    # least normalized score, such as -1.0: how many standard deviations it may be below what is
    # usual for as many tokens
    score: float = -math.inf
    rate: tuple[float, float] = (0.0, math.inf)  # tokens per second, such as (2.0, 25.0)
    # keep this share of the tokens, from the recordings that bring their distribution closest to
    # that of the labelled transcripts; 1.0: all
    balance: float = 1.0

    def __post_init__(self) -> None:
        if self.disagreement < 0 or not 0 <= self.rate[0] < self.rate[1]:
            raise ConfigError(
                f"the filters have disagreement {self.disagreement} and rate {self.rate}: use a "
                f"share such as 0.1, and tokens per second such as (2.0, 25.0)"
            )
        if not 0 < self.balance <= 1:
            raise ConfigError(
                f"the filter balance is {self.balance}: use the share of the tokens to keep, such "
                f"as 0.5, or 1.0 for all"
            )


class Normal(NamedTuple):
    """What scores are usual: slope * tokens + offset, with a deviation of sigma * sqrt(tokens)."""

    slope: float
    offset: float
    sigma: float

    def __call__(self, score: float, tokens: int) -> float:
        """Returns the normalized score."""
        usual = self.slope * tokens + self.offset
        return (score - usual) / (self.sigma * math.sqrt(tokens))


def normal(found: Sequence[Hypothesis]) -> Normal:
    """Fits what is usual to hypotheses, those of held-out labelled recordings in 2005.09629.

    Raises ValueError for fewer than three that are not empty.
    """
    pairs = [(row.tokens, row.score) for row in found if row.tokens]
    if len(pairs) < 3:
        raise ValueError(
            f"a normalized score needs at least 3 transcripts to be fitted to, and there are "
            f"{len(pairs)}: use more recordings"
        )
    tokens, scores = np.array(pairs, np.float64).T
    if np.ptp(tokens):
        slope, offset = np.polyfit(tokens, scores, 1)
    else:
        slope, offset = scores.mean() / tokens[0], 0.0
    rest = (scores - slope * tokens - offset) / np.sqrt(tokens)
    return Normal(float(slope), float(offset), max(float(rest.std()), 1e-9))


def disagreement(row: Hypothesis) -> float:
    """Returns the character error rate of the hypothesis with language model against that
    without."""
    return edit_distance.edits(list(row.plain), list(row.text)).rate


def select(
    found: Sequence[Hypothesis],
    filters: Filters,
    spelled: Sequence[Sequence[str]],
    usual: Normal | None,
    target: Mapping[str, float],
) -> tuple[list[int], dict[str, int]]:
    """Returns the rows that are kept, in order, and how many each filter dropped.

    spelled: the tokens of each. usual: for Filters.score. target: how often each token is said in
    labelled transcripts, for Filters.balance.
    """
    dropped: Counter[str] = Counter(empty=0, disagreement=0, score=0, rate=0, balance=0)
    kept = []
    for i, row in enumerate(found):
        reason = _reason(row, filters, usual)
        if reason:
            dropped[reason] += 1
        else:
            kept.append(i)
    if filters.balance < 1:
        chosen = balanced([spelled[i] for i in kept], target, filters.balance)
        dropped["balance"] = len(kept) - len(chosen)
        kept = [kept[i] for i in chosen]
    return kept, dict(dropped)


def _reason(row: Hypothesis, filters: Filters, usual: Normal | None) -> str:
    """Returns the filter that drops a row; "" if none does."""
    if not row.tokens or not row.text:
        return "empty"
    if math.isfinite(filters.disagreement) and disagreement(row) > filters.disagreement:
        return "disagreement"
    if usual is not None and usual(row.score, row.tokens) < filters.score:
        return "score"
    low, high = filters.rate
    return "" if low <= row.tokens / row.seconds <= high else "rate"


def balanced(rows: Sequence[Sequence[str]], target: Mapping[str, float], share: float) -> list[int]:
    """Returns the rows, in order, that hold a share of all tokens, in a distribution near `target`.

    Greedy maximization of sum over tokens of target * log(1 + count), by gain per token: a
    submodular function whose maximum has the distribution of the target (Shinohara, ICASSP 2014).
    As gains only fall, a row is scored anew only when it is the best.
    """
    total = sum(target.values()) or 1.0
    weight = {token: count / total for token, count in target.items()}
    own = [Counter(row) for row in rows]
    counts: Counter[str] = Counter()

    def gain(i: int) -> float:
        return sum(
            weight.get(token, 0.0) * math.log1p(n / (1 + counts[token]))
            for token, n in own[i].items()
        ) / len(rows[i])

    heap = [(-gain(i), i) for i in range(len(rows))]
    heapq.heapify(heap)
    room, chosen = share * sum(map(len, rows)), []
    while heap and room > 0:
        _, i = heapq.heappop(heap)
        now = -gain(i)
        if heap and now > heap[0][0]:
            heapq.heappush(heap, (now, i))
            continue
        chosen.append(i)
        counts += own[i]
        room -= len(rows[i])
    return sorted(chosen)
