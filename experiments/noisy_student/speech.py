"""The recordings of the noisy student experiment, and the text of its language model."""

import math
import pathlib
import shutil
from typing import Any

import numpy as np

from experiments.noisy_student import recorded
from ssl_jax.core import atomic
from ssl_jax.core.progress import Progress
from ssl_jax.data.readers import audio, sources
from ssl_jax.data.synthetic import keywords, read_speech
from ssl_jax.evals import ngram
from ssl_jax.pipeline import Pipe

RATE = 16000
_NOISY = {"snr_db": (0.0, 10.0), "speed": (0.8, 1.25)}
_WORDLESS = 1 / 3  # of the other domain: music and noise, without speech


def corpus(pipe: Pipe) -> pathlib.Path:
    """Returns the folder of the recordings, made once, with one index.tsv.

    Its splits: `train`, of which the first are labelled; `other`, unlabelled and of another domain
    (other voices and speeds, noise of 0 to 10 dB, a third of it music or noise without speech);
    `test`, and `test_other` of that domain, all with speech. No sentence is in two of them. With
    --grid, sentences of GRID, and as other domain the recordings of --others.
    """
    o = pipe.options
    counts = {"train": o["labels"] * o["seeds"] + o["unlabelled"]}
    if o["grid"]:
        given = {"grid": o["grid"], "others": tuple(o["others"])}
        given["counts"] = counts | {"test": o["test"]}
        stage = pipe.stage("data", "recorded", given, lambda out: recorded.write(out, **given))
        return pipe.folder(stage)
    counts |= {"valid": o["other"] + o["test"], "test": o["test"]}
    bar = Progress("sentences spoken", sum(counts.values()), patience=1.0)
    clean = read_speech.corpus(
        pipe.root / "corpus",
        clips=counts,
        kind=o["kind"],
        progress=lambda done, total: bar.step(done - bar.done),
    )
    bar.close()
    about = {"counts": counts, "kind": o["kind"], "test": o["test"], **_NOISY}
    stage = pipe.stage("data", "recordings", about, lambda folder: _write(folder, clean, o["test"]))
    return pipe.folder(stage)


def language_model(pipe: Pipe, folder: pathlib.Path) -> pathlib.Path:
    """Returns the ARPA file of a 3-gram of words, from text that is not in the recordings."""
    o = pipe.options
    about = {"texts": o["texts"], "kind": o["kind"], "recordings": folder.name}

    def draw(rng: np.random.Generator) -> str:
        return recorded.draw_text(rng) if o["grid"] else read_speech.draw_text(o["kind"], rng)

    def work(out: pathlib.Path) -> None:
        source = sources.open_source("train.speech", {"kind": "table", "path": str(folder)})
        spoken, rng = {str(text) for text in source.columns["text"]}, np.random.default_rng(1)
        # in capitals, as the letters of transcripts are
        texts = [draw(rng) for _ in range(o["texts"])]
        model = ngram.estimate((t.upper() for t in texts if t not in spoken), 3)
        ngram.write_arpa(out / "lm.arpa", model)

    return pipe.folder(pipe.stage("data", "language-model", about, work)) / "lm.arpa"


def _write(folder: pathlib.Path, clean: pathlib.Path, tests: int) -> None:
    """Writes all recordings, those of the other domain changed, and their index."""
    table = {"kind": "table", "path": str(clean)}
    source = sources.open_source("train.clean", table)
    rows, seen = [recorded.HEADER], 0
    for i in range(len(source)):
        split, speaker, text = (str(source.columns[c][i]) for c in ("split", "speaker", "text"))
        name = source.key(i).partition("/")[2]
        noise = "none"
        if split == "valid":
            rng = np.random.default_rng((3, i))
            split = "test_other" if seen < tests else "other"
            seen += 1
            sound = _other(source.read(i)[0], rng)
            noise = "noise"
            if split == "other" and rng.uniform() < _WORDLESS:
                sound, text, noise = _wordless(len(sound), rng), "", "no speech"
            (folder / name).write_bytes(audio.encode_flac(sound, RATE))
            samples = len(sound)
        else:
            shutil.copyfile(clean / name, folder / name)
            samples = int(source.samples[i])
        rows.append("\t".join(map(str, (name, split, speaker, text, samples, RATE, noise))))
    atomic.write_text(folder / "index.tsv", "\n".join(rows) + "\n")


def _other(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a recording at another speed, in noise."""
    speed = rng.uniform(*_NOISY["speed"])
    places = np.arange(int(len(sound) / speed)) * speed
    fast = np.interp(places, np.arange(len(sound)), sound.astype(np.float64))
    noise = keywords.coloured_noise(len(fast), rng.uniform(0.0, 2.0), rng)
    level = 10 ** (-rng.uniform(*_NOISY["snr_db"]) / 20) * np.sqrt(np.mean(np.square(fast)))
    return _int16(fast + level * noise)


def _wordless(size: int, rng: np.random.Generator) -> np.ndarray:
    """Returns music of a few notes, or noise that comes and goes."""
    time = np.arange(size) / RATE
    if rng.uniform() < 0.5:
        notes = 220 * 2 ** (rng.integers(0, 24, 1 + size // (RATE // 4)) / 12)
        pitch = np.repeat(notes, RATE // 4)[:size]
        phase = 2 * np.pi * np.cumsum(pitch) / RATE
        sound = sum(np.sin(k * phase) / k for k in (1, 2, 3))
        fall = np.exp(-4 * (time % 0.25))
        return _int16(3000 * sound * fall + rng.normal(0, 30, size))
    swell = 1.1 + np.sin(2 * np.pi * rng.uniform(0.5, 3) * time)
    return _int16(1500 * swell * keywords.coloured_noise(size, rng.uniform(0.5, 2.0), rng))


def _int16(sound: Any) -> np.ndarray:
    return np.clip(np.rint(sound), -32767, 32767).astype(np.int16)


def buckets(folder: pathlib.Path, part: tuple[float, float]) -> tuple[float, ...]:
    """Returns two buckets: half of the labelled recordings fit the first, all of them the last."""
    labelled = source(folder, "train", part=part)
    found = [
        opened.samples / opened.rates
        for opened in (
            sources.open_source("train.labelled", labelled),
            sources.open_source("train.all", {"kind": "table", "path": str(folder)}),
        )
    ]
    half, longest = (math.ceil(10 * x) / 10 for x in (np.median(found[0]), found[1].max()))
    return (half, longest) if half < longest else (longest,)


def source(folder: pathlib.Path, split: str, **more: Any) -> dict[str, Any]:
    """Returns the section of one split as a source of config.data."""
    return {"kind": "table", "path": str(folder), "where": {"split": split}, **more}
