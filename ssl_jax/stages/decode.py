"""Transcripts of a run's recordings with the worst errors, and speaker verification."""

import pathlib
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from ssl_jax.core.types import Method, Tree
from ssl_jax.data.readers import lines
from ssl_jax.engine import splits as splits_lib
from ssl_jax.evals import edit_distance, speaker_verification, transcribe
from ssl_jax.evals.transcribe import Utterance


def transcribe_splits(
    method: Method,
    params: Tree,
    config: ConfigDict,
    vocabulary: tuple[str, ...],
    mesh: Mesh,
    folder: pathlib.Path,
) -> list[dict[str, Any]]:
    """Returns a row per split: recordings, an error rate per score, the counts of the first, and
    `worst`, the recordings with the most errors for their length.

    vocabulary: that of the run. folder: that of the run, where unreadable files are listed.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.batch_size = -(-config.data.batch_size // mesh.size) * mesh.size
        config.data.constant_seconds = False
    spelling, worst = config.data.spelling, config.eval.get("decode", {}).get("worst", 5)
    search = transcribe.search_of(config, vocabulary, method.decoder)
    transcriber = transcribe.Transcriber(method, mesh, vocabulary, spelling, search)
    found = []
    for name in ("valid", "test"):
        if len(config.data[name]):
            split = splits_lib.open_split(config, folder / "features", name, vocabulary)
            rows = split.in_order(mesh.size, method.batch, mesh)
            utterances = transcriber(params, rows(), len(rows))
            found.append({"split": name, **_row(utterances, split, spelling, worst)})
    if not found:
        raise ValueError("config.data.test names no source, nor does config.data.valid: name one")
    return found


def _row(
    utterances: list[Utterance], split: splits_lib.Split, spelling: str, worst: int
) -> dict[str, Any]:
    scores = transcribe.scores_of(spelling)
    counts = [edit_distance.edits(*transcribe.sides(row, scores[0])) for row in utterances]
    wrong = [i for i in range(len(utterances)) if counts[i].errors]
    shown = sorted(wrong, key=lambda i: (-counts[i].rate, -counts[i].errors))[:worst]
    return {
        "recordings": len(utterances),
        **{name: transcribe.rate(utterances, name) for name in scores},
        **edit_distance.total(counts)._asdict(),
        "worst": [
            {
                "where": split.corpus.where(utterances[i].id),
                "rate": counts[i].rate,
                "reference": utterances[i].reference,
                "hypothesis": utterances[i].hypothesis,
            }
            for i in shown
        ],
    }


def verify_speakers(
    method: Method,
    params: Tree,
    config: ConfigDict,
    speakers: tuple[str, ...],
    mesh: Mesh,
    folder: pathlib.Path,
) -> list[dict[str, Any]]:
    """Returns one row: trials, recordings, the equal error rate `eer` and its threshold.

    Recordings are not cut: config.data.buckets grows to the longest. speakers: those of the run.
    """
    trials = speaker_verification.read_trials(config.eval.get("trials", ""))
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.batch_size = -(-config.data.batch_size // mesh.size) * mesh.size
        config.data.constant_seconds = False
    split = splits_lib.open_split(config, folder / "features", "test", speakers)
    longest = float(split.corpus.seconds.max())
    with config.unlocked():
        buckets = list(config.data.buckets)
        while buckets[-1] < longest:
            buckets.append(2 * buckets[-1])
        config.data.buckets = tuple(buckets)
    split = splits_lib.open_split(config, folder / "features", "test", speakers)
    corpus: Any = split.corpus
    rows = split.in_order(mesh.size, method.batch, mesh)
    ids, vectors = speaker_verification.Embedder(method, mesh)(params, rows(), len(rows))
    # without the name of the source in front
    keys = [lines.composed(corpus.key(int(i)).partition("/")[2]) for i in ids]
    place = {key: row for row, key in enumerate(keys)}
    rate, threshold = speaker_verification.eer(*speaker_verification.score(trials, place, vectors))
    counts = {"trials": len(trials), "recordings": len(ids)}
    return [{"split": "test", **counts, "eer": rate, "threshold": threshold}]
