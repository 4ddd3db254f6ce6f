"""Search for the best subnet of a supernet within a budget: by evolution, or at random.

The search is given a function that scores subnets, lower is better, and never scores one that is
over budget. Each generation draws from (seed, generation) alone and its scores are saved, so that a
killed search continues to the same bits. LightHuBERT (2203.15610) searches both ways.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.core import atomic
from ssl_jax.core.progress import Progress
from ssl_jax.nn.elastic_space import Space, Subnet

Score = Callable[[Sequence[Subnet]], Sequence[float]]
"""Subnets -> their losses; it is called with at most `Options.block` of them."""

STATE = "search.json"
KINDS = ("evolution", "random")
_TRIES = 30  # draws in a row that are of no use, before one is cut to the budget or none is left


@dataclasses.dataclass(frozen=True)
class Options:
    """How to search, and within what budget; 0 is no bound."""

    kind: str = "evolution"
    max_params: int = 0
    max_flops: int = 0  # of one clip of `frames` frames
    frames: int = 500
    population: int = 50
    generations: int = 20
    mutation: float = 0.1  # probability that a gene is drawn anew
    block: int = 16  # subnets that are scored at once
    seed: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind of the search is {self.kind!r}: use 'evolution' or 'random'")
        for key in ("population", "generations", "block"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} of the search is {getattr(self, key)}: use 1 or more")
        if not 0 < self.mutation <= 1:
            raise ValueError(f"mutation of the search is {self.mutation}: use 0.1, for example")


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search has scored, in the order of scoring."""

    space: Space
    options: Options
    losses: Mapping[Subnet, float]

    @property
    def best(self) -> Subnet:
        """The subnet of the lowest loss; of equal ones the first."""
        return min(self.losses, key=lambda subnet: self.losses[subnet])

    def front(self) -> list[Subnet]:
        """Returns the subnets that none of fewer parameters beats, from small to large."""
        size = {subnet: self.space.params(subnet) for subnet in self.losses}
        kept: list[Subnet] = []
        for subnet in sorted(self.losses, key=lambda s: (size[s], self.losses[s])):
            if not kept or self.losses[subnet] < self.losses[kept[-1]]:
                kept.append(subnet)
        return kept


def cost(space: Space, subnet: Subnet, options: Options) -> float:
    """Returns the share of the budget that a subnet takes: up to 1 it is within."""
    shares = [0.0]
    if options.max_params:
        shares.append(space.params(subnet) / options.max_params)
    if options.max_flops:
        shares.append(space.flops(subnet, options.frames) / options.max_flops)
    return max(shares)


def check_budget(space: Space, options: Options) -> None:
    """Raises ValueError for a budget that even the smallest subnet exceeds."""
    least = space.smallest()
    sizes = {"max_params": space.params(least), "max_flops": space.flops(least, options.frames)}
    for key, size in sizes.items():
        if 0 < getattr(options, key) < size:
            raise ValueError(
                f"{key} of the search is {getattr(options, key):,}, but the smallest subnet, "
                f"'{least}', has {size:,}: use {size} or more"
            )


def search(space: Space, score: Score, options: Options, folder: Path) -> Found:
    """Scores `generations` times `population` subnets within the budget, and returns all.

    Continues from FOLDER/search.json, which it writes after each generation. Raises ValueError on
    a budget below the smallest subnet, and on a file of another search.
    """
    check_budget(space, options)
    folder.mkdir(parents=True, exist_ok=True)
    losses, done = _resumed(space, options, folder)
    step = options.population
    with Progress("search: subnet", options.generations * step, done=done * step) as progress:
        for generation in range(done, options.generations):
            rng = np.random.default_rng([options.seed, generation])
            fresh = _fresh(space, options, losses, rng, generation)
            for first in range(0, len(fresh), options.block):
                block = fresh[first : first + options.block]
                losses |= zip(block, map(float, score(block)), strict=True)
            _save(space, options, losses, generation + 1, folder)
            progress.step(step)
    return Found(space, options, losses)


def fixed(space: Space, score: Score, texts: Sequence[str], block: int = 16) -> dict[str, float]:
    """Scores subnets that are given by name or text; returns {text: loss}."""
    nets = [space.parse(text) for text in texts]
    blocks = [nets[i : i + block] for i in range(0, len(nets), block)]
    values = [float(value) for part in blocks for value in score(part)]
    return dict(zip(texts, values, strict=True))


def random_subnet(space: Space, options: Options, rng: np.random.Generator) -> Subnet:
    """Draws a subnet within the budget; if 30 in a row are not, the last is cut down."""
    for _ in range(_TRIES):
        drawn = space.sample(rng)
        if cost(space, drawn, options) <= 1:
            return drawn
    return _cut(space, options, drawn, rng)


