"""The stages of noisy student training: a run transcribes recordings, and what is fit to train on
becomes the labels of the next one (2005.09629, 2010.10504).

    decoded = pseudo_labels.decode(pipe, "decode-1", teacher, data, {"beam": 16, "lm": "lm.arpa"})
    labels = pseudo_labels.select(pipe, "labels-1", decoded, Filters(disagreement=0.1))
    student = pipe.train("student-1", config, start=pretrained, pseudo_labels={"pool": labels})

`data` is a config.data whose training split is the unlabelled recordings; a source of the student
of the same name finds its labels there, see data/pseudo_labels.py. Decoding is done once for all
filters, and goes on after a crash where it was.
"""

import collections
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from ssl_jax.core import atomic, paths
from ssl_jax.core import config as config_lib
from ssl_jax.core.mesh import batch_sharding, make_mesh
from ssl_jax.core.progress import Progress
from ssl_jax.core.types import Array, Batch, Method, Tree
from ssl_jax.data import pseudo_labels, recordings, transcripts
from ssl_jax.data.errors import DataError
from ssl_jax.engine import hosts, splits
from ssl_jax.evals import decode as decode_lib
from ssl_jax.evals import edit_distance, label_filters, transcribe
from ssl_jax.evals.label_filters import Filters, Hypothesis
from ssl_jax.evals.transducer_search import TransducerSearch
from ssl_jax.stages import clustering, embed
from ssl_jax.stages.graph import Stage

_BLOCK = 16  # batches of one file
_READS = ("id", "weight", "audio", "audio_len")
_ABOUT = "about.json"


@dataclasses.dataclass(frozen=True)
class Teacher:
    """What transcribes: a method with its parameters, and the spelling of its tokens.

    key: a signature of the parameters.
    """

    method: Method
    params: Tree
    vocabulary: tuple[str, ...]
    spelling: str
    key: str

    @classmethod
    def of(cls, model: Any) -> "Teacher":
        """Returns that of a model that `ssl_jax.load` has loaded; ValueError if it has none."""
        if model.method.emissions is None:
            raise ValueError(
                f"config.method.name {model.config.method.name!r} does not transcribe: the teacher "
                f"of a noisy student is a run of 'ctc' or 'transducer'"
            )
        key = f"{config_lib.sign(model.config)} step {model.step} {embed.weights(model.params)}"
        about = model.classes, model.config.data.spelling, key
        return cls(model.method, model.params, *about)

    def text(self, tokens: Sequence[int]) -> str:
        """Returns tokens as text."""
        return transcripts.join((self.vocabulary[t] for t in tokens), self.spelling)

    def spelled(self, text: str) -> str:
        """Returns a text as it would be if these tokens had been said."""
        spell = transcripts.spell(text, self.spelling, self.vocabulary)
        return transcripts.join(spell, self.spelling)


def decode(
    program: clustering.Program,
    name: str,
    of: Stage,
    data: ConfigDict,
    options: Mapping[str, Any],
    truth: str = "",
) -> Stage:
    """Transcribes the training split of `data` with the run `of`.

    options: those of config.eval.decode. truth: a column of the data with what is said, where that
    is known; it is kept beside each hypothesis, and nothing else is done with it.
    """
    about: dict[str, Any] = {"data": config_lib.flatten(data), "truth": truth}
    about["decode"] = {**options, "lm": _digest(str(options.get("lm", "")))}

    def work(folder: pathlib.Path) -> None:
        teacher = Teacher.of(program.load(of))
        chosen, mesh = decode_lib.Options(**options), make_mesh({"data": -1})
        split = splits.open_split(clustering.bare_run(data), folder, "train")
        write(folder, teacher, chosen, split, mesh, truth)

    return program.stage("decode", name, about, work, (of,))


def select(
    program: clustering.Program,
    name: str,
    decoded: Stage,
    filters: Filters,
    usual: Stage | None = None,
) -> Stage:
    """Writes the store of the hypotheses that pass the filters, into the folder of the stage.

    usual: labelled recordings that were decoded in the same way, to which the normalized score is
    fitted, and whose references are the target of the balance; without it, both are of the
    hypotheses themselves.
    """
    needs = (decoded, *((usual,) if usual else ()))

    def work(folder: pathlib.Path) -> None:
        labelled = read(program.folder(usual)) if usual else None
        write_selected(folder, read(program.folder(decoded)), filters, labelled)

    about = {"filters": dataclasses.asdict(filters)}
    return program.stage("label", name, about, work, needs)


