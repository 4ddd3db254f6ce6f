"""One path for all splits: a part of the training data is held out where the others have none.

Where config.data.valid or test has a source of the same name as train, and its path is that of a
published data set (data/...) which does not exist, or it would be the same rows as train, it
becomes a permanent part of the training source. A config whose splits exist and differ is left as
it is, and any other path that does not exist is an error.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ssl_jax.core import paths
from ssl_jax.data.readers import lines
from ssl_jax.engine import log, splits
from ssl_jax.engine.splits import Split

SIDES = ("valid", "test")
PUBLISHED = "data/"  # how the paths of data sets begin in the configs of this package
WHOLE = (0.0, 1.0)
# where train and the splits after it end, by the number of splits beside train
CUTS = {1: (0.95,), 2: (0.9, 0.95)}
LABELLED_CUTS = {1: (0.8,), 2: (0.6, 0.8)}
TRUTH = ("label", "tags", "target", "transcript")
CHOICE = ("where", "part", "split", "splits")  # keys of a source that choose rows
OFFICIAL = ("speech_commands", "tfds")  # kinds whose rows depend on the split by themselves
TABLES = ("table", "text_table")
Options = dict[str, Any]


def complete(config: ConfigDict) -> tuple[ConfigDict, list[str]]:
    """Returns the locked config with held-out parts where it needs them, and notes that say so."""
    notes: list[str] = []
    changed: dict[tuple[str, str], Options] = {}
    for name in config.data.train:
        having = [s for s in ("train", *SIDES) if name in config.data.get(s, {})]
        own = {split: config.data[split][name].to_dict() for split in having}
        path = own["train"].get("path", "")
        if not path or paths.is_remote(path) or not paths.expanded(path).exists():
            continue  # which is an error of its own
        found, why = _present(own, name)
        found, more = _with_columns(found)
        found, shares = _divided(found)
        changed |= {(split, name): found[split] for split in own if found[split] != own[split]}
        done = f"of {path}, {shares} are held out" if shares else f"{path} is used" if why else ""
        notes += [": ".join(filter(None, ("; ".join(why + more), done)))] if done else []
    if not changed:
        return config, []
    config = config.copy_and_resolve_references()
    with config.unlocked():
        for (split, name), options in changed.items():
            config.data[split][name] = ConfigDict(options)
    return config.lock(), notes


def _present(own: dict[str, Options], name: str) -> tuple[dict[str, Options], list[str]]:
    """Gives the path of train to splits whose own does not exist; returns them, and which."""
    found, why, train = dict(own), [], own["train"]
    for split in (s for s in SIDES if s in own):
        path = own[split].get("path", "")
        if not path.startswith(PUBLISHED) or paths.expanded(path).exists():
            continue
        why.append(f"config.data.{split}.{name}.path={path!r} does not exist")
        same = own[split].get("kind") == train.get("kind")
        found[split] = {**(own[split] if same else train), "path": ""}
    return found, why


def _with_columns(own: dict[str, Options]) -> tuple[dict[str, Options], list[str]]:
    """Drops `where.split` of a table that has no column `split`."""
    train = own["train"]
    table = paths.expanded(train["path"])
    if train.get("kind") not in TABLES or "split" not in train.get("where", {}):
        return own, []
    if not table.is_file() or "split" in lines.read_table(table)[0]:
        return own, []
    found = {}
    for split, options in own.items():
        where = {k: v for k, v in options.get("where", {}).items() if k != "split"}
        found[split] = {**options, "where": where}
    return found, [f"{table} has no column 'split'"]


def _divided(own: dict[str, Options]) -> tuple[dict[str, Options], str]:
    """Divides the rows of train among the splits that have the same; returns them, and shares."""
    train = own["train"]
    same = [s for s in SIDES if s in own and _same_rows(own[s], train)]
    if not same or tuple(train.get("part", WHOLE)) != WHOLE:
        return own, ""
    cuts = (LABELLED_CUTS if any(train.get(key) for key in TRUTH) else CUTS)[len(same)]
    parts = dict(zip(("train", *same), itertools.pairwise((0.0, *cuts, 1.0)), strict=True))
    found = {s: {**o, "part": parts[s]} if s in parts else o for s, o in own.items()}
    shares = " and ".join(f"{b - a:.0%} for {s}" for s, (a, b) in parts.items() if s != "train")
    return found, shares


def _same_rows(one: Options, train: Options) -> bool:
    def chosen(options: Options) -> list[Any]:
        default: dict[str, Any] = {"part": WHOLE, "where": {}}
        return [options.get(key) or default.get(key) for key in CHOICE]

    if one.get("kind") in OFFICIAL and not one.get("split"):
        return False
    same = one.get("path") in ("", train["path"]) and one.get("kind") == train.get("kind")
    return same and chosen(one) == chosen(train)


def open_others(
    config: ConfigDict, workdir: Path, train: Split, notes: Sequence[str]
) -> dict[str, Split]:
    """Opens the splits as `splits.open_others` does; then says what was held out, after `notes`."""
    found = splits.open_others(config, workdir, train)
    for note in (*notes, *named(config, found)):
        log.notify(note)
    return found


def named(config: ConfigDict, opened: Mapping[str, Split]) -> list[str]:
    """Returns a line for each source that is a part of that of train: how many rows it has."""
    found = []
    for split in [s for s in SIDES if s in opened]:
        for source in opened[split].corpus.sources:
            name = source.name.partition(".")[2]
            own, train = config.data[split][name], config.data.train.get(name, {})
            shared = train and own.get("path", "") in ("", train.get("path"))
            if shared and tuple(own.get("part", WHOLE)) != WHOLE:
                found.append(
                    f"{split}: {len(source)} rows of {train.path} are held out, the first is "
                    f"{source.where(0)}"
                )
    return found
