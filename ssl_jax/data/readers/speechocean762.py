"""speechocean762: English read by speakers of Mandarin, every phone scored by five experts.

train/ and test/ in the layout of Kaldi, and resource/scores.json: for each word its canonical
phones, their mean scores (0 wrong or missing, 1 accent, 2 right), and where a phone is below 0.5,
what was said in its place. That may be a phone, several ("T R"), `X*` (like X, but wrong), `<unk>`
(not recognizable) or `<DEL>` (nothing).
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from ssl_jax.data import phones
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import lines
from ssl_jax.data.readers.base import Rows, text
from ssl_jax.data.readers.folders import rows_of

WRONG = 0.5
"""A phone whose mean score is below this counts as mispronounced."""
UNSCORED = "?"
DELETED, UNRECOGNIZED = "<DEL>", "<unk>"
SPLITS = ("train", "test")
STARRED, SEVERAL = ("error", "phone"), ("insert", "first")


def speechocean762(path: pathlib.Path, options: dict) -> Rows:
    """Reads one of the two splits; its speakers are not those of the other.

    Columns: text, speaker, age, gender, split, canonical and perceived phones and their pairs (see
    `data/phones.py`), phone_scores (one per canonical phone, UNSCORED where there is none), and
    unrecognized: the share of words most of whose phones are `<unk>`, to leave such rows out.
    Options, beside `split`:
      starred  "X*" is read as UNKNOWN where X is the canonical phone, else as X ("error"); or
               always as X ("phone"), so that the phone counts as right where X is the canonical
      several  "T R" in place of one phone is a substitution, then insertions ("insert"); or its
               first phone alone ("first")
    Raises DataError, naming file and utterance, for scores of another form.
    """
    split = options["split"]
    _check_options(path, options)
    files = lines.pairs(path / split / "wav.scp", "utterance path")
    scores = path / "resource" / "scores.json"
    if not scores.is_file():
        raise DataError(f"{scores} does not exist: give the folder of the unpacked release")
    entries = json.loads(scores.read_text(encoding="utf-8"))
    speakers = lines.pairs(path / split / "utt2spk", "utterance speaker")
    about = {
        name: lines.pairs(path / split / f"spk2{name}", "speaker value")
        for name in ("age", "gender")
    }
    rows = []
    for key, (row, _) in files.items():
        if key not in entries or key not in speakers:
            where = "utt2spk" if key in entries else scores
            raise DataError(f"{path / split / 'wav.scp'}, row {row}: {key!r} is not in {where}")
        speaker = speakers[key][1]
        given = {name: found[speaker][1] for name, found in about.items() if speaker in found}
        row_of = _row(f"{scores}, utterance {key!r}", entries[key], options)
        rows.append({"speaker": speaker, "age": "", "gender": "", **given, **row_of})
    columns = {name: text([row[name] for row in rows]) for name in rows[0]} if rows else {}
    columns["split"] = text([split] * len(rows))
    return rows_of(path, [file for _, file in files.values()], columns)


def _check_options(path: pathlib.Path, options: dict) -> None:
    for name, known in (("split", SPLITS), ("starred", STARRED), ("several", SEVERAL)):
        if options[name] not in known:
            raise DataError(f"{name} is {options[name]!r}: use {' or '.join(map(repr, known))}")
    if not (path / options["split"] / "wav.scp").is_file():
        raise DataError(f"{path} has no {options['split']}/wav.scp: give the unpacked release")


def _row(where: str, entry: dict[str, Any], options: dict) -> dict[str, str]:
    pairs: list[tuple[str, str]] = []
    scores, unclear = [], 0
    for number, word in enumerate(entry["words"], 1):
        here = f"{where}, word {number}"
        canonical = _canonical(here, word)
        said = _said(here, word, canonical)
        for i, phone in enumerate(canonical):
            heard = perceived(here, phone, said[i], options) if i in said else [phone]
            pairs.append((phone, heard[0] if heard else phones.GAP))
            pairs += [(phones.GAP, more) for more in heard[1:]]
        values = word.get("phones-accuracy") or []
        known = len(values) == len(canonical)
        scores += [f"{v:.1f}" for v in values] if known else [UNSCORED] * len(canonical)
        unclear += 2 * sum(what == UNRECOGNIZED for what in said.values()) > len(canonical)
    return {
        "text": entry["text"],
        "canonical": " ".join(a for a, _ in pairs if a != phones.GAP),
        "perceived": " ".join(b for _, b in pairs if b != phones.GAP),
        "pairs": phones.pairs_text(pairs),
        "phone_scores": " ".join(scores),
        "unrecognized": f"{unclear / max(len(entry['words']), 1):.2f}",
    }


def _canonical(where: str, word: dict[str, Any]) -> list[str]:
    given = word["phones"]
    try:
        return [phones.normal(p) for p in (given.split() if isinstance(given, str) else given)]
    except DataError as e:
        raise DataError(f"{where}: {e}") from e


def _said(where: str, word: dict[str, Any], canonical: Sequence[str]) -> dict[int, str]:
    """Returns {place in the word: what was said there}."""
    found = {}
    for entry in word.get("mispronunciations") or []:
        place, phone = entry["index"], entry["canonical-phone"]
        if not 0 <= place < len(canonical) or phones.normal(phone) != canonical[place]:
            raise DataError(
                f"{where}: phone {phone!r} is not number {place} of {' '.join(canonical)}: count "
                f"from 0"
            )
        found[place] = entry["pronounced-phone"].strip()
    return found


def perceived(where: str, canonical: str, said: str, options: dict) -> list[str]:
    """Returns the phones for what was said in place of a canonical phone, [] for none; see
    `speechocean762`. Raises DataError for a mark that is unknown."""
    if said == DELETED:
        return []
    if said == UNRECOGNIZED:
        return [phones.UNKNOWN]
    try:
        found = [(phones.normal(part), part.endswith("*")) for part in said.split()]
    except DataError as e:
        raise DataError(f"{where}: {e}, its name with *, {DELETED} or {UNRECOGNIZED}") from e
    wrong = options["starred"] == "error"
    named = [
        phones.UNKNOWN if star and wrong and phone == canonical else phone for phone, star in found
    ]
    return named[:1] if options["several"] == "first" else named


def scored(canonical: str, scores: str) -> list[tuple[str, float]]:
    """Returns (phone, mean score) for each phone, NaN for one that is unscored.

    Takes columns of this reader, or of the table that `convert index` writes, where `|` separates
    words. Raises DataError where there are not as many scores as phones.
    """
    names, values = ([v for v in column.split() if v != "|"] for column in (canonical, scores))
    if len(names) != len(values):
        raise DataError(f"{len(names)} phones, and {len(values)} scores: give each phone one, or ?")
    return [
        (phones.normal(name), float("nan") if value == UNSCORED else float(value))
        for name, value in zip(names, values, strict=True)
    ]
