"""What frozen features and tokens know of sounds, in quiet and in noise."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.beats import sound
from ssl_jax.core.types import Features
from ssl_jax.evals import extract, pool, ridge
from ssl_jax.evals.baselines import random_encoder
from ssl_jax.nn import build, random_codes
from ssl_jax.ops import dsp, kmeans

ROWS = 40  # clips that are computed at once
PROBE_NOISE = ((0.0, 15.0), 12.0)  # signal-to-noise ratios in dB, and gains
TOKEN_NOISE = ((20.0, 20.0), 6.0)
ROUNDS = 20  # of k-means over patches
PIECES = 2  # per clip of five seconds, so that a piece is about as long as in training
Apply = Callable[[Any, Mapping[str, Any]], Any]


def in_batches(run: Apply, params: Any, rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns run(params, batch), compiled, of clips (N, n), by ROWS, as one array (N, ...)."""
    found = []
    for first in range(0, len(rows), ROWS):
        part, size = rows[first : first + ROWS], lengths[first : first + ROWS]
        spare = ROWS - len(part)  # filled up, so that there is one compilation
        part, size = np.pad(part, ((0, spare), (0, 0)), "edge"), np.pad(size, (0, spare), "edge")
        found.append(np.asarray(run(params, extract.audio_batch(part, size)))[: ROWS - spare])
    return np.concatenate(found)


def pooled(run: Apply, params: Any, rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns mean and deviation over time of every layer, (N, L + 1, 2 D); long clips are cut."""
    if (lengths < rows.shape[1]).any():
        return in_batches(run, params, rows, lengths)
    cut = rows.reshape(len(rows) * PIECES, -1)
    found = in_batches(run, params, cut, np.full(len(cut), cut.shape[1], np.int32))
    return found.reshape(len(rows), PIECES, *found.shape[1:]).mean(1)


def encoders(model: Any, seed: int) -> dict[str, tuple[Apply, Any]]:
    """Returns (features, parameters) of a run, of the same encoder untrained, and of log-mel."""
    size = round(sound.SECONDS * sound.RATE)
    batch = extract.audio_batch(np.zeros((1, size), np.float32), np.full(1, size, np.int32))
    mels = int(model.config.method.encoder.num_mels)

    def log_mel(_: Any, batch: Mapping[str, Any]) -> Features:
        cells = dsp.fbank(batch["audio"], batch["audio_len"], num_mels=mels, scale=32768.0)
        real = dsp.frames(batch["audio_len"], 400, 160)[:, None]
        return Features(cells[None], jnp.arange(cells.shape[1]) < real, 100.0)

    return {
        "this run": (model.method.features, model.params),
        "untrained": (model.method.features, random_encoder(model.method, seed, batch)),
        "log-mel": (log_mel, {}),
    }


def probe(
    features: Apply, params: Any, sounds: Mapping[str, tuple[str, str, float]], seed: int
) -> dict[str, float]:
    """Returns the accuracy of a ridge probe of each task, in quiet and in noise.

    sounds: {task: (folder, column, seconds)}; a table with the column fold has its folds as tests,
    one with split its own test.
    """
    run = jax.jit(lambda params, batch: pool.mean_std(features(params, batch)))
    found = {}
    for folder, seconds in dict.fromkeys((folder, s) for folder, _, s in sounds.values()):
        rows, lengths = sound.clips(folder, seconds)
        tests, columns = _tests(folder), sound.recordings(folder)[1]
        tasks = {task: column for task, (own, column, _) in sounds.items() if own == folder}
        for noise in (False, True):
            heard = sound.noisy(rows, *PROBE_NOISE, 7) if noise else rows
            x = pooled(run, params, heard, lengths)
            for task, column in tasks.items():
                score = _accuracy(x, sound.labels(columns[column]), tests, seed)
                found[f"{task} in noise" if noise else task] = score
    return found


def _accuracy(x: np.ndarray, labels: np.ndarray, tests: list[np.ndarray], seed: int) -> float:
    """Returns the accuracy of a ridge probe of features (N, L + 1, F), the mean over the tests."""
    scores = []
    for test in tests:
        split = (x[~test], labels[~test]), (x[test], labels[test])
        score = ridge.probe(*split, classes=int(labels.max()) + 1, seed=seed)
        scores.append(score.test[score.layer])
    return float(np.mean(scores))


def _tests(folder: str) -> list[np.ndarray]:
    """Returns which rows are tested, (N,) bool, once for each fold."""
    columns = sound.recordings(folder)[1]
    if "fold" in columns:
        folds = np.array([str(value) for value in columns["fold"]])
        return [folds == fold for fold in np.unique(folds)]
    return [np.array([str(value) for value in columns["split"]]) == "test"]


def patches(model: Any) -> Apply:
    """Returns the patches (B, S, P) that the encoder of a run reads."""
    section, data = model.config.method.encoder.to_dict(), model.config.data
    encoder = build.encoder(section, precision="float32", sample_rate=data.sample_rate)

    def apply(_: Any, batch: Mapping[str, Any]) -> Any:
        return encoder.apply({}, batch["audio"], batch["audio_len"], method="patches")

    return apply


def tokenizers(model: Any, codes: int, rows: np.ndarray, seed: int) -> dict[str, tuple[Apply, Any]]:
    """Returns (tokens (B, S), parameters) of the random projection of a run, and of k-means over
    the patches of clips (N, n)."""
    cut, options = patches(model), dict(model.config.method.random)
    random = random_codes.RandomOptions(**options)
    lengths = np.full(len(rows), rows.shape[1], np.int32)
    every = in_batches(jax.jit(cut), {}, rows, lengths).reshape(-1, int(np.prod(patch_of(model))))
    x = jnp.asarray(np.random.default_rng(seed).permutation(every)[: 64 * codes])
    weight = jnp.ones(len(x))
    state = kmeans.seed(jax.random.key(seed), x, weight, codes)[0]
    for _ in range(ROUNDS):
        sums = kmeans.sums(x, weight, state)
        mean = sums.total / jnp.maximum(sums.counts, 1)[:, None]
        state = jnp.where(sums.counts[:, None] > 0, mean, state)

    def nearest(centres: Any, batch: Mapping[str, Any]) -> Any:
        own = cut({}, batch)
        return kmeans.assign(own.reshape(-1, own.shape[-1]), centres)[0].reshape(own.shape[:2])

    return {
        "random": (lambda _, batch: random_codes.label(random, cut({}, batch), codes), {}),
        "k-means of patches": (nearest, state),
    }


def patch_of(model: Any) -> tuple[int, int]:
    """Returns the frames and bands of a patch of a run."""
    frames, bands = model.config.method.encoder.patch
    return int(frames), int(bands)


def quality(
    apply: Apply, params: Any, codes: int, rows: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """Returns how many codes are in use (the perplexity), the nats that a token knows of the class
    of its clip, and the share of tokens that stay the same under new noise."""
    run, lengths = jax.jit(apply), np.full(len(rows), rows.shape[1], np.int32)
    quiet, loud = (
        in_batches(run, params, heard, lengths)
        for heard in (rows, sound.noisy(rows, *TOKEN_NOISE, 11))
    )
    joint = np.zeros((labels.max() + 1, codes))
    np.add.at(joint, (np.repeat(labels, quiet.shape[1]), quiet.ravel().astype(int)), 1)
    share = joint / joint.sum()
    of_codes, of_classes = _entropy(share.sum(0)), _entropy(share.sum(1))
    return {
        "perplexity": float(np.exp(of_codes)),
        "information": of_codes + of_classes - _entropy(share.ravel()),
        "consistency": float((quiet == loud).mean()),
    }


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())
