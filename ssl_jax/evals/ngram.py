"""N-gram language models in the ARPA format, as KenLM and SRILM write them.

They are read into a dict, since no language model library had wheels for all of Python 3.11, 3.12
and 3.13. A model of a few million n-grams fits in memory; prune larger ones.
"""

import collections
import math
import os
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ssl_jax.core import atomic, paths
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import lines

State = tuple[str, ...]
"""The words that the next one depends on, oldest first."""

BEGIN, END, UNKNOWN = SPECIAL = "<s>", "</s>", "<unk>"
# log10 probability of an unknown word where the model has no <unk>, as in KenLM
_NEVER = -100.0
_UNSAID = -99.0  # that of the beginning of a sentence, which is never a next word
_DISCOUNT = 0.5  # of every count


class NGram(NamedTuple):
    """n-gram -> (log10 probability of its last word, log10 back-off weight)."""

    order: int
    table: dict[State, tuple[float, float]]

    def start(self) -> State:
        """Returns the state at the beginning of a sentence."""
        return (BEGIN,)[: self.order - 1]

    def score(self, state: State, word: str) -> tuple[float, State]:
        """Returns (log10 p(word | state), the state after it)."""
        known = word if (word,) in self.table else UNKNOWN
        backed_off = 0.0
        for first in range(len(state) + 1):
            found = self.table.get((*state[first:], known))
            if found is not None:
                return backed_off + found[0], self._after(state, known)
            backed_off += self.table.get(state[first:], (0.0, 0.0))[1]
        return backed_off + _NEVER, self._after(state, known)

    def _after(self, state: State, word: str) -> State:
        kept = self.order - 1
        return (*state, word)[-kept:] if kept else ()

    def sentence(self, words: list[str]) -> float:
        """Returns the log10 probability of a sentence, including its end."""
        state, total = self.start(), 0.0
        for word in [*words, END]:
            value, state = self.score(state, word)
            total += value
        return total


def estimate(texts: Iterable[str], order: int) -> NGram:
    """Returns the n-gram model of texts, words between spaces, with interpolated absolute
    discounting: each seen n-gram gives half a count to the shorter history.

    For small text; train larger models with KenLM. Raises ValueError for text without words.
    """
    counts: list[collections.Counter[State]] = [collections.Counter() for _ in range(order)]
    for text in texts:
        words = [BEGIN, *lines.composed(text).split(), END]
        for size in range(1, order + 1):
            found = (tuple(words[i : i + size]) for i in range(len(words) - size + 1))
            counts[size - 1].update(found)
    del counts[0][(BEGIN,)]  # never said
    types, total = len(counts[0]), counts[0].total()
    if types < 2:
        raise ValueError("there are no words to estimate a language model from: give other texts")
    # what unigrams give is shared by all words and one that is unknown
    rest = _DISCOUNT * types / total / (types + 1)
    known = {gram: (count - _DISCOUNT) / total + rest for gram, count in counts[0].items()}
    probability, weights = {**known, (UNKNOWN,): rest}, dict[State, float]()
    for longer in counts[1:]:
        sums, kinds = collections.Counter[State](), collections.Counter[State]()
        for gram, count in longer.items():
            sums[gram[:-1]] += count
            kinds[gram[:-1]] += 1
        own = {history: _DISCOUNT * kinds[history] / sums[history] for history in sums}
        for gram, count in longer.items():
            shorter = own[gram[:-1]] * probability[gram[1:]]
            probability[gram] = (count - _DISCOUNT) / sums[gram[:-1]] + shorter
        weights |= own
    grams = [*probability, *([(BEGIN,)] if order > 1 else [])]
    log = {gram: math.log10(p) for gram, p in probability.items()}
    table = {g: (log.get(g, _UNSAID), math.log10(weights.get(g, 1.0))) for g in grams}
    return NGram(order, table)


def write_arpa(path: str | os.PathLike, model: NGram) -> None:
    """Writes a model as an ARPA file."""
    grams = sorted(model.table, key=lambda gram: (len(gram), gram))
    sizes = collections.Counter(map(len, grams))
    text = ["\\data\\", *(f"ngram {size}={count}" for size, count in sorted(sizes.items()))]
    for size in sorted(sizes):
        text += ["", f"\\{size}-grams:"]
        for gram in (gram for gram in grams if len(gram) == size):
            value, back_off = model.table[gram]
            end = f"\t{back_off:.6f}" if size < model.order else ""
            text.append(f"{value:.6f}\t{' '.join(gram)}{end}")
    atomic.write_text(path, "\n".join([*text, "", "\\end\\", ""]))


def read_arpa(path: str | os.PathLike, spell: Callable[[str], str] = lines.composed) -> NGram:
    """Reads an ARPA file. Raises DataError, naming file and row, for anything else.

    spell: brings words to the form in which they are compared; if two become equal, the likelier
    one is kept.
    """
    path = paths.of(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist: give an ARPA file, such as lmplz of KenLM writes")
    table: dict[State, tuple[float, float]] = {}
    order, found = 0, False
    for number, line in lines.filled(path):
        line = spell(line).strip()
        section = re.fullmatch(r"\\(\d+)-grams:", line)
        if section:
            order = int(section[1])
        elif line == "\\data\\":
            found = True
        elif line == "\\end\\":
            break
        elif line and order:
            words, values = _entry(line, order, f"{path}, row {number}")
            table[words] = max(values, table.get(words, values))
    if not found or not order:
        raise DataError(f"{path} is not an ARPA file: it has no \\data\\ or no \\1-grams: section")
    return NGram(order, table)


def _entry(line: str, order: int, where: str) -> tuple[State, tuple[float, float]]:
    """Reads `log10 probability<tab>words<tab>log10 back-off`; the last is optional."""
    fields = lines.words(line)
    try:
        values = [float(fields[0]), *map(float, fields[order + 1 :])]
        if len(fields) not in (order + 1, order + 2) or not all(map(math.isfinite, values)):
            raise ValueError(line)
    except ValueError as error:
        raise DataError(
            f"{where}: expected a number, {order} words and an optional number, found {line[:80]!r}"
        ) from error
    return tuple(fields[1 : order + 1]), (values[0], values[1] if len(values) > 1 else 0.0)
