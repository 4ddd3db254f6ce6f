"""Prefix beam search over the emissions of CTC, with an n-gram language model of words or phones.

A transcript Y has the score log p(Y) + lm_weight * log10 p_LM(Y) + word_score * |Y|, where |Y|
counts words, or phones. The language model is in base 10, as is KenLM in flashlight, for whose
decoder the weights of wav2vec 2.0 and HuBERT were tuned. There a lexicon limits the words; here
one does if config.eval.decode.lexicon names it. Without it, a word that the language model does
not know scores as its <unk>.

This is plain Python because pyctcdecode needs numpy below 2 and has had no release since 2023,
flashlight-text has no wheel for Python 3.13, and KenLM has no wheels at all.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ssl_jax.core.config import ConfigError
from ssl_jax.data import piece_models, transcripts
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import lines
from ssl_jax.evals import lexicon as lexicon_lib
from ssl_jax.evals import ngram
from ssl_jax.ops.ctc import BLANK

_NEVER = -math.inf
Beam = dict[int, tuple[float, float]]
"""Prefix -> log-probabilities of its paths that end in the blank, and in its last token."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The section config.eval.decode."""

    beam: int = 0  # prefixes kept at each frame; 0: the best path, without a language model
    threshold: float = 25.0  # prefixes this far below the best are dropped
    unit_threshold: float = 10.0  # nats; tokens this far below the best of a frame are skipped
    lm: str = ""  # an ARPA file; "": none
    lm_weight: float = 2.0
    word_score: float = -1.0
    lexicon: str = ""  # a file of the allowed words; "lm": those of `lm`; "": any
    worst: int = 5  # recordings that are shown with their alignment

    def __post_init__(self) -> None:
        key = "config.eval.decode"
        if self.beam < 0 or self.worst < 0:
            raise ConfigError(
                f"{key}.beam is {self.beam} and {key}.worst {self.worst}: use 0 or more, such as 50"
            )
        if self.lm and not self.beam:
            raise ConfigError(f"{key}.lm needs a search: set {key}.beam above 0, such as 50")
        if self.lexicon and not self.beam:
            raise ConfigError(f"{key}.lexicon needs a search: set {key}.beam above 0, such as 50")
        if self.lexicon == lexicon_lib.OF_LM and not self.lm:
            raise ConfigError(
                f"{key}.lexicon is 'lm', but {key}.lm names no model: give an ARPA file there, or "
                f"a file of words, such as words.txt, here"
            )
        if self.threshold <= 0 or self.unit_threshold <= 0:
            raise ConfigError(
                f"{key}.threshold is {self.threshold} and {key}.unit_threshold "
                f"{self.unit_threshold}: use numbers above 0, such as 25.0 and 10.0"
            )


class _Node(NamedTuple):
    """A prefix of a transcript: its last token, and the number of its parent.

    word: the letters of the unfinished word. state, score: those of the finished words.
    """

    token: int
    parent: int
    word: str
    state: ngram.State
    score: float


class Prefixes:
    """Prefixes of transcripts as a tree; node 0 is the empty one."""

    def __init__(self, search: "BeamSearch"):
        self._search = search
        self.nodes = [_Node(BLANK, -1, "", search.lm.start() if search.lm else (), 0.0)]
        self._children: dict[tuple[int, int], int] = {}

    def child(self, place: int, token: int) -> int:
        """Returns the number of a prefix with one more token."""
        found = self._children.get((place, token))
        if found is not None:
            return found
        name, node = self._search.vocabulary[token], self.nodes[place]
        ends = self._search.tokens_are_words
        ends |= not self._search.marks_starts and name.endswith(transcripts.WORD_END)
        word, state, score = node.word, node.state, node.score
        if self._search.marks_starts and name.startswith(piece_models.START):
            # of a piece that begins a word, the word before ends here
            added, state = self._search.add_word(state, word)
            word, name, score = "", name.removeprefix(piece_models.START), score + added
        if name not in transcripts.SILENT:
            word += name if self._search.marks_starts else name.removesuffix(transcripts.WORD_END)
        if ends:
            added, state = self._search.add_word(state, word)
            word, score = "", score + added
        self.nodes.append(_Node(token, place, word, state, score))
        self._children[place, token] = len(self.nodes) - 1
        return len(self.nodes) - 1

    def final(self, place: int) -> float:
        """Returns the score of a complete transcript, with its last word and its end."""
        node = self.nodes[place]
        added, state = self._search.add_word(node.state, node.word)
        return node.score + added + self._search.end(state)

    def is_complete(self, place: int) -> bool:
        """Returns whether a transcript may end here: with a word of the lexicon, or after one."""
        words, word = self._search.words, self.nodes[place].word
        return words is None or not word or word in words

    def last_complete(self, place: int) -> int:
        """Returns the longest prefix that is complete, where none of a beam is."""
        while not self.is_complete(place):
            place = self.nodes[place].parent
        return place

    def tokens(self, place: int) -> list[int]:
        """Returns the tokens of a prefix."""
        out: list[int] = []
        while place:
            out.append(self.nodes[place].token)
            place = self.nodes[place].parent
        return out[::-1]


