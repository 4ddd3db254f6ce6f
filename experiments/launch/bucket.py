r"""Any config of this repository, with its data as shards elsewhere, for example in a bucket.

Command: python -m ssl_jax.train --config experiments/launch/bucket.py:data2vec2/audio:base \
             --workdir gs://BUCKET/runs/d2v2_base \
             --config.data.train.shards.path=gs://BUCKET/shards/train \
             --config.data.valid.shards.path=gs://BUCKET/shards/valid

The argument is a file in configs/, without its suffix, and the argument of that file. The shards of
a split are made by `python -m ssl_jax.convert data --config C --split S --to PATH`, so they have
exactly the rows that the config names. Every host copies them to its disk once (SSL_JAX_CACHE).
"""

import importlib

from ml_collections import ConfigDict

# what a source states about its columns also holds for its shards
KEPT = ("label", "tags", "target", "transcript")


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config that `arg` names, with one source of shards in each split it has."""
    file, _, given = (arg or "data2vec2/audio:base").partition(":")
    module = importlib.import_module("configs." + file.replace("/", "."))
    config = module.get_config(given or None)
    for split in ("train", "valid", "test"):
        sources = list(config.data[split].values())
        if not sources:
            continue
        if len({source.get("weight", 1.0) for source in sources}) > 1:
            raise ValueError(
                f"config.data.{split} mixes sources by weight: convert each separately"
            )
        kept = {key: sources[0][key] for key in KEPT if key in sources[0]}
        path = f"data/shards/{split}"
        shards = {"kind": "array_record", "path": path, **kept}
        config.data[split] = ConfigDict({"shards": ConfigDict(shards)})
    return config
