"""Transcripts of a model against their references: word, character and phone error rates."""

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import length_hint
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from ssl_jax.core import options as options_lib
from ssl_jax.core import stop
from ssl_jax.core.mesh import batch_sharding
from ssl_jax.core.types import Array, Batch, Decoder, Method, TrainState, Tree
from ssl_jax.data import transcripts
from ssl_jax.evals import decode, edit_distance, table
from ssl_jax.evals.transducer_search import TransducerSearch
from ssl_jax.ops import ctc, transducer

Batches = Iterable[Mapping[str, Any]]


def scores_of(spelling: str) -> tuple[str, ...]:
    """Returns the scores that a config.data.spelling allows."""
    return ("per",) if spelling == "phones" else ("wer", "cer")


class Utterance(NamedTuple):
    """One recording: its id in the corpus, its reference and hypothesis, as text."""

    id: int
    reference: str
    hypothesis: str


Spoken = Utterance  # its name in the version before this one


def search_of(config: ConfigDict, vocabulary: Sequence[str], decoder: Decoder | None = None) -> Any:
    """Returns the beam search that config.eval.decode asks for; None for the best path.

    It is a Search, or with the decoder of a method a TransducerSearch.
    """
    options = options_lib.read(decode.Options, config.eval.get("decode", {}), "config.eval.decode")
    if not options.beam:
        return None
    if decoder is not None:
        return TransducerSearch(options, vocabulary, config.data.spelling, decoder)
    return decode.BeamSearch(options, vocabulary, config.data.spelling)


def reader(
    config: ConfigDict, vocabulary: Sequence[str], decoder: Decoder | None = None
) -> Callable[[Tree, np.ndarray], str]:
    """Returns the function from parameters and the emissions (S, E) of one recording to text."""
    search = search_of(config, vocabulary, decoder)
    best = None if decoder is None else jax.jit(functools.partial(greedy, decoder))

    def read(params: Tree, frames: np.ndarray) -> str:
        if search is not None:
            tokens = search(params, frames) if decoder else search(frames)
        elif best is not None:
            found, count = best(params, frames[None], np.array([len(frames)]))
            tokens = np.asarray(found)[0, : int(count[0])].tolist()
        else:
            path = (token for token, _ in itertools.groupby(frames.argmax(-1).tolist()))
            tokens = [token for token in path if token != ctc.BLANK]
        return transcripts.join((vocabulary[t] for t in tokens), config.data.spelling)

    return read


def greedy(decoder: Decoder | None, params: Tree, frames: Array, count: Array) -> tuple:
    """frames (B, S, E), count (B,) -> the tokens of the best path (B, L), and their number (B,)."""
    if decoder is None:
        return ctc.greedy(frames, count)
    return transducer.greedy(
        functools.partial(decoder.extend, params),
        functools.partial(decoder.scores, params),
        decoder.start(params, len(frames)),
        frames,
        count,
        decoder.per_frame,
    )


def sides(row: Utterance, score: str) -> tuple[list[str], list[str]]:
    """Returns the words or phones of reference and hypothesis, or for `cer` their characters.

    Accents are composed with their letters and apostrophes plain, however they were written.
    """
    texts = [transcripts.plain(text) for text in (row.reference, row.hypothesis)]
    reference, hypothesis = (list(t) if score == "cer" else t.split() for t in texts)
    return reference, hypothesis


def rate(rows: Iterable[Utterance], score: str) -> float:
    """Returns the error rate of a corpus: all edits over the total length of the references.

    `wer` counts words, `per` phones, `cer` characters with one space between words. Many insertions
    bring it above 1; it is NaN, which is never the best, if all texts of both kinds are empty.
    """
    return edit_distance.total(edit_distance.edits(*sides(row, score)) for row in rows).rate


