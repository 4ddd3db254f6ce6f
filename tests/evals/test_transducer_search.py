"""Beam search of a transducer against the enumeration of all transcripts, and what it refuses."""

import functools
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.types import Decoder
from ssl_jax.data import transcripts
from ssl_jax.data.errors import DataError
from ssl_jax.evals import decode, ngram, transcribe
from ssl_jax.evals.transducer_search import TransducerSearch

VOCABULARY = ("<blank>", "|", "A", "B")
PIECES = ("<blank>", "A", "B", "AB|")
ARPA = """
\\data\\
\\1-grams:
-0.8\t</s>
-0.5\tA\t-0.2
-0.3\tAB
-2\t<unk>

\\2-grams:
-0.1\tA AB
"""
S, PER_FRAME, MOST = 3, 2, 6


def scores(params, frames, state):
    """Log-probabilities by frame, number of tokens so far and last token."""
    time, count, last = frames[:, 0].astype(int), state[:, 0], state[:, 1]
    return params[time, count, last]


def extend(params, state, tokens):
    return jnp.stack([state[:, 0] + 1, tokens], 1)


DECODER = Decoder(lambda params, rows: jnp.zeros((rows, 2), int), extend, scores, PER_FRAME)
FRAMES = np.arange(S, dtype=np.float32)[:, None]


def tables(count):
    draw = np.random.default_rng(3)
    logits = draw.normal(0, 1.5, (count, S, MOST + 1, 4, 4))
    return (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)


def probability(table, tokens):
    """Returns log p of a transcript: of all ways to say its tokens, at most two at a frame."""

    @functools.cache
    def rest(time, said):
        if time == S:
            return 1.0 if said == len(tokens) else 0.0
        total, p, last = 0.0, 1.0, tokens[said - 1] if said else 0
        for here in range(PER_FRAME + 1):
            total += p * np.exp(table[time, said + here, last, 0]) * rest(time + 1, said + here)
            if here == PER_FRAME or said + here == len(tokens):
                break
            p *= np.exp(table[time, said + here, last, tokens[said + here]])
            last = tokens[said + here]
        return total

    return np.log(rest(0, 0))


def best_of_all(table, score, vocabulary=VOCABULARY):
    every = (y for n in range(MOST + 1) for y in itertools.product((1, 2, 3), repeat=n))
    return max(every, key=lambda y: probability(table, y) + score([vocabulary[t] for t in y]))


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    path = tmp_path_factory.mktemp("lm") / "lm.arpa"
    path.write_text(ARPA)
    return str(path)


def search(spelling="letters", vocabulary=VOCABULARY, **options):
    wide = {"beam": 1100, "threshold": 1e9, "unit_threshold": 1e9, "word_score": 0.0}
    return TransducerSearch(decode.Options(**{**wide, **options}), vocabulary, spelling, DECODER)


def test_without_a_model_of_language_it_finds_the_likeliest_transcript():
    found, narrow = search(), search(beam=2)
    seen = set()
    for table in tables(3):
        best = best_of_all(table, lambda tokens: 0.0)
        assert tuple(found(table, FRAMES)) == best
        seen.add(best)
        # a narrow beam finds a transcript that is no likelier
        assert probability(table, tuple(narrow(table, FRAMES))) <= probability(table, best) + 1e-6
    assert len(seen) > 1


@pytest.mark.parametrize(("spelling", "vocabulary"), [("letters", VOCABULARY), ("pieces", PIECES)])
def test_with_one_it_finds_the_best_score_of_words(lm, spelling, vocabulary):
    model = ngram.read_arpa(lm)
    found = search(spelling, vocabulary, lm=lm, lm_weight=2.0, word_score=0.5)

    def score(tokens):
        words = transcripts.join(tokens, spelling).split()
        return 2.0 * model.sentence(words) + 0.5 * len(words)

    changed = 0
    for table in tables(2):
        best = best_of_all(table, score, vocabulary)
        tokens, value = found.best(table, FRAMES)
        assert tuple(tokens) == best
        expected = probability(table, best) + score([vocabulary[t] for t in best])
        assert value == pytest.approx(expected, rel=1e-4)
        changed += best != best_of_all(table, lambda tokens: 0.0, vocabulary)
    assert changed


def test_pieces_form_only_words_of_the_lexicon(tmp_path):
    (tmp_path / "words.txt").write_text("BAB\n")
    found = search("pieces", PIECES, lexicon=str(tmp_path / "words.txt"))

    def score(tokens):
        words = transcripts.join(tokens, "pieces").split()
        return 0.0 if {"BAB"} >= set(words) else -np.inf

    for table in tables(2):
        assert tuple(found(table, FRAMES)) == best_of_all(table, score, PIECES)


def test_a_narrow_search_of_what_is_clear_is_the_best_path():
    table = np.full((S, MOST + 1, 4, 4), -20.0, np.float32)
    for time, count, token in ((0, 0, 2), (0, 1, 3), (1, 2, 0), (2, 2, 1), (2, 3, 0)):
        table[time, count, :, token] = 0.0
    expected = [2, 3, 1]
    assert search(beam=3, threshold=5.0, unit_threshold=5.0)(table, FRAMES) == expected
    tokens, count = transcribe.greedy(
        DECODER, jnp.asarray(table), jnp.asarray(FRAMES)[None], jnp.array([S])
    )
    assert tokens[0, : count[0]].tolist() == expected


@pytest.mark.parametrize(
    ("spelling", "vocabulary"),
    [("letters", VOCABULARY), ("phones", ("<blank>", "A", "B")), ("pieces", PIECES)],
)
def test_a_language_model_of_another_vocabulary_is_named(spelling, vocabulary, tmp_path):
    other = tmp_path / "other.arpa"
    other.write_text("\\data\\\n\\1-grams:\n-0.8\t</s>\n-0.5\tno\n-0.3\tja\n\\end\\\n")
    message = r"other\.arpa has no word that the vocabulary .* ja, no, and the run A.*decode\.lm"
    with pytest.raises(DataError, match=message):
        decode.BeamSearch(decode.Options(beam=1, lm=str(other)), vocabulary, spelling)
