"""Every published config loads, is locked, and its method builds with the stated size."""

import importlib

import jax
import jax.numpy as jnp
import pytest

from ssl_jax.core import config as config_lib
from ssl_jax.core import rng
from ssl_jax.core import tree as tree_lib
from ssl_jax.engine import optim

LARGE_TEXT = (50265 + 512 + 2) * 1024 + 24 * 12_596_224
LARGE_TEXT += 7_078_656 + 4 * 5_309_184 + 769 * 1536 + 1537 * 1024

# predictor and mask vector included: the published encoders have 93,164,288 parameters, and
# 559,011 + 64 with the head and the mask vector; those of MAE count their fixed positions
SIZES = {
    # the published encoder with its mask vector, and a Linear layer to 35 units
    "ctc/speech.py:base_100h": 94_371_712 + 769 * 35,
    "ctc/speech.py:toy": None,
    "data2vec/audio.py:base": 93_754_880,
    "data2vec/audio.py:large": 314_326_016,
    "data2vec/audio.py:mini": 2_327_168,
    "data2vec/audio.py:toy": None,
    "data2vec/kws.py:kwt1": 560_832,
    "data2vec/kws.py:kwt2": 2_409_344,
    "data2vec/kws.py:kwt3": 5_395_776,
    "data2vec/kws.py:toy": None,
    # as data2vec without mask vector; a factor per head, the decoder's convolutions and projection
    "data2vec2/audio.py:base": 93_163_520 + 12 + 129_408 + 3 * 64_896 + 295_680,
    "data2vec2/audio.py:large": None,
    "data2vec2/image.py:base": 590_592 + 768 + 1_536 + 12 * 7_087_872 + 6 * 332_544 + 590_592,
    "data2vec2/image.py:large": None,
    "data2vec2/image.py:huge14": None,
    "data2vec2/text.py:base": None,
    # RoBERTa's embeddings and 24 blocks; five convolutions and two Linear layers
    "data2vec2/text.py:large": LARGE_TEXT,
    "data2vec2/text.py:large_1m": LARGE_TEXT,
    # the published 95, 317 and 964 million: encoder with mask vector, head and 100 or 500 units
    "hubert/audio.py:base": 94_371_712 + 769 * 256 + 100 * 256,
    "hubert/audio.py:base_it2": 94_371_712 + 769 * 256 + 500 * 256,
    "hubert/audio.py:large": 315_435_136 + 1025 * 768 + 500 * 768,
    "hubert/audio.py:xlarge": 962_493_824 + 1281 * 1024 + 500 * 1024,
    "hubert/audio.py:mini": None,
    "hubert/audio.py:mini_it2": None,
    "hubert/audio.py:toy": None,
    # HuBERT Base with a norm after every convolution, and a prediction without bias
    "lighthubert/speech.py:stage1": 94_377_728 + 128 + 768 * 768,
    "lighthubert/speech.py:small": 94_377_728 + 128 + 768 * 768,
    "mae/image.py:base": 111_907_840 - 197 * (768 + 512),
    "mae/image.py:huge": 657_074_508 - 257 * (1280 + 512),
    "mae/spectrogram.py:base": 110_999_808,
    "mae/spectrogram.py:audiomae": None,
    "supervised/kws.py:kwt1": 559_075 - 64,
    "supervised/kws.py:kwt2": 2_397_603 - 128,
    "supervised/kws.py:kwt3": 5_365_859 - 192,
    "supervised/kws.py:toy": None,
    # the published encoder with 35 of its 527 outputs
    "supervised/audiomae.py:as20k": 85_659_407 - 769 * (527 - 35),
    # Wav2Vec2ForPreTraining of transformers: 95 and 317 million
    "wav2vec2/audio.py:base": 95_044_608,
    "wav2vec2/audio.py:large": 317_390_592,
    "wav2vec2/audio.py:mini": None,
    "wav2vec2/audio.py:toy": None,
}

# the first of each file, which is its config without an argument
DEFAULTS = {name.partition(":")[0]: name for name in reversed(SIZES)}.values()


@pytest.mark.parametrize("name", SIZES)
def test_config_loads_and_its_method_builds(root, name):
    config = config_lib.load(str(root / "configs" / name))
    assert config.is_locked
    assert config_lib.from_json(config_lib.to_json(config)) == config
    module = importlib.import_module(f"ssl_jax.methods.{config.method.name}")
    rate = config.data.sample_rate
    method = module.make(config.method, precision="float32", sample_rate=rate, num_classes=35)
    samples = round(config.data.buckets[-1] * rate)
    if config.data.modality == "text":
        samples = config.data.block_tokens
    shapes = {
        n: (2, *(samples if d is None else d for d in s.shape)) for n, s in method.batch.items()
    }
    batch = {n: jax.ShapeDtypeStruct(shapes[n], s.dtype) for n, s in method.batch.items()}
    params, extra = jax.eval_shape(method.init, jax.random.key(0), batch)
    assert SIZES[name] in (None, tree_lib.count(params))
    if name in DEFAULTS or name.endswith(":toy") or method.frozen:
        return  # tests/conformance computes the loss of these, and of frozen teachers

    def loss(params, extra, batch):
        streams = rng.Streams(rng.key_data(0), jnp.int32(0), batch["id"])
        return method.loss(params, extra, batch, streams, True)

    out = jax.eval_shape(loss, params, extra, batch)
    assert out.loss.shape == ()
    assert set(config.guard.floors) <= set(out.metrics)
    assert jax.tree.structure(out.extra) == jax.tree.structure(extra)


def test_the_decoder_of_large_1m_is_a_group_with_the_released_rate(root):
    config = config_lib.load(str(root / "configs/data2vec2/text.py:large_1m"))
    assert (config.optim.lr, config.optim.warmup, config.method.loss.beta) == (1e-4, "4k steps", 4)
    names = ["encoder/norm/scale", "decoder/conv0/kernel"]
    assert optim.group_factors(config.optim, names) == {}
    config = config_lib.override(config, ["optim.lr_rules=(('^decoder/',10.0),)"])
    assert optim.group_factors(config.optim, names) == {names[1]: 10.0}


@pytest.mark.parametrize("file", sorted({name.partition(":")[0] for name in SIZES}))
def test_the_default_is_the_first_size_and_others_are_refused(root, file):
    path = str(root / "configs" / file)
    first = next(n for n in DEFAULTS if n.startswith(file)).partition(":")[2]
    assert config_lib.sign(config_lib.load(path)) == config_lib.sign(
        config_lib.load(f"{path}:{first}")
    )
    with pytest.raises(config_lib.ConfigError, match="the argument is 'none': use one of"):
        config_lib.load(f"{path}:none")
