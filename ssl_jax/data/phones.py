"""The phones of transcripts of pronunciation: ARPAbet without stress, and what stands beside it.

L2-ARCTIC, speechocean762 and CMUdict are read into this one set: 39 phones, SILENCE, and UNKNOWN
for a sound that is none of them (`err` of L2-ARCTIC, `<unk>` of speechocean762).
"""

import re
from collections.abc import Iterable

from ssl_jax.data.errors import DataError

_VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
_STOPS = ("B", "CH", "D", "G", "JH", "K", "P", "T")
_OTHERS = ("DH", "F", "HH", "L", "M", "N", "NG", "R", "S", "SH", "TH", "V", "W", "Y", "Z", "ZH")
ARPABET = tuple(sorted((*_VOWELS, *_STOPS, *_OTHERS)))
SILENCE, UNKNOWN = "SIL", "ERR"
GAP = "-"  # stands in pairs for a phone that one of the two sides lacks
_SILENT = {"SIL", "SP", "SPN", "PAU", ""}
_ALIKE = {"AX": "AH"}
_NOT_LETTERS = re.compile(r"[^A-Z]")


def normal(phone: str) -> str:
    """Returns a phone in this set: "ah0" -> "AH", "D*" -> "D", "sp" -> SILENCE, "err" -> UNKNOWN.

    The rule of the mispronunciation recipe of 2203.15937: capitals, without digits and other marks;
    `ax` is AH. Raises DataError for a phone outside the set, which the caller says the place of.
    """
    name = _NOT_LETTERS.sub("", phone.upper())
    name = _ALIKE.get(name, name)
    if name in _SILENT:
        return SILENCE
    if name not in ARPABET and name != UNKNOWN:
        raise DataError(
            f"{phone!r} is no phone: use one of {' '.join(ARPABET)}, {SILENCE} or {UNKNOWN}"
        )
    return name


def silent(phone: str) -> bool:
    """Returns whether a phone is a pause, however it is spelled, or a gap."""
    return phone == GAP or phone.upper() in _SILENT


def without_repeats(phones: Iterable[str]) -> list[str]:
    """Returns phones with one SILENCE for each run of it."""
    out: list[str] = []
    for phone in phones:
        if phone != SILENCE or out[-1:] != [SILENCE]:
            out.append(phone)
    return out


def pairs_text(pairs: Iterable[tuple[str, str]]) -> str:
    """Returns (canonical, perceived) pairs as text: "DH>D AH L>- ->AH"; GAP: none on that side."""
    return " ".join(a if a == b else f"{a}>{b}" for a, b in pairs)


def pairs_of(text: str) -> list[tuple[str, str]]:
    """Returns the pairs of a text that `pairs_text` wrote."""
    found = [word.partition(">") for word in text.split()]
    return [(a, b if mark else a) for a, mark, b in found]
