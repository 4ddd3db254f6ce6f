"""A synthesized corpus of read sentences or digits, with the exact times of their phones.

Written as a table: index.tsv (path, split, speaker, text, phones, samples, rate), FLAC files at 16
kHz, and phones.ctm with the start and length of every phone in the synthesizer's output. Timbres of
espeak-ng are disjoint between training, validation and test; all have the same accent, so that
phones mean the same. Every sentence has its own speed, pitch, room and noise.
"""

import hashlib
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.core import atomic
from ssl_jax.data.readers import alignments, audio
from ssl_jax.data.synthetic import keywords
from ssl_jax.data.synthetic.keywords import RATE

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
KINDS = ("sentences", "digits")
_ACCENT = "en-us"
_VERSION = 3
_TAIL = 0.05  # seconds of reverberation that are kept after the last phone
_SUBJECTS = (
    "the old farmer|a young teacher|my cousin|the quiet girl|our neighbor|the brown dog|a tall "
    "sailor|the judge|his mother|the thin boy|every child|a famous painter|the shy nurse|that "
    "lawyer|the captain|her brother|the blue bird|a strange machine|the baker|this engine|one "
    "hungry fox|the loud crowd|a gentle giant|the new mayor|their uncle|the clever monkey"
)
_VERBS = (
    "watched|carried|found|painted|lost|opened|cleaned|measured|followed|pushed|repaired|bought|"
    "counted|remembered|touched|chose|heard|kept|moved|threw|shared|wrote about|thought of|"
    "laughed at|jumped over|walked toward|looked through|searched for"
)
_OBJECTS = (
    "the green valley|a heavy box|the yellow house|seven letters|a piece of cheese|the silver "
    "coin|the broken chair|fresh bread|a small island|the garden wall|those shoes|the rough road|"
    "some cold water|a wooden bridge|the church tower|the thick forest|an orange jacket|the "
    "summer sky|a bottle of juice|the long river|those mushrooms|a leather bag|the winter storm|"
    "the pleasure of music|a huge fish|the village square|three large stones|the last page|an "
    "open window|the usual answer|a cup of tea|the voice of the ocean"
)
_ENDS = (
    "|in the morning|before noon|with great care|near the harbor|for the first time|last thursday|"
    "under the moon|without a word|on the way home|behind the school|at the age of nine|again and "
    "again|during the show|beside the fire|though it was late|until the evening|in vain"
)
_PARTS = tuple(tuple(part.split("|")) for part in (_SUBJECTS, _VERBS, _OBJECTS, _ENDS))


class Utterance(NamedTuple):
    """A text, its voice and its manner; `seed` draws the room and the noise."""

    split: str
    text: str
    voice: str
    speed: int
    pitch: int
    pitch_range: int
    seed: int

    @property
    def speaker(self) -> str:
        """Eight letters for the timbre."""
        return hashlib.sha1(self.voice.encode()).hexdigest()[:8]

    @property
    def name(self) -> str:
        """The file name without its extension, which names the recording in phones.ctm."""
        return f"{self.split}_{self.speaker}_{self.seed:05}"


def corpus(
    root: str | pathlib.Path,
    *,
    clips: dict[str, int],
    kind: str = "sentences",
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pathlib.Path:
    """Writes the corpus once and returns its folder; an equal call later finds it complete.

    clips: number of utterances per split, such as {"train": 1000, "valid": 50, "test": 200}.
    kind: sentences, of about 2.5 s | digits, two to five per utterance. Raises ValueError for an
    unknown kind or split. See `keywords.make`.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}: use one of {', '.join(KINDS)}")
    request = {"version": _VERSION, "clips": clips, "kind": kind, "seed": seed}
    return keywords.make(
        root, f"read-{kind}", request, "ssl_jax.data.synthetic.read_speech", progress
    )


def plan(variants: Sequence[str], kind: str, clips: dict[str, int], seed: int) -> list[Utterance]:
    """Draws every utterance; no text of one split is read in another."""
    rng = np.random.default_rng(seed)
    out: list[Utterance] = []
    owner: dict[str, str] = {}
    for split, own in keywords.split_voices(variants, rng).items():
        count = 0
        while count < clips.get(split, 0):
            words = draw_text(kind, rng)
            if owner.setdefault(words, split) != split:
                continue
            speed, pitch, pitch_range = map(int, rng.integers((120, 10, 20), (220, 91, 91)))
            voice = f"{_ACCENT}+{rng.choice(own)}"
            out.append(Utterance(split, words, voice, speed, pitch, pitch_range, len(out)))
            count += 1
    return out


def draw_text(kind: str, rng: np.random.Generator) -> str:
    """Returns a sentence, or two to five digits, in lower case without punctuation."""
    if kind == "digits":
        return " ".join(rng.choice(DIGITS, rng.integers(2, 6)))
    return " ".join(part[rng.integers(len(part))] for part in _PARTS).strip()


def record(speech: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Puts speech (n,) at 16 kHz into a noisy room -> (int16 (m,), samples before the speech)."""
    before, after = (int(RATE * x) for x in rng.uniform(0.0, (0.15, 0.15)))
    clip = np.pad(speech.astype(np.float64), (before, after + int(_TAIL * RATE)))
    clip /= np.sqrt(np.mean(clip**2)) + 1e-9
    clip = keywords.convolve(clip, keywords.room(rng.uniform(0.03, 0.25), rng))[: len(clip)]
    noise = keywords.coloured_noise(len(clip), rng.uniform(0.0, 2.0), rng)
    mixed = clip + 10 ** (-rng.uniform(3.0, 20.0) / 20) * noise
    level = 10 ** (rng.uniform(-42.0, -12.0) / 20)
    return np.clip(mixed * level * 32767, -32768, 32767).astype(np.int16), before


def _write(folder: pathlib.Path, request: dict[str, Any]) -> None:
    import soxr

    from ssl_jax.data.synthetic.espeak import SILENCE, Espeak

    espeak = Espeak()
    todo = plan(espeak.variants([_ACCENT]), request["kind"], request["clips"], request["seed"])
    spans: dict[str, list[tuple[float, float, str]]] = {}
    rows = ["path\tsplit\tspeaker\ttext\tphones\tsamples\trate"]
    for i, item in enumerate(todo):
        manner = {"speed": item.speed, "pitch": item.pitch, "pitch_range": item.pitch_range}
        speech = espeak.synthesize(item.text, item.voice, seed=item.seed, **manner)
        rng = np.random.default_rng((request["seed"], item.seed))
        sound, before = record(soxr.resample(speech, espeak.rate, RATE), rng)
        (folder / f"{item.name}.flac").write_bytes(audio.encode_flac(sound, RATE))
        shift = before / RATE
        spans[item.name] = [
            (shift + p.start / espeak.rate, shift + p.end / espeak.rate, p.name)
            for p in espeak.phones()
            if p.name != SILENCE
        ]
        phones = " ".join(name for _, _, name in spans[item.name])
        fields = (item.split, item.speaker, item.text, phones, len(sound), RATE)
        rows.append("\t".join(map(str, (f"{item.name}.flac", *fields))))
        if i % 50 == 49 or i + 1 == len(todo):
            print(i + 1, len(todo), flush=True)
    atomic.write_text(folder / "index.tsv", "\n".join(rows) + "\n")
    alignments.write_ctm(folder / "phones.ctm", spans)


if __name__ == "__main__":
    _write(pathlib.Path(sys.argv[1]), json.load(sys.stdin))