def largest_alike(space: Space, options: Options) -> Subnet:
    """Returns the largest subnet within the budget whose layers are all alike: no search at all."""
    check_budget(space, options)
    alike = [
        space.uniform(embed, heads, ratio, depth)
        for embed in space.embed
        for heads in space.heads
        for ratio in space.ratios
        for depth in space.depths
    ]
    within = [subnet for subnet in alike if cost(space, subnet, options) <= 1]
    return max(within, key=space.params)


def _fresh(
    space: Space,
    options: Options,
    losses: Mapping[Subnet, float],
    rng: np.random.Generator,
    generation: int,
) -> list[Subnet]:
    """Returns the subnets that a generation scores: none that was scored before, none twice."""
    fresh: dict[Subnet, None] = {}
    parents = sorted(losses, key=lambda subnet: losses[subnet])[: options.population]
    if not generation and options.kind == "evolution":
        fresh[largest_alike(space, options)] = None
    idle = 0  # a small space runs out of subnets
    while len(fresh) < options.population and idle < _TRIES:
        if generation and options.kind == "evolution":
            child = _child(space, options, parents, rng)
        else:
            child = random_subnet(space, options, rng)
        idle = idle + 1 if child in losses or child in fresh else 0
        if not idle:
            fresh[child] = None
    return list(fresh)


def _child(
    space: Space, options: Options, parents: Sequence[Subnet], rng: np.random.Generator
) -> Subnet:
    """Crosses two parents, each the better of two drawn ones, and mutates the genes."""
    a, b = (parents[int(min(rng.integers(len(parents), size=2)))] for _ in range(2))
    mutant = space.sample(rng)

    def gene(values: Sequence, drawn: Any) -> Any:
        return drawn if rng.random() < options.mutation else _one_of(values, rng)

    embed, depth = gene((a.embed, b.embed), mutant.embed), gene((a.depth, b.depth), mutant.depth)
    heads, ratios = [], []
    for i in range(depth):
        having = [p for p in (a, b) if i < p.depth]
        h, r = _one_of(space.heads, rng), _one_of(space.ratios, rng)
        heads.append(gene([p.heads[i] for p in having] or [h], h))
        ratios.append(gene([p.ratios[i] for p in having] or [r], r))
    child = Subnet(embed, tuple(heads), tuple(ratios))
    return _cut(space, options, child, rng)


def _one_of(values: Sequence, rng: np.random.Generator) -> Any:
    return values[int(rng.integers(len(values)))]


def _cut(space: Space, options: Options, subnet: Subnet, rng: np.random.Generator) -> Subnet:
    """Lowers genes drawn at random by one choice each until the subnet is within the budget."""
    while cost(space, subnet, options) > 1:
        subnet = _one_of(_smaller(space, subnet), rng)
    return subnet


def _smaller(space: Space, subnet: Subnet) -> list[Subnet]:
    """Returns the subnets with one gene lowered by one choice; the smallest has none."""

    def below(value: float, values: Sequence) -> list:
        i = list(values).index(value)
        return [values[i - 1]] if i else []

    found = [dataclasses.replace(subnet, embed=e) for e in below(subnet.embed, space.embed)]
    for depth in below(subnet.depth, space.depths):
        found.append(Subnet(subnet.embed, subnet.heads[:depth], subnet.ratios[:depth]))
    for key in ("heads", "ratios"):
        values = getattr(subnet, key)
        for i, value in enumerate(values):
            for lower in below(value, getattr(space, key)):
                changed: Any = {key: (*values[:i], lower, *values[i + 1 :])}
                found.append(dataclasses.replace(subnet, **changed))
    return found


def _about(space: Space, options: Options) -> dict:
    """Returns what a saved search must have in common with one that continues it."""
    given = {**dataclasses.asdict(space), **dataclasses.asdict(options)}
    del given["generations"], given["block"]  # may change: more of the same search
    return {key: list(v) if isinstance(v, tuple) else v for key, v in given.items()}


def _save(
    space: Space, options: Options, losses: Mapping[Subnet, float], done: int, folder: Path
) -> None:
    kept = {str(subnet): loss for subnet, loss in losses.items()}
    about = _about(space, options)
    atomic.write_json(folder / STATE, {"about": about, "generations": done, "losses": kept})


def _resumed(space: Space, options: Options, folder: Path) -> tuple[dict[Subnet, float], int]:
    """Returns the scores so far, and how many generations they are."""
    path = folder / STATE
    if not path.exists():
        return {}, 0
    saved = atomic.read_json(path, "remove it to begin the search anew")
    about = _about(space, options)
    for key, value in about.items():
        was = saved["about"].get(key)
        if _plain(was) != _plain(value):
            raise ValueError(
                f"{path} is of a search with {key}={was}, and this one has {value}: use another "
                f"folder, or remove the file"
            )
    losses = {space.parse(text): float(loss) for text, loss in saved["losses"].items()}
    return losses, saved["generations"]


def _plain(value: object) -> object:
    """Returns a value with lists in place of tuples, as JSON has it."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
