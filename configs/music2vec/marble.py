r"""Protocols that evaluate a frozen music encoder: MARBLE's constrained track (2306.10548).

Command: python -m ssl_jax.evaluate --run RUN --protocol configs/music2vec/marble.py:mtt \
             --config.data.train.mtt.path=PATH (and valid, test)
  mtt         MagnaTagATune: 50 tags, 29 s clips; ROC-AUC and average precision, mean over tags
  giantsteps  GiantSteps key: 24 keys, 2-minute tracks; the weighted score of mir_eval
  emo         Emomusic: valence and arousal, 45 s clips; R2
  gtzan       GTZAN: 10 genres, 30 s clips, the fault-filtered split; accuracy
Tables: index.tsv with the columns path and split (train, valid, test), and the targets in the
columns named below; keys are written as "C# minor".

Features are the hidden states of non-overlapping windows of 30 s, averaged over the entire track.
The probe is an MLP with one hidden layer of 512 units, trained on each layer and on a learned
softmax mix of the layers, with six learning rates; the best on validation is tested. Once the
features are extracted, it takes up to an hour on one CPU core. For published numbers see
music2vec.py.

The baselines include chroma, CQT, tonnetz, onset strength and tempo by librosa, about 0.2 s a clip
on the host; --baselines '' leaves them out.
"""

from ml_collections import ConfigDict

from configs import common

# task: (longest track in seconds, columns of the targets, kind of the task, scores)
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
            "pool": "mean",  # as in the paper, of encoders and raw frames alike
            "baselines": ("librosa",),
            # names: the columns, if the targets are numbers
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
