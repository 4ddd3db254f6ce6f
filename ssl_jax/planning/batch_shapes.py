"""The shapes of a training batch from the config alone, where the data are not at hand."""

import jax
from ml_collections import ConfigDict

from ssl_jax.core.types import Method
from ssl_jax.data import transcripts

# letters are spoken at 12 to 17 a second; a transcript is given this much room
UNITS_PER_SECOND = 20
CLASSES = 100


def classes_of(config: ConfigDict) -> int:
    """Returns the number of classes of a config that names them or spells in letters; else 0."""
    if len(config.data.classes):
        return len(config.data.classes)
    return len(transcripts.LETTERS) if _is_spelled(config) else 0


def global_batch(config: ConfigDict, method: Method) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the arrays of one global batch of the longest bucket, abstract.

    As `splits.batch_shapes` makes them; the length of transcripts, which the data decide, is
    assumed.
    """
    data = config.data
    seconds = data.buckets[-1]
    samples = round(seconds * data.sample_rate)
    free = {"audio": samples, "transcript": round(seconds * UNITS_PER_SECOND)}
    if "units" in method.batch:
        free["units"] = round(samples * config.method.units.rate / data.sample_rate)
    if "block_tokens" in data:
        free["tokens"] = data.block_tokens
    return {
        name: jax.ShapeDtypeStruct(
            (data.batch_size, *(free[name] if n is None else n for n in spec.shape)), spec.dtype
        )
        for name, spec in method.batch.items()
    }


def _is_spelled(config: ConfigDict) -> bool:
    named = any(config.data.train[k].get("transcript") for k in config.data.train)
    return named and config.data.get("spelling") == "letters"
