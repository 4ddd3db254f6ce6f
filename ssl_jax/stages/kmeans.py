"""The k-means stage: clusters features that are streamed from a model or computed as MFCC.

Utterances come batch by batch, as in training; their frames are added to the sums of the clusters
on the devices and dropped, so the features of a corpus are never in memory or on disk as a whole.
Several layers are clustered in one pass. A killed stage resumes from its last saved update and
gives the same result to the bit.
"""

import contextlib
import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.core import atomic
from ssl_jax.core.config import ConfigError
from ssl_jax.core.mesh import BATCH_AXES, batch_sharding
from ssl_jax.core.progress import Progress
from ssl_jax.core.types import Array, Batch, Features, Tree, of_layers
from ssl_jax.data.batch_schedule import BatchSchedule
from ssl_jax.data.corpus import make_schedule
from ssl_jax.engine import prefetch, splits
from ssl_jax.evals.baselines import Encoder
from ssl_jax.evals.pool import signature
from ssl_jax.ops import kmeans
from ssl_jax.stages import embed

SAVE_EVERY = 100  # updates; also how often the host asks whether all layers are done
_SEEDING = 4  # seeding reads this many times the frames that it keeps


@dataclasses.dataclass(frozen=True)
class Options:
    """How features are clustered; the defaults are those HuBERT passes to MiniBatchKMeans.

    Clusters without frames stay where they are (`reassignment_ratio=0`), and small movements of
    the centres do not stop the fit (`tol=0`).
    """

    clusters: int = 100
    batch_frames: int = 10_000  # per update, rounded to whole batches of utterances
    seed_frames: int = 0  # candidates for seeds; 0: those of three updates (`init_size`)
    tries: int = 20  # seedings; the best is kept (`n_init`)
    epochs: int = 100  # at most (`max_iter`)
    patience: int = 100  # updates without a better average (`max_no_improvement`)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("clusters", "batch_frames", "tries", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"kmeans.{name} is {getattr(self, name)}: use 1 or more")
        if self.seed_frames and self.seed_frames < self.clusters:
            raise ConfigError(
                f"kmeans.seed_frames is {self.seed_frames}, fewer than the {self.clusters} "
                f"clusters: use {3 * self.clusters}, or 0"
            )


@dataclasses.dataclass(frozen=True)
class Codebook:
    """The clusters of some layers, which turn features into units.

    centres (L, K, D) float32 and counts (L, K) of `layers`; inertia (L,): the mean squared
    distance over the last updates; rate: units per second; signature: that of features, data and
    options.
    """

    centres: np.ndarray
    counts: np.ndarray
    inertia: np.ndarray
    layers: tuple[int, ...]
    rate: float
    signature: str

    @property
    def clusters(self) -> int:
        """The size of the vocabulary, K."""
        return self.centres.shape[1]

    def save(self, path: pathlib.Path) -> None:
        """Writes the codebook atomically."""
        _write(path, dataclasses.asdict(self))

    def only(self, layer: int) -> "Codebook":
        """Returns the codebook of one layer; raises ConfigError where it was not clustered."""
        if layer not in self.layers:
            raise ConfigError(f"layer {layer} was not clustered: use one of {list(self.layers)}")
        i = self.layers.index(layer)
        of_one = {k: getattr(self, k)[i : i + 1] for k in ("centres", "counts", "inertia")}
        return dataclasses.replace(self, layers=(layer,), **of_one)

    def quantizer(self, encoder: Encoder) -> Encoder:
        """Returns the encoder whose hidden states (L, B, S, 1) are the units of `layers`."""
        own, order = of_layers(encoder.features, self.layers), places(self.layers)

        def features(params: Tree, batch: Batch) -> Features:
            found = own(params["encoder"], batch)
            hidden = found.hidden_states[order].astype(jnp.float32)
            shape = hidden.shape[:-1]
            rows = hidden.reshape(len(order), -1, hidden.shape[-1])
            units, _ = jax.lax.map(lambda pair: kmeans.assign(*pair), (rows, params["centres"]))
            return Features(units.reshape(*shape, 1), found.mask, found.rate, found.grid)

        params = {"encoder": encoder.params, "centres": jnp.asarray(self.centres)}
        return Encoder(encoder.name, features, params, self.signature)


def load(path: str | os.PathLike) -> Codebook:
    """Reads what `Codebook.save` wrote."""
    with np.load(path) as found:
        arrays = {k: found[k] for k in ("centres", "counts", "inertia")}
        layers, rate = tuple(int(n) for n in found["layers"]), float(found["rate"])
        return Codebook(**arrays, layers=layers, rate=rate, signature=str(found["signature"]))


