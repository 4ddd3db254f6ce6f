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
WINDOW = round(sound.SECONDS * sound.RATE)  # longer clips are cut: no encoder has heard such
Apply = Callable[[Any, Mapping[str, Any]], Any]
Coder = tuple[pool.FeaturesFn, Any]  # tokens as hidden states (1, B, S, 1), and parameters


def in_batches(run: Apply, params: Any, rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns run(params, batch), compiled, of clips (N, n), by ROWS, as one array (N, ...)."""
    found = []
    for first in range(0, len(rows), ROWS):
        part, size = rows[first : first + ROWS], lengths[first : first + ROWS]
        spare = ROWS - len(part)  # filled up, so that there is one compilation
        part, size = np.pad(part, ((0, spare), (0, 0)), "edge"), np.pad(size, (0, spare), "edge")
        found.append(np.asarray(run(params, extract.audio_batch(part, size)))[: ROWS - spare])
    return np.concatenate(found)


def encoder(model: Any, name: str, seed: int) -> tuple[pool.FeaturesFn, Any]:
    """Returns (features, parameters) of a run, of its encoder "untrained", or "log-mel"."""
    if name == "log-mel":
        return log_mel(int(model.config.method.encoder.num_mels)), {}
    if name != "untrained":
        return model.method.features, model.params
    audio = np.zeros((1, WINDOW), np.float32)
    batch = extract.audio_batch(audio, np.full(1, WINDOW, np.int32))
    return model.method.features, random_encoder(model.method, seed, batch)


def log_mel(mels: int) -> pool.FeaturesFn:
    """Returns the log-mel cells that encoders read, before they are normalized, as features."""

    def features(_: Any, batch: Mapping[str, Any]) -> Features:
        cells = dsp.fbank(batch["audio"], batch["audio_len"], num_mels=mels, scale=32768.0)
        real = dsp.frames(batch["audio_len"], 400, 160)[:, None]
        return Features(cells[None], jnp.arange(cells.shape[1]) < real, 100.0)

    return features


def probe(
    features: pool.FeaturesFn,
    params: Any,
    sounds: Mapping[str, tuple[str, str, float]],
    seed: int,
) -> dict[str, float]:
    """Returns the accuracy of a ridge probe of each task, in quiet and in noise.

    Features are pooled to mean and deviation over the whole clip.
    sounds: {task: (folder, column, seconds)}; a table with the column fold has its folds as tests,
    one with split its own test.
    """
    cut = pool.windowed(features, WINDOW, sound.RATE)
    run = jax.jit(lambda params, batch: pool.mean_std(cut(params, batch)))
    found = {}
    for folder, seconds in dict.fromkeys((folder, s) for folder, _, s in sounds.values()):
        rows, lengths = sound.clips(folder, seconds)
        tests, columns = _tests(folder), sound.recordings(folder)[1]
        tasks = {task: column for task, (own, column, _) in sounds.items() if own == folder}
        for noise in (False, True):
            heard = sound.noisy(folder, seconds, *PROBE_NOISE, 7) if noise else rows
            x = in_batches(run, params, heard, lengths)
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


def patches(model: Any) -> pool.FeaturesFn:
    """Returns the patches that the encoder of a run reads, as one hidden state (1, B, S, P)."""
    section, data = model.config.method.encoder.to_dict(), model.config.data
    encoder = build.encoder(section, precision="float32", sample_rate=data.sample_rate)

    def features(_: Any, batch: Mapping[str, Any]) -> Features:
        cut: Any = encoder.apply({}, batch["audio"], batch["audio_len"], method="patches")
        real = jnp.arange(cut.shape[1]) < _real(model, batch["audio_len"])[:, None]
        return Features(cut[None], real, encoder.rate, encoder.grid)

    return features


def _real(model: Any, lengths: Any) -> Any:
    """Returns how many patches clips of so many samples have (N,)."""
    frames, bands = patch_of(model)
    columns = dsp.frames(lengths, 400, 160) // frames
    return columns * (int(model.config.method.encoder.num_mels) // bands)


def tokenizers(
    model: Any, codes: int, rows: np.ndarray, lengths: np.ndarray, seed: int
) -> dict[str, Coder]:
    """Returns the random projection of a run, and k-means over the patches of clips (N, n)."""
    cut, options = patches(model), dict(model.config.method.random)
    random = random_codes.RandomOptions(**options)
    found = in_batches(jax.jit(lambda *a: cut(*a).hidden_states[0]), {}, rows, lengths)
    every = found[np.arange(found.shape[1]) < _real(model, lengths)[:, None]]
    x = jnp.asarray(np.random.default_rng(seed).permutation(every)[: 64 * codes])
    weight = jnp.ones(len(x))
    state = kmeans.seed(jax.random.key(seed), x, weight, codes)[0]
    for _ in range(ROUNDS):
        sums = kmeans.sums(x, weight, state)
        mean = sums.total / jnp.maximum(sums.counts, 1)[:, None]
        state = jnp.where(sums.counts[:, None] > 0, mean, state)

    def coded(nearest: Callable[[Any, Any], Any]) -> pool.FeaturesFn:
        def features(params: Any, batch: Mapping[str, Any]) -> Features:
            own = cut({}, batch)
            return own.replace(hidden_states=nearest(params, own.hidden_states[0])[None, ..., None])

        return features

    def nearest(centres: Any, x: Any) -> Any:
        return kmeans.assign(x.reshape(-1, x.shape[-1]), centres)[0].reshape(x.shape[:2])

    return {
        "random": (coded(lambda _, x: random_codes.label(random, x, codes)), {}),
        "k-means of patches": (coded(nearest), state),
    }


def patch_of(model: Any) -> tuple[int, int]:
    """Returns the frames and bands of a patch of a run."""
    frames, bands = model.config.method.encoder.patch
    return int(frames), int(bands)


def tokens(coder: Coder, rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns the tokens (N, S) int of clips (N, n), -1 where a clip has none."""
    cut = pool.windowed(coder[0], WINDOW, sound.RATE)

    def run(params: Any, batch: Mapping[str, Any]) -> Any:
        found = cut(params, batch)
        return jnp.where(found.mask, found.hidden_states[0, ..., 0].astype(jnp.int32), -1)

    return in_batches(jax.jit(run), coder[1], rows, lengths)


def quality(coder: Coder, codes: int, folder: str, seconds: float) -> dict[str, float]:
    """Returns `known` of the clips of a folder, and as `consistency` the share of tokens that new
    noise does not change."""
    rows, lengths = sound.clips(folder, seconds)
    labels = sound.labels(sound.recordings(folder)[1]["label"])
    heard = sound.noisy(folder, seconds, *TOKEN_NOISE, 11)
    quiet, loud = (tokens(coder, given, lengths) for given in (rows, heard))
    same = float((quiet == loud)[quiet >= 0].mean())
    return known(quiet, labels, codes) | {"consistency": same}


def known(ids: np.ndarray, labels: np.ndarray, codes: int) -> dict[str, float]:
    """Returns how many codes the tokens (N, S) of clips use (the perplexity), and the nats that a
    token knows of the class (N,) of its clip; tokens below 0 do not count."""
    of_clip, real = np.broadcast_to(labels[:, None], ids.shape), ids >= 0
    joint = np.zeros((labels.max() + 1, codes))
    np.add.at(joint, (of_clip[real], ids[real]), 1)
    share = joint / joint.sum()
    of_codes, of_classes = _entropy(share.sum(0)), _entropy(share.sum(1))
    return {
        "perplexity": float(np.exp(of_codes)),
        "information": of_codes + of_classes - _entropy(share.ravel()),
    }


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())
