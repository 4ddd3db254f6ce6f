"""The vocabulary of a CTC model, from the files next to its weights. Nothing is guessed.

transformers: vocab.json, the tokens added to it (added_tokens.json, tokenizer_config.json) and the
padding token, which is the blank. fairseq: the dictionary of the targets, in the checkpoint or as
dict.ltr.txt next to it, after four special symbols, the first of which is the blank.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_jax.hub.speech import BLANK, LETTERS, Config
from ssl_jax.hub.table import WeightsError

VOCAB, ADDED, TOKENIZER = "vocab.json", "added_tokens.json", "tokenizer_config.json"
SPECIAL_MAP = "special_tokens_map.json"
FILES = (VOCAB, ADDED, TOKENIZER, SPECIAL_MAP)
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # of every dictionary of fairseq


def tokens(config: Config, rows: int, where: str) -> tuple[str, ...]:
    """Returns the tokens of the `rows` rows of a classifier, the blank first.

    config: with the vocabulary that `files.read` or `fairseq.read` found next to the weights.
    Raises WeightsError if no file names the tokens, or if their number does not fit the rows.
    """
    if "dictionary" in config:
        found, blank = [str(token) for token in config["dictionary"]], 0
    elif VOCAB in config.get("tokenizer", {}):
        found, blank = _of_tokenizer(config, where)
    else:
        raise WeightsError(
            f"{where} has a classifier of {rows} tokens, and no file next to it names them: add "
            f"the vocab.json of its tokenizer, or the dict.ltr.txt of a fairseq model"
        )
    size = config.get("vocab_size") or rows
    if len(found) != rows or size != rows:
        raise WeightsError(
            f"{where}: its classifier has {rows} rows, its config has vocab_size {size}, and the "
            f"vocabulary next to it, with added tokens, has {len(found)} tokens: use the tokenizer "
            f"that the model was trained with"
        )
    found = [BLANK, *found[:blank], *found[blank + 1 :]]
    return LETTERS if tuple(found[4:]) == LETTERS[4:] else tuple(found)


def _of_tokenizer(config: Config, where: str) -> tuple[list[str], int]:
    """Returns (the tokens in order, the number of the blank) of a tokenizer of transformers."""
    files: dict[str, Any] = config["tokenizer"]
    numbers = _numbers(files, where)
    by_number: dict[int, str] = {}
    for token, number in numbers.items():
        if by_number.setdefault(number, token) != token:
            raise WeightsError(
                f"{where}: its tokenizer gives {token!r} and {by_number[number]!r} the number "
                f"{number}: {VOCAB} and {ADDED} need a number for each"
            )
    hole = next((i for i in range(len(by_number)) if i not in by_number), None)
    if hole is not None:
        raise WeightsError(
            f"{where}: no token of its {VOCAB} has the number {hole}, but some have higher ones: "
            f"add the missing {ADDED} or {TOKENIZER}"
        )
    blank = int(config.get("pad_token_id") or 0)
    pad = _pad(files, numbers)
    if pad is not None and numbers.get(pad) != blank:
        raise WeightsError(
            f"{where}: pad_token_id is {blank}, and its tokenizer's padding token {pad!r} has the "
            f"number {numbers.get(pad)}: that token is the blank, and the two must agree"
        )
    if blank not in by_number:
        raise WeightsError(f"{where}: pad_token_id is {blank}, and no token has that number")
    return [by_number[i] for i in range(len(by_number))], blank


def _numbers(files: dict[str, Any], where: str) -> dict[str, int]:
    """Returns the number of each token, including the added ones."""
    named = {VOCAB: _of_language(files, where), ADDED: files.get(ADDED, {})}
    decoder = files.get(TOKENIZER, {}).get("added_tokens_decoder") or {}
    named[TOKENIZER] = {_content(token): _integer(number) for number, token in decoder.items()}
    found: dict[str, int] = {}
    for name, numbers in named.items():
        for token, number in numbers.items():
            if type(number) is not int or number < 0 or not isinstance(token, str):
                raise WeightsError(
                    f"{where}: its {name} gives {token!r} the number {number!r}: use 0 or more"
                )
            if found.setdefault(token, number) != number:
                raise WeightsError(
                    f"{where}: the files next to it give {token!r} the numbers {found[token]} and "
                    f"{number} ({name}): remove the file of the other model"
                )
    return found


def _of_language(files: dict[str, Any], where: str) -> dict[str, Any]:
    """Returns vocab.json, or its part for one language where it has several."""
    vocab = files[VOCAB]
    if not vocab or not all(isinstance(part, dict) for part in vocab.values()):
        return vocab
    language = files.get(TOKENIZER, {}).get("target_lang") or (
        next(iter(vocab)) if len(vocab) == 1 else None
    )
    if language not in vocab:
        raise WeightsError(
            f"{where}: its {VOCAB} has {len(vocab)} languages ({', '.join(vocab)[:60]}), "
            f"and target_lang of {TOKENIZER} is {language!r}: set it to one of them"
        )
    return vocab[language]


def _pad(files: dict[str, Any], numbers: dict[str, int]) -> str | None:
    """Returns the padding token that the tokenizer's files name, or that has a usual name."""
    for name in (TOKENIZER, SPECIAL_MAP):
        token = files.get(name, {}).get("pad_token")
        if token is not None:
            return _content(token)
    return next((name for name in ("<pad>", "[PAD]") if name in numbers), None)


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _integer(number: str) -> int | str:
    return int(number) if number.isdecimal() else number


def beside(path: Path, labels: str) -> list[str]:
    """Returns the symbols of the dictionary next to a checkpoint of fairseq, [] if there is none.

    Each of its lines has a symbol and a count. labels: config.task.labels, for example "ltr".
    """
    file = path.parent / f"dict.{Path(labels).name}.txt"
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    found = [line.rsplit(" ", 1)[0] for line in lines if line.strip()]
    if len(set(found)) < len(found):
        again = next(symbol for symbol in found if found.count(symbol) > 1)
        raise WeightsError(f"{file} names {again!r} twice: each symbol needs a line of its own")
    return [*SPECIAL, *found]


def vocab_json(names: Sequence[str]) -> dict[str, int]:
    """Returns vocab.json of tokens, in which the blank is named <pad>, and our <pad> is <s>.

    Raises WeightsError if two tokens would have the same name.
    """
    theirs = {BLANK: "<pad>", "<pad>": "<s>"}
    found = {theirs.get(token, token): i for i, token in enumerate(names)}
    if len(found) < len(names):
        raise WeightsError(
            f"the vocabulary has '<pad>', '<s>' and the blank: {VOCAB} has no names for all three"
        )
    return found
