"""A split of text: blocks of tokens cut from documents, or rows of a table of sentences."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.data.base import Arrays, Corpus, Shapes
from ssl_jax.data.errors import BadFile, DataError, InvalidRow
from ssl_jax.data.readers import content
from ssl_jax.data.readers.base import Source, part_of
from ssl_jax.data.readers.sources import open_items
from ssl_jax.data.readers.text_files import Table
from ssl_jax.data.token_store import TokenStore, open_store
from ssl_jax.data.tokenizers import Special, open_tokenizer

MODES = ("none", "complete_doc")


class Blocks(NamedTuple):
    """The examples of one source: tokens [start, stop) (n,) of its store, and their document.

    parts: texts per example for rows of a table, 0 for blocks of documents.
    """

    store: TokenStore
    start: np.ndarray
    stop: np.ndarray
    document: np.ndarray
    parts: int


@dataclasses.dataclass(frozen=True)
class TextCorpus(Corpus):
    """Blocks of at most `length` tokens; size and special are those of the tokenizer.

    Blocks have the label of their document or row; those of a continuous stream have none.
    """

    blocks: tuple[Blocks, ...]
    length: int
    size: int
    special: Special

    @property
    def vocab_size(self) -> int:
        """The number of ids of the tokenizer."""
        return self.size

    @functools.cached_property
    def content(self) -> str:
        """A digest of the bytes of the files and of the ids that the tokenizer gives them."""
        # stores are named after their text and tokenizer
        stores = " ".join(os.path.basename(b.store.path) for b in self.blocks)
        return f"{content.of(self.sources)} {stores}"

    @property
    def lengths(self) -> np.ndarray:
        """Tokens (n,) of each example, before rows of a table are shortened to a block."""
        return np.concatenate([1 + b.stop - b.start for b in self.blocks])

    @property
    def known_invalid(self) -> list[InvalidRow]:
        """Documents that are left out in part, with negative ids."""
        found = [row for b in self.blocks for row in b.store.invalid]
        return [row._replace(id=-1 - n) for n, row in enumerate(found)]

    def where(self, i: int) -> str:
        """Names the file and row in which a block begins."""
        source, number = part_of(self.first, i)
        return self.sources[source].where(int(self.blocks[source].document[number]))

    def column(self, name: str) -> list[str]:
        """Returns a column as text (n,): the value of the document in which each block begins."""
        out: list[str] = []
        for source, blocks in zip(self.sources, self.blocks, strict=True):
            values = source.columns.get(name)
            chosen = [""] * len(blocks.start) if values is None else values[blocks.document]
            out += [str(v) for v in chosen]
        return out

    def shapes(self, seconds: float) -> Shapes:
        """Returns tokens (L,) int32 and tokens_len () int32."""
        del seconds
        return {"tokens": ((self.length,), "int32"), "tokens_len": ((), "int32")}

    def keys(
        self, ids: np.ndarray, epoch: np.ndarray, seconds: float, seed: int | None
    ) -> Sequence[int]:
        """Nothing is drawn: zeros (b,)."""
        del epoch, seconds, seed
        return [0] * len(ids)

    def fill(self, i: int, key: int, arrays: Arrays, row: int) -> None:
        """Reads block i into tokens[row], padded with <pad>. Raises BadFile for empty text."""
        del key
        found = self.read(i)
        arrays["tokens"][row] = self.special.pad
        arrays["tokens"][row, : len(found)] = found
        arrays["tokens_len"][row] = len(found)

    def read(self, i: int) -> np.ndarray:
        """Returns the tokens (n,) int32 of a block: <s> and part of a document, or a row of a
        table as `<s> a </s>` or `<s> a </s></s> b </s>`. Raises BadFile for a row without text."""
        source, number = part_of(self.first, i)
        blocks = self.blocks[source]
        if not blocks.parts:
            start, stop = int(blocks.start[number]), int(blocks.stop[number])
            return self._joined([blocks.store.read(start, stop)])
        document = int(blocks.document[number])
        first = document * blocks.parts
        borders = blocks.store.starts[first : first + blocks.parts + 1].tolist()
        # Without their end tokens.
        spans = [(a, max(a, b - 1)) for a, b in itertools.pairwise(borders)]
        if any(a == b for a, b in spans):
            raise BadFile(self.where(i), "empty: a text has no tokens")
        room = self.length - 1 - len(spans) - (len(spans) - 1)
        kept = _shortened([b - a for a, b in spans], room)
        parts: list[Any] = []
        for (a, _), n in zip(spans, kept, strict=True):
            parts += [[self.special.eos]] * bool(parts)
            parts += [blocks.store.read(a, a + n), [self.special.eos]]
        return self._joined(parts)

    def check(self) -> None:
        """Raises BadFile for the first table row with an empty text."""
        for source, blocks in zip(self.sources, self.blocks, strict=True):
            if blocks.parts:
                empty = np.flatnonzero(np.diff(blocks.store.starts) == 0)
                if len(empty):
                    row = int(empty[0]) // blocks.parts
                    raise BadFile(source.where(row), "empty: a text has no tokens")

    def _joined(self, parts: list[Any]) -> np.ndarray:
        return np.concatenate([[self.special.bos], *parts]).astype(np.int32)


def _shortened(lengths: list[int], room: int) -> list[int]:
    """Returns how many tokens of each text are kept: the longer one is shortened first."""
    if sum(lengths) <= room:
        return lengths
    if len(lengths) == 1:
        return [room]
    short = min(min(lengths), room // 2)
    return [short, room - short] if lengths[0] <= lengths[1] else [room - short, short]


def open_sources(config: Mapping[str, Any], named: Mapping[str, Any]) -> list[Source]:
    """Opens the text sources of a split; `named`: "train.mine" -> its section."""
    if config["break_mode"] not in MODES:
        raise DataError(
            f"config.data.break_mode is {config['break_mode']!r}: use one of {', '.join(MODES)}"
        )
    if config["block_tokens"] < 8:
        raise DataError(
            f"config.data.block_tokens is {config['block_tokens']}: use 8 or more, such as 512"
        )
    return [open_items(name, options, "text") for name, options in named.items()]


def build(config: Mapping[str, Any], shared: Mapping[str, Any], split: str) -> TextCorpus:
    """Returns the corpus under config.data; shared: the fields of all corpora, by document."""
    del split
    tokenizer = open_tokenizer(config["tokenizer"])
    length = int(config["block_tokens"])
    whole = config["break_mode"] == "complete_doc"
    blocks, labels, places = [], [], []
    for first, source in zip(shared["first"], shared["sources"], strict=False):
        store = open_store(source, tokenizer, shared["on_bad"])
        own = _blocks(source, store, length - 1, whole)
        if not len(own.start):
            lost = store.invalid[:1]
            why = f": {lost[0].where} is {lost[0].reason}" if lost else ""
            raise DataError(f"config.data.{source.name} holds no text{why}")
        known = bool(own.parts) or whole
        if shared["fields"] and not known:
            raise DataError(
                f"config.data.{source.name} has a target or tags, which describe documents: set "
                "config.data.break_mode='complete_doc'"
            )
        blocks.append(own)
        places.append(first + own.document)
        codes = shared["labels"][places[-1]]
        labels.append(codes if known else np.full_like(codes, -1))
    place = np.concatenate(places)
    changed = {
        "first": np.cumsum([0] + [len(b.start) for b in blocks]),
        "labels": np.concatenate(labels),
        "fields": {name: values[place] for name, values in shared["fields"].items()},
    }
    return TextCorpus(
        **{**shared, **changed},
        blocks=tuple(blocks),
        length=length,
        size=tokenizer.vocab_size,
        special=tokenizer.special,
    )


def _blocks(source: Source, store: TokenStore, room: int, whole: bool) -> Blocks:
    """Cuts a source into blocks of at most `room` tokens, across documents or one by one."""
    starts = store.starts
    if isinstance(source.reader, Table):
        parts = source.reader.parts
        first = np.arange(len(source)) * parts
        return Blocks(store, starts[first], starts[first + parts], np.arange(len(source)), parts)
    if not whole:
        start = np.arange(0, starts[-1], room)
        document = np.searchsorted(starts, start, "right") - 1
        return Blocks(store, start, np.minimum(start + room, starts[-1]), document, 0)
    counts = -(-np.diff(starts) // room)
    document = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = starts[document] + number * room
    return Blocks(store, start, np.minimum(start + room, starts[document + 1]), document, 0)
