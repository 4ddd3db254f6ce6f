"""Transcribes the validation and test recordings of a run, and says where it went wrong."""

import pathlib
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from ssl_jax.core.types import Method, Tree
from ssl_jax.engine import splits as splits_lib
from ssl_jax.evals import edits, transcribe
from ssl_jax.evals.transcribe import Spoken


def judge(
    method: Method,
    params: Tree,
    config: ConfigDict,
    vocabulary: tuple[str, ...],
    mesh: Mesh,
    folder: pathlib.Path,
) -> list[dict[str, Any]]:
    """Returns a row per split: recordings, an error rate per score, the counts of the first, and
    `worst`, the recordings with the most errors for their length.

    vocabulary: of the run. folder: of the run; files that cannot be read are listed there.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.batch_size = -(-config.data.batch_size // mesh.size) * mesh.size
        config.data.constant_seconds = False
    spelling, worst = config.data.spelling, config.eval.get("decode", {}).get("worst", 5)
    search = transcribe.search_of(config, vocabulary)
    transcriber = transcribe.Transcriber(method, mesh, vocabulary, spelling, search)
    found = []
    for name in ("valid", "test"):
        if len(config.data[name]):
            split = splits_lib.open_split(config, folder / "features", name, vocabulary)
            spoken = transcriber(params, split.in_order(mesh.size, method.batch, mesh)())
            found.append({"split": name, **_row(spoken, split, spelling, worst)})
    if not found:
        raise ValueError("config.data.test names no source, nor does config.data.valid: name one")
    return found


def _row(
    spoken: list[Spoken], split: splits_lib.Split, spelling: str, worst: int
) -> dict[str, Any]:
    scores = transcribe.SCORES[spelling]
    counts = [edits.edits(*transcribe.sides(row, scores[0])) for row in spoken]
    wrong = [i for i in range(len(spoken)) if counts[i].errors]
    shown = sorted(wrong, key=lambda i: (-counts[i].rate, -counts[i].errors))[:worst]
    return {
        "recordings": len(spoken),
        **{name: transcribe.rate(spoken, name) for name in scores},
        **edits.total(counts)._asdict(),
        "worst": [
            {
                "where": split.corpus.where(spoken[i].id),
                "rate": counts[i].rate,
                "said": spoken[i].said,
                "heard": spoken[i].heard,
            }
            for i in shown
        ],
    }
