r"""How well the units of a speech model match phones, by layer (HuBERT, 2106.07447, table V).

Command: python -m ssl_jax.evaluate --run RUN --protocol configs/hubert/quality.py:c500 \
             --config.units.alignments=dev.ctm
  c50, c100, c500   this many clusters per layer, fitted on 1 % of the training utterances of
                    LibriSpeech and evaluated on dev-clean and dev-other
  read              100 clusters, for a small corpus that comes with its phones, as made by
                    experiments/hubert: --config.data.train.read.path=PATH (and test)
Works with any run on waveforms. The phones come from a forced aligner, as CTM: `utterance 1 start
seconds phone`; utterances are named like their files.

--config.units.abx=100 adds the ABX error of the features themselves, for the phones in a hundred
recordings (lower is better, 0.5 is chance).

The layers of the run are compared with those of an untrained encoder and with MFCC. Published
cluster purity, phone purity and PNMI: MFCC, 100 clusters 0.099, 0.335, 0.255; 500 clusters 0.031,
0.356, 0.287. Published PNMI of 500 clusters: layer 6 of the first iteration 0.680, layer 9 of the
second 0.704. Takes minutes on one accelerator.
"""

from ml_collections import ConfigDict

from configs import common, datasets


def get_protocol(arg: str | None = None) -> ConfigDict:
    """Returns the protocol of `arg`: c100 (default), c50, c500 or read."""
    name = arg or "c100"
    common.check(name, ("c50", "c100", "c500", "read"))
    data = datasets.librispeech(32)
    units = {
        "alignments": "data/LibriSpeech/dev.ctm",
        "layers": (),
        "abx": 0,
        "kmeans": ConfigDict({}),
    }
    clusters = 100 if name == "read" else int(name[1:])
    units["kmeans"].update({"clusters": clusters, "batch_frames": 10_000, "seed_frames": 0})
    units["kmeans"].update({"tries": 20, "epochs": 100, "patience": 100, "seed": 0})
    data.valid = ConfigDict({})
    if name == "read":
        for split in ("train", "test"):
            source = {"kind": "table", "path": "data/read", "where": ConfigDict({"split": split})}
            data[split] = ConfigDict({"read": ConfigDict(source)})
        data.update({"buckets": (4.0, 8.0), "min_seconds": 0.0, "workers": 0})
        units["alignments"] = "data/read/phones.ctm"
    else:
        data.train.librispeech.part = (0.0, 0.01)
        data.test.librispeech.splits = ("dev-clean", "dev-other")
    return ConfigDict({"data": data, "window_seconds": 0.0, "units": units})
