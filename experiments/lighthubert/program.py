"""Does one supernet give students of many sizes that are as good as those trained one by one?

    python -m ssl_jax.pipeline experiments/lighthubert/program.py [--data=PATH] [--option=value ...]

Trains a small HuBERT on synthesized speech (and on the recordings of --data and --fsdd, folders
with index.tsv), or takes the run of --teacher; then for each seed a supernet in two stages, a
search for subnets of three sizes, and the models they are compared with. Writes results.json and
results.png next to this file.
"""

import dataclasses
import pathlib
from typing import Any

from ml_collections import ConfigDict

from experiments.hubert import pipeline as hubert
from experiments.hubert import steps
from experiments.lighthubert import arms, claims, pictures
from ssl_jax.core import config as config_lib
from ssl_jax.nn.elastic_space import Space
from ssl_jax.pipeline import Pipe
from ssl_jax.reports import figures
from ssl_jax.stages import clustering, extraction
from ssl_jax.stages.graph import Stage

OPTIONS = {
    "train": 1500,  # synthesized utterances of about 3 s
    "test": 100,
    "data": "",  # more speech, without labels: a folder with index.tsv
    "fsdd": "",  # spoken digits, likewise
    "teacher": "",  # a run folder in place of the teacher that is trained here
    "teacher_steps": 6000,
    "seeds": 3,
    "shares": (0.25, 0.45, 0.7),  # of the parameters of the largest subnet
    "stage1": 600,  # updates of the whole student
    "stage2": 1200,  # updates of the supernet
    "batch": 4,  # crops of 2 s
    "lr": 1e-3,
    "clusters": 100,  # of MFCC, the teacher's labels, and of the features that are evaluated
    "population": 24,
    "generations": 14,  # the three searches of a seed score about a thousand subnets
    "labels": 60,  # transcribed utterances; 0: no recognition
    "finetune_steps": 300,
    "out": "",
}
DATA = {"data": "speechocean762", "fsdd": "fsdd"}  # option: its layout in `convert index`
SIZE = {**hubert.SIZE, "depth": 4, "heads": 6} | dict.fromkeys(hubert.DROPOUTS, 0.0)
SPACE = {"embed": (48, 64, 80, 96), "heads": (2, 3, 4, 5, 6), "ratios": (2.0, 3.0, 4.0)}
SPACE |= {"depths": (2, 3, 4), "drop_order": (3, 1), "named": ()}
TEACHER_LR = 2e-3
TARGETS = {"layers": 3, "standardize": True}
MASK = {"prob": 0.3, "length": 5}
HERE = pathlib.Path(__file__).resolve().parent


def main(pipe: Pipe) -> None:
    """Runs every part; complete stages are skipped."""
    pipe.options |= {"speech": pipe.options["data"]}
    data = hubert.read_data(pipe)
    found = arms.Found()
    teacher = None if pipe.options["teacher"] else teacher_of(pipe, data)
    for seed in range(pipe.options["seeds"]):
        run_seed(pipe, data, teacher, seed, found)
        _write(pipe, found)  # each seed is available while the rest runs