class BeamSearch:
    """Finds the transcript with the best score; see the module's docstring.

    vocabulary, spelling: of the corpus; with `phones` each token is a word. Raises DataError for a
    language model or a lexicon that cannot be used.
    """

    def __init__(self, options: Options, vocabulary: Sequence[str], spelling: str):
        self.options, self.vocabulary = options, tuple(vocabulary)
        self.tokens_are_words = spelling == "phones"
        # whether a mark begins a word, and not one that ends it
        self.marks_starts = piece_models.is_file(spelling)
        spell = transcripts.plain if spelling == "letters" else lines.composed
        self.lm = ngram.read_arpa(options.lm, spell) if options.lm else None
        if self.lm is not None:
            _check_words(options.lm, self.lm, vocabulary, self.tokens_are_words)
        self.words = lexicon_lib.read(options.lexicon, self.lm, vocabulary, spelling)

    def add_word(self, state: ngram.State, word: str) -> tuple[float, ngram.State]:
        """Returns what a finished word adds to the score, and the state after it."""
        if not word:
            return 0.0, state
        if self.lm is None:
            return self.options.word_score, state
        value, state = self.lm.score(state, word)
        return self.options.lm_weight * value + self.options.word_score, state

    def end(self, state: ngram.State) -> float:
        """Returns what the end of the transcript adds to the score."""
        return self.options.lm_weight * self.lm.score(state, ngram.END)[0] if self.lm else 0.0

    def __call__(self, log_probs: np.ndarray) -> list[int]:
        """log_probs (S, V) of one recording -> its tokens."""
        return self.best(log_probs)[0]

    def best(self, log_probs: np.ndarray) -> tuple[list[int], float]:
        """Returns the tokens of one recording, and the score of these, in nats."""
        tree = Prefixes(self)
        beam: Beam = {0: (0.0, _NEVER)}
        for frame in np.asarray(log_probs, np.float64):
            beam = self._kept(tree, self._step(tree, beam, frame))
        ends = [place for place in beam if tree.is_complete(place)] or list(beam)
        scores = {place: _add(*beam[place]) + tree.final(place) for place in ends}
        best = max(scores, key=scores.__getitem__)
        return tree.tokens(tree.last_complete(best)), scores[best]

    def _step(self, tree: Prefixes, beam: Beam, frame: np.ndarray) -> Beam:
        """Extends the prefixes by one frame: each is kept, and the best `beam` of those that are
        one token longer are added."""
        frame = np.where(frame < frame.max() - self.options.unit_threshold, _NEVER, frame)
        places, pairs = list(beam), np.array(list(beam.values()))
        last = np.array([tree.nodes[place].token for place in places])
        both = np.logaddexp(pairs[:, 0], pairs[:, 1])
        # a repeated token counts once, unless a blank stands between
        again = np.where(last == BLANK, _NEVER, pairs[:, 1] + frame[last])
        stay = np.stack([both + frame[BLANK], again], 1).tolist()
        new = {place: (blank, token) for place, (blank, token) in zip(places, stay, strict=True)}
        grown = both[:, None] + frame
        rows = np.arange(len(places))
        grown[rows, last] = pairs[:, 0] + frame[last]
        grown[:, BLANK] = _NEVER
        if self.words is not None:
            follows = [self.words.follows(tree.nodes[place].word) for place in places]
            grown = np.where(np.array(follows), grown, _NEVER)
        score = grown + np.array([tree.nodes[place].score for place in places])[:, None]
        order = np.argsort(-score, axis=None)[: self.options.beam]
        for row, token in zip(*np.unravel_index(order, score.shape), strict=True):
            if score[row, token] == _NEVER:
                break
            child = tree.child(places[row], int(token))
            blank, old = new.get(child, (_NEVER, _NEVER))
            new[child] = blank, _add(old, float(grown[row, token]))
        return new

    def _kept(self, tree: Prefixes, beam: Beam) -> Beam:
        """Returns the best prefixes, at most `beam` and within `threshold` of the best."""
        scores = {node: _add(*pair) + tree.nodes[node].score for node, pair in beam.items()}
        order = sorted(scores, key=scores.__getitem__, reverse=True)[: self.options.beam]
        least = scores[order[0]] - self.options.threshold
        return {node: beam[node] for node in order if scores[node] >= least}


def _check_words(
    path: str, lm: ngram.NGram, vocabulary: Sequence[str], tokens_are_words: bool
) -> None:
    """Raises DataError for a language model none of whose words the vocabulary can spell."""
    real = [name for name in vocabulary if name not in transcripts.SILENT]
    known = set(real) if tokens_are_words else set("".join(real))
    known -= {transcripts.WORD_END, piece_models.START}
    words = [words[0] for words in lm.table if len(words) == 1 and words[0] not in ngram.SPECIAL]
    if not any(word in known if tokens_are_words else known.issuperset(word) for word in words):
        raise DataError(
            f"{path} has no word that the vocabulary of the run can spell: it has "
            f"{', '.join(sorted(words)[:5])}, and the run {' '.join(sorted(known)[:20])}. Give "
            f"config.eval.decode.lm a model of that vocabulary"
        )


def _add(a: float, b: float) -> float:
    """Returns log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a if b == _NEVER else a + math.log1p(math.exp(b - a))
