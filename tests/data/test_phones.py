"""Phones as corpora write them, in one set."""

import pytest

from ssl_jax.data import phones
from ssl_jax.data.errors import DataError


def test_phones_lose_stress_and_marks():
    assert len(phones.ARPABET) == len(set(phones.ARPABET)) == 39
    written = {"AH1": "AH", "ax": "AH", "D*": "D", "err": "ERR", "spn": "SIL", "": "SIL"}
    for phone, name in written.items():
        assert phones.normal(phone) == name
    assert phones.silent("sp") and phones.silent(phones.GAP) and not phones.silent("S")
    with pytest.raises(DataError, match=r"'QX' is no phone: use one of AA AE AH .* or ERR"):
        phones.normal("QX")
