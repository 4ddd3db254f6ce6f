"""L2-ARCTIC: English read by learners of six mother tongues, a part of it annotated by phones.

<speaker>/wav/arctic_a0001.wav, with the sentence in transcript/arctic_a0001.txt and, for about 150
utterances of each speaker, annotation/arctic_a0001.TextGrid. A mark of its tier `phones` is a phone
that was said as it should be, or `CANONICAL,PERCEIVED,type`: s (substitution), d (deletion: what
was perceived is sil) or a (addition: the canonical phone is sil).
"""

import pathlib

from ssl_jax.data import phones
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import lines, textgrid
from ssl_jax.data.readers.base import Rows, text
from ssl_jax.data.readers.folders import find, rows_of

TEST = ("TLV", "NJS", "TNI", "TXHC", "ZHAA", "YKWK")
TIER = "phones"
TYPES = ("s", "d", "a")
_VALID = 10  # every tenth annotated utterance of a training speaker is for validation


def l2_arctic(path: pathlib.Path, options: dict) -> Rows:
    """Reads the corpus with the splits of 2203.15937: six speakers are the test, and a tenth of the
    annotated utterances of each other speaker the validation (which ones is not published).

    Columns: text, speaker, split (train, valid, test), annotated (yes, no), and of annotated
    utterances canonical, perceived (both in the set of `data/phones.py`, with one SIL for each
    pause) and pairs (see `phones.pairs_of`); "" of others. Option `leave_out` names utterances with
    broken annotations, such as ("YDCK/arctic_a0209",). Raises DataError for a mark that is unknown.
    """
    names = [p for p in find(path, (".wav",)) if _is_one(p)]
    if not names:
        raise DataError(f"{path} has no <speaker>/wav/arctic_*.wav: give the folder of speakers")
    keys = [f"{p.split('/')[-3]}/{p.split('/')[-1][:-4]}" for p in names]
    left_out = set(options["leave_out"])
    unknown = sorted(left_out - set(keys))
    if unknown:
        raise DataError(
            f"leave_out names {unknown[0]!r}, not an utterance: use such as {keys[0]!r}"
        )
    kept = [(p, key) for p, key in zip(names, keys, strict=True) if key not in left_out]
    seen: dict[str, int] = {}
    rows = [_row(path / name, key, seen) for name, key in kept]
    columns = {name: text([row[name] for row in rows]) for name in rows[0]}
    return rows_of(path, [name for name, _ in kept], columns)


def _is_one(name: str) -> bool:
    parts = name.split("/")
    return len(parts) > 2 and parts[-2] == "wav" and parts[-1].startswith("arctic_")


def _row(file: pathlib.Path, key: str, seen: dict[str, int]) -> dict[str, str]:
    """Returns the columns of one utterance; counts the annotated ones of each speaker in `seen`."""
    speaker, _, name = key.partition("/")
    beside = file.parent.parent
    annotation = beside / "annotation" / f"{name}.TextGrid"
    said = beside / "transcript" / f"{name}.txt"
    pairs, annotated = [], annotation.is_file()
    split = "test" if speaker in TEST else "train"
    if annotated:
        pairs = read_pairs(annotation)
        seen[speaker] = seen.get(speaker, 0) + 1
        split = "valid" if split == "train" and seen[speaker] % _VALID == 0 else split
    canonical, perceived = sides(pairs)
    return {
        "text": " ".join(line.strip() for _, line in lines.filled(said)) if said.is_file() else "",
        "speaker": speaker,
        "split": split,
        "annotated": "yes" if annotated else "no",
        "canonical": " ".join(canonical),
        "perceived": " ".join(perceived),
        "pairs": phones.pairs_text(pairs),
    }


def read_pairs(file: pathlib.Path) -> list[tuple[str, str]]:
    """Returns the (canonical, perceived) phones of an annotation, GAP where one is missing.

    Raises DataError, naming file and row, for an unknown mark or phone, or a file without the tier.
    """
    tiers = textgrid.read(file)
    if TIER not in tiers:
        raise DataError(f"{file} has no tier {TIER!r}, but {sorted(tiers)}: rename that of phones")
    found = []
    for mark in tiers[TIER]:
        try:
            found.append(parse(mark.text))
        except DataError as e:
            raise DataError(f"{file}, row {mark.row}: {e}") from e
    return found


def parse(mark: str) -> tuple[str, str]:
    """Returns the canonical and the perceived phone of a mark: "V,err,s" -> ("V", "ERR"), "AH1" ->
    ("AH", "AH"), "AH0,sil,d" -> ("AH", GAP), "sil,T,a" -> (GAP, "T"). Raises DataError."""
    parts = [part.strip() for part in mark.split(",")]
    if len(parts) == 1:
        phone = phones.normal(parts[0])
        return phone, phone
    if len(parts) != 3 or parts[2].lower() not in TYPES:
        raise DataError(
            f"{mark!r} is no mark: use a phone, such as 'AH1', or 'CANONICAL,PERCEIVED,type' with "
            f"the type s, d or a, such as 'DH,D,s'; or leave the utterance out by `leave_out`"
        )
    canonical, perceived = phones.normal(parts[0]), phones.normal(parts[1])
    kind = parts[2].lower()
    return phones.GAP if kind == "a" else canonical, phones.GAP if kind == "d" else perceived


def sides(pairs: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Returns the canonical and the perceived phones of pairs, with one SILENCE for each pause."""
    canonical, perceived = (
        (
            phones.without_repeats(p for p in side if p != phones.GAP)
            for side in zip(*pairs, strict=True)
        )
        if pairs
        else ([], [])
    )
    return canonical, perceived
