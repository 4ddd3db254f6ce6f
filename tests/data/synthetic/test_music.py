"""The rendered music corpus: exact labels, disjoint instruments, equal seeds give equal files."""

import csv
import hashlib

import numpy as np
import pytest
import soundfile

from ssl_jax.data.synthetic import music, tonal_pieces

CLIPS = {"train": 3, "valid": 1, "test": 1}
PROGRAMS = {"chords": 0, "bass": 33, "melody": 73}


def rows_of(folder):
    with (folder / "index.tsv").open() as f:
        return list(csv.DictReader(f, delimiter="\t"))


def digest(folder):
    files = [*sorted((folder / "audio").iterdir()), folder / "index.tsv"]
    return hashlib.sha256(b"".join(f.name.encode() + f.read_bytes() for f in files)).hexdigest()


def compose_piece(seed=0, *, tonic=2, mode="major", tempo=120.0, seconds=20.0, drums=True):
    rng = np.random.default_rng(seed)
    return tonal_pieces.piece(tonic, mode, tempo, seconds, PROGRAMS, drums, rng)


def test_splits_share_no_program_and_every_family_has_some():
    parts = music.split_programs(3)
    owners = {}
    for split, families in parts.items():
        assert set(families) == set(music.FAMILIES) and all(families.values())
        for programs in families.values():
            for program in programs:
                assert owners.setdefault(program, split) == split
    assert parts != music.split_programs(4)


@pytest.mark.parametrize(("tonic", "mode"), [(0, "major"), (9, "minor"), (6, "minor")])
def test_every_note_is_of_the_key(tonic, mode):
    scale = {(tonic + step) % 12 for step in tonal_pieces.SCALES[mode]}
    leading = (tonic + 11) % 12  # the raised seventh of the minor key
    for seed in range(5):
        parts = [p for p in compose_piece(seed, tonic=tonic, mode=mode) if not p.drums]
        assert [p.program for p in parts] == list(PROGRAMS.values())
        found = {note.pitch % 12 for part in parts for note in part.notes}
        assert found <= scale | {leading} and tonic in found


def test_the_beat_is_that_of_the_tempo():
    for tempo in (60.0, 97.3, 180.0):
        (drums,) = [p for p in compose_piece(1, tempo=tempo) if p.drums]
        beats = np.array([note.start for note in drums.notes]) * tempo / 60
        off = np.abs(beats * 4 - np.round(beats * 4)) / 4  # from the nearest quarter of a beat
        assert off.max() < 0.1 and np.median(off) < 0.03
        assert (np.diff(np.unique(np.round(beats))) == 1).mean() > 0.5


def test_notes_end_within_the_piece_and_can_be_played():
    for part in compose_piece(2, seconds=7.0):
        assert part.notes
        for note in part.notes:
            assert 0 <= note.start < note.end <= 7.0
            assert 20 < note.pitch < 110 and 1 <= note.velocity <= 127


@pytest.mark.slow
def test_a_recording_is_never_clipped_and_levels_differ():
    rng = np.random.default_rng(0)
    click, tone = np.eye(16000)[100], np.sin(np.arange(16000) / 5)
    peaks = [np.abs(music.record(click, rng)).max() for _ in range(3)]
    assert peaks == pytest.approx([0.95 * 32767] * 3, abs=1)
    levels = {int(np.abs(music.record(tone, rng)).max()) for _ in range(3)}
    assert len(levels) == 3 and max(levels) < 20_000


@pytest.mark.parametrize(
    ("options", "text"),
    [({"clips": {"dev": 1}}, "train, valid and test"), ({"clips": CLIPS, "seconds": 0.2}, "1.0")],
)
def test_a_wrong_request_is_named(tmp_path, options, text):
    with pytest.raises(ValueError, match=text):
        music.notes(tmp_path, **options)


@pytest.mark.parametrize("make", [music.notes, music.tracks])
def test_equal_seeds_give_equal_files_and_the_second_call_makes_none(tmp_path, make):
    pytest.importorskip("midirenderer")
    pytest.importorskip("pretty_midi")
    seen = []
    request = {"clips": CLIPS, "seconds": 1.0}
    first = make(tmp_path / "a", **request, progress=lambda *x: seen.append(x))
    assert seen[-1] == (5, 5)
    assert digest(first) == digest(make(tmp_path / "b", **request))
    again = make(tmp_path / "a", **request, progress=lambda *x: pytest.fail("made anew"))
    assert again == first
    assert digest(make(tmp_path / "a", **request, seed=1)) != digest(first)
    rows = rows_of(first)
    assert [r["split"] for r in rows] == ["train"] * 3 + ["valid", "test"]
    for row in rows:
        audio, rate = soundfile.read(first / row["path"], dtype="int16")
        assert (len(audio), rate) == (16000, 16000) == (int(row["samples"]), int(row["rate"]))
        assert np.abs(audio).max() > 100
    assert len({soundfile.read(first / r["path"])[0].tobytes() for r in rows}) == 5


def test_a_note_sounds_at_its_pitch():
    pytest.importorskip("midirenderer")
    sounds = music._soundfont("")
    for pitch in (57, 69, 76):
        part = tonal_pieces.Part(73, False, [tonal_pieces.Note(0.0, 1.0, pitch, 100)])  # a flute
        sound = music.play([part], 1.0, sounds)
        assert sound.shape == (16000,)
        spectrum = np.abs(np.fft.rfft(sound * np.hanning(16000)))
        hz = 440 * 2 ** ((pitch - 69) / 12)
        assert abs(spectrum[: round(1.5 * hz)].argmax() - hz) < 0.02 * hz


def test_a_missing_soundfont_is_named(tmp_path):
    pytest.importorskip("midirenderer")
    with pytest.raises(FileNotFoundError, match=r"give the path of an \.sf2 file"):
        music.notes(tmp_path, clips=CLIPS, soundfont=tmp_path / "none.sf2")
