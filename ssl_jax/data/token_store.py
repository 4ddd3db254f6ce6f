"""Tokenized text in one memory-mapped file, so that a corpus need not fit into memory."""

import array
import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator
from typing import IO

import numpy as np

from ssl_jax.core import atomic, paths, progress, pulse
from ssl_jax.data.errors import BadFile, DataError, InvalidRow, Unreadable
from ssl_jax.data.readers import files
from ssl_jax.data.readers.base import Source
from ssl_jax.data.tokenizers import Tokenizer

# Text is tokenized in batches of about this many characters.
_BATCH = 1 << 20
_FORMAT = 2  # raised when a byte order mark ceased to be a token


@dataclasses.dataclass(frozen=True)
class TokenStore:
    """The tokens of a source, text after text, each followed by the end token.

    starts (texts + 1,): where each begins; a row of a source has one text, or two in succession.
    invalid: documents that are missing in part, with the reason.
    """

    path: str
    dtype: str
    starts: np.ndarray
    invalid: tuple[InvalidRow, ...]
    _map: list[np.ndarray] = dataclasses.field(default_factory=list, repr=False)

    def __reduce__(self) -> tuple:
        # A worker process maps the file itself; copying a map would read it all.
        return TokenStore, (self.path, self.dtype, self.starts, self.invalid)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns tokens [start, stop) of the file."""
        if not self._map:
            empty = not len(self.starts) or not self.starts[-1]
            mapped = np.zeros(0, self.dtype) if empty else np.memmap(self.path, self.dtype, "r")
            self._map.append(mapped)
        return self._map[0][start:stop]


def open_store(source: Source, tokenizer: Tokenizer, on_bad: str) -> TokenStore:
    """Returns the tokens of a source, from the cache folder or written there now.

    The file is made once per text and tokenizer, and serves any block length. Raises BadFile for a
    document that is not text, unless `on_bad` is "skip".
    """
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    parts = (_FORMAT, source.reader.sign(source.rows), tokenizer.sign, dtype)
    name = f"tokens-{hashlib.sha256(repr(parts).encode()).hexdigest()[:24]}"
    folder = paths.cache()
    tokens, index = folder / f"{name}.bin", folder / f"{name}.npz"
    names = ("starts", "rows", "reasons")
    kept = atomic.read_arrays(index, names) if tokens.exists() else None
    if kept is None:
        starts, broken = _write(source, tokenizer, dtype, tokens)
        reasons = paths.utf8("".join(f"{reason}\0" for reason in broken.values()))
        kept = {"rows": np.array(list(broken), np.int64), "starts": starts}
        kept |= {"reasons": np.frombuffer(reasons, np.uint8)}
        files.save_index(index, **kept)
    starts, rows = kept["starts"], kept["rows"].tolist()
    texts = kept["reasons"].tobytes().decode().split("\0")[:-1]
    pairs = zip(rows, texts, strict=True)
    invalid = tuple(InvalidRow(row, source.where(row), why) for row, why in pairs)
    if invalid and on_bad == "raise":
        raise BadFile(invalid[0].where, invalid[0].reason)
    return TokenStore(str(tokens), dtype, starts, invalid)


def _write(
    source: Source, tokenizer: Tokenizer, dtype: str, path: pathlib.Path
) -> tuple[np.ndarray, dict[int, str]]:
    """Writes the tokens atomically -> (starts, {invalid row: reason})."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.writing(path) as f:
            found = _encode(source, tokenizer, dtype, f)
    except OSError as e:
        raise DataError(
            f"the tokens of config.data.{source.name} cannot be written to {path.parent} ({e}): "
            "set the environment variable SSL_JAX_CACHE to a folder with enough space"
        ) from e
    return found


def _encode(
    source: Source, tokenizer: Tokenizer, dtype: str, file: IO[bytes]
) -> tuple[np.ndarray, dict[int, str]]:
    """Writes the tokens of every text of a source, batch by batch."""
    end = np.array([tokenizer.special.eos], dtype).tobytes()
    starts, total = array.array("q", [0]), 0
    broken: dict[int, str] = {}
    for batch in _batches(_parts(source, broken)):
        found = tokenizer.encode([part for part, _ in batch])
        for ids, (_, last) in zip(found, batch, strict=True):
            file.write(ids.astype(dtype).tobytes())
            total += len(ids)
            if last:
                # An empty text has no end token either.
                if total > starts[-1]:
                    file.write(end)
                    total += 1
                starts.append(total)
    return np.array(starts, np.int64), broken


def _parts(source: Source, broken: dict[int, str]) -> Iterator[tuple[str, bool]]:
    """Yields (part of a text, whether it is the last); records rows that cannot be read fully."""
    reader = source.reader
    bar = progress.along(source.rows.tolist(), f"tokenizing texts of {source.name}")
    for i, row in enumerate(pulse.along(bar)):
        for number in range(reader.parts):
            try:
                for part in reader.read(row, number):
                    yield part, False
            except Unreadable as e:
                broken[i] = str(e)
            yield "", True


def _batches(parts: Iterator[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    """Groups parts into batches of at least _BATCH characters."""
    batch, size = [], 0
    for part in parts:
        batch.append(part)
        # The ends of empty texts count too, so that a batch of them is bounded.
        size += len(part[0]) + 16
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    yield batch