@dataclasses.dataclass(frozen=True)
class Decoded:
    """Hypotheses of a folder, with the tokens of each, and what made them."""

    about: Mapping[str, Any]
    rows: list[Hypothesis]
    spelled: list[list[str]]


def write(
    folder: pathlib.Path,
    teacher: Teacher,
    options: decode_lib.Options,
    split: splits.Split,
    mesh: Mesh,
    truth: str = "",
) -> None:
    """Transcribes the recordings of a split in order into files of `folder`.

    A folder of the same teacher, language model and recordings is continued; DataError for another
    one, for a recording that is longer than the buckets, and for options without a beam.
    """
    if not options.beam:
        raise config_lib.ConfigError(
            "pseudo-labels need a search, as their score is that of a beam: set "
            "config.eval.decode.beam above 0, such as 16"
        )
    corpus: Any = split.corpus
    cut = recordings.cut(corpus.seconds, corpus.buckets)
    corpus = dataclasses.replace(corpus, refused={**cut, **corpus.refused})
    if corpus.on_bad == "raise":
        corpus.refuse(min(cut, default=-1))
    split = dataclasses.replace(split, corpus=corpus)
    _begin(folder, _about(teacher, options, split))
    plan = split.in_order(mesh.size, _READS, mesh).plan
    blocks = -(-len(plan) // _BLOCK)
    done = next((i for i in range(blocks) if not _file(folder, i).exists()), blocks)
    done = int(hosts.of_first(done))
    known = corpus.column(truth) if truth else [""] * len(corpus)
    transcribe_one = _transcriber(teacher, options, mesh)
    with Progress("pseudo-labels: batch", len(plan), done=min(done * _BLOCK, len(plan))) as bar:
        for block in range(done, blocks):
            first, rows = block * _BLOCK, []
            last = min(first + _BLOCK, len(plan))
            for batch in split.rows(plan, _READS, mesh, start=first, stop=last):
                for i, found in transcribe_one(batch):
                    key, seconds = corpus.key(i), float(corpus.seconds[i])
                    reference = teacher.spelled(known[i]) if known[i] else ""
                    rows.append({**found, "key": key, "seconds": seconds, "reference": reference})
                bar.step()
            if hosts.is_first():
                atomic.write_json(_file(folder, block), rows)


def read(folder: pathlib.Path) -> Decoded:
    """Returns the hypotheses that `write` has written."""
    about = atomic.read_json(folder / _ABOUT, "decode the recordings anew")
    found = []
    for path in sorted(folder.glob("hypotheses-*.json")):
        found += atomic.read_json(path, "remove it, and decode the recordings anew")
    spelled = [row.pop("spelled") for row in found]
    rows = [Hypothesis(**{**row, "tokens": len(s)}) for row, s in zip(found, spelled, strict=True)]
    return Decoded(about, rows, spelled)


def write_selected(
    folder: pathlib.Path, found: Decoded, filters: Filters, labelled: Decoded | None = None
) -> pseudo_labels.Store:
    """Writes the store of the hypotheses that pass the filters; see `select`.

    Its header counts the recordings, those that each filter dropped and, where it is known what is
    said, the word errors of all and of those that are kept.
    """
    fitted = labelled or found
    if labelled is not None and labelled.about["teacher"] != found.about["teacher"]:
        raise DataError(
            "the labelled recordings were decoded by another teacher, language model or search "
            "than the unlabelled ones, so that their scores do not compare: decode both alike"
        )
    usual = label_filters.normal(fitted.rows) if np.isfinite(filters.score) else None
    target = collections.Counter(token for tokens in fitted.spelled for token in tokens)
    kept, dropped = label_filters.select(found.rows, filters, found.spelled, usual, target)
    header: dict[str, Any] = {**found.about, "filters": dataclasses.asdict(filters)}
    header |= {"recordings": len(found.rows), "dropped": dropped}
    header["kept_share"] = len(kept) / max(len(found.rows), 1)
    if any(row.reference for row in found.rows):
        header["wer"] = _errors(found.rows)
        header["kept_wer"] = _errors([found.rows[i] for i in kept])
    rows = [found.rows[i] for i in kept]
    return pseudo_labels.write(folder, header, [_stored(row, usual) for row in rows])


def _stored(row: Hypothesis, usual: label_filters.Normal | None) -> dict[str, Any]:
    """Returns the row of a store: its key, its text, and what is known of it."""
    known: dict[str, Any] = {"key": row.key, "text": row.text, "score": row.score}
    known |= {"tokens": row.tokens, "seconds": row.seconds}
    known["disagreement"] = float(min(label_filters.disagreement(row), 1e6))
    if usual is not None:
        known["normalized_score"] = usual(row.score, row.tokens)
    return known | {"reference": row.reference}


def _errors(rows: Sequence[Hypothesis]) -> float:
    """Returns the word error rate of hypotheses whose reference is known."""
    known = [row for row in rows if row.reference]
    edits = (edit_distance.edits(row.reference.split(), row.text.split()) for row in known)
    return edit_distance.total(edits).rate


def _about(teacher: Teacher, options: decode_lib.Options, split: splits.Split) -> dict[str, Any]:
    """Returns what made hypotheses; `teacher` is the signature of model, search and LM."""
    search = {**dataclasses.asdict(options), "lm": _digest(options.lm)}
    search["lexicon"] = search["lexicon"] and _digest(options.lexicon, "lexicon")
    made = {"model": teacher.key, "decode": search}
    text = json.dumps(made, sort_keys=True)
    sign = hashlib.sha256(text.encode()).hexdigest()[:16]
    return {"teacher": sign, **made, "content": split.corpus.content}


def _begin(folder: pathlib.Path, about: Mapping[str, Any]) -> None:
    """Keeps what makes the hypotheses of a folder; DataError where others are there."""
    path = folder / _ABOUT
    if path.exists():
        kept = atomic.read_json(path, "remove it, and decode the recordings anew")
        for name, what in (("teacher", "another teacher"), ("content", "other recordings")):
            if kept[name] != about[name]:
                raise DataError(
                    f"{folder} holds hypotheses of {what}: {kept[name]}, and now it is "
                    f"{about[name]}: use another folder, or remove that one"
                )
    elif hosts.is_first():
        atomic.write_json(path, dict(about))
    hosts.all_of(True)


def _file(folder: pathlib.Path, block: int) -> pathlib.Path:
    return folder / f"hypotheses-{block:06}.json"


def _digest(path: str, key: str = "lm") -> str:
    """Returns a digest of a file, "" for none and "lm" for the name of a lexicon that is none."""
    if path in ("", "lm"):
        return path
    file = paths.of(path)
    if not file.is_file():
        kind = "an ARPA file" if key == "lm" else "a file of the allowed words, or 'lm'"
        raise DataError(f"config.eval.decode.{key}={path!r} does not exist: give {kind}")
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _transcriber(
    teacher: Teacher, options: decode_lib.Options, mesh: Mesh
) -> Callable[[Mapping[str, np.ndarray]], list[tuple[int, dict[str, Any]]]]:
    """Returns the function from a host batch to [(row, hypothesis)], without padding."""
    method, about = teacher.method, (options, teacher.vocabulary, teacher.spelling)
    search: Any
    if method.decoder is None:
        search = decode_lib.BeamSearch(*about)
    else:
        search = TransducerSearch(*about, method.decoder)
    assert method.emissions is not None
    emissions = method.emissions

    def apply(params: Tree, batch: Batch) -> tuple[Array, ...]:
        frames, count = emissions(params, batch)
        best = transcribe.greedy(method.decoder, params, frames, count)
        return batch["id"], batch["weight"], frames, count, *best

    run = jax.jit(apply, out_shardings=NamedSharding(mesh, P()))
    sharding = batch_sharding(mesh)

    def each(batch: Mapping[str, np.ndarray]) -> list[tuple[int, dict[str, Any]]]:
        placed = {
            name: jax.make_array_from_process_local_data(sharding, x) for name, x in batch.items()
        }
        done = jax.device_get(run(teacher.params, placed))
        ids, weight, frames, count, best, length = done
        found = []
        for row in np.flatnonzero(weight > 0).tolist():
            given = () if method.decoder is None else (teacher.params,)
            tokens, score = search.best(*given, frames[row, : count[row]])
            plain = teacher.text(best[row, : length[row]].tolist())
            spelled = [teacher.vocabulary[t] for t in tokens]
            about = {"text": teacher.text(tokens), "plain": plain, "score": float(score)}
            found.append((int(ids[row]), {**about, "spelled": spelled}))
        return found

    return each
