"""Two encoders of a clip, of its words and of its patches, whose means predict each other.

A throw-away method with a stream for each, which test_streams.py trains and evaluates, and
devices_program.py runs on one and on eight devices.
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from configs import common
from ssl_jax.core.types import Method, Output
from ssl_jax.nn import build, sharding
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.nn.transformer import LAST

BLOCKS = {"width": 16, "heads": 2, "mlp_width": 16}
ENCODERS = {
    "words": {"kind": "keyword_transformer", "depth": 1, "frames_per_token": 4, "fmax": 4000.0},
    "patches": {"kind": "spectrogram", "depth": 2, "num_mels": 16, "patch": (8, 8)},
}


def config():
    """Returns the config of a run of it, with no data yet."""
    found = common.base()
    found.method = ConfigDict({"name": "two_encoders"})
    found.method.encoders = ConfigDict({s: {**BLOCKS, **o} for s, o in ENCODERS.items()})
    found.data.update({"sample_rate": 8000, "buckets": (0.5,), "batch_size": 4})
    found.optim.update({"lr": 0.01, "layer_decay": 0.5, "lr_rules": (("/patches/", 0.5),)})
    found.optim.frozen = ("^encoder/words/cls",)
    return found


def make(config, *, precision, sample_rate, num_classes):
    encoders = build.encoders(config.encoders, precision=precision, sample_rate=sample_rate)

    def init(key, batch):
        keys = dict(zip(encoders, jax.random.split(key, len(encoders)), strict=True))
        found = {s: encoder_lib.init(encoders[s], keys[s], batch)[0] for s in encoders}
        return {"encoder": found}, {}

    def mean(stream, params, batch):
        encoder, own = encoders[stream], params["encoder"][stream]
        x, valid = encoder_lib.frontend(encoder, own, batch)
        last = encoder_lib.encode(encoder, own, x, valid, layers=LAST)
        return last.hidden_states[0, :, last.prefix :].mean(1)

    def loss(params, extra, batch, streams, train):
        with jax.named_scope("encoder"):
            words, patches = (mean(s, params, batch) for s in ("words", "patches"))
        with jax.named_scope("loss"):
            error = jnp.square(words - patches).mean(-1)
            count = batch["weight"].sum()
            value = (error * batch["weight"]).sum() / jnp.maximum(count, 1)
        return Output(value, count, {"loss": (value * count, count)}, extra)

    def features_of(stream):
        return lambda params, batch, layers=None: encoder_lib.features(
            encoders[stream], params["encoder"][stream], batch, layers
        )

    return Method(
        init,
        loss,
        features_of("words"),
        encoder_lib.batch_spec(encoders["words"]),
        sharding.RULES,
        ("encoder", "loss"),
        streams={stream: features_of(stream) for stream in encoders},
    )
