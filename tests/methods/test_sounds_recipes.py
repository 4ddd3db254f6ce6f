"""The fine-tuning recipes of sounds: every one builds, and the published counts come out."""

import pytest

from configs import sounds
from configs.supervised import audiomae
from ssl_jax.methods import supervised


def method_of(config):
    rate = config.data.sample_rate
    return supervised.make(config.method, precision="float32", sample_rate=rate, num_classes=5)


@pytest.mark.parametrize("task", sounds.TASKS)
def test_every_recipe_builds(task):
    config = audiomae.get_config(task)
    method = method_of(config)
    assert ("tags" in method.batch) == (task in sounds.TAGS)
    assert config.data.buckets[0] * 100 <= config.method.encoder.frames
    train, valid = (tuple(config.data[split].values()) for split in ("train", "valid"))
    assert len(train) == len(valid) == 1 and config.data.batch_size >= 32
    assert config.eval.test == (config.checkpoint.best_metric != "")


def test_audiomae_sees_306_of_512_patches_and_draws_rare_tags_more_often():
    config = audiomae.get_config("as2m")
    method = method_of(config).loss.__self__
    assert method.encoder.grid == (64, 8)
    assert method.options.stripes.visible(512, 8)[-1] == 306
    source = config.data.train.audioset
    assert source.row_weight == "balanced"
    assert source.segments == ("balanced_train", "unbalanced_train")
    assert config.optim.lr == 2e-4 and config.train.duration == "78_100 steps"
    assert audiomae.get_config("as20k").optim.lr == 1.25e-4


def test_the_folds_of_esc50_are_held_out_in_turn():
    held = []
    for n in sounds.FOLDS:
        data = audiomae.get_config(f"esc50_{n}").data
        held += data.valid.esc50.where.fold
        assert sorted((*data.train.esc50.where.fold, *data.valid.esc50.where.fold)) == list("12345")
    assert held == list("12345")
