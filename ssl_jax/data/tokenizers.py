"""From text to token ids: by bytes, or by a JSON file of the Hugging Face library `tokenizers`."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ssl_jax.core import paths
from ssl_jax.data.errors import DataError

# Common names of the special tokens; the first that a vocabulary has is used.
_NAMES = {
    "bos": ("<s>", "[CLS]", "<bos>", "<|begin_of_text|>", "<|endoftext|>"),
    "eos": ("</s>", "[SEP]", "<eos>", "<|end_of_text|>", "<|endoftext|>"),
    "pad": ("<pad>", "[PAD]", "<|pad|>"),
    "unk": ("<unk>", "[UNK]"),
    "mask": ("<mask>", "[MASK]"),
}

_BYTES = {0: b"<s>", 1: b"<pad>", 2: b"</s>", 3: b"<unk>", 260: b"<mask>"}


class Special(NamedTuple):
    """Ids of the special tokens: start of a block, end of a text, padding, unknown, mask.

    A vocabulary without `unk` or `mask` has -1 there; one without `pad` uses `eos`.
    """

    bos: int
    eos: int
    pad: int
    unk: int
    mask: int


class Tokenizer(Protocol):
    """Turns text into ids; `sign` changes with anything that changes the ids."""

    vocab_size: int
    special: Special
    sign: str

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids (n,) of each text, without special tokens."""
        ...

    def decode(self, ids: np.ndarray) -> str:
        """Returns the text of ids (n,), special tokens by their names."""
        ...


class ByteTokenizer:
    """The bytes of UTF-8, in the order of RoBERTa's vocabulary: <s> 0, <pad> 1, </s> 2, <unk> 3,
    the bytes 4 to 259, <mask> 260."""

    vocab_size = 261
    special = Special(bos=0, eos=2, pad=1, unk=3, mask=260)
    sign = "byte"

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids (n,) of each text, without special tokens."""
        # Half a surrogate pair is not a character, but subtitle files contain them.
        raw = [np.frombuffer(t.encode("utf-8", "replace"), np.uint8) for t in texts]
        return [r.astype(np.uint32) + 4 for r in raw]

    def decode(self, ids: np.ndarray) -> str:
        """Returns the text of ids (n,), special tokens by their names."""
        raw = (_BYTES.get(int(i)) or bytes([int(i) - 4]) for i in ids)
        return b"".join(raw).decode("utf-8", "replace")


class JsonTokenizer:
    """A file written by `tokenizers.Tokenizer.save`, such as tokenizer.json of a checkpoint."""

    def __init__(self, path: str):
        library = _library()
        try:
            text = paths.expanded(path).read_text(encoding="utf-8-sig")
            self._tokenizer = library.Tokenizer.from_str(text)
        except OSError as e:
            raise DataError(
                f"config.data.tokenizer is {path!r}: use 'byte', or a JSON file of the library "
                f"tokenizers ({e})"
            ) from e
        except Exception as e:  # the library raises a bare Exception
            raise DataError(
                f"config.data.tokenizer={path!r} is not a JSON file of the library tokenizers: {e}"
            ) from e
        # Padding and truncation set in the file would change documents.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.vocab_size = int(self._tokenizer.get_vocab_size(with_added_tokens=True))
        self.sign = hashlib.sha256(text.encode()).hexdigest()
        ids = {k: self._id(names) for k, names in _NAMES.items()}
        missing = [k for k in ("bos", "eos") if ids[k] < 0]
        if missing:
            raise DataError(
                f"config.data.tokenizer={path!r} has no token for {missing[0]!r}: add one of "
                f"{', '.join(_NAMES[missing[0]])} to its vocabulary"
            )
        if ids["pad"] < 0:
            ids["pad"] = ids["eos"]
        self.special = Special(**ids)

    def _id(self, names: Sequence[str]) -> int:
        found = [self._tokenizer.token_to_id(name) for name in names]
        return next((int(i) for i in found if i is not None), -1)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids (n,) of each text, without special tokens."""
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(f.ids, np.uint32) for f in found]

    def decode(self, ids: np.ndarray) -> str:
        """Returns the text of ids (n,), special tokens by their names."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)


def open_tokenizer(name: str) -> Tokenizer:
    """Returns the tokenizer of config.data.tokenizer: "byte", or the path of a JSON file."""
    return ByteTokenizer() if name == "byte" else JsonTokenizer(name)


def _library() -> Any:
    try:
        import tokenizers  # an optional dependency
    except ImportError as e:
        raise DataError(
            "config.data.tokenizer names a file, which needs the library tokenizers: "
            "pip install 'ssl_jax[text]', or set it to 'byte'"
        ) from e
    return tokenizers
