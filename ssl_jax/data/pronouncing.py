"""The canonical phones of a text: from a lexicon, or from the rules of espeak-ng.

A lexicon is a text file in the form of CMUdict: a word, then its phones; of several pronunciations
(`WORD(2)`) the first is taken, and rows that begin with `;;;` are comments.
"""

import functools
import os
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from ssl_jax.core import paths
from ssl_jax.data import phones
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import lines
from ssl_jax.data.synthetic import espeak

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_VARIANT = re.compile(r"\(\d+\)$")
_COMMENT = ";;;"

# the phones of espeak's American English as ARPAbet; marks that change a phone little are dropped
_MARKS = "#^-2;"
_TABLE = (
    "b=B d=D f=F g=G k=K l=L m=M n=N p=P r=R s=S t=T v=V w=W z=Z S=SH T=TH D=DH Z=ZH N=NG j=Y h=HH "
    "?=T x=K tS=CH dZ=JH n-=AH+N m-=AH+M r-= ;= i=IY i:=IY I=IH E=EH a=AE aa=AE V=AH U=UH u=UW "
    "u:=UW 0=AA O=AO O:=AO A:=AA 3=ER 3:=ER @=AH @L=AH+L @5=AH a#=AH A@=AA+R O@=AO+R o@=AO+R "
    "e@=EH+R i@=IY+AH i@3=IH+R U@=UH+R eI=EY aI=AY aI3=AY+ER aI@=AY+AH aU=AW OI=OY oU=OW"
)
_ARPABET = {
    name: arpabet.replace("+", " ").split()
    for name, _, arpabet in (pair.partition("=") for pair in _TABLE.split())
}
_UNLIKE = {"a": "uh"}  # read by itself, it would be the name of the letter


class Word(NamedTuple):
    """A word of a text, and its phones."""

    text: str
    phones: tuple[str, ...]


def words(
    text: str, known: Collection[str], lexicon: str | os.PathLike = "", voice: str = "en-us"
) -> list[Word]:
    """Returns the words of a text with their canonical phones, all of them in `known`.

    lexicon: a file; without one, the rules of espeak-ng for `voice` give the phones, as ARPAbet
    where `known` is, else in its own notation. Raises DataError for a word that the lexicon lacks,
    phones that are not known, and a text without a word.
    """
    spoken = _WORD.findall(text)
    if not spoken:
        raise DataError(f"{text[:60]!r} has no word: give what is said, such as 'good morning'")
    if lexicon:
        table = read_lexicon(lexicon)
        found = [Word(word, _entry(table, word, str(lexicon))) for word in spoken]
    else:
        found = _by_rule(spoken, known, voice)
    check(found, known)
    return found


def check(found: Sequence[Word], known: Collection[str]) -> None:
    """Raises DataError for a phone that is not known, naming its word."""
    for word, own in found:
        odd = next((phone for phone in own if phone not in known), None)
        if odd is not None:
            raise DataError(
                f"phone {odd!r} of {word or ' '.join(own)!r} is none of the model: use its phones "
                f"{' '.join(sorted(known))}, as a list, or a lexicon of these"
            )


def read_lexicon(path: str | os.PathLike) -> dict[str, tuple[str, ...]]:
    """Returns {word in capitals: its phones}; stress digits are dropped from ARPAbet.

    Raises DataError, naming the row, for a word without phones.
    """
    file = paths.of(path)
    if not file.is_file():
        raise DataError(f"{path} is not a file: give a lexicon, with rows such as 'CAT K AE T'")
    found: dict[str, tuple[str, ...]] = {}
    for n, line in lines.filled(file):
        if line.startswith(_COMMENT):
            continue
        word, *own = lines.words(line)
        if not own:
            raise DataError(f"{file}, row {n}: {word!r} has no phones: write such as 'CAT K AE T'")
        bare = (phone.rstrip("012") for phone in own)
        named = (b if b in phones.ARPABET else p for b, p in zip(bare, own, strict=True))
        found.setdefault(_VARIANT.sub("", _key(word)), tuple(named))
    return found


def _key(word: str) -> str:
    return lines.composed(word).replace("\u2019", "'").upper()


def _entry(table: dict[str, tuple[str, ...]], word: str, path: str) -> tuple[str, ...]:
    if _key(word) not in table:
        raise DataError(f"{path} has no word {word!r}: add a row, such as 'CAT K AE T'")
    return table[_key(word)]


@functools.cache
def _synthesizer() -> espeak.Espeak:
    return espeak.Espeak()


def _by_rule(spoken: Sequence[str], known: Collection[str], voice: str) -> list[Word]:
    """Returns words by the rules of espeak-ng, each read by itself, as in a dictionary."""
    arpabet = any(phone in known for phone in ("AA", "AH", "IH"))
    found = []
    for word in spoken:
        parts = _synthesizer().words(_UNLIKE.get(word.lower(), word), voice)
        own = [phone for part in parts for phone in part]
        found.append(Word(word, tuple(_arpabet(own) if arpabet else own)))
    return found


def _arpabet(own: Sequence[str]) -> list[str]:
    """Returns the ARPAbet of a word, where a vowel with an r is not followed by another r."""
    out: list[str] = []
    for name in (name for phone in own for name in to_arpabet(phone)):
        if name != "R" or out[-1:] not in (["R"], ["ER"]):
            out.append(name)
    return out


def to_arpabet(phone: str) -> list[str]:
    """Returns the ARPAbet of a phone of espeak's American English, none for a mere transition.

    Raises DataError for a phone that has none.
    """
    for name in (phone, phone.rstrip(_MARKS)):
        if name in _ARPABET:
            return _ARPABET[name]
    raise DataError(f"espeak's phone {phone!r} has no ARPAbet: give the phones as a list")
