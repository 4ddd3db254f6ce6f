"""Noisy student training on your own recordings: some with a transcript, many without.

    python -m ssl_jax.pipeline experiments/noisy_student/own.py --labelled=TABLE --pool=FOLDER \
        --start=RUN --lm=FILE.arpa

TABLE has the columns path, text and split (train, valid, test); FOLDER holds the recordings without
a transcript; RUN is pre-trained, and every generation starts from it. The last line names the run
of the last generation. Run the same command again to go on after a crash, or with more
--generations.
"""

import math

from ml_collections import ConfigDict

from ssl_jax.core import config as config_lib
from ssl_jax.data import pseudo_labels as stores
from ssl_jax.data.errors import DataError
from ssl_jax.evals.label_filters import Filters
from ssl_jax.pipeline import Pipe
from ssl_jax.stages import pseudo_labels
from ssl_jax.stages.graph import Stage

OPTIONS = {
    "labelled": "",
    "pool": "",
    "kind": "folder",  # of the pool; see ssl_jax/data/readers/sources.py
    "start": "",  # a run whose encoder every generation starts from; "": from scratch
    "config": "configs/ctc/speech.py:own",  # of every generation
    "set": (),  # changes of it, such as ("optim.lr=1e-4",)
    "generations": 3,
    "lm": "",  # an ARPA file
    "beam": 16,
    "lm_weight": 1.0,
    "word_score": 0.0,
    "pseudo_share": 0.9,  # of every batch
    # what is kept of the pseudo-labels; see ssl_jax/evals/label_filters.py
    "disagreement": 0.1,  # with and without language model, in characters; 0.0: not looked at
    "balance": 1.0,
}


def main(pipe: Pipe) -> None:
    """Trains generation 0 on the labels, then one generation after the other."""
    o = pipe.options
    for name in ("labelled", "pool"):
        if not o[name]:
            raise DataError(f"--{name} is empty: give --{name}=PATH, see the top of the program")
    teacher = pipe.train("generation-0", _config(pipe))
    filters = Filters(disagreement=o["disagreement"] or math.inf, balance=o["balance"])
    search = {key: o[key] for key in ("beam", "lm", "word_score")}
    search |= {"lm_weight": o["lm_weight"]} if o["lm"] else {}
    pool = {"kind": o["kind"], "path": o["pool"]}
    for number in range(1, o["generations"] + 1):
        data = _config(pipe).data.copy_and_resolve_references().unlock()
        data.train, data.valid, data.test = ConfigDict({"pool": pool}), ConfigDict(), ConfigDict()
        decoded = pseudo_labels.decode(pipe, f"decoded-{number}", teacher, data, search)
        labels = pseudo_labels.select(pipe, f"labels-{number}", decoded, filters)
        _tell(pipe, number, labels)
        config = _config(pipe)
        with config.unlocked():
            # the vocabulary stays that of generation 0
            config.data.classes = pipe.load(teacher).classes
            for source in config.data.train.values():
                source.batch_share = (1 - o["pseudo_share"]) / len(config.data.train)
            more = {"transcript": "text", "pseudo_labels": "", "batch_share": o["pseudo_share"]}
            config.data.train.pool = ConfigDict(pool | more)
        student = f"generation-{number}"
        teacher = pipe.train(student, config, pseudo_labels={"pool": labels})
    pipe.notify(f"the last generation is {pipe.folder(teacher)}")


def _config(pipe: Pipe) -> ConfigDict:
    """Returns the config of a run on the labels."""
    o = pipe.options
    changes = [f"data.train.own.path={o['labelled']}", f"init_from={o['start']}", *o["set"]]
    return config_lib.load(o["config"], changes).copy_and_resolve_references()


def _tell(pipe: Pipe, number: int, labels: Stage) -> None:
    """Says how many pseudo-labels a generation has, and what the filters dropped."""
    header = stores.read(pipe.folder(labels)).header
    dropped = ", ".join(f"{name} {count}" for name, count in header["dropped"].items() if count)
    pipe.notify(
        f"generation {number}: {header['rows']} of {header['recordings']} recordings are labelled"
        + (f"; dropped: {dropped}" if dropped else "")
    )
