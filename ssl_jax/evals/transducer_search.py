"""Beam search for a transducer, with an n-gram language model of words.

A transcript has the score of `evals/decode.py`: log p(Y), over all paths that are followed, plus
what the language model gives its words. The search goes frame by frame. At one frame a prefix may
grow by several tokens, at most `per_frame`; those that end the frame with the blank are added to
the same prefix reached otherwise, and the best `beam` of them go on.

The networks run in JAX, on `beam` prefixes at a time; prefixes and words live on the host.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.types import Array, Decoder, Tree
from ssl_jax.evals import decode
from ssl_jax.ops.ctc import BLANK

_NEVER = -np.inf


class TransducerSearch:
    """Finds the transcript with the best score; options, vocabulary, spelling: as in BeamSearch."""

    def __init__(
        self, options: decode.Options, vocabulary: Sequence[str], spelling: str, decoder: Decoder
    ):
        self.options, self.decoder = options, decoder
        self.rules = decode.BeamSearch(options, vocabulary, spelling)
        self._start = jax.jit(lambda params: decoder.start(params, options.beam))
        self._scores = jax.jit(self._scores_of)
        self._extend = jax.jit(self._extended)
        self._take = jax.jit(_taken)

    def _scores_of(self, params: Tree, frame: Array, state: Tree) -> Array:
        frames = jnp.broadcast_to(frame, (self.options.beam, *frame.shape))
        return self.decoder.scores(params, frames, state)

    def _extended(self, params: Tree, state: Tree, rows: Array, tokens: Array) -> Tree:
        return self.decoder.extend(params, _taken((state,), rows), tokens)

    def __call__(self, params: Tree, frames: np.ndarray) -> list[int]:
        """frames (S, E) of one recording, its emissions -> its tokens."""
        return self.best(params, frames)[0]

    def best(self, params: Tree, frames: np.ndarray) -> tuple[list[int], float]:
        """Returns the tokens of one recording, and the score of these, in nats."""
        tree = decode.Prefixes(self.rules)
        beam, state = {0: 0.0}, self._start(params)
        for frame in frames:
            beam, state = self._frame(params, tree, jnp.asarray(frame), beam, state)
        ends = [place for place in beam if tree.is_complete(place)] or list(beam)
        scores = {place: float(beam[place] + tree.final(place)) for place in ends}
        best = max(scores, key=scores.__getitem__)
        return tree.tokens(tree.last_complete(best)), scores[best]

    def _frame(
        self, params: Tree, tree: decode.Prefixes, frame: Array, beam: dict[int, float], state: Tree
    ) -> tuple[dict[int, float], Tree]:
        """Returns the best prefixes after one frame with their log-probabilities, and their states.

        Row i of the state belongs to the i-th prefix; further rows are not used.
        """
        levels, ended, where = [], dict[int, float](), dict[int, int]()
        open_, size = beam, self.options.beam
        for level in range(self.decoder.per_frame + 1):
            levels.append(state)
            scores = np.asarray(self._scores(params, frame, state), np.float64)[: len(open_)]
            for row, (place, value) in enumerate(open_.items()):
                where[place] = level * size + row
                ended[place] = np.logaddexp(ended.get(place, _NEVER), value + scores[row, BLANK])
            if level == self.decoder.per_frame:
                break
            open_, rows, tokens = self._grown(tree, open_, scores, ended)
            if not open_:
                break
            state = self._extend(params, state, rows, tokens)
        kept = self._kept(tree, ended)
        rows = np.zeros(size, np.int32)
        rows[: len(kept)] = [where[place] for place in kept]
        # as many levels each time, so that this is compiled once
        levels += levels[-1:] * (self.decoder.per_frame + 1 - len(levels))
        return {place: ended[place] for place in kept}, self._take(tuple(levels), rows)

    def _grown(
        self,
        tree: decode.Prefixes,
        beam: dict[int, float],
        scores: np.ndarray,
        ended: dict[int, float],
    ) -> tuple[dict[int, float], np.ndarray, np.ndarray]:
        """Returns the best prefixes of one more token, and the row and token that each came from.

        Only those that may still come into the beam: better than the worst of a full one.
        """
        o, places = self.options, list(beam)
        total = np.array(list(beam.values()))[:, None] + scores
        total[:, BLANK] = _NEVER
        total = np.where(scores < scores.max(1, keepdims=True) - o.unit_threshold, _NEVER, total)
        if self.rules.words is not None:
            follows = [self.rules.words.follows(tree.nodes[place].word) for place in places]
            total = np.where(np.array(follows), total, _NEVER)
        values = {place: value + tree.nodes[place].score for place, value in ended.items()}
        least = sorted(values.values())[-o.beam] if len(values) >= o.beam else _NEVER
        least = max(least, max(values.values()) - o.threshold)
        fused = total + np.array([tree.nodes[place].score for place in places])[:, None]
        found = dict[int, float]()
        rows, tokens = np.zeros(o.beam, np.int32), np.zeros(o.beam, np.int32)
        for flat in np.argsort(-fused, axis=None)[: o.beam]:
            row, token = divmod(int(flat), fused.shape[1])
            if fused[row, token] == _NEVER or fused[row, token] < least:
                break
            rows[len(found)], tokens[len(found)] = row, token
            found[tree.child(places[row], token)] = float(total[row, token])
        return found, rows, tokens

    def _kept(self, tree: decode.Prefixes, ended: dict[int, float]) -> list[int]:
        """Returns the best prefixes, at most `beam` and within `threshold` of the best."""
        values = {place: value + tree.nodes[place].score for place, value in ended.items()}
        order = sorted(values, key=values.__getitem__, reverse=True)[: self.options.beam]
        return [p for p in order if values[p] >= values[order[0]] - self.options.threshold]


def _taken(levels: tuple[Tree, ...], rows: Array) -> Any:
    """Returns the given rows of trees whose rows are numbered one tree after another."""
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[rows], *levels)
