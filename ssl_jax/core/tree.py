"""Trees of arrays addressed by path names such as `encoder/blocks/attention/query/kernel`."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

Tree = Any


def path_name(path: tuple) -> str:
    """Returns the slash-separated name of a jax key path."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Tree) -> list[tuple[str, Any]]:
    """Returns (path name, leaf) for every leaf, in tree order."""
    return [(path_name(p), x) for p, x in jax.tree_util.tree_leaves_with_path(tree)]


def map_named(fn: Callable, tree: Tree, *rest: Tree) -> Tree:
    """Maps fn(name, leaf, *other leaves) over trees of equal structure."""
    return jax.tree_util.tree_map_with_path(lambda p, *x: fn(path_name(p), *x), tree, *rest)


def nested(named: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tree of dicts whose leaves have these path names."""
    tree: dict[str, Any] = {}
    for name, leaf in named.items():
        *parents, last = name.split("/")
        at = tree
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = leaf
    return tree


def idle(patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    """Returns the regexes of ordered rules that are never the first match for any of the names.

    The last rule, which is for all others, is not checked.
    """
    firsts = {next((p for p in patterns if re.search(p, name)), None) for name in names}
    return [p for p in patterns[:-1] if p not in firsts]


def count(tree: Tree) -> int:
    """Returns the number of scalars in a tree."""
    return sum(x.size for x in jax.tree.leaves(tree))
