"""One update of the training state: loss, gradient, optimizer, method update, all in one jit."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core import progress, rng
from ssl_jax.core import tree as tree_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import (
    Array,
    Batch,
    Method,
    Output,
    Rules,
    TrainState,
    Tree,
    split_frozen,
)
from ssl_jax.engine import flops as flops_lib
from ssl_jax.nn import sharding

Metrics = dict[str, tuple[Array, Array]]
"""Named (sum, count) pairs; a mean over steps, batches or devices is sum of sums / counts."""
StepFn = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
LossFn = Callable[[Tree, Tree, Batch], tuple[Array, Output]]  # of (params, extra, batch)
Shapes = Mapping[str, jax.ShapeDtypeStruct]

MUST_BE_FINITE = ("loss", "gradient_norm", "parameter_norm")
NEVER = jnp.iinfo(jnp.int32).max
LAYERED = "/blocks/"  # in the names of stacked parameters, which a scan takes layer by layer


def state_sharding(state: TrainState, rules: Rules, mesh: Mesh) -> TrainState:
    """Returns the sharding of every array of a state, by the rules of its parameters.

    The path of an optimizer moment or a teacher's array contains that of its parameter, so the
    same rule matches it. Raises ValueError when an array matches no rule, and when one of a
    method's own rules matches no parameter.
    """
    if rules is not sharding.RULES:
        mesh_lib.check_rules([name for name, _ in tree_lib.named_leaves(state.params)], rules)
    whole: Tree = NamedSharding(mesh, P())
    parts: dict[str, Tree] = {
        name: mesh_lib.tree_sharding(getattr(state, name), rules, mesh)
        for name in ("params", "extra", "opt_state")
    }
    return TrainState(step=whole, key=whole, **parts)


def _gathered(params: Tree, extra: Tree, rules: Rules) -> tuple[Tree, Tree]:
    """Gathers the arrays that are sharded over `fsdp`, all but those of blocks.

    Parameters, gradients and optimizer moments stay sharded over `fsdp` between uses. A block is
    gathered when it runs (`nn.transformer`), everything else at the start of the loss.
    """

    def gather(tree: Tree) -> Tree:
        whole = mesh_lib.gather(tree, rules)
        return tree_lib.map_named(lambda name, x, y: x if LAYERED in name else y, tree, whole)

    return gather(params), gather(extra)


def abstract_state(
    method: Method,
    tx: optax.GradientTransformation,
    batch_shapes: Shapes,
    initial: tuple[Tree, Tree] | None = None,
) -> TrainState:
    """Returns the shapes of the state without computing anything.

    `initial`: the shapes of (params, extra), if they are known: a large model takes long to trace.
    """
    if initial is None:
        return jax.eval_shape(_builder(method, tx, batch_shapes), rng.key_data(0))
    return jax.eval_shape(
        lambda key, first: _first(key, first[0], first[1], tx), rng.key_data(0), initial
    )


def init_state(
    method: Method,
    tx: optax.GradientTransformation,
    seed: int,
    mesh: Mesh,
    batch_shapes: Shapes,
) -> tuple[TrainState, TrainState]:
    """Returns (state, its shardings); each array is created on the devices that hold it.

    `batch_shapes` holds the shapes of one global batch. The values depend on `seed` only, not
    on the mesh.
    """
    build = _builder(method, tx, batch_shapes)
    key = rng.key_data(seed)
    shardings = state_sharding(jax.eval_shape(build, key), method.rules, mesh)
    return jax.jit(build, out_shardings=shardings)(key), shardings


def _builder(
    method: Method, tx: optax.GradientTransformation, batch_shapes: Shapes
) -> Callable[[Array], TrainState]:
    def build(key: Array) -> TrainState:
        batch = {name: jnp.zeros(s.shape, s.dtype) for name, s in batch_shapes.items()}
        params, extra = method.init(rng.named(jax.random.wrap_key_data(key), "init"), batch)
        return _first(key, params, extra, tx)

    return build


def _first(key: Array, params: Tree, extra: Tree, tx: optax.GradientTransformation) -> TrainState:
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        extra=extra,
        opt_state=tx.init(params),
        key=key,
    )


def make_step(
    method: Method,
    tx: optax.GradientTransformation,
    schedule: Callable[[Array], Array | float],
    mesh: Mesh,
    accumulate: int = 1,
) -> StepFn:
    """Returns a pure step(state, batch) -> (state, metrics), traced for `mesh`.

    With `accumulate` = n the batch is run as n micro-batches, combined by the weight of their
    losses or by `method.combine`, so the update equals that of one large batch; what is drawn once
    for a batch (dropout, partners of mixup) is drawn for each micro-batch. The metrics are those of
    the method, `loss`, `lr`, `gradient_norm` (before clipping) and the new `parameter_norm`.
    Frozen teachers are passed on as they are; micro-batches and `method.update` do not carry them.
    Raises ConfigError where `method.couples` rules micro-batches out.
    """
    if accumulate > 1:
        _check_couples(method, accumulate)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        own, frozen = split_frozen(state.extra)
        state = dataclasses.replace(state, extra=own)

        def loss(params: Tree, extra: Tree, micro: Batch) -> tuple[Array, Output]:
            streams = rng.Streams(state.key, state.step, micro["id"])
            extra = {**extra, **frozen} if frozen else extra
            with mesh_lib.using(mesh):
                params, extra = _gathered(params, extra, method.rules)
                out = method.loss(params, extra, micro, streams, True)
            return out.loss, dataclasses.replace(out, extra=split_frozen(out.extra)[0])

        moved: Tree = {}
        if accumulate == 1:
            gradients, out = jax.grad(loss, has_aux=True)(state.params, state.extra, batch)
            extra, metrics, moved = out.extra, _metrics(out), out.moved
        elif method.combine is None:
            gradients, extra, metrics = _of_means(loss, state, batch, accumulate)
        else:
            gradients, extra, metrics = _of_sums(loss, method.combine, state, batch, accumulate)
        with jax.named_scope("optimizer"):
            updates, opt_state = tx.update(gradients, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            if moved:
                params = _merged(params, moved)
        done = state.step + 1
        with jax.named_scope("update"):
            extra = method.update(params, extra, done)
        metrics |= {
            "lr": _one(schedule(state.step)),
            "gradient_norm": _one(optax.global_norm(gradients)),
            "parameter_norm": _one(optax.global_norm(params)),
        }
        extra = {**extra, **frozen} if frozen else extra
        state = TrainState(
            step=done, params=params, extra=extra, opt_state=opt_state, key=state.key
        )
        return state, metrics

    return step


def _merged(params: Tree, moved: Tree) -> Tree:
    """Returns params with the leaves that `moved` has in their place."""
    if not isinstance(moved, dict):
        return moved.astype(params.dtype)
    changed = {name: _merged(params[name], value) for name, value in moved.items()}
    return {**params, **changed}


def _check_couples(method: Method, accumulate: int) -> None:
    for how, remedy in method.couples.items():
        without = f"set {remedy}, or " if remedy else ""
        raise ConfigError(
            f"config.train.accumulate is {accumulate}, but {how}, and a micro-batch holds only a "
            f"part of these: {without}use config.train.accumulate=1 with more devices or a smaller "
            f"config.data.batch_size"
        )


def make_eval_step(method: Method, mesh: Mesh) -> Callable[[TrainState, Batch], Metrics]:
    """Returns a pure evaluate(state, batch) -> metrics of the loss without training noise.

    Masks are drawn as for step 0 whatever the step, so that two validations are comparable.
    """

    def evaluate(state: TrainState, batch: Batch) -> Metrics:
        streams = rng.Streams(state.key, jnp.zeros((), jnp.int32), batch["id"])
        with mesh_lib.using(mesh):
            params, extra = _gathered(state.params, state.extra, method.rules)
            return _metrics(method.loss(params, extra, batch, streams, False))

    return evaluate


def _of_means(
    loss: LossFn, state: TrainState, batch: Batch, accumulate: int
) -> tuple[Tree, Tree, Metrics]:
    """Returns (gradients, extra, metrics) of a mean, weighted by `Output.weight`."""

    def body(carry: tuple, micro: Batch) -> tuple[tuple, Metrics]:
        total, weight, extra = carry
        gradients, out = jax.grad(loss, has_aux=True)(state.params, extra, micro)
        total = jax.tree.map(lambda t, g: t + out.weight * g, total, gradients)
        return (total, weight + out.weight, out.extra), _metrics(out)

    start = (jax.tree.map(jnp.zeros_like, state.params), jnp.float32(0), state.extra)
    micros = jax.tree.map(lambda x: _interleave(x, accumulate), batch)
    (total, weight, extra), stacked = jax.lax.scan(body, start, micros)
    # a batch of nothing but padding has no gradient rather than 0 / 0
    scale = jnp.where(weight > 0, 1 / jnp.where(weight > 0, weight, 1), 0)
    metrics = jax.tree.map(lambda x: x.sum(0), stacked)
    return jax.tree.map(lambda g: g * scale, total), extra, metrics


def _of_sums(
    loss: LossFn,
    combine: Callable[[Tree], Array],
    state: TrainState,
    batch: Batch,
    accumulate: int,
) -> tuple[Tree, Tree, Metrics]:
    """Returns (gradients, extra, metrics) of a loss that is combine(sums over micro-batches).

    Its gradient is the sum of the gradients of these sums, each times the derivative of `combine`
    by it. That depends on all micro-batches, so they are run twice, the first time for these
    factors alone: the compiler drops what they do not need, often most of the model.
    """
    micros = jax.tree.map(lambda x: _interleave(x, accumulate), batch)

    def ahead(extra: Tree, micro: Batch) -> tuple[Tree, Tree]:
        _, out = loss(state.params, extra, micro)
        return out.extra, out.sums

    def sum_up(stacked: Tree) -> Tree:
        return jax.tree.map(lambda x: x.sum(0), stacked)

    factors = jax.grad(combine)(sum_up(jax.lax.scan(ahead, state.extra, micros)[1]))

    def body(carry: tuple, micro: Batch) -> tuple[tuple, tuple]:
        total, extra = carry

        def value(params: Tree) -> tuple[Array, Output]:
            _, out = loss(params, extra, micro)
            parts = jax.tree.map(lambda factor, x: (factor * x).sum(), factors, out.sums)
            return sum(jax.tree.leaves(parts), jnp.zeros(())), out

        gradients, out = jax.grad(value, has_aux=True)(state.params)
        total = jax.tree.map(jnp.add, total, gradients)
        return (total, out.extra), (out.sums, _metrics(out))

    start = (jax.tree.map(jnp.zeros_like, state.params), state.extra)
    (gradients, extra), (sums, metrics) = jax.lax.scan(body, start, micros)
    metrics = sum_up(metrics)
    weight = metrics["loss"][1]
    return gradients, extra, {**metrics, "loss": (combine(sum_up(sums)) * weight, weight)}


def _interleave(x: Array, parts: int) -> Array:
    """(B, ...) -> (parts, B / parts, ...); row i goes to part i % parts.

    A device holds a block of neighbouring rows: each part takes some rows from every device, and
    no row has to move.
    """
    if x.shape[0] % parts:
        raise ValueError(
            f"config.train.accumulate {parts} does not divide a batch of {x.shape[0]} examples: "
            f"use a divisor, or a config.data.batch_size that is a multiple of it"
        )
    return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)


def _metrics(out: Output) -> Metrics:
    weight = jnp.asarray(out.weight, jnp.float32)
    pairs = {**out.metrics, "loss": (out.loss * weight, weight)}
    return {k: (jnp.float32(s), jnp.float32(n)) for k, (s, n) in pairs.items()}


def _one(value: Array | float) -> tuple[Array, Array]:
    return jnp.float32(value), jnp.float32(1)


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """A step ready to be called in a loop that never waits for its numbers.

    run(state, totals, batch) -> (state, totals, loss): state and totals are donated; `totals`
    holds the sums of the metrics on the device, and `bad`, the first step (counted from 1) whose
    loss or norms were not finite. zeros() -> the totals before any step. flops(state, totals,
    batch): the operations of a step of these shapes, 0 where they are not counted.
    """

    run: Callable[[TrainState, Tree, Batch], tuple[TrainState, Tree, Array]]
    zeros: Callable[[], Tree]
    flops: Callable[[TrainState, Tree, Batch], float] = lambda *given: 0.0


def compile_step(step: StepFn, mesh: Mesh, shardings: TrainState, shapes: tuple) -> TrainStep:
    """Returns a jitted TrainStep; `shapes` are an abstract (state, batch) of any bucket."""

    step = jax.jit(step, inline=True)  # traced once: for the names of its metrics and to run

    def run(state: TrainState, totals: Tree, batch: Batch) -> tuple:
        state, metrics = step(state, batch)
        finite = jnp.all(jnp.stack([jnp.isfinite(metrics[k][0]) for k in MUST_BE_FINITE]))
        bad = jnp.minimum(totals["bad"], jnp.where(finite, NEVER, state.step))
        sums = jax.tree.map(jnp.add, totals["sums"], metrics)
        loss = metrics["loss"][0] / jnp.maximum(metrics["loss"][1], 1e-9)
        return state, {"sums": sums, "bad": bad}, loss

    with progress.Waiting("tracing the step"):
        metrics = jax.eval_shape(step, *shapes)[1]
    whole = NamedSharding(mesh, P())

    def zeros() -> Tree:
        sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)
        return {"sums": sums, "bad": jnp.full((), NEVER, jnp.int32)}

    compiled = jax.jit(
        run,
        donate_argnums=(0, 1),
        in_shardings=(shardings, whole, mesh_lib.batch_sharding(mesh)),
        out_shardings=(shardings, whole, whole),
    )

    def flops(state: TrainState, totals: Tree, batch: Batch) -> float:
        # a call has traced it already, so this takes no time
        return flops_lib.count(compiled.trace(state, totals, batch).jaxpr)

    return TrainStep(compiled, jax.jit(zeros, out_shardings=whole), flops)


def compile_eval_step(evaluate: Callable, mesh: Mesh, shardings: TrainState) -> Callable:
    """Returns the jitted evaluation step: (state, batch) -> metrics, the same on every device."""
    return jax.jit(
        evaluate,
        in_shardings=(shardings, mesh_lib.batch_sharding(mesh)),
        out_shardings=NamedSharding(mesh, P()),
    )
