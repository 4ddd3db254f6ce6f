"""A corpus of tones in the layout of Speech Commands, and configs over it."""

from pathlib import Path

import numpy as np
import soundfile

RATE = 16000
WORDS = {"low": 200, "mid": 700, "high": 2500}
CONFIGS = Path(__file__).parents[2] / "configs"


def write_corpus(folder: Path, takes: int = 12) -> Path:
    """Writes `takes` half-second clips per word; takes 0 to 3 are for validation."""
    rng = np.random.default_rng(0)
    valid = []
    for word, hz in WORDS.items():
        (folder / word).mkdir(parents=True)
        for take in range(takes):
            t = np.arange(RATE // 2 - 300 * take) / RATE
            x = 0.3 * np.sin(2 * np.pi * hz * rng.uniform(0.9, 1.1) * t)
            x += 0.01 * rng.standard_normal(len(t))
            name = f"{word}/{take:08x}_nohash_0.wav"
            soundfile.write(folder / name, x, RATE, subtype="PCM_16")
            if take < 4:
                valid.append(name)
    (folder / "validation_list.txt").write_text("\n".join(valid) + "\n")
    (folder / "testing_list.txt").write_text(f"low/{takes - 1:08x}_nohash_0.wav\n")
    return folder


def overrides(corpus: Path, **changes) -> list[str]:
    """Returns command-line overrides: every split from the corpus, and the changes."""
    texts = [f"--config.data.{s}.sc.path={corpus}" for s in ("train", "valid", "test")]
    texts += ["--config.data.train.sc.part=(0.0, 1.0)", "--config.optim.end_lr=0.0"]
    return texts + [f"--config.{key}={value}" for key, value in changes.items()]
