"""Frozen features, pooled over time or space for each clip and layer, and cached for all probes.

A linear map and the average over frames commute, so (L + 1, D) numbers per clip serve any number of
probes with linear heads. The deviation over frames tells what an average erases, such as motion;
a probe that compares encoders with raw features pools both alike.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.core import atomic, options, stop
from ssl_jax.core.mesh import batch_sharding
from ssl_jax.core.types import Array, Batch, Features, Tree

FeaturesFn = Callable[..., Features]
"""features(params, batch), as of a `Method`; of an encoder of several layers, with `layers` too."""
Batches = Iterable[Mapping[str, Any]]
KINDS = ("mean_std", "mean", "raw_mean_std")
"""The values of config.eval.pool: mean and deviation, or the mean alone, of encoders and of frames
of raw features alike; raw_mean_std: encoders by the mean and raw features by both, as the tables
made before this was a choice. Raw features that are one vector per clip are left as they are."""


@dataclasses.dataclass(frozen=True)
class Pooled:
    """Pooled features of a split: features (N, L + 1, D) float32, ids (N,), labels (N,) int32.

    A label of -1 means unlabelled.
    """

    features: np.ndarray
    ids: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """Returns the number of clips."""
        return len(self.ids)

    def labelled(self) -> "Pooled":
        """Returns the rows that have a label; raises ValueError when there is none."""
        keep = self.labels >= 0
        if not keep.any():
            raise ValueError(
                "no row of this split has a label, so no probe can be fitted or scored: name a "
                "label column in its sources (config.data)"
            )
        if keep.all():
            return self
        return Pooled(self.features[keep], self.ids[keep], self.labels[keep])


def masked_mean(features: Features) -> Array:
    """Averages hidden states (L + 1, B, S, D) over real frames -> (B, L + 1, D) float32.

    A clip without a real frame gives zeros.
    """
    real = features.mask.astype(jnp.float32)
    hidden = jnp.where(features.mask[..., None], features.hidden_states, 0).astype(jnp.float32)
    total = jnp.einsum("lbsd->bld", hidden)
    return total / jnp.maximum(real.sum(1), 1)[:, None, None]


def mean_std(features: Features) -> Array:
    """Pools hidden states into their mean and deviation over real frames, (B, L + 1, 2 D) float32.

    The deviation is biased; a clip without a real frame gives zeros.
    """
    found = jax.vmap(frames_mean_std, in_axes=(0, None))(features.hidden_states, features.mask)
    return found.swapaxes(0, 1)


def frames_mean_std(frames: Array, mask: Array) -> Array:
    """Pools the valid frames of (B, T, F) into their mean and deviation, (B, 2 F) float32."""
    frames = jnp.where(mask[..., None], frames, 0).astype(jnp.float32)
    count = jnp.maximum(mask.sum(1), 1)[:, None].astype(jnp.float32)
    mean = frames.sum(1) / count
    spread = jnp.where(mask[..., None], frames - mean[:, None], 0)
    return jnp.concatenate([mean, jnp.sqrt(jnp.square(spread).sum(1) / count)], -1)


def of_encoder(kind: str) -> str:
    """Returns how config.eval.pool pools the states of an encoder: mean or mean_std."""
    options.choose("config.eval.pool", kind, KINDS)
    return "mean" if kind == "raw_mean_std" else kind


def of_raw(kind: str) -> str:
    """Returns how config.eval.pool pools frames of raw features: mean or mean_std."""
    options.choose("config.eval.pool", kind, KINDS)
    return "mean" if kind == "mean" else "mean_std"


def means(pooled: np.ndarray, how: str) -> np.ndarray:
    """Returns the part of features (N, L + 1, F), pooled by mean or mean_std, that are means."""
    return pooled[..., : pooled.shape[-1] // 2] if how == "mean_std" else pooled


def windowed(features: FeaturesFn, samples: int, sample_rate: int) -> FeaturesFn:
    """Returns the features of clips cut into windows of up to `samples`, one after another.

    A window is a whole number of steps long, so that all start where a step of the clip does. They
    are processed independently, and the frames of a clip are concatenated: audio (B, N) gives
    hidden states (L + 1, B, W S, D) of W windows.
    """

    def steps(params: Tree, batch: Batch) -> int:
        """Returns the samples of the longest window of whole steps."""
        cut = {**batch, "audio": batch["audio"][:, :samples]}
        hop = sample_rate / jax.eval_shape(features, params, cut).rate
        return round(samples // hop * hop)

    def apply(params: Tree, batch: Batch) -> Features:
        rows, length = batch["audio"].shape
        if length <= samples:
            return features(params, batch)
        size = steps(params, batch)
        count = -(-length // size)
        audio = jnp.pad(batch["audio"], ((0, 0), (0, count * size - length)))
        start = size * jnp.arange(count)
        left = jnp.clip(batch["audio_len"][:, None] - start, 0, size)
        pieces = {k: jnp.repeat(v, count, axis=0) for k, v in batch.items() if k != "audio"}
        pieces |= {"audio": audio.reshape(-1, size), "audio_len": left.reshape(-1)}
        found = features(params, pieces)
        states, _, _, width = found.hidden_states.shape
        hidden = found.hidden_states.reshape(states, rows, -1, width)
        return Features(hidden, found.mask.reshape(rows, -1), found.rate, found.grid)

    return apply


def pooler(
    features: FeaturesFn, mesh: Mesh | None = None, how: str = "mean"
) -> Callable[[Tree, Batch], dict]:
    """Returns the jitted fn(params, batch) -> {features, id, label, weight}, replicated.

    how: mean or mean_std. Make it once and keep it: each call compiles anew.
    """
    reduce = {"mean": masked_mean, "mean_std": mean_std}[how]

    def apply(params: Tree, batch: Batch) -> dict[str, Array]:
        pooled = reduce(features(params, batch))
        return {"features": pooled} | {k: batch[k] for k in ("id", "label", "weight")}

    return jax.jit(apply, out_shardings=NamedSharding(mesh, P()) if mesh else None)


def pool(
    apply: Callable[[Tree, Batch], dict],
    params: Tree,
    batches: Batches,
    *,
    mesh: Mesh | None = None,
    total: int = 0,
    name: str = "features",
) -> Pooled:
    """Runs `apply` (of `pooler`) over host batches and returns the rows whose weight is not 0.

    batches: dicts of numpy arrays with id, weight and whatever the method reads; without `label`
    all rows count as unlabelled. With a mesh they hold this host's rows of each global batch.
    total: number of batches (0: not known), for the estimate of the time left.
    Raises ValueError when no row is left. One batch is in flight while the previous one is read.
    """
    parts: list[dict[str, np.ndarray]] = []
    waiting = None
    for batch in stop.between(batches, name, total):
        result = apply(params, _place(batch, mesh))
        if waiting is not None:
            parts.append(_real_rows(waiting))
        waiting = result
    if waiting is not None:
        parts.append(_real_rows(waiting))
    if not sum(len(part["id"]) for part in parts):
        raise ValueError(f"{name}: there is no example to compute features of; is the split empty?")
    join = {k: np.concatenate([part[k] for part in parts]) for k in ("features", "id", "label")}
    return Pooled(join["features"], join["id"], join["label"])


def signature(*parts: object) -> str:
    """Returns 16 hex digits that identify the content of a cache, from anything with a repr."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def cached(folder: str | Path, key: str, compute: Callable[[], Pooled]) -> Pooled:
    """Returns the features stored as folder/key.npz, computing and writing them first if absent.

    The file appears under its name only when it is complete.
    """
    path = Path(folder) / f"{key}.npz"
    kept = atomic.read_arrays(path, ("features", "ids", "labels"))
    if kept is not None:
        return Pooled(kept["features"], kept["ids"], kept["labels"])
    pooled = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.writing(path) as file:
        np.savez(file, **dataclasses.asdict(pooled))
    return pooled


def _place(batch: Mapping[str, Any], mesh: Mesh | None) -> Batch:
    batch = dict(batch)
    batch.setdefault("label", np.full(np.shape(batch["id"]), -1, np.int32))
    if mesh is None:
        return jax.device_put(batch)
    sharding = batch_sharding(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def _real_rows(result: dict[str, Array]) -> dict[str, np.ndarray]:
    rows = jax.device_get(result)
    return {k: v[rows["weight"] > 0] for k, v in rows.items()}


Labelled = tuple[np.ndarray, np.ndarray]
"""Pooled features (N, L + 1, D) float32 and their labels (N,) int32, none of them -1."""


def held_out(labels: np.ndarray, share: float = 0.2, seed: int = 0) -> np.ndarray:
    """Returns bool (N,): a share of the rows of each class, at least one where the class has two.

    Raises ValueError when there is no row, or every class has a single one.
    """
    if not len(labels):
        raise ValueError("no training row has a label: name a label column in config.data.train")
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        chosen[rows[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
    if not chosen.any():
        raise ValueError(
            "every class has one labelled training row, so none is left to select a probe with: "
            "give a labelled validation split (config.data.valid) or more labels"
        )
    return chosen
