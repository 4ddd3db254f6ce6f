"""The optimizer of a run, from config.optim: clip, moments, weight decay, layer rates, schedule.

Parameters are addressed by path names and regexes. The blocks of an encoder are one stacked
tree, so what holds per block is computed along the leading axis of those leaves.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from ssl_jax.core import tree as tree_lib
from ssl_jax.core.config import ConfigError, suggest
from ssl_jax.core.types import Array
from ssl_jax.engine import adafactor
from ssl_jax.ops import schedules
from ssl_jax.ops.schedules import Schedule

Tree = Any
ToSteps = Callable[[int | str], int]

KEYS = (
    *("name", "lr", "schedule", "warmup", "end_lr", "stages", "start_factor", "end_factor"),
    *("betas", "eps", "weight_decay", "decay_rules", "layer_decay", "layer_decay_embedding"),
    *("frozen", "freeze_until", "frozen_first", "clip"),
)
NEWER = ("eps_inside", "lr_rules")  # keys that older runs lack
OPTIMIZERS = ("adamw", "adam_l2", "sgd", "lars", "lamb", "adafactor")
# schedule: which of warmup and end_lr it reads; setting the other is an error
SCHEDULES = {
    "cosine": ("warmup", "end_lr"),
    "linear": ("warmup", "end_lr"),
    "tri_stage": (),
    "inverse_sqrt": ("warmup",),
    "one_cycle": (),
    "constant": ("warmup",),
}
LARS_TRUST = 0.001  # You et al. 2017

STACKED = r"(^|/)blocks/"
BLOCKS = r"^(encoder(?:/[^/]+)?)/blocks/"  # of the encoder, or of each of several
# what comes before the first block: front end, positions, class and mask tokens, first norm;
# relative positions act in all blocks and have the full rate, as in BEiT
EMBEDDING = r"^encoder/(?!blocks/|final_norm|relative/)|^mask"
ENCODER = "encoder"


def make(
    config: ConfigDict, params: Tree, *, total_steps: int, to_steps: ToSteps, depth: int
) -> tuple[optax.GradientTransformation, Schedule]:
    """Returns the optimizer of `config`, the section config.optim, and its learning rate.

    `params` may be abstract, `to_steps` turns a duration into steps, `depth` is the number of
    blocks. In order: frozen parameters get no gradient; the global norm is clipped; the named
    optimizer works on each leaf in float32; layer factors and the learning rate scale the
    result. Frozen leaves have no state. The `frozen_first` leaves do not move, with empty
    moments, for the first `freeze_until` updates, and then start like new ones.

    adamw, adafactor and lamb decay weights apart from the gradient; adam_l2, sgd and lars add the
    decay to it, as torch does. sgd and lars take betas[0] as momentum, and the rate is applied
    after it.
    Raises ConfigError, naming the key or the parameter.
    """
    _check(config)
    names = [name for name, _ in tree_lib.named_leaves(params)]
    schedule = make_schedule(config, total_steps=total_steps, to_steps=to_steps)
    start = to_steps(config.freeze_until)
    frozen = _found(config.frozen, names, "frozen")
    late = _found(config.frozen_first, names, "frozen_first") - frozen
    if not start:
        late = frozenset()
    free = frozenset(names) - frozen - late
    if not free | late:
        raise ConfigError(f"config.optim.frozen {config.frozen} matches every parameter: use fewer")
    rule = optax.chain(
        _rule(config, decay_rates(config, names)),
        _scale_by_name(rate_factors(config, params, depth)),
    )
    parts = []
    if frozen:
        parts.append(_only(frozen, optax.set_to_zero()))
    if late:
        # ahead of the clip: a gradient that moves nothing must not shrink the others
        parts.append(_only(late, _from_step(start, optax.identity())))
    if config.clip:
        parts.append(optax.clip_by_global_norm(config.clip))
    parts.append(_only(free, rule))
    if late:
        parts.append(_only(late, _from_step(start, rule)))
    parts.append(optax.scale_by_learning_rate(schedule))
    return _in_float32(optax.chain(*parts)), schedule


def depth(params: Tree) -> int:
    """Returns the number of blocks, of several encoders those of the deepest."""
    return max(depths(params).values(), default=0)


def depths(params: Tree) -> dict[str, int]:
    """Returns {prefix of an encoder: number of its blocks}, the first axis of their parameters.

    The prefix is "encoder" or, of a method with several encoders, "encoder/<stream>" each.
    """
    found: dict[str, int] = {}
    for name, x in tree_lib.named_leaves(params):
        match = re.search(BLOCKS, name)
        if match:
            found.setdefault(match[1], x.shape[0])
    return {ENCODER: found[ENCODER]} if ENCODER in found else found


def make_schedule(config: ConfigDict, *, total_steps: int, to_steps: ToSteps) -> Schedule:
    """Returns the learning rate, step -> float, that config.optim names. Raises ConfigError."""
    name, lr = config.schedule, config.lr
    _choose("schedule", name, tuple(SCHEDULES))
    if not lr > 0:
        raise ConfigError(f"config.optim.lr is {lr}: use a number above 0, such as 0.001")
    if total_steps < 1:
        raise ConfigError(f"the run has {total_steps} steps: set config.train.duration above 0")
    warmup = to_steps(config.warmup)
    for key, value, off in (("warmup", warmup, "0 steps"), ("end_lr", config.end_lr, 0.0)):
        if value and key not in SCHEDULES[name]:
            raise ConfigError(
                f"config.optim.{key} is {config[key]!r}, which config.optim.schedule {name!r} "
                f"does not read: set it to {off!r}"
            )
    if name == "cosine":
        return schedules.warmup_cosine(lr, total_steps, warmup, config.end_lr)
    if name == "linear":
        return schedules.warmup_linear(lr, total_steps, warmup, config.end_lr)
    if name == "tri_stage":
        return schedules.tri_stage(
            lr, total_steps, tuple(config.stages), config.start_factor, config.end_factor
        )
    if name == "inverse_sqrt":
        return schedules.inverse_sqrt(lr, warmup)
    if name == "one_cycle":
        return schedules.one_cycle(lr, total_steps)
    return schedules.constant(lr, warmup)


def decay_rates(config: ConfigDict, names: Sequence[str]) -> dict[str, float]:
    """Returns weight_decay times the factor of the first of decay_rules found in each name.

    Raises ConfigError naming the parameter in which none is found, or a rule that is never the
    first to be found.
    """
    rates = {}
    for name in names:
        found = [f for p, f in config.decay_rules if _search(p, name, "decay_rules")]
        if not found:
            raise ConfigError(
                f"no rule of config.optim.decay_rules matches the parameter {name!r}: "
                f"add one, or end with ('.*', 1.0)"
            )
        rates[name] = config.weight_decay * found[0]
    for pattern in tree_lib.idle([pattern for pattern, _ in config.decay_rules], names):
        raise ConfigError(
            f"config.optim.decay_rules: {pattern!r} is never the first match: remove it, or move "
            f"it up; {suggest(pattern, names)}"
        )
    return rates


def rate_factors(config: ConfigDict, params: Tree, depth: int) -> dict[str, float | np.ndarray]:
    """Returns the product of `layer_factors` and `group_factors`, where it is not 1."""
    factors = layer_factors(config, params, depth)
    groups = group_factors(config, [name for name, _ in tree_lib.named_leaves(params)])
    return factors | {name: factors.get(name, 1.0) * group for name, group in groups.items()}


def group_factors(config: ConfigDict, names: Sequence[str]) -> dict[str, float]:
    """Returns the factor of the learning rate, and thus of the decay, of each parameter in whose
    name one of lr_rules is found: that of the first. Raises ConfigError as `decay_rates` does."""
    rules = [(str(pattern), float(factor)) for pattern, factor in config.get("lr_rules", ())]
    for pattern, factor in rules:
        if not factor > 0:
            raise ConfigError(
                f"config.optim.lr_rules: the factor of {pattern!r} is {factor}: use one above 0, "
                f"or name the parameters in config.optim.frozen"
            )
    found = {
        name: next((f for p, f in rules if _search(p, name, "lr_rules")), 1.0) for name in names
    }
    for pattern in tree_lib.idle([*(pattern for pattern, _ in rules), ".*"], names):
        raise ConfigError(
            f"config.optim.lr_rules: {pattern!r} is never the first match: remove it, or move it "
            f"up; {suggest(pattern, names)}"
        )
    return {name: factor for name, factor in found.items() if factor != 1}


def layer_factors(config: ConfigDict, params: Tree, depth: int) -> dict[str, float | np.ndarray]:
    """Returns the factor of the learning rate of each parameter that is not at full rate.

    As in BEiT: with L blocks, all that comes before them gets layer_decay^(L + 1), block i,
    counted from 0, layer_decay^(L - i), and what follows (final norm, heads) 1. Without
    layer_decay_embedding, as in data2vec 2.0, what comes before gets 1 too. A leaf of the
    stacked blocks (L, ...) has a vector over its first axis. Several encoders each have their own
    depth, and what no encoder owns has the full rate. Raises ConfigError.
    """
    base = config.layer_decay
    if base == 1:
        return {}
    known = depths(params)
    if not known:
        raise ConfigError(
            f"config.optim.layer_decay is {base} and no parameter lies under encoder/blocks: "
            f"set it to 1.0"
        )
    if ENCODER in known:
        known = {ENCODER: depth}
    factors: dict[str, float | np.ndarray] = {}
    for name, leaf in tree_lib.named_leaves(params):
        blocks, part = _inside(name, known)
        if part.startswith(f"{ENCODER}/blocks/"):
            if leaf.shape[0] != blocks:
                raise ConfigError(
                    f"config.optim.layer_decay: {name!r} has {leaf.shape[0]} layers and the "
                    f"encoder {blocks}: set config.method.encoder.depth to {leaf.shape[0]}"
                )
            vector = base ** np.arange(blocks, 0, -1, dtype=np.float64)
            factors[name] = vector.reshape(-1, *(1,) * (len(leaf.shape) - 1)).astype(np.float32)
        elif config.layer_decay_embedding and re.search(EMBEDDING, part):
            factors[name] = base ** (blocks + 1)
    return factors


def _inside(name: str, known: Mapping[str, int]) -> tuple[int, str]:
    """Returns the depth of the encoder that a parameter belongs to, and its name in a method with
    that encoder alone; "" if no encoder owns it. Mask tokens belong to that of their stream."""
    for prefix, blocks in known.items():
        if name.startswith(f"{prefix}/"):
            return blocks, ENCODER + name.removeprefix(prefix)
        if f"{name}/".startswith(prefix.replace(ENCODER, "mask") + "/"):
            return blocks, name
    return max(known.values()), "" if name.startswith(f"{ENCODER}/") else name


def _rule(config: ConfigDict, rates: dict[str, float]) -> optax.GradientTransformation:
    """Returns the update of one leaf before the learning rate and layer factors."""
    momentum, second = config.betas
    adam = _scale_by_adam(momentum, second, config.eps, config.get("eps_inside", False))
    decay = _add_decay(rates)
    if config.name == "adamw":
        return optax.chain(adam, decay)
    if config.name == "adafactor":
        return optax.chain(adafactor.scale(momentum, second, config.eps, STACKED), decay)
    if config.name == "adam_l2":
        return optax.chain(decay, adam)
    if config.name == "lamb":
        return optax.chain(adam, decay, _scale_by_trust(1.0))
    # optax.sgd and optax.lars; lars there takes the rate before the momentum, MAE's after it
    trust = _scale_by_trust(LARS_TRUST) if config.name == "lars" else optax.identity()
    return optax.chain(decay, trust, optax.trace(momentum))


def _scale_by_adam(
    first: float, second: float, eps: float, inside: bool
) -> optax.GradientTransformation:
    """Returns Adam; `inside` adds eps before the bias of the second moment is corrected.

    As in fairseq. Early in a run its eps is then 1 / sqrt(1 - second^n) times as large as that
    of torch and of the paper, 7 times in the first update with 0.98.
    """
    adam = optax.scale_by_adam(first, second, eps)
    if not inside:
        return adam

    def update(updates: Tree, state: Any, params: Tree = None) -> tuple[Tree, Any]:
        _, state = adam.update(updates, state, params)
        count = state.count.astype(jnp.float32)
        mean, root = 1 - first**count, jnp.sqrt(1 - second**count)
        moved = jax.tree.map(lambda m, v: m / mean * root / (jnp.sqrt(v) + eps), state.mu, state.nu)
        return moved, state

    return optax.GradientTransformation(adam.init, update)


def _add_decay(rates: dict[str, float]) -> optax.GradientTransformation:
    if not any(rates.values()):
        return optax.identity()
    return optax.stateless(
        lambda updates, params: tree_lib.map_named(
            lambda name, u, p: u + rates[name] * p if rates[name] else u, updates, params
        )
    )


def _scale_by_name(factors: dict[str, float | np.ndarray]) -> optax.GradientTransformation:
    if not factors:
        return optax.identity()
    return optax.stateless(
        lambda updates, _: tree_lib.map_named(
            lambda name, u: u * factors[name] if name in factors else u, updates
        )
    )


def _scale_by_trust(coefficient: float) -> optax.GradientTransformation:
    """Scales each matrix by norm(weights) / norm(update), the layers of a stack one by one.

    Biases and norms, with one axis, stay as they are (as in MAE and in BERT's LAMB).
    """
    inner = optax.scale_by_trust_ratio(trust_coefficient=coefficient)

    def scale(update: Array, param: Array) -> Array:
        return inner.update(update, optax.EmptyState(), param)[0]

    def leaf(name: str, update: Array, param: Array) -> Array:
        stacked = bool(re.search(STACKED, name))
        if update.ndim - stacked <= 1:
            return update
        return jax.vmap(scale)(update, param) if stacked else scale(update, param)

    return optax.stateless(lambda updates, params: tree_lib.map_named(leaf, updates, params))


def _only(names: frozenset[str], tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Applies `tx` to the named leaves; the others pass through, and have no state."""
    return optax.masked(tx, lambda tree: tree_lib.map_named(lambda name, _: name in names, tree))


def _from_step(start: int, tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns zeros, and leaves the state of `tx` as it is, for the first `start` updates."""
    return optax.conditionally_mask(tx, lambda step: step >= start)


def _in_float32(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Keeps moments and arithmetic in float32 whatever the parameters and gradients are."""

    def cast(tree: Tree) -> Tree:
        return jax.tree.map(lambda x: x.astype(jnp.float32), tree)

    def update(updates: Tree, state: Tree, params: Tree = None) -> tuple[Tree, Tree]:
        if params is None:
            raise ValueError("weight decay and trust ratios read the parameters: pass params")
        return tx.update(cast(updates), state, cast(params))

    return optax.GradientTransformation(lambda params: tx.init(cast(params)), update)


def _found(patterns: Sequence[str], names: Sequence[str], key: str) -> frozenset[str]:
    """Returns the names in which a pattern is found; each pattern must be found somewhere."""
    found: set[str] = set()
    for pattern in patterns:
        if not pattern:
            raise ConfigError(
                f"config.optim.{key} is {tuple(patterns)}, and '' is found in every name: take it "
                f"out"
            )
        hits = {name for name in names if _search(pattern, name, key)}
        if not hits:
            hint = suggest(pattern, names)
            raise ConfigError(f"config.optim.{key}: no parameter matches {pattern!r}: {hint}")
        found |= hits
    return frozenset(found)


def _search(pattern: str, name: str, key: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error as error:
        raise ConfigError(
            f"config.optim.{key}: {pattern!r} is not a regex ({error}): use one such as 'bias$'"
        ) from error


def _choose(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(f"config.optim.{key} is {value!r}: {suggest(value, choices)}")


def _check(config: ConfigDict) -> None:
    """Raises ConfigError on a missing or unknown key and on numbers out of range."""
    for key in config:
        if key not in KEYS + NEWER:
            raise ConfigError(f"config.optim.{key} does not exist: {suggest(key, KEYS + NEWER)}")
    for key in KEYS:
        if key not in config:
            raise ConfigError(f"config.optim.{key} is missing: start from configs/common.py")
    _choose("name", config.name, OPTIMIZERS)
    if config.get("eps_inside", False) and config.name in ("sgd", "lars", "adafactor"):
        raise ConfigError(
            f"config.optim.eps_inside is True, but config.optim.name {config.name!r} has no eps "
            f"that could be inside: set it to False, or the name to 'adamw'"
        )
    ranges = (
        ("weight_decay", config.weight_decay >= 0, "0.0 or more"),
        ("clip", config.clip >= 0, "a norm such as 1.0, or 0.0 for no clipping"),
        ("eps", config.eps > 0, "a small number such as 1e-8"),
        ("layer_decay", 0 < config.layer_decay <= 1, "a factor up to 1.0, such as 0.65"),
        (
            "betas",
            len(config.betas) == 2 and all(0 <= b < 1 for b in config.betas),
            "two numbers from 0 to below 1, such as (0.9, 0.999)",
        ),
    )
    for key, good, use in ranges:
        if not good:
            raise ConfigError(f"config.optim.{key} is {config[key]!r}: use {use}")
