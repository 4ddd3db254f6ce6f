"""The shapes of a training batch, from the config alone: no data are read."""

import jax
from ml_collections import ConfigDict

from ssl_jax.core.types import Method
from ssl_jax.data import transcripts

# speech has 12 to 17 letters a second; a transcript is given room for this many
LETTERS_PER_SECOND = 20
CLASSES = 100


def classes_of(config: ConfigDict) -> int:
    """Returns the number of classes if the config names them or spells in letters, else 0."""
    if len(config.data.classes):
        return len(config.data.classes)
    return len(transcripts.LETTERS) if _is_spelled(config) else 0


def global_batch(config: ConfigDict, method: Method) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the abstract arrays of one global batch of the longest bucket.

    They match those of `splits.batch_shapes`, except that the length of transcripts, which depends
    on the data, is assumed.
    """
    data = config.data
    seconds = data.buckets[-1]
    samples = round(seconds * data.sample_rate)
    lengths = {"audio": samples, "transcript": round(seconds * LETTERS_PER_SECOND)}
    if "units" in method.batch:
        lengths["units"] = round(samples * config.method.units.rate / data.sample_rate)
    if "block_tokens" in data:
        lengths["tokens"] = data.block_tokens
    return {
        name: jax.ShapeDtypeStruct(
            (data.batch_size, *(lengths[name] if n is None else n for n in spec.shape)), spec.dtype
        )
        for name, spec in method.batch.items()
    }


def _is_spelled(config: ConfigDict) -> bool:
    named = any(config.data.train[k].get("transcript") for k in config.data.train)
    return named and config.data.get("spelling") == "letters"
