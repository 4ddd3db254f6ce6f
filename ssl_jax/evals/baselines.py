"""Baselines of a probe: raw features, and an untrained encoder of the same shape."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.core.types import Array, Batch, Features, Method, Tree
from ssl_jax.evals.pool import FeaturesFn, of_encoder, of_raw, windowed
from ssl_jax.ops import dsp
from ssl_jax.ops.patches import first_view

THIS_RUN = "this run"
PIXELS = 8  # images are averaged to a grid of this many rows and columns
COUNTERS = 1021  # token counters, which larger vocabularies share


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Features to be probed, of the run or of a baseline. `key` identifies them in a cache.

    prepare: turns a batch of numpy arrays on the host into the one that `features` reads (None: the
    same). frames: False for one vector per clip, which is not pooled. pool: mean or mean_std.
    layers: which hidden states `features` gives, by number; () from 0 on.
    """

    name: str
    features: FeaturesFn
    params: Tree
    key: str
    prepare: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    frames: bool = True
    pool: str = "mean"
    layers: tuple[int, ...] = ()


def encoders(
    method: Method,
    params: Tree,
    example: Mapping[str, Any],
    raw: Encoder,
    *,
    seed: int,
    key: str,
    step: int | str,
    window: int = 0,
    sample_rate: int = 0,
    mesh: Mesh | None = None,
    pool: str = "mean_std",
    only: str = "",
) -> list[Encoder]:
    """Returns a run's encoder, the same encoder untrained, and the raw features.

    example: a batch, may be abstract. seed, key: those of the run; step: identifies its weights.
    window: samples per window of a clip at `sample_rate` (0: clips are not cut). pool: one of
    `pool.KINDS`. only: the name of one of them ('': all). Parameters are replicated over the mesh.
    """
    about: dict[str, Any] = {"pool": of_encoder(pool), "layers": method.layers}
    features, cut = method.features, f" of {method.layers}" if method.layers else ""
    if window:
        features, cut = windowed(features, window, sample_rate), f"{cut} by {window}"

    def replicated(params: Tree) -> Tree:
        return params if mesh is None else jax.device_put(params, NamedSharding(mesh, P()))

    def of(name: str) -> Encoder:
        if name == raw.name:
            return dataclasses.replace(raw, pool=of_raw(pool) if raw.frames else "mean")
        if name == THIS_RUN:
            return Encoder(name, features, replicated(params), f"{key} step {step}{cut}", **about)
        untrained = random_encoder(method, seed, example)  # takes a while to compile
        return Encoder(name, features, replicated(untrained), key + cut, **about)

    names = (THIS_RUN, "random encoder", raw.name)
    return [of(name) for name in names if only in ("", name)]


def raw_features(
    frames_of: Callable[[Batch], tuple[Array, Array]], rate: float = 1.0
) -> Callable[[Tree, Batch], Features]:
    """Returns a `features(params, batch)` whose one layer is raw frames.

    frames_of(batch) -> (frames (B, T, F), mask (B, T)), such as log-mel; `params` is not used.
    """

    def features(params: Tree, batch: Batch) -> Features:
        del params
        frames, mask = frames_of(batch)
        return Features(frames[None], mask, rate)

    return features


def vector_features(vector_of: Callable[[Batch], Array]) -> FeaturesFn:
    """Returns a `features(params, batch)` whose one layer is one frame, vector_of(batch) (B, F)."""

    def features(params: Tree, batch: Batch) -> Features:
        del params
        vector = vector_of(batch)
        return Features(vector[None, :, None], jnp.ones((len(vector), 1), bool), 0.0)

    return features


def raw_encoder(modality: str, *, sample_rate: int = 0, vocab_size: int = 0) -> Encoder:
    """Returns the raw features of config.data.modality: log-mel, pixels, those of a single frame of
    a clip, or token counts."""
    if modality in ("audio", "pair"):
        features = raw_features(lambda batch: log_mel(batch, sample_rate))
        return Encoder("log-mel", features, {}, str(sample_rate))
    if modality == "image":
        return Encoder("pixels", vector_features(pixels), {}, str(PIXELS), frames=False)
    if modality == "video":
        features = vector_features(lambda batch: pixels({"image": middle_frame(batch)}))
        return Encoder("single frame", features, {}, str(PIXELS), frames=False)
    counters = min(vocab_size, COUNTERS)
    features = vector_features(lambda batch: token_counts(batch, counters))
    return Encoder("token counts", features, {}, str(counters), frames=False)


def log_mel(batch: Batch, rate: int) -> tuple[Array, Array]:
    """audio (B, N) -> log-mel (B, T, 80) of 30 ms windows every 10 ms, and their mask (B, T)."""
    window, hop = round(0.03 * rate), round(0.01 * rate)
    frames = dsp.log_mel(
        batch["audio"],
        batch["audio_len"],
        sample_rate=rate,
        n_fft=window,
        hop=hop,
        fmax=min(7600.0, rate / 2),
    )
    count = dsp.frames(batch["audio_len"], window, hop)
    return frames, jnp.arange(frames.shape[1]) < count[:, None]


def middle_frame(batch: Batch) -> Array:
    """video (B, T, H, W, 3) -> the frame in the middle of each clip (B, H, W, 3)."""
    return batch["video"][:, batch["video"].shape[1] // 2]


def pixels(batch: Batch) -> Array:
    """image (B, H, W, 3) uint8 -> the means of PIXELS x PIXELS areas (B, F), in [0, 1].

    Of several views of an image it takes the first.
    """
    image = first_view(batch["image"]).astype(jnp.float32) / 255
    for axis in (1, 2):
        size = image.shape[axis]
        parts = min(PIXELS, size)
        # row r of the image belongs to part r * parts // size
        member = jax.nn.one_hot(jnp.arange(size) * parts // size, parts, axis=0)
        mean = member / member.sum(1, keepdims=True)
        image = jnp.moveaxis(jnp.tensordot(mean, image, (1, axis)), 0, axis)
    return image.reshape(len(image), -1)


def token_counts(batch: Batch, counters: int) -> Array:
    """tokens (B, L), tokens_len (B,) -> the share of each id modulo `counters`: (B, counters)."""
    real = jnp.arange(batch["tokens"].shape[1]) < batch["tokens_len"][:, None]
    share = real / jnp.maximum(batch["tokens_len"], 1)[:, None]
    place = batch["tokens"] % counters
    empty = jnp.zeros(counters, jnp.float32)
    return jax.vmap(lambda p, s: empty.at[p].add(s))(place, share.astype(jnp.float32))


def random_encoder(method: Method, seed: int, batch: Mapping[str, Any]) -> Tree:
    """Returns untrained parameters of the method, as far as its features read them, from a seed
    that no run uses by default."""
    make = method.untrained or (lambda key, batch: method.init(key, batch)[0])
    return jax.jit(lambda key: make(key, dict(batch)))(jax.random.key(seed + 1_000_003))
