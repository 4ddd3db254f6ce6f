"""Learns speech on a laptop in minutes: data2vec on synthesized keywords, then a few labels.

    python -m ssl_jax.pipeline experiments/quickstart.py [--option=value ...]

Synthesizes spoken keywords in the layout of Google Speech Commands (voices disjoint between
training, validation and test), pre-trains a small Keyword Transformer on all training clips
without labels, and fine-tunes it with few labels, with and without pre-training. Writes
results.json, report.png and report.html to runs/quickstart.
"""

import pathlib

from kws import protocol

from experiments.kws import claims, pictures
from ssl_jax.core import config as config_lib
from ssl_jax.core.progress import Progress
from ssl_jax.data.synthetic import keywords
from ssl_jax.pipeline import Pipe
from ssl_jax.reports import figures

OPTIONS = {
    "clips": 8000,  # unlabelled training clips
    "valid_clips": 500,
    "test_clips": 1500,
    "labels_per_class": 50,
    "pretrain_steps": 3600,
    "finetune_steps": 300,
    "seeds": 5,
    "pretrain_seeds": 1,
    "corpus_seed": 0,
    "allow_low_turnover": False,  # True: a trial of few steps, whose teacher stays random
}
NEXT = """\
python -m ssl_jax.evaluate --run {pretrained}
python -m ssl_jax.pipeline experiments/quickstart.py --labels_per_class=5 --workdir runs/five
python -m ssl_jax.pipeline experiments/kws/program.py --data=PATH   # real recordings
python -m ssl_jax.train --config configs/data2vec/kws.py:kwt1 --workdir runs/d2v_kwt1   # full size
python -c "import ssl_jax; print(ssl_jax.load('{pretrained}').config)"
"""


def main(pipe: Pipe) -> None:
    """Runs the program; complete stages are skipped."""
    o = pipe.options
    corpus = _corpus(pipe)
    pipe.expect(
        {f"pretrain-{i}": o["pretrain_steps"] / 14 for i in range(o["pretrain_seeds"])}
        | {f"{a}-{i}": o["finetune_steps"] / 14 for a in protocol.ARMS for i in range(o["seeds"])}
    )
    sources = [f"data.{split}.sc.path={corpus}" for split in ("train", "valid", "test")]
    pretrain = config_lib.load(
        "configs/data2vec/kws.py:mini",
        [
            *sources,
            f"train.duration={o['pretrain_steps']} steps",
            f"method.ema.anneal={o['pretrain_steps']}",
        ],
    )
    finetune = config_lib.load(
        "configs/supervised/kws.py:mini",
        [
            *sources,
            f"train.duration={o['finetune_steps']} steps",
            f"data.labels_per_class={o['labels_per_class']}",
        ],
    )
    starts = protocol.pretrain(pipe, pretrain, o["pretrain_seeds"])
    found = protocol.finetune(pipe, finetune, starts, o["seeds"])
    _report(pipe, found, starts)


def _corpus(pipe: Pipe) -> pathlib.Path:
    o = pipe.options
    clips = {"train": o["clips"], "valid": o["valid_clips"], "test": o["test_clips"]}
    bar = Progress("clips spoken", sum(clips.values()), patience=1.0)
    folder = keywords.keywords(
        pipe.root / "corpus",
        clips=clips,
        seed=o["corpus_seed"],
        progress=lambda done, total: bar.step(done - bar.done),
    )
    bar.close()
    return folder


def _report(pipe: Pipe, found: dict, starts: list) -> None:
    """Writes the results, curves, a clip, their picture and report.html, and prints the table."""
    o, runs = pipe.options, found.pop("runs")
    group = f"{o['labels_per_class']} labels per word"
    text = protocol.summary({group: found}, "test accuracy")
    results = found | {"options": o} | pipe.machine()
    made = claims.quickstart(results)
    figures.write_results(pipe.root / "results.json", results | {"claims": made})
    picture = pipe.root / "report.png"
    folders = [pipe.folder(s) for s in starts]
    curves, clip = protocol.kept_curves(folders, runs), protocol.kept_clip(folders[0])
    figures.write_results(pipe.root / "curves.json", curves)
    figures.write_results(pipe.root / "clip.json", clip)
    pictures.quickstart(picture, results, curves, clip)
    next_ = NEXT.format(pretrained=folders[0])
    lead = protocol.conclusion(made[0], o["labels_per_class"], len(starts))
    page = pipe.root / "report.html"
    every = {"pre-training": folders, **runs}
    figures.page(page, "ssl_jax quickstart", picture, text, next_, lead, every)
    print(f"\n{text}\n\n{lead}\n\n{picture}\n{page}\n\nNext:\n{next_}")
