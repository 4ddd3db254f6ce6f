"""Hours of audio per second: this loader against a torch DataLoader with soundfile.

    python experiments/benchmarks/loader.py [--folder F] [--out experiments/benchmarks/loader.json]

Both read the same files in the same run, decode, crop and pad to int16 batches of one shape, and
read two batches ahead per worker; each has one, then two workers (ours are threads, as decoding
runs outside the interpreter lock). Rounds alternate, and the median is reported. Without --folder
the files are generated: FLAC, 10 to 15 s of a tone with a noisy envelope.
"""

import argparse
import os
import pathlib
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator

import numpy as np
import soundfile

from ssl_jax.core import atomic
from ssl_jax.data import corpus as corpus_lib
from ssl_jax.data import loader
from ssl_jax.data.batch_schedule import BatchSchedule

SECONDS = 15.0
RATE = 16000


def make_files(folder: pathlib.Path, count: int) -> None:
    """Writes `count` FLAC files of 10 to 15 s that compress about as well as speech."""
    rng = np.random.default_rng(0)
    for i in range(count):
        n = int(RATE * rng.uniform(10.0, SECONDS))
        smooth = np.convolve(rng.standard_normal(n // 800 + 2), np.ones(4) / 4, "same")
        envelope = np.abs(np.interp(np.arange(n), np.arange(len(smooth)) * 800, smooth))
        tone = np.sin(2 * np.pi * rng.uniform(100, 400) * np.arange(n) / RATE)
        audio = 0.3 * envelope * tone + 0.01 * rng.standard_normal(n)
        audio = (np.clip(audio, -1, 1) * 32767).astype(np.int16)
        soundfile.write(folder / f"{i:04d}.flac", audio, RATE, subtype="PCM_16")


class TorchFiles:
    """The same rows as a torch map-style dataset: decode, crop at random, pad."""

    def __init__(self, paths: list[str], length: int):
        self.paths, self.length = paths, length

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int):
        import torch

        with soundfile.SoundFile(self.paths[i]) as f:
            room = f.frames - self.length
            if room > 0:
                f.seek(int(torch.randint(room + 1, ())))
            audio = f.read(min(f.frames, self.length), dtype="int16")
        out = np.zeros(self.length, np.int16)
        out[: len(audio)] = audio
        return i, torch.from_numpy(out), len(audio)


def time_torch(paths: list[str], batch: int, workers: int, steps: int) -> float:
    """Returns hours of audio per second of a DataLoader."""
    import torch.utils.data

    torch.set_num_threads(1)
    files = TorchFiles(paths, int(SECONDS * RATE))
    # one sampler over many epochs, so that the workers never stop in between
    order = torch.utils.data.RandomSampler(files, num_samples=(steps + 1) * batch)
    batches = torch.utils.data.DataLoader(
        files, batch_size=batch, sampler=order, num_workers=workers, prefetch_factor=2
    )
    return _time(lengths.numpy() for _, _, lengths in batches)


def time_ours(
    corpus: corpus_lib.Corpus, schedule: BatchSchedule, workers: int, steps: int
) -> float:
    """Returns hours of audio per second of our loader with as many threads as workers."""
    batches = loader.batches(corpus, schedule, 0, steps + 1, threads=workers)
    return _time(arrays["audio_len"] for arrays, _ in batches)


def _time(lengths: Iterator[np.ndarray]) -> float:
    """Hours per second after the first batch, so that start-up does not count."""
    next(lengths)
    begin = time.perf_counter()
    samples = sum(float(n.sum()) for n in lengths)
    return samples / RATE / 3600 / (time.perf_counter() - begin)


def open_ours(folder: pathlib.Path, batch: int) -> tuple[corpus_lib.Corpus, BatchSchedule]:
    """Opens the files of a folder -> (corpus, schedule)."""
    config = {
        "train": {"files": {"kind": "folder", "path": str(folder)}},
        "sample_rate": RATE,
        "buckets": (SECONDS,),
        "min_seconds": 0.0,
        "batch_size": batch,
        "constant_seconds": False,
        "classes": (),
        "labels_per_class": 0,
        "label_share": 1.0,
        "label_seed": 0,
        "on_bad": "raise",
    }
    corpus = corpus_lib.open_split(config, "train")
    return corpus, corpus_lib.make_schedule(corpus, config, seed=0)


def compare(folder: pathlib.Path, batch: int, rounds: int, steps: int) -> dict:
    """Times both loaders on the files of a folder, by number of workers."""
    corpus, schedule = open_ours(folder, batch)
    reader = corpus.sources[0].reader
    paths = [reader.path(int(i)) for i in corpus.sources[0].rows]
    results = {}
    for workers in (1, 2):
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(time_ours(corpus, schedule, workers, steps))
            theirs.append(time_torch(paths, batch, workers, steps))
        a, b = statistics.median(ours), statistics.median(theirs)
        results[str(workers)] = {"ours": a, "torch": b, "ratio": a / b, "runs": [ours, theirs]}
        print(f"{workers} worker(s): ours {a:.2f} h/s, torch {b:.2f} h/s, ratio {a / b:.2f}")
    return results


def main() -> None:
    """Runs the comparison and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", default="", help="16 kHz sound files to read instead")
    parser.add_argument("--files", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", default=str(pathlib.Path(__file__).with_suffix(".json")))
    args = parser.parse_args()
    try:
        import torch
    except ImportError:
        raise SystemExit("this comparison needs torch: pip install torch==2.13.0") from None
    with tempfile.TemporaryDirectory() as made:
        folder = pathlib.Path(args.folder or made)
        if not args.folder:
            make_files(folder, args.files)
        results = compare(folder, args.batch, args.rounds, args.steps)
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    versions = {"torch": torch.__version__, "soundfile": soundfile.__version__}
    row = {"hours_per_second": results, "batch": args.batch, "machine": {**machine, **versions}}
    atomic.write_json(args.out, row)


if __name__ == "__main__":
    main()
