"""Music rendered from MIDI with samples of real instruments: single notes and full tracks.

`notes` are clips of one note of one instrument, as in NSynth; `tracks` are pieces of several
parts with a key, a tempo, a chord progression and drums. Labels are exact, because the music is
generated from them. Instruments (General MIDI programs) and the seeds of the pieces are disjoint
between training, validation and test.
"""

import hashlib
import io
import json
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.core import atomic
from ssl_jax.data.synthetic import keywords, tonal_pieces
from ssl_jax.data.synthetic.tonal_pieces import Part

RATE = 16000
SPLITS = ("train", "valid", "test")
# the families of NSynth, as General MIDI programs counted from 0
FAMILIES: dict[str, tuple[int, ...]] = {
    "bass": (32, 33, 34, 35, 36, 37, 38, 39, 43),
    "brass": (56, 57, 58, 59, 60, 61, 62, 63),
    "flute": (72, 73, 74, 75, 76, 77, 78, 79),
    "guitar": (24, 25, 26, 27, 28, 29, 30),
    "keyboard": (0, 1, 2, 3, 4, 5, 6, 7),
    "mallet": (8, 9, 10, 11, 12, 13, 14, 108),
    "organ": (16, 17, 18, 19, 20, 21, 23),
    "reed": (64, 65, 66, 67, 68, 69, 70, 71),
    "string": (40, 41, 42, 44, 45, 48, 49, 50),
    "synth_lead": (80, 81, 82, 83, 84, 86, 87),
    "vocal": (52, 53, 54, 85, 91),
}
PITCHES = range(48, 84)  # of single notes: the same three octaves for every family
_VERSION = 1

Progress = Callable[[int, int], None]
Row = dict[str, str]


class Piece(NamedTuple):
    """The parts of a piece, and the columns of its row in index.tsv."""

    parts: list[Part]
    columns: Row


def notes(
    root: str | pathlib.Path,
    *,
    clips: Mapping[str, int],
    seconds: float = 2.0,
    seed: int = 0,
    soundfont: str | pathlib.Path = "",
    progress: Progress = lambda done, total: None,
) -> pathlib.Path:
    """Writes clips of single notes once and returns their folder; see `tracks`.

    Columns of index.tsv: path, split, instrument (one of FAMILIES), program, pitch (MIDI number),
    velocity, samples, rate.
    """
    return _corpus(root, "notes", clips, seconds, seed, soundfont, progress)


def tracks(
    root: str | pathlib.Path,
    *,
    clips: Mapping[str, int],
    seconds: float = 30.0,
    seed: int = 0,
    soundfont: str | pathlib.Path = "",
    progress: Progress = lambda done, total: None,
) -> pathlib.Path:
    """Writes pieces of several parts once and returns their folder.

    clips: number of clips per split, such as {"train": 200, "valid": 20, "test": 50}; an equal
    call later finds the folder complete. soundfont: an .sf2 file ('' = the General MIDI set of
    pretty_midi). progress(done, total) is called as clips are written. Columns of
    index.tsv: path, split, key ("C# minor"), tempo (beats per minute), instrument (of the
    melody), programs, drums (yes or no), samples, rate. Raises ValueError for an unknown split.
    """
    return _corpus(root, "tracks", clips, seconds, seed, soundfont, progress)


def _corpus(
    root: str | pathlib.Path,
    kind: str,
    clips: Mapping[str, int],
    seconds: float,
    seed: int,
    soundfont: str | pathlib.Path,
    progress: Progress,
) -> pathlib.Path:
    if set(clips) - set(SPLITS):
        raise ValueError(f"clips has splits {sorted(clips)}: use train, valid and test")
    if seconds < 1:
        raise ValueError(f"seconds is {seconds}: a clip of music needs 1.0 or more")
    sounds = _soundfont(soundfont)
    request = {"version": _VERSION, "clips": dict(clips), "seconds": seconds, "seed": seed}
    request |= {"soundfont": hashlib.sha256(sounds).hexdigest()[:12]}
    sign = hashlib.sha256(json.dumps([kind, request], sort_keys=True).encode()).hexdigest()[:12]
    folder = pathlib.Path(root) / f"music-{kind}-{sign}"
    if (folder / "DONE").exists():
        return folder
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    draw = {"notes": draw_note, "tracks": draw_track}[kind]
    _write(part, draw, clips, seconds, seed, sounds, progress)
    atomic.write_json(part / "DONE", request)
    part.rename(folder)
    return folder


def split_programs(seed: int) -> dict[str, dict[str, tuple[int, ...]]]:
    """Deals the programs of each family to train (3/5 or more), valid and test (1/5 each)."""
    rng = np.random.default_rng(seed)
    found: dict[str, dict[str, tuple[int, ...]]] = {split: {} for split in SPLITS}
    for family, programs in FAMILIES.items():
        order = [programs[i] for i in rng.permutation(len(programs))]
        fifth = len(order) // 5
        shares = (order[2 * fifth :], order[:fifth], order[fifth : 2 * fifth])
        for split, share in zip(SPLITS, shares, strict=True):
            found[split][family] = tuple(share)
    return found