def places(layers: Sequence[int]) -> np.ndarray:
    """Returns where each layer stands among those asked for, which come in the order of depth."""
    return np.searchsorted(sorted(set(layers)), layers)


def fit(
    encoder: Encoder,
    layers: Sequence[int],
    split: splits.Split,
    options: Options,
    mesh: Mesh,
    folder: pathlib.Path,
) -> Codebook:
    """Clusters the frames of a split and returns the codebook, also kept as folder/codebook.npz.

    layers: indices into the hidden states of `encoder`, 0 being the input of the first block.
    Rows are drawn as often as in training; recordings longer than the last of config.data.buckets
    are cropped anew every epoch. Raises ConfigError for a layer that does not exist, and for fewer
    frames than clusters.
    """
    done = folder / "codebook.npz"
    work = _Work(encoder, tuple(layers), split, options, mesh)
    if done.exists() and load(done).signature == work.signature:
        return load(done)
    state, updates = work.restore(folder) or (work.seeds(), 0)
    progress = Progress("k-means: update", work.most, done=updates)
    with progress, contextlib.closing(work.batches(updates * work.parts)) as stream:
        while updates < work.most:
            state = work.update(state, stream)
            updates += 1
            progress.step()
            if updates % SAVE_EVERY == 0 or updates == work.most:
                work.save(folder, state, updates)
                if bool(jax.device_get(state.done.all())):
                    break
    found = jax.device_get(state)
    codebook = Codebook(
        found.centres, found.counts, found.average, work.layers, work.rate, work.signature
    )
    if jax.process_index() == 0:
        codebook.save(done)
        (folder / "state.npz").unlink(missing_ok=True)
    return codebook


