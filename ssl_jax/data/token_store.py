"""Tokenized text in one file that is mapped into memory, so that no corpus must fit there."""

import array
import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator
from typing import IO

import numpy as np
import tqdm

from ssl_jax.core import atomic, paths, pulse
from ssl_jax.data.errors import Bad, BadFile, DataError, Unreadable
from ssl_jax.data.readers import files
from ssl_jax.data.readers.base import Source
from ssl_jax.data.tokenizers import Tokenizer

# Text is tokenized in lots of about this many characters.
_LOT = 1 << 20
_FORMAT = 2  # since a byte order mark is no token


@dataclasses.dataclass(frozen=True)
class TokenStore:
    """The tokens of a source, text after text, each followed by the end token.

    starts (texts + 1,): where each begins; a row of a source has one text, or two in a row.
    bads: documents of which a part is missing, and why.
    """

    path: str
    dtype: str
    starts: np.ndarray
    bads: tuple[Bad, ...]
    _map: list[np.ndarray] = dataclasses.field(default_factory=list, repr=False)

    def __reduce__(self) -> tuple:
        # A worker process maps the file for itself; copying a map would read it all.
        return TokenStore, (self.path, self.dtype, self.starts, self.bads)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns tokens [start, stop) of the whole file."""
        if not self._map:
            empty = not len(self.starts) or not self.starts[-1]
            mapped = np.zeros(0, self.dtype) if empty else np.memmap(self.path, self.dtype, "r")
            self._map.append(mapped)
        return self._map[0][start:stop]


def open_store(source: Source, tokenizer: Tokenizer, on_bad: str) -> TokenStore:
    """Returns the tokens of a source, from the cache folder or made there now.

    The file is made once for the same text and tokenizer, whatever the length of a block. Raises
    BadFile for a document that is no text, unless `on_bad` is "skip".
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
    bads = [Bad(row, source.where(row), why) for row, why in zip(rows, texts, strict=True)]
    if bads and on_bad == "raise":
        raise BadFile(bads[0].where, bads[0].reason)
    return TokenStore(str(tokens), dtype, starts, tuple(bads))


def _write(
    source: Source, tokenizer: Tokenizer, dtype: str, path: pathlib.Path
) -> tuple[np.ndarray, dict[int, str]]:
    """Writes the tokens in one move -> (starts, bad row -> reason)."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.writing(path) as f:
            found = _encode(source, tokenizer, dtype, f)
    except OSError as e:
        raise DataError(
            f"the tokens of config.data.{source.name} cannot be kept in {path.parent} ({e}): set "
            "the environment variable SSL_JAX_CACHE to a folder with room for them"
        ) from e
    return found


def _encode(
    source: Source, tokenizer: Tokenizer, dtype: str, file: IO[bytes]
) -> tuple[np.ndarray, dict[int, str]]:
    """Writes the tokens of every text of a source, lot by lot."""
    end = np.array([tokenizer.special.eos], dtype).tobytes()
    starts, total = array.array("q", [0]), 0
    broken: dict[int, str] = {}
    for lot in _lots(_pieces(source, broken)):
        found = tokenizer.encode([piece for piece, _ in lot])
        for ids, (_, last) in zip(found, lot, strict=True):
            file.write(ids.astype(dtype).tobytes())
            total += len(ids)
            if last:
                # An empty text has no end either.
                if total > starts[-1]:
                    file.write(end)
                    total += 1
                starts.append(total)
    return np.array(starts, np.int64), broken


def _pieces(source: Source, broken: dict[int, str]) -> Iterator[tuple[str, bool]]:
    """Yields (piece, whether a text ends with it); notes rows that cannot be read to the end."""
    reader = source.reader
    bar = tqdm.tqdm(source.rows.tolist(), f"tokenizing {source.name}", unit="text", delay=2)
    for i, row in enumerate(pulse.along(bar)):
        for part in range(reader.parts):
            try:
                for piece in reader.read(row, part):
                    yield piece, False
            except Unreadable as e:
                broken[i] = str(e)
            yield "", True


def _lots(pieces: Iterator[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    """Groups pieces into lots of at least _LOT characters."""
    lot, size = [], 0
    for piece in pieces:
        lot.append(piece)
        # Ends of empty texts weigh too, so that a lot of them is not endless.
        size += len(piece[0]) + 16
        if size >= _LOT:
            yield lot
            lot, size = [], 0
    yield lot
