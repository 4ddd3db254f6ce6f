"""The fine-tuning recipes of sounds: every one builds, and the published counts come out."""

import pytest

from configs.supervised import sounds
from ssl_jax.methods import supervised


def method_of(config):
    rate = config.data.sample_rate
    return supervised.make(config.method, precision="float32", sample_rate=rate, num_classes=5)


@pytest.mark.parametrize("name", sounds.NAMES)
def test_every_recipe_builds(name):
    config = sounds.get_config(name)
    method = method_of(config)
    assert ("tags" in method.batch) == (config.method.task == "tag")
    sources = [s for split in ("train", "valid") for s in config.data[split].values()]
    assert (len(sources) == 2 and sources[0] != sources[1]) or "ks" in name or "fsd" in name
    assert 2e-5 <= config.optim.lr <= 3e-4 and config.data.batch_size >= 32


def test_audiomae_sees_306_of_512_patches_and_draws_rare_tags_more_often():
    config = sounds.get_config("audiomae_as2m")
    method = method_of(config).loss.__self__
    assert method.encoder.grid == (64, 8)
    assert method.options.stripes.visible(512, 8)[-1] == 306
    assert config.data.train.audioset.row_weight == "balanced"
    assert config.data.train.audioset.segments == ("balanced_train", "unbalanced_train")
    assert config.optim.lr == 2e-4 and config.train.duration == "78_100 steps"


def test_the_folds_of_esc50_are_held_out_in_turn():
    held = []
    for n in range(1, 6):
        data = sounds.get_config(f"beats_esc50_{n}").data
        held += data.valid.esc50.where.fold
        assert sorted((*data.train.esc50.where.fold, *data.valid.esc50.where.fold)) == list("12345")
    assert held == list("12345")
