r"""SUPERB (2105.01051): classification of utterances with a frozen speech encoder.

Command: python -m ssl_jax.evaluate --run RUN --protocol configs/superb/utterances.py:ks \
             --config.data.train.ks.path=PATH (and valid, test)
  ks          Speech Commands V1, 12 classes (ten words, unknown, silence), sampled equally often;
              accuracy. Published (unverified, here and below): wav2vec 2.0 Base 96.23, HuBERT Base
              96.30, HuBERT Large 95.29
  sid         VoxCeleb1, 1,251 speakers; accuracy. 75.18, 81.42, 90.33
  ic          Fluent Speech Commands: action, object and location, which must all be correct;
              accuracy. 92.35, 98.34, 98.76
  er1 to er5  IEMOCAP, 4 emotions: the session with that number is for testing, a fifth of the
              others for validation; accuracy, mean over the five. 63.43, 64.92, 67.62
Tables: index.tsv with the columns path, split (train, valid, test; not of er), and label (ks),
speaker (sid), action, object and location (ic), emotion and session, 1 to 5 (er).

The head is that of the protocol: a learned weighted sum of all hidden states, a linear layer to
256, the average over time, and a linear layer to the classes, trained with Adam at 1e-4, batches of
32, gradients clipped to norm 1, and 200k updates (er 30k), of which the best on validation is
tested. The paper searched for the learning rate: try others with
--config.probe.rates='(1e-3, 1e-4, 1e-5)'. All of this is linear, so the average over time can come
first: features are extracted once and kept in RUN/features, and one CPU core trains the head in
minutes. In the original, a clip of sid is a random crop of 8 s in each update; here it is the
average over all its windows of 8 s. The original also makes the clips of ks 3 dB quieter.
"""

from ml_collections import ConfigDict

from configs import common

# task: (longest clip in seconds, columns of the targets, kind of the task, score)
TASKS = {
    "ks": (1.0, {"label": "label"}, "label", "accuracy"),
    "sid": (145.0, {"label": "speaker"}, "label", "accuracy"),
    "ic": (12.0, {"tags": "action,object,location"}, "slots", "all_slots"),
    "er": (35.0, {"label": "emotion"}, "label", "accuracy"),
}
SESSIONS = ("1", "2", "3", "4", "5")


def get_protocol(arg: str | None = None) -> ConfigDict:
    """Returns the protocol of `arg`: ks (default), sid, ic, or er1 to er5."""
    arg = arg or "ks"
    common.check(arg, ("ks", "sid", "ic", *(f"er{n}" for n in SESSIONS)))
    name = arg[:2] if arg.startswith("er") else arg
    seconds, truth, kind, score = TASKS[name]
    data = common.audio_data()
    for split in ("train", "valid", "test"):
        source = {"kind": "table", "path": f"data/{name}", "where": ConfigDict({"split": split})}
        data[split][name] = ConfigDict(source | truth | {"part": (0.0, 1.0)})
    if name == "er":
        _fold(data, arg[2:])
    data.update({"buckets": _buckets(seconds), "batch_size": 8})
    quick = name == "er"
    return ConfigDict(
        {
            "data": data,
            "window_seconds": 8.0 if name == "sid" else 0.0,
            "task": {"kind": kind, "scores": (score,)},
            "probe": {
                "width": 256,
                "activation": "none",
                "dropout": 0.0,
                "standardize": False,
                "clip": 1.0,
                "balance": name == "ks",
                "rates": (1e-4,),
                "layers": (-1,),
                "batch_size": 32,
                "steps": 1000 if quick else 4000,
                "epochs": 30 if quick else 50,
                "patience": 50,
                "seeds": (0,),
            },
        }
    )


def _buckets(seconds: float) -> tuple[float, ...]:
    """Returns the buckets, in seconds, up to the length of the longest clip."""
    return (*(n for n in (2.0, 4.0, 8.0, 16.0, 32.0, 64.0) if n < seconds), seconds)


def _fold(data: ConfigDict, tested: str) -> None:
    """Splits by session: four fifths of the rows of the other sessions are for training."""
    others = tuple(n for n in SESSIONS if n != tested)
    for split, sessions, part in (
        ("train", others, (0.0, 0.8)),
        ("valid", others, (0.8, 1.0)),
        ("test", tested, (0.0, 1.0)),
    ):
        data[split].er.update({"where": ConfigDict({"session": sessions}), "part": part})
