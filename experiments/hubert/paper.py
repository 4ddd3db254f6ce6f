"""The runs of configs/hubert/audio.py, each preceded by its clusters and labels.

    python -m ssl_jax.pipeline experiments/hubert/paper.py --size=base --workdir runs/hubert

`size` names the last run of the chain: base is two iterations on LibriSpeech, large and xlarge a
third one on Libri-Light, mini two on Mini LibriSpeech. Clusters are fitted on a share of the
utterances of the next run; a layer is one of the previous run, counted from 1.
"""

from typing import Any

from ml_collections import ConfigDict

from ssl_jax.core import config as config_lib
from ssl_jax.pipeline import Pipe
from ssl_jax.stages import clustering, kmeans
from ssl_jax.stages.graph import Stage

OPTIONS: dict[str, Any] = {
    "size": "base",
    "path": "",  # of the corpus; "": the path in the configs
    "librilight": "",  # the same for large and xlarge: a fairseq manifest
    "share": 0.1,  # of the utterances, for clustering
    "window": 20.0,  # seconds per window for clusters and labels
    "batch": 16,  # windows
    "tries": 20,  # seedings of k-means
    "epochs": 100,  # of k-means, at most
    "steps": 0,  # updates per run; 0: those of its config
}
# (argument of the config, layer that is clustered before it; 0: MFCC)
_BASE = (("base", 0), ("base_it2", 6))
CHAINS = {
    "base": _BASE,
    "large": (*_BASE, ("large", 9)),
    "xlarge": (*_BASE, ("xlarge", 9)),
    "mini": (("mini", 0), ("mini_it2", 3)),
    "toy": (("toy", 0), ("toy", 1)),
}


def main(pipe: Pipe) -> None:
    """Runs the chain; complete stages are skipped."""
    o, before = pipe.options, None
    if o["size"] not in CHAINS:
        raise config_lib.ConfigError(f"size is {o['size']!r}: use one of {', '.join(CHAINS)}")
    for n, (argument, layer) in enumerate(CHAINS[o["size"]], 1):
        config = run_config(o, argument, layer)
        (clusters,) = config.method.units.classes
        options = kmeans.Options(clusters=clusters, tries=o["tries"], epochs=o["epochs"])
        to_fit, to_label = windows(config.data, o, o["share"]), windows(config.data, o, 1.0)
        codebook = clustering.clusters(pipe, f"kmeans-{n}", to_fit, options, layer, before)
        labels = clustering.labels(pipe, f"labels-{n}", to_label, layer, codebook, before)
        before = _train(pipe, f"{n}-{argument}", config, labels)


def run_config(o: dict[str, Any], argument: str, layer: int) -> ConfigDict:
    """Returns the config of a run with the user's corpora, unlocked and without labels."""
    config = config_lib.load(f"configs/hubert/audio.py:{argument}")
    config = config.copy_and_resolve_references().unlock()
    data = config.data
    data.units = ConfigDict({"train": (), "valid": (), "test": ()})
    data.test = ConfigDict({})
    paths = {"librispeech": o["path"], "librilight": o["librilight"]}
    for split in ("train", "valid"):
        for name in data[split]:
            data[split][name].path = paths[name] or data[split][name].path
    config.method.units.rate = 50.0 if layer else 100.0
    if o["steps"]:
        config.train.duration = f"{o['steps']} steps"
    return config


def windows(data: ConfigDict, o: dict[str, Any], share: float) -> ConfigDict:
    """Returns the data in windows that cover the recordings, with a share of the training ones."""
    data = ConfigDict(data.to_dict())
    data.update({"buckets": (o["window"] / 2, o["window"]), "batch_size": o["batch"]})
    data.constant_seconds = False
    for source in data.train.values():
        source.part = (0.0, share)
    return data


def _train(pipe: Pipe, name: str, config: ConfigDict, labels: Stage) -> Stage:
    return pipe.train(name, config_lib.override(config, []), labels=(labels,))
