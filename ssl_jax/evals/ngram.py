"""N-gram language models in the ARPA format, as KenLM and SRILM write them.

They are read into a dict, since no language model library had wheels for all of Python 3.11, 3.12
and 3.13. A model of a few million n-grams fits in memory; prune larger ones.
"""

import math
import os
import re
from collections.abc import Callable
from typing import NamedTuple

from ssl_jax.core import paths
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import lines

State = tuple[str, ...]
"""The words that the next one depends on, oldest first."""

BEGIN, END, UNKNOWN = SPECIAL = "<s>", "</s>", "<unk>"
# log10 probability of an unknown word where the model has no <unk>, as in KenLM
_NEVER = -100.0


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
