"""Recordings as people have them: nested folders, many formats and rates, broken files, labels."""

from pathlib import Path

import numpy as np
import soundfile

RATES = {"wav": 8000, "mp3": 44100, "ogg": 48000, "flac": 22050}


def write_recordings(folder: Path, column: str = "label") -> Path:
    """Writes forty clips of 0.4 to 0.7 s to `recordings` and twenty to `music`, half of them
    stereo; a file that is not audio and an empty one; labels.csv, whose classes are two pitches."""
    draw = np.random.default_rng(0)
    lines = [f"path,{column},speaker"]
    for i in range(60):
        kind, high = list(RATES)[i % 4], i // 4 % 2
        t = np.arange(round(draw.uniform(0.4, 0.7) * RATES[kind])) / RATES[kind]
        x = 0.3 * np.sin(2 * np.pi * (1200 if high else 300) * t)
        x = x + 0.01 * draw.standard_normal(len(t))
        name = f"s{i % 5}/day {i % 3}/{i}.{kind}"
        file = folder / ("recordings" if i < 40 else "music") / name
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, np.stack([x, 0.5 * x], 1) if i % 2 else x, RATES[kind])
        if i < 40:
            lines.append(f"{name},{('low', 'high')[high]},s{i % 5}")
    (folder / "recordings" / "broken.wav").write_bytes(b"RIFF no sound")
    (folder / "recordings" / "empty.mp3").write_bytes(b"")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder
