"""Small pieces of tonal music, drawn from a seed: chords, bass, melody and drums, in seconds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

TONICS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
# degrees of the scale, one per bar; all start on the tonic, so that short clips contain it
PROGRESSIONS = {
    "major": ((0, 3, 4, 0), (0, 5, 3, 4), (0, 4, 5, 3), (0, 5, 1, 4), (0, 3, 0, 4), (0, 1, 4, 0)),
    "minor": ((0, 3, 4, 0), (0, 5, 2, 6), (0, 6, 5, 4), (0, 3, 6, 2), (0, 5, 3, 4), (0, 1, 4, 0)),
}
BAR = 4  # beats
# (beat in the bar, beats held) of each stroke
CHORDS = (
    ((0, 4),),
    ((0, 2), (2, 2)),
    ((0, 1), (1, 1), (2, 1), (3, 1)),
    ((0.5, 0.5), (1.5, 0.5), (2.5, 0.5), (3.5, 0.5)),
)
BASSES = (
    ((0, 2), (2, 2)),
    ((0, 1), (1, 1), (2, 1), (3, 1)),
    tuple((i / 2, 0.5) for i in range(8)),
    ((0, 1.5), (1.5, 0.5), (2, 1.5), (3.5, 0.5)),
)
MELODIES = (
    ((0, 1), (1, 1), (2, 2)),
    ((0, 1.5), (1.5, 0.5), (2, 1), (3, 1)),
    ((0, 0.5), (0.5, 0.5), (1, 1), (2, 0.5), (2.5, 0.5), (3, 1)),
    ((0, 2), (2, 1), (3, 0.5), (3.5, 0.5)),
    ((0.5, 0.5), (1, 1), (2, 1), (3, 1)),
)
# General MIDI percussion: {key: beats in the bar}
KICK, SNARE, CLOSED, OPEN, RIDE = 36, 38, 42, 46, 51
EIGHTHS = tuple(i / 2 for i in range(8))
DRUMS: tuple[Mapping[int, Sequence[float]], ...] = (
    {KICK: (0, 2), SNARE: (1, 3), CLOSED: EIGHTHS},
    {KICK: (0, 1, 2, 3), SNARE: (1, 3), OPEN: (0.5, 1.5, 2.5, 3.5)},
    {KICK: (0, 1.5, 2.5), SNARE: (1, 3), CLOSED: EIGHTHS},
    {KICK: (0,), SNARE: (2,), RIDE: (0, 1, 2, 3)},
    {KICK: (0, 2), RIDE: (0, 1, 1.5, 2, 3, 3.5)},
)


class Note(NamedTuple):
    """A note from `start` to `end` in seconds; pitch and velocity as in MIDI."""

    start: float
    end: float
    pitch: int
    velocity: int


class Part(NamedTuple):
    """What one instrument plays."""

    program: int
    drums: bool
    notes: list[Note]


class Chord(NamedTuple):
    """The harmony of one bar: its first beat, its triad, and the seven notes of its scale.

    Both are in semitones above the tonic of the key, `scale` in order of pitch.
    """

    beat: int
    triad: tuple[int, ...]
    scale: tuple[int, ...]


def piece(
    tonic: int,
    mode: str,
    tempo: float,
    seconds: float,
    programs: Mapping[str, int],
    drums: bool,
    rng: np.random.Generator,
) -> list[Part]:
    """Draws a piece in common time, cut at `seconds`.

    tonic: 0 (C) to 11. mode: major or minor. tempo: beats per minute. programs: those of chords,
    bass and melody.
    """
    bars = int(np.ceil(seconds * tempo / 60 / BAR))
    harmony = list(_harmony(mode, bars, rng))
    made = {
        "chords": _chords(harmony, 60 + (tonic + 6) % 12 - 6, rng),
        "bass": _bass(harmony, 36 + (tonic + 6) % 12 - 6, rng),
        "melody": _melody(harmony, 72 + (tonic + 6) % 12 - 6, rng),
    }
    parts = [Part(programs[name], False, list(notes)) for name, notes in made.items()]
    if drums:
        parts.append(Part(0, True, list(_drums(bars, rng))))
    return [p._replace(notes=_played(p.notes, tempo, seconds, rng)) for p in parts]


def _harmony(mode: str, bars: int, rng: np.random.Generator) -> Iterator[Chord]:
    """Yields one chord per bar: a progression, which another one replaces every third time."""
    choices = PROGRESSIONS[mode]
    own, other = (choices[i] for i in rng.choice(len(choices), 2, replace=False))
    for bar in range(bars):
        degree = (other if bar // BAR % 3 == 2 else own)[bar % BAR]
        scale = list(SCALES[mode])
        if mode == "minor" and degree == 4:
            scale[6] += 1  # the leading note: the dominant of a minor key is a major chord
        yield Chord(bar * BAR, tuple(_note(scale, degree + i) for i in (0, 2, 4)), tuple(scale))


def _note(scale: Sequence[int], degree: int) -> int:
    """Returns the semitones of a degree of any octave, 0 being the tonic."""
    octave, place = divmod(degree, 7)
    return 12 * octave + scale[place]


def _chords(harmony: list[Chord], tonic: int, rng: np.random.Generator) -> Iterator[Note]:
    """Yields struck chords or, one time in three, their notes one after another."""
    strokes, broken = CHORDS[rng.integers(len(CHORDS))], rng.random() < 1 / 3
    loud = int(rng.integers(50, 85))
    for chord in harmony:
        # within an octave around the tonic, so that chords are close to each other
        pitches = sorted(tonic + (p + 5) % 12 - 5 for p in chord.triad)
        if broken:
            for i, beat in enumerate(EIGHTHS):
                pitch = [*pitches, pitches[1]][i % 4]
                yield Note(chord.beat + beat, chord.beat + beat + 0.5, pitch, loud)
        else:
            for beat, held in strokes:
                for pitch in pitches:
                    yield Note(chord.beat + beat, chord.beat + beat + held, pitch, loud)


def _bass(harmony: list[Chord], tonic: int, rng: np.random.Generator) -> Iterator[Note]:
    """Yields the root of each chord on the first stroke of a bar, then root or fifth."""
    strokes, loud = BASSES[rng.integers(len(BASSES))], int(rng.integers(70, 110))
    for chord in harmony:
        root, _, fifth = (tonic + p % 12 for p in chord.triad)
        for beat, held in strokes:
            pitch = root if beat == 0 or rng.random() < 0.7 else fifth
            yield Note(chord.beat + beat, chord.beat + beat + held, pitch, loud)


def _melody(harmony: list[Chord], tonic: int, rng: np.random.Generator) -> Iterator[Note]:
    """Yields a random walk over the scale, which prefers notes of the chord on whole beats."""
    loud, degree = int(rng.integers(80, 120)), int(rng.integers(0, 5))
    rhythms = [MELODIES[i] for i in rng.choice(len(MELODIES), 2, replace=False)]
    for chord in harmony:
        inside = {p % 12 for p in chord.triad}
        for beat, held in rhythms[rng.random() < 0.3]:
            degree = int(np.clip(degree + rng.integers(-2, 3), -4, 8))
            if beat % 1 == 0 and rng.random() < 0.8:
                near = sorted(range(degree - 2, degree + 3), key=lambda d: abs(d - degree))
                degree = next(d for d in near if _note(chord.scale, d) % 12 in inside)
            pitch = tonic + _note(chord.scale, degree)
            if rng.random() < 0.93:  # else a rest
                yield Note(chord.beat + beat, chord.beat + beat + held, pitch, loud)


def _drums(bars: int, rng: np.random.Generator) -> Iterator[Note]:
    """Yields one pattern, bar after bar; every fourth bar ends with strokes on the snare."""
    pattern, loud = DRUMS[rng.integers(len(DRUMS))], int(rng.integers(70, 110))
    for bar in range(bars):
        for key, beats in pattern.items():
            for beat in beats:
                yield Note(bar * BAR + beat, bar * BAR + beat + 0.25, key, loud)
        if bar % 4 == 3:
            for beat in (3.25, 3.5, 3.75):
                yield Note(bar * BAR + beat, bar * BAR + beat + 0.25, SNARE, loud)


def _played(
    notes: list[Note], tempo: float, seconds: float, rng: np.random.Generator
) -> list[Note]:
    """Converts beats to seconds like a player: a little early or late, louder or softer."""
    beat, out = 60 / tempo, []
    for note in notes:
        start = max(0.0, note.start * beat + float(rng.normal(0, 0.006)))
        end = min(note.end * beat, seconds) - 0.01
        velocity = int(np.clip(note.velocity + rng.normal(0, 6), 1, 127))
        if end - start > 0.02:
            out.append(Note(start, end, note.pitch, velocity))
    return out
