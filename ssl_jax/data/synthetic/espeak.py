"""Speech from text through the C interface of espeak-ng (the wheel `espeakng-loader`)."""

import ctypes
import itertools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_SYNCHRONOUS = 2
_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_PHONE_EVENTS = 1  # an option of espeak_Initialize
_NO_EVENT, _PHONE = 0, 7
SILENCE = "_"


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Phone(NamedTuple):
    """A phone in espeak's notation without stress, of samples [start, end).

    Pauses are phones named SILENCE.
    """

    name: str
    start: int
    end: int


class Espeak:
    """One synthesizer per process: the C library keeps global state and is not thread-safe."""

    def __init__(self) -> None:
        """Loads the library; ImportError names the extra that holds it."""
        try:
            import espeakng_loader
        except ImportError as e:
            raise ImportError(
                "speech synthesis needs espeakng-loader: pip install 'ssl_jax[synth]'"
            ) from e
        self.data = pathlib.Path(espeakng_loader.get_data_path())
        self._lib = ctypes.CDLL(espeakng_loader.get_library_path())
        path = str(self.data.parent).encode()
        self.rate = self._lib.espeak_Initialize(_SYNCHRONOUS, 0, path, _PHONE_EVENTS)
        if self.rate <= 0:
            raise OSError(f"espeak-ng found no voice data in {self.data}")
        self._chunks: list[np.ndarray] = []
        self._starts: list[tuple[int, str]] = []
        self._callback = _CALLBACK(self._collect)
        self._lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self._lib.espeak_TextToPhonemes.argtypes = (
            *(ctypes.POINTER(ctypes.c_void_p), ctypes.c_int, ctypes.c_int),
        )

    def variants(self, languages: Sequence[str]) -> list[str]:
        """Returns the names of the timbres that every one of these languages accepts, sorted."""
        names = sorted(p.name for p in (self.data / "voices" / "!v").iterdir())
        return [n for n in names if all(self._set_voice(f"{lang}+{n}") for lang in languages)]

    def synthesize(
        self, text: str, voice: str, *, speed: int, pitch: int, pitch_range: int, seed: int
    ) -> np.ndarray:
        """Returns the speech as int16 (n,) at `self.rate` Hz; `phones` then returns its phones.

        voice: "language+variant", such as "en-us+f3". speed: words per minute, 80 to 450.
        pitch, pitch_range: 0 to 100. seed: of the breath noise. The library keeps state between
        calls: the same calls in the same order in a fresh process give the same samples, other
        orders may not.
        """
        if not self._set_voice(voice):
            raise ValueError(f"espeak-ng has no voice {voice!r}: try 'en-us+f3'")
        for parameter, value in ((_RATE, speed), (_PITCH, pitch), (_RANGE, pitch_range)):
            self._lib.espeak_SetParameter(parameter, value, 0)
        self._lib.espeak_ng_SetRandSeed(ctypes.c_long(seed))  # breath noise; else the clock's
        self._chunks, self._starts = [], []
        self._lib.espeak_SetSynthCallback(
            self._callback
        )  # it is global: others may have set theirs
        data = text.encode()
        status = self._lib.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8, None, None)
        if status != 0 or not self._chunks:
            raise OSError(f"espeak-ng cannot speak {text!r} with {voice!r} (status {status})")
        return np.concatenate(self._chunks)

    def phones(self) -> list[Phone]:
        """Returns the phones of the last text, in order and without gaps.

        The time before the first phone, and every pause, is a phone SILENCE.
        """
        total = sum(map(len, self._chunks))
        starts = [(0, SILENCE), *self._starts, (total, SILENCE)]
        spans = itertools.pairwise(starts)
        return [Phone(name, a, b) for (a, name), (b, _) in spans if b > a]

    def words(self, text: str, voice: str = "en-us") -> list[list[str]]:
        """Returns the phones of every word without speaking it, in espeak's notation without
        stress; of short words that are read as one, such as "in the", together.

        Raises ValueError for a voice that does not exist.
        """
        if not self._set_voice(voice):
            raise ValueError(f"espeak-ng has no voice {voice!r}: try 'en-us'")
        data = ctypes.create_string_buffer(text.encode())
        place = ctypes.c_void_p(ctypes.addressof(data))
        parts: list[str] = []
        while place.value:  # one clause at a time
            found = self._lib.espeak_TextToPhonemes(ctypes.byref(place), _UTF8, ord("|") << 8)
            parts += (found or b"").decode().split()
        named = [[_plain(name) for name in word.split("|")] for word in parts]
        return [[name for name in word if name != SILENCE] for word in named]

    def _set_voice(self, voice: str) -> bool:
        return self._lib.espeak_SetVoiceByName(voice.encode()) == 0

    def _collect(self, samples: Any, count: int, events: Any) -> int:
        place = 0
        while events and events[place].type != _NO_EVENT:
            event = events[place]
            if event.type == _PHONE:
                self._starts.append((event.sample, _plain(event.id.string.decode())))
            place += 1
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0


def _plain(mnemonic: str) -> str:
    """Returns a phone without stress marks; pauses and changes of language are silence."""
    name = mnemonic.lstrip("',%=")
    return SILENCE if not name or name[0] in "_|" else name