def report(result: Mapping[str, Any]) -> str:
    """Returns an evaluation as text: a table of the splits, then the worst recordings aligned.

    Earlier versions wrote `reference` and `hypothesis` as `said` and `heard`.
    """
    shown = [{k: _cell(v) for k, v in row.items() if k != "worst"} for row in result["results"]]
    lines = [table.text_table(shown)]
    for row in result["results"]:
        for bad in row["worst"]:
            lines.append(f"\n{row['split']}: {bad['where']}, {bad['rate']:.3f}")
            reference = bad["reference"] if "reference" in bad else bad["said"]
            hypothesis = bad["hypothesis"] if "hypothesis" in bad else bad["heard"]
            lines.append(edit_distance.show(reference.split(), hypothesis.split()))
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if table.missing(value):
        return table.NONE
    return f"{value:.4f}" if isinstance(value, float) else str(value)


class Transcriber:
    """Transcribes batches with a method that has emissions.

    vocabulary, spelling: of the corpus, see `data/transcripts.py`. search: of `search_of`, runs on
    the host in place of the best path, which is found on the device. Compiled once: make it once
    and keep it.
    """

    def __init__(
        self,
        method: Method,
        mesh: Mesh,
        vocabulary: Sequence[str],
        spelling: str,
        search: Any = None,
    ):
        self.vocabulary, self.spelling, self.search = tuple(vocabulary), spelling, search
        self._sharding, self.decoder = batch_sharding(mesh), method.decoder
        emissions = method.emissions
        if emissions is None:
            raise ValueError("this method does not transcribe: use config.method.name='ctc'")

        def apply(params: Tree, batch: Batch) -> dict[str, Array]:
            log_probs, frames = emissions(params, batch)
            found = {k: batch[k] for k in ("id", "weight", "transcript", "transcript_len")}
            if search is not None:
                return {**found, "log_probs": log_probs, "count": frames}
            tokens, count = greedy(method.decoder, params, log_probs, frames)
            return {**found, "tokens": tokens, "count": count}

        self._apply = jax.jit(apply, out_shardings=NamedSharding(mesh, P()))

    def __call__(self, params: Tree, batches: Batches, total: int = 0) -> list[Utterance]:
        """Returns the recordings of host batches whose weight is not 0, in order.

        total: the number of batches, for the time left (0: not known).
        """
        out = []
        for batch in stop.between(batches, "transcribing", total):
            placed = {
                name: jax.make_array_from_process_local_data(self._sharding, x)
                for name, x in batch.items()
            }
            rows = jax.device_get(self._apply(params, placed))
            real = np.flatnonzero(rows["weight"] > 0).tolist()
            out += [self._row(params, rows, row) for row in real]
        return out

    def _row(self, params: Tree, rows: Mapping[str, np.ndarray], row: int) -> Utterance:
        count = rows["count"][row]
        if self.search is None:
            hypothesis = rows["tokens"][row, :count].tolist()
        else:
            given = (params,) if self.decoder is not None else ()
            hypothesis = self.search(*given, rows["log_probs"][row, :count])
        reference = rows["transcript"][row, : rows["transcript_len"][row]].tolist()
        return Utterance(int(rows["id"][row]), self._text(reference), self._text(hypothesis))

    def _text(self, tokens: Sequence[int]) -> str:
        return transcripts.join((self.vocabulary[t] for t in tokens), self.spelling)


class Monitor:
    """A hook of the loop: monitor(step, state) -> {"valid/wer": 0.2, "valid/cer": 0.05}.

    names: of config.eval.scores, some of `scores_of` the spelling. batches: called anew each time.
    """

    def __init__(
        self,
        names: Sequence[str],
        transcriber: Transcriber,
        batches: Callable[[], Batches],
        split: str,
    ):
        known = scores_of(transcriber.spelling)
        if any(name not in known for name in names):
            raise ValueError(
                f"config.eval.scores is {tuple(names)}: with config.data.spelling="
                f"{transcriber.spelling!r} use some of {', '.join(known)}"
            )
        self.names, self.split = tuple(names), split
        self.transcriber, self.batches = transcriber, batches

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        """Returns the error rates by name; transfers are intended here, so the guard is lifted."""
        del step
        with jax.transfer_guard("allow"):
            rows = self.transcriber(state.params, self.batches(), length_hint(self.batches))
        return {f"{self.split}/{name}": rate(rows, name) for name in self.names}