def draw_note(programs: Mapping[str, tuple[int, ...]], seconds: float, rng: Any) -> Piece:
    """Draws one note: family, program, pitch, velocity, when it starts and how long it is held."""
    family = str(rng.choice(sorted(programs)))
    program = int(rng.choice(programs[family]))
    pitch, velocity = int(rng.choice(PITCHES)), int(rng.integers(40, 128))
    start = float(rng.uniform(0.0, 0.1 * seconds))
    held = float(rng.uniform(0.4, 0.7) * seconds)
    note = tonal_pieces.Note(start, start + held, pitch, velocity)
    columns = {"instrument": family, "program": str(program)}
    columns |= {"pitch": str(pitch), "velocity": str(velocity)}
    return Piece([Part(program, False, [note])], columns)


def draw_track(programs: Mapping[str, tuple[int, ...]], seconds: float, rng: Any) -> Piece:
    """Draws one piece: key, tempo, instruments, then its parts."""
    tonic, mode = int(rng.integers(12)), str(rng.choice(("major", "minor")))
    tempo = float(np.round(rng.uniform(60.0, 180.0), 2))
    families = {
        "chords": str(rng.choice(("guitar", "keyboard", "organ", "string", "vocal"))),
        "bass": "bass",
        "melody": str(rng.choice(sorted(set(programs) - {"bass"}))),
    }
    chosen = {part: int(rng.choice(programs[family])) for part, family in families.items()}
    drums = bool(rng.random() < 0.7)
    parts = tonal_pieces.piece(tonic, mode, tempo, seconds, chosen, drums, rng)
    columns = {"key": f"{tonal_pieces.TONICS[tonic]} {mode}", "tempo": f"{tempo:g}"}
    columns |= {"instrument": families["melody"]}
    columns |= {"programs": " ".join(map(str, chosen.values())), "drums": "yes" if drums else "no"}
    return Piece(parts, columns)


def _write(
    folder: pathlib.Path,
    draw: Callable[[Mapping[str, tuple[int, ...]], float, Any], Piece],
    clips: Mapping[str, int],
    seconds: float,
    seed: int,
    sounds: bytes,
    progress: Progress,
) -> None:
    """Renders every clip and writes index.tsv."""
    import soundfile

    programs, rows = split_programs(seed), []
    (folder / "audio").mkdir()
    for place, split in enumerate(SPLITS):
        for i in range(clips.get(split, 0)):
            rng = np.random.default_rng((seed, place, i))
            piece = draw(programs[split], seconds, rng)
            audio = record(play(piece.parts, seconds, sounds), rng)
            path = f"audio/{split}_{i:05d}.flac"
            soundfile.write(folder / path, audio, RATE, subtype="PCM_16")
            more = {"samples": str(len(audio)), "rate": str(RATE)}
            rows.append({"path": path, "split": split, **piece.columns, **more})
            progress(len(rows), sum(clips.values()))
    lines = ["\t".join(rows[0])] + ["\t".join(row.values()) for row in rows]
    atomic.write_text(folder / "index.tsv", "\n".join(lines) + "\n")


def play(parts: list[Part], seconds: float, soundfont: bytes) -> np.ndarray:
    """Returns the sound of the parts as float32 (seconds * RATE,)."""
    import midirenderer
    import soundfile
    import soxr

    wave = midirenderer.render_wave_from(soundfont, midi(parts, seconds))
    audio, rate = soundfile.read(io.BytesIO(wave), dtype="float32", always_2d=True)
    mono, size = soxr.resample(audio.mean(1), rate, RATE), round(seconds * RATE)
    return np.pad(mono, (0, max(0, size - len(mono))))[:size]


def midi(parts: list[Part], seconds: float) -> bytes:
    """Returns the parts as a MIDI file that ends after `seconds`."""
    import pretty_midi

    file = pretty_midi.PrettyMIDI(resolution=960)
    for part in parts:
        own = pretty_midi.Instrument(program=part.program, is_drum=part.drums)
        own.notes = [pretty_midi.Note(n.velocity, n.pitch, n.start, n.end) for n in part.notes]
        # an event without effect, because rendering ends at the last one
        own.control_changes = [pretty_midi.ControlChange(64, 0, seconds)]
        file.instruments.append(own)
    out = io.BytesIO()
    file.write(out)
    return out.getvalue()


def record(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scales sound (n,) to a random level and adds a little noise: int16 (n,), never clipped."""
    power = np.sqrt(np.mean(np.square(sound, dtype=np.float64))) + 1e-9
    noise = keywords.coloured_noise(len(sound), rng.uniform(0.0, 2.0), rng)
    mixed = sound / power + 10 ** (-rng.uniform(25.0, 50.0) / 20) * noise
    level = 10 ** (rng.uniform(-30.0, -15.0) / 20)
    level = min(level, 0.95 / np.abs(mixed).max())
    return (mixed * level * 32767).astype(np.int16)


def _soundfont(path: str | pathlib.Path) -> bytes:
    """Reads a SoundFont; ImportError names the extra with the default one."""
    try:
        import midirenderer  # noqa: F401
        import pretty_midi
    except ImportError as e:
        raise ImportError(
            "rendering music needs midirenderer and pretty_midi: pip install 'ssl_jax[music]'"
        ) from e
    bundled = pathlib.Path(pretty_midi.__file__).parent / "TimGM6mb.sf2"
    file = pathlib.Path(path) if path else bundled
    if not file.is_file():
        raise FileNotFoundError(f"there is no SoundFont {file}: give the path of an .sf2 file")
    return file.read_bytes()