def run_seed(
    pipe: Pipe, data: ConfigDict, teacher: Stage | None, seed: int, found: arms.Found
) -> None:
    """Runs the supernet of a seed, its searches, and what it is compared with."""
    o, here = pipe.options, arms.Context(pipe, data, teacher, seed, found)
    both = o["stage1"] + o["stage2"]
    stage1 = here.train("stage1", config(pipe, data, "full", o["stage1"], seed))
    stage2 = here.train("stage2", config(pipe, data, "uniform", o["stage2"], seed), stage1)
    space = space_of(pipe, data)
    here.whole("stage 1 alone", stage1, space)
    longer = here.train("stage1-long", config(pipe, data, "full", both, seed))
    here.whole("stage 1, as long as both", longer, space)
    here.references(teacher, stage1)
    here.inherited("whole supernet", 1.0, stage2, space.full())
    for share in o["shares"]:
        best = here.searched(share, stage2, space)
        here.inherited("searched", share, stage2, best)
        here.inherited("random", share, stage2, arms.random(space, share, seed))
        here.inherited("layers alike", share, stage2, arms.alike(space, share))
        section = here.section(stage2, best)
        alone = config(pipe, data, "full", both, seed, section)
        here.arm("separate, same steps", share, here.train(f"alone-{share}", alone), best)
        third = config(pipe, data, "full", both // len(o["shares"]), seed, section)
        here.arm("separate, third of the steps", share, here.train(f"third-{share}", third), best)
        here.arm("pruned", share, here.pruned(share, longer, best), best)
        tuned = config(pipe, data, "full", o["stage2"], seed, section)
        tuned_run = here.train(f"tuned-{share}", tuned, here.pruned(share, stage1, best))
        here.arm("pruned and tuned", share, tuned_run, best)
    two = space.uniform(space.width, space.heads_full, space.blocks, 2)
    small = config(pipe, data, "full", both, seed, here.section(stage2, two))
    here.arm("two layers", here.share(space, two), here.train("two-layers", small), two)
    if not seed:
        found.latency = here.latency()
        found.scored = here.scored()


def config(
    pipe: Pipe,
    data: ConfigDict,
    sample: str,
    updates: int,
    seed: int,
    encoder: dict[str, Any] | None = None,
) -> ConfigDict:
    """Returns the config of a student; encoder: of another shape than the supernet."""
    path = "configs/lighthubert/speech.py:mini"
    made = config_lib.load(path).copy_and_resolve_references().unlock()
    made.seed, made.data = seed, hubert.pretraining_data(pipe, data)
    made.method.encoder.update(SIZE)
    if encoder is not None:
        made.method.encoder = ConfigDict(encoder)
    made.method.space.update(SPACE)
    made.method.targets.update(TARGETS)
    made.method.mask.update(MASK)
    made.method.masked_only = False
    made.method.sample = sample
    made.method.teachers.teacher = pipe.options["teacher"]
    made.optim.update({"lr": pipe.options["lr"], "warmup": "8%"})
    made.train.duration = f"{updates} steps"
    made.eval.every = f"{max(1, updates // 4)} steps"
    made.log.every = f"{max(1, updates // 30)} steps"
    made.checkpoint.update({"every": f"{updates} steps", "best_metric": ""})
    made.guard.after = updates
    return config_lib.override(made, [])


def space_of(pipe: Pipe, data: ConfigDict) -> Space:
    """Returns the space of the subnets."""
    return extraction.student(config(pipe, data, "uniform", 1, 0), "the supernet").space


def teacher_of(pipe: Pipe, data: ConfigDict) -> Stage:
    """Trains HuBERT on clusters of MFCC."""
    o, unlabelled = pipe.options, hubert.pretraining_data(pipe, data)
    options = hubert.kmeans_options(o["clusters"], 0)
    to_fit, to_label = (steps.whole(unlabelled, share) for share in (hubert.SHARES[0], 1.0))
    codebook = clustering.clusters(pipe, "kmeans", to_fit, options, 0)
    units = clustering.labels(pipe, "labels", to_label, 0, codebook)
    path, updates = "configs/hubert/audio.py:mini", o["teacher_steps"]
    made = hubert.pretraining_config(pipe, data, path, updates, 0)
    made.optim.lr = TEACHER_LR
    made.method.encoder.update(SIZE)
    made.method.units.update({"classes": (o["clusters"],), "rate": 100.0})
    made.method.loss.update(hubert.LOSS)
    return pipe.train("teacher", config_lib.override(made, []), labels=(units,))


def _write(pipe: Pipe, found: arms.Found) -> None:
    """Writes results.json and results.png."""
    out = pathlib.Path(pipe.options["out"]) if pipe.options["out"] else HERE
    used = {k: v for k, v in pipe.options.items() if k not in ("out", "speech")}
    used |= {k: pathlib.Path(used[k]).name for k in ("data", "fsdd", "teacher")}
    results = dataclasses.asdict(found)
    results |= {"options": used, "machine": pipe.machine()}
    results["claims"] = claims.sizes(results)
    figures.write_results(out / "results.json", results)
    pictures.draw(out / "results.png", results)