class _Work:
    """One clustering: its shapes, its compiled parts, and its place in the stream."""

    def __init__(
        self,
        encoder: Encoder,
        layers: tuple[int, ...],
        split: splits.Split,
        options: Options,
        mesh: Mesh,
    ):
        self.layers, self.split, self.options, self.mesh = layers, split, options, mesh
        self.schedule = schedule = _schedule(split, mesh, options.seed)
        self._replicated = NamedSharding(mesh, P())
        self.params = jax.device_put(encoder.params, self._replicated)
        abstract = {
            name: jax.ShapeDtypeStruct((schedule.batch_sizes[-1], *shape), kind)
            for name, (shape, kind) in split.corpus.specs(schedule.buckets[-1]).items()
        }
        shapes = jax.eval_shape(encoder.features, self.params, abstract)
        states = shapes.hidden_states.shape[0]
        if not layers or any(not 0 <= n < states for n in layers):
            raise ConfigError(f"layers to cluster are {layers}: use some of 0 to {states - 1}")
        self.rate = float(shapes.token_rate)
        frames = schedule.seconds_per_step * self.rate  # of a batch
        self.parts = max(1, round(options.batch_frames / frames))
        total = frames * schedule.steps_per_epoch
        self.share = min(1.0, self.parts * frames / total)
        self.most = max(1, math.ceil(options.epochs * schedule.steps_per_epoch / self.parts))
        self.signature = signature(
            encoder.name, encoder.key, layers, options, embed.contents(split), schedule.batch_sizes
        )
        self._features = of_layers(encoder.features, layers)
        self._add = jax.jit(self._added, donate_argnums=(0,), out_shardings=self._replicated)
        self._move = jax.jit(
            jax.vmap(functools.partial(kmeans.update, share=self.share, patience=options.patience)),
            out_shardings=self._replicated,
        )

    def batches(
        self, start: int, stop: int | None = None
    ) -> Generator[prefetch.DeviceBatch, None, None]:
        """Returns the batches of the schedule on the devices, from the given step on."""
        given = self.split.corpus.shapes(1.0)
        names = ("id", "weight", *(n for n in embed.SIGNALS if n in given))
        more = {} if stop is None else {"stop": stop}
        rows = self.split.rows(self.schedule, names, self.mesh, start=start, **more)
        return prefetch.prefetch(rows, batch_sharding(self.mesh))

    def update(self, state: kmeans.State, stream: Iterator[prefetch.DeviceBatch]) -> kmeans.State:
        """Takes one mini-batch from the stream."""
        found = _empty(state.centres)
        for _ in range(self.parts):
            found = self._add(found, state.centres, self.params, next(stream).batch)
        return self._move(state, found)

    def seeds(self) -> kmeans.State:
        """Returns the initial state, seeded by k-means++ on the first batches."""
        o, frames = self.options, self.schedule.seconds_per_step * self.rate
        wanted = o.seed_frames or 3 * max(o.batch_frames, o.clusters)
        steps = min(self.schedule.steps_per_epoch, math.ceil(_SEEDING * wanted / frames))
        draw = jax.jit(
            functools.partial(self._drawn, count=math.ceil(wanted / steps)),
            out_shardings=self._replicated,
        )
        key = jax.random.key(o.seed)
        with contextlib.closing(self.batches(0, steps)) as stream:
            found = [
                draw(jax.random.fold_in(key, n), self.params, given.batch)
                for n, given in enumerate(stream)
            ]
        rows = jnp.concatenate([x for x, _ in found], axis=1)
        weight = jnp.concatenate([w for _, w in found])
        real = int(jax.device_get((weight > 0).sum()))
        if real < o.clusters:
            raise ConfigError(
                f"kmeans.clusters is {o.clusters}, but {steps} batches of config.data.train gave "
                f"{real} frames: use at most {real}, or more data"
            )
        return self._seeded(key, rows, weight)

    def restore(self, folder: pathlib.Path) -> tuple[kmeans.State, int] | None:
        """Returns (state, updates) that a killed attempt at this very work saved, if any."""
        names = ("signature", "done_updates", *kmeans.State._fields)
        kept = atomic.read_arrays(folder / "state.npz", names)
        if kept is None or str(kept["signature"]) != self.signature:
            return None
        arrays = [kept[name] for name in kmeans.State._fields]
        updates = int(kept["done_updates"])
        return jax.device_put(kmeans.State(*map(jnp.asarray, arrays)), self._replicated), updates

    def save(self, folder: pathlib.Path, state: kmeans.State, updates: int) -> None:
        """Writes what `restore` reads."""
        arrays = jax.device_get(state)._asdict()
        if jax.process_index() == 0:
            about = {"signature": self.signature, "done_updates": updates}
            _write(folder / "state.npz", arrays | about)

    def _frames(self, params: Tree, batch: Batch) -> tuple[Array, Array]:
        """Returns the frames (L, N, D) of the layers, and the weight (N,) of each frame."""
        found = self._features(params, batch)
        hidden = found.hidden_states[places(self.layers)].astype(jnp.float32)
        weight = found.mask * (batch["weight"] > 0)[:, None]
        return hidden.reshape(len(self.layers), -1, hidden.shape[-1]), weight.reshape(-1)

    def _added(self, so_far: kmeans.Sums, centres: Array, params: Tree, batch: Batch) -> Any:
        def on_device(x: Array, weight: Array, centres: Array) -> kmeans.Sums:
            found = jax.lax.map(lambda pair: kmeans.sums(pair[0], weight, pair[1]), (x, centres))
            return jax.lax.psum(found, BATCH_AXES)

        frames = P(None, BATCH_AXES)
        over_mesh = jax.shard_map(
            on_device,
            mesh=self.mesh,
            in_specs=(frames, P(BATCH_AXES), P()),
            out_specs=P(),
            check_vma=False,  # a scan inside starts from replicated zeros
        )
        x, weight = self._frames(params, batch)
        return jax.tree.map(jnp.add, so_far, over_mesh(x, weight, centres))

    def _drawn(self, key: Array, params: Tree, batch: Batch, count: int) -> tuple[Array, Array]:
        """Returns `count` random real frames of a batch (L, count, D), and their weights."""
        x, weight = self._frames(params, batch)
        chance = jnp.where(weight > 0, jax.random.uniform(key, weight.shape), -1.0)
        _, place = jax.lax.top_k(chance, min(count, len(weight)))
        return x[:, place], weight[place]

    def _seeded(self, key: Array, rows: Array, weight: Array) -> kmeans.State:
        o = self.options

        def every(key: Array, rows: Array, weight: Array) -> kmeans.State:
            def one(x: Array) -> Array:
                return kmeans.best_seed(key, x, weight, o.clusters, o.tries)[0]

            return jax.vmap(kmeans.init)(jax.lax.map(one, rows))

        return jax.jit(every, out_shardings=self._replicated)(key, rows, weight)


@jax.jit
def _empty(centres: Array) -> kmeans.Sums:
    return jax.vmap(kmeans.empty_sums)(centres)


def _schedule(split: splits.Split, mesh: Mesh, seed: int) -> BatchSchedule:
    """Returns the schedule of training, whose batches are the same on up to eight devices."""
    data = split.config.data
    ways = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    multiple = math.lcm(ways, math.gcd(data.batch_size, splits.DEVICES))
    return make_schedule(split.corpus, data, seed=seed, multiple=multiple)


def _write(path: pathlib.Path, arrays: dict[str, Any]) -> None:
    with atomic.writing(path) as file:
        np.savez(file, **arrays)
