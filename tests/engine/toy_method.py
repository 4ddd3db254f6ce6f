"""A linear autoencoder of audio with noise per example and an EMA teacher, for engine tests."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from ssl_jax.core.types import Features, Method, Output, Spec
from ssl_jax.engine import log, loop, step

SAMPLES, WIDTH, BATCH = 16, 8, 16


def make_method() -> Method:
    """Returns the toy; the weight of an example is its length, so weights differ."""

    def init(key, batch):
        del batch
        a, b = jax.random.split(key)
        encoder = {"kernel": jax.random.normal(a, (SAMPLES, WIDTH)) / 4, "bias": jnp.zeros(WIDTH)}
        params = {"encoder": encoder, "decoder": jax.random.normal(b, (WIDTH, SAMPLES)) / 4}
        return params, {"teacher": {"encoder": encoder}}

    def loss(params, extra, batch, streams, train):
        x = batch["audio"].astype(jnp.float32) / 100
        keys = streams.for_examples("noise")
        noise = jax.vmap(lambda k: jax.random.normal(k, (SAMPLES,)))(keys) * train
        code = _encode(params["encoder"], x + 0.1 * noise)
        target = _encode(extra["teacher"]["encoder"], x)
        errors = ((code @ params["decoder"] - x) ** 2).mean(1) + ((code - target) ** 2).mean(1)
        weight = batch["weight"] * batch["audio_len"]
        total = weight.sum()
        value = (errors * weight).sum() / jnp.maximum(total, 1e-9)
        std = {"target_std": (target.std(), 1.0)}
        return Output(loss=value, weight=total, metrics=std, extra=extra)

    def update(params, extra, step):
        decay = jnp.minimum(0.9, step / 10)

        def mix(t, p):
            return decay * t + (1 - decay) * p

        teacher = jax.tree.map(mix, extra["teacher"]["encoder"], params["encoder"])
        return {"teacher": {"encoder": teacher}}

    def features(params, batch):
        code = _encode(params["encoder"], batch["audio"].astype(jnp.float32))
        return Features(code[None, :, None], jnp.ones((len(code), 1), bool), 1.0)

    return Method(
        init=init,
        loss=loss,
        update=update,
        features=features,
        batch={"audio": Spec((SAMPLES,), "int16"), "audio_len": Spec((), "int32")},
        rules=(("kernel|decoder", ("fsdp", "model")), ("bias", ("model",))),
        scopes=(),
    )


def _encode(encoder, x):
    return jnp.tanh(x @ encoder["kernel"] + encoder["bias"])


def rows(step_number: int, size: int = BATCH) -> dict[str, np.ndarray]:
    """Returns the batch of a step: a pure function of its number."""
    rng = np.random.default_rng(step_number)
    return {
        "id": rng.integers(0, 1000, size).astype(np.uint32),
        "weight": np.ones(size, np.float32),
        "audio": rng.integers(-100, 100, (size, SAMPLES)).astype(np.int16),
        "audio_len": rng.integers(1, SAMPLES + 1, size).astype(np.int32),
    }


def shapes() -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the abstract batch."""
    return {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in rows(0).items()}


def make_tx(lr: float = 0.05):
    """Returns an optimizer with moments, and its schedule."""
    schedule = optax.linear_schedule(lr, 0.0, 100)
    return optax.chain(optax.clip_by_global_norm(10.0), optax.adamw(schedule)), schedule


def make_config(**changes) -> ConfigDict:
    """Returns the sections of a config that the engine reads."""
    config = {
        "seed": 0,
        "optim": {"lr": 0.05},
        "mesh": {"data": -1},
        "data": {"workers": 0, "threads": 2, "batch_size": BATCH},
        "checkpoint": {"every": 5, "keep_last": 2, "best_metric": "", "best_mode": "max"},
        "eval": {"every": 5},
        "log": {"every": 2, "tensorboard": False, "wandb": "", "profile": ""},
    }
    config = ConfigDict(json.loads(json.dumps(config)))
    config.update_from_flattened_dict(changes)
    return config


def start(mesh, accumulate: int = 1, lr: float = 0.05, method: Method | None = None):
    """Returns (state, shardings, compiled step, pure step) of the toy on a mesh."""
    method = method or make_method()
    tx, schedule = make_tx(lr)
    state, shardings = step.init_state(method, tx, 0, mesh, shapes())
    pure = step.make_step(method, tx, schedule, mesh, accumulate)
    compiled = step.compile_step(pure, mesh, shardings, (state, shapes()))
    return state, shardings, compiled, pure


def stream(first: int, last: int, change=lambda n, batch: batch):
    """Yields the batches of steps first to last - 1."""
    for n in range(first, last):
        yield change(n, rows(n))


def options(total: int = 10, **changes) -> loop.Options:
    """Returns loop options in steps: a row every 2, a checkpoint every 5."""
    given = {"total": total, "log_every": 2, "save_every": 5, "sample_rate": SAMPLES}
    return loop.Options(**(given | changes))


def bits(tree) -> dict[str, bytes]:
    """Returns every array of a tree as bytes, by name."""
    from ssl_jax.core.tree import named_leaves

    return {name: np.asarray(x).tobytes() for name, x in named_leaves(tree)}


def open_logger(workdir, start_step: int = 0, **changes) -> log.Logger:
    """Returns the logger of a toy run."""
    return log.Logger(workdir, make_config(**changes).log, start_step)
