"""A synthesized spoken-keyword corpus in the layout of Google Speech Commands.

Voices (timbres of espeak-ng) are disjoint between training, validation and test. Every clip has
its own accent, speed, pitch, place in the second, room and noise, drawn from one seed.
"""

import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import wave
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.core import atomic

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
RATE = 16000
JITTER = 1600  # samples that a word may lie off the middle of its clip
_ACCENTS = ("en", "en-us", "en-us-nyc", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029")
# Timbres that are sound effects rather than voices.
_EFFECTS = ("anikaRobot", "Demonic", "UniRobot", "robosoft", "whisper", "croak")
_VERSION = 1
SPLITS = ("train", "valid", "test")


class Clip(NamedTuple):
    """A word, its voice and its manner; `seed` draws its position, the room and the noise."""

    split: str
    word: str
    voice: str
    speed: int
    pitch: int
    pitch_range: int
    seed: int

    @property
    def path(self) -> str:
        """The path in the corpus, whose file name starts with the speaker as in Speech Commands."""
        speaker = hashlib.sha1(self.voice.encode()).hexdigest()[:8]
        return f"{self.word}/{speaker}_nohash_{self.seed}.wav"


def keywords(
    root: str | pathlib.Path,
    *,
    clips: dict[str, int],
    words: Sequence[str] = WORDS,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pathlib.Path:
    """Writes the corpus once and returns its folder; an equal call later finds it complete.

    clips: number of clips per split, such as {"train": 6000, "valid": 600, "test": 1200}.
    progress(done, total) is called as clips are written. The synthesizer keeps state between
    words, so one fresh process makes the corpus in a fixed order: equal seeds give equal files.
    Raises ValueError for an unknown split.
    """
    request = {"version": _VERSION, "clips": clips, "words": list(words), "seed": seed}
    return make(root, "keywords", request, "ssl_jax.data.synthetic.keywords", progress)


def make(
    root: str | pathlib.Path,
    name: str,
    request: dict[str, Any],
    module: str,
    progress: Callable[[int, int], None],
) -> pathlib.Path:
    """Makes a corpus once, by `python -m module FOLDER` with the request on its standard input.

    The folder root/<name>-<hash of the request> appears when it is complete. Raises ValueError for
    an unknown split in request["clips"], and RuntimeError if the process fails.
    """
    clips = request["clips"]
    if set(clips) - set(SPLITS):
        raise ValueError(f"clips has splits {sorted(clips)}: use train, valid and test")
    sign = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:12]
    folder = pathlib.Path(root) / f"{name}-{sign}"
    if (folder / "DONE").exists():
        return folder
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    command = [sys.executable, "-m", module, str(part)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as p:
        assert p.stdin is not None and p.stdout is not None
        p.stdin.write(json.dumps(request))
        p.stdin.close()
        for line in p.stdout:
            progress(*map(int, line.split()))
    if p.returncode:
        raise RuntimeError(f"speech synthesis stopped with exit code {p.returncode}; see above")
    atomic.write_json(part / "DONE", request)
    part.rename(folder)
    return folder


def plan_clips(
    variants: Sequence[str], words: Sequence[str], clips: dict[str, int], seed: int
) -> list[Clip]:
    """Draws every clip; each split has its own timbres and has every word equally often."""
    rng = np.random.default_rng(seed)
    out: list[Clip] = []
    for split, own in split_voices(variants, rng).items():
        for i in range(clips.get(split, 0)):
            voice = f"{rng.choice(_ACCENTS)}+{rng.choice(own)}"
            speed, pitch, pitch_range = map(int, rng.integers((110, 10, 20), (260, 91, 91)))
            word = words[i % len(words)]
            out.append(Clip(split, word, voice, speed, pitch, pitch_range, len(out)))
    return out


def split_voices(variants: Sequence[str], rng: np.random.Generator) -> dict[str, list[str]]:
    """Deals the timbres to train (3/5), valid (1/5) and test (1/5).

    Names that differ only in their number (edward, edward2) are variations of one timbre and
    stay together; f1 to f5 and m1 to m8 are distinct timbres.
    """
    families: dict[str, list[str]] = {}
    for name in variants:
        if not name.startswith(_EFFECTS):
            stem = name.rstrip("0123456789")
            families.setdefault(stem if len(stem) > 1 else name, []).append(name)
    stems = sorted(families)
    order = [families[stems[i]] for i in rng.permutation(len(stems))]
    fifth = len(order) // 5
    parts = (order[2 * fifth :], order[:fifth], order[fifth : 2 * fifth])
    return {s: [v for f in p for v in f] for s, p in zip(SPLITS, parts, strict=True)}


def record(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Puts speech (n,) at 16 kHz into one second (16000,) int16 of a noisy room."""
    speech = speech[_active(speech)][: int(0.9 * RATE)].astype(np.float64)
    clip = np.zeros(RATE)
    space = RATE - len(speech)
    start = int(np.clip(space // 2 + rng.integers(-JITTER, JITTER + 1), 0, space))
    clip[start : start + len(speech)] = speech / (np.sqrt(np.mean(speech**2)) + 1e-9)
    clip = convolve(clip, room(rng.uniform(0.05, 0.5), rng))[:RATE]
    noise = coloured_noise(RATE, rng.uniform(0.0, 2.0), rng)
    ratio = 10 ** (-rng.uniform(5.0, 30.0) / 20)
    power = np.sqrt(np.mean(clip[start : start + len(speech)] ** 2))
    mixed = clip / power + ratio * noise
    level = 10 ** (rng.uniform(-30.0, -12.0) / 20)
    return np.clip(mixed * level * 32767, -32768, 32767).astype(np.int16)


def room(reverberation: float, rng: np.random.Generator) -> np.ndarray:
    """Returns an impulse response: a direct path, then noise that decays by 60 dB in
    `reverberation` seconds."""
    n = int(reverberation * RATE)
    tail = rng.standard_normal(n) * 10 ** (-3 * np.arange(n) / n)
    tail *= rng.uniform(0.1, 0.6) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return tail


def coloured_noise(n: int, tilt: float, rng: np.random.Generator) -> np.ndarray:
    """Returns noise (n,) of unit power whose spectrum falls as frequency ** -tilt."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    spectrum *= np.maximum(np.arange(len(spectrum)), 20.0) ** (-tilt / 2)
    noise = np.fft.irfft(spectrum, n)
    return noise / np.sqrt(np.mean(noise**2))


def _active(speech: np.ndarray) -> slice:
    loud = np.flatnonzero(np.abs(speech) > 0.02 * np.abs(speech).max())
    return slice(int(loud[0]), int(loud[-1]) + 1)


def convolve(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the convolution of (n,) and (m,): (n + m - 1,), padded with zeros."""
    n = 1 << (len(a) + len(b) - 2).bit_length()
    return np.fft.irfft(np.fft.rfft(a, n) * np.fft.rfft(b, n), n)


def write_wav(path: pathlib.Path, samples: np.ndarray) -> None:
    """Writes int16 (n,) as a 16 kHz mono WAV file."""
    with wave.open(str(path), "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(RATE)
        f.writeframes(samples.astype("<i2").tobytes())


def _write(folder: pathlib.Path, request: dict) -> None:
    import soxr

    from ssl_jax.data.synthetic.espeak import Espeak

    espeak = Espeak()
    clips = plan_clips(
        espeak.variants(_ACCENTS), request["words"], request["clips"], request["seed"]
    )
    for word in request["words"]:
        (folder / word).mkdir()
    for i, clip in enumerate(clips):
        speech = espeak.synthesize(
            clip.word,
            clip.voice,
            speed=clip.speed,
            pitch=clip.pitch,
            pitch_range=clip.pitch_range,
            seed=clip.seed,
        )
        speech = soxr.resample(speech, espeak.rate, RATE)
        rng = np.random.default_rng((request["seed"], clip.seed))
        write_wav(folder / clip.path, record(speech, rng))
        if i % 100 == 99 or i + 1 == len(clips):
            print(i + 1, len(clips), flush=True)
    for split, name in (("valid", "validation_list.txt"), ("test", "testing_list.txt")):
        lines = sorted(c.path for c in clips if c.split == split)
        atomic.write_text(folder / name, "\n".join(lines) + "\n")


if __name__ == "__main__":
    _write(pathlib.Path(sys.argv[1]), json.load(sys.stdin))
