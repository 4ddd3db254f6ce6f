r"""Protocols that judge a frozen encoder of music: MARBLE's constrained track (2306.10548).

Command: python -m ssl_jax.evaluate --run RUN --protocol configs/music2vec/marble.py:mtt \
             --config.data.train.mtt.path=PATH (and valid, test)
  mtt         MagnaTagATune: 50 tags of 29 s clips; ROC-AUC and average precision, mean over tags
  giantsteps  GiantSteps key: 24 keys of 2 minutes; the weighted score of mir_eval
  emo         Emomusic: valence and arousal of 45 s; R2
  gtzan       GTZAN: 10 genres of 30 s, the fault-filtered split; accuracy
Tables: index.tsv with the columns path and split (train, valid, test) and what is predicted, in
the columns named below; keys are written as "C# minor".

Features are the hidden states of windows of 30 s that do not overlap, averaged over the time of
the whole track. On them a MLP with one hidden layer of 512 units, on each layer and on their
learned softmax mix, with six learning rates; the best on validation is tested. One CPU core and
an hour suffices once the features are taken. Published numbers stand in music2vec.py.
"""

from ml_collections import ConfigDict

from configs import common

# task: (longest track in seconds, the columns of the truth, kind of the task, scores)
TASKS = {
    "mtt": (30.0, {"tags": "tags"}, "tags", ("roc_auc", "average_precision")),
    "giantsteps": (120.0, {"label": "key"}, "label", ("weighted_key", "accuracy")),
    "emo": (60.0, {"target": ("valence", "arousal")}, "target", ("r2",)),
    "gtzan": (30.0, {"label": "genre"}, "label", ("accuracy",)),
}


def get_protocol(arg: str | None = None) -> ConfigDict:
    """Returns the protocol of `arg`: mtt (default), giantsteps, emo or gtzan."""
    name = arg or "mtt"
    common.check(name, tuple(TASKS))
    seconds, truth, kind, scores = TASKS[name]
    data = common.audio_data()
    for split in ("train", "valid", "test"):
        source = {"kind": "table", "path": f"data/{name}", "where": ConfigDict({"split": split})}
        data[split][name] = ConfigDict(source | truth)
    data.update({"buckets": (seconds,), "batch_size": 8})
    return ConfigDict(
        {
            "data": data,
            "window_seconds": 30.0,
            # of numbers, the names of their columns
            "task": {"kind": kind, "scores": scores, "names": truth.get("target", ())},
            "probe": {
                "width": 512,
                "dropout": 0.2,
                "rates": (1e-2, 5e-3, 1e-3, 5e-4, 1e-4, 5e-5),
                "batch_size": 64,
                "epochs": 100,
                "patience": 10,
                "seeds": (0,),
            },
        }
    )
