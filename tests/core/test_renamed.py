"""Old names in users' files still work, with a warning that gives the new name."""

import json

import pytest

from ssl_jax.core import config as config_lib
from ssl_jax.core import renamed
from ssl_jax.engine import log


def test_a_metric_keeps_its_prefix_and_warns():
    with pytest.warns(UserWarning, match="target_own_share is now named instance_variance_ratio"):
        assert renamed.metric("valid/target_own_share") == "valid/instance_variance_ratio"
    assert renamed.metric("valid/loss") == "valid/loss" and renamed.metric("loss") == "loss"


def test_floors_and_the_best_metric_of_an_old_config_are_read():
    old = '{"guard": {"floors": {"target_own_share": 0.1}}, "checkpoint": {"best_metric": ""}}'
    with pytest.warns(UserWarning, match="instance_variance_ratio"):
        config = config_lib.from_json(old)
    assert config.guard.floors.to_dict() == {"instance_variance_ratio": 0.1}
    assert config_lib.sign(config) == config_lib.sign(
        config_lib.from_json(old.replace("target_own_share", "instance_variance_ratio"))
    )


def test_an_older_config_pools_as_it_did():
    assert config_lib.from_json('{"eval": {"every": 1}}')["eval"].pool == "raw_mean_std"
    assert config_lib.from_json('{"eval": {"pool": "mean"}}')["eval"].pool == "mean"


def test_keys_that_an_older_config_lacks_are_what_they_amount_to():
    method = {"name": "data2vec", "targets": {"layers": 4}}
    found = config_lib.from_json(json.dumps({"method": method})).method.targets
    assert found.to_dict() == {"layers": 4, "center": "none", "center_decay": 0.9}
    method["targets"]["center"] = "batch"
    found = config_lib.from_json(json.dumps({"method": method})).method.targets
    assert found.center == "batch"
    found = config_lib.from_json('{"method": {"name": "mae", "augment": {"roll": {}}}}').method
    assert found.attention == "global" and found.stripes.to_dict() == {"time": 0, "frequency": 0}
    assert found.augment.to_dict() == {"roll": {}}
    assert config_lib.from_json('{"method": {"name": "wav2vec2"}}').method.targets == "codes"
    other = json.dumps({"method": {"name": "my_method", "targets": {"layers": 4}}})
    assert config_lib.from_json(other).method.targets.to_dict() == {"layers": 4}


def test_old_rows_of_metrics_are_read_under_the_new_name(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "time": 1.0, "train/target_own_share": 0.5}\n', encoding="utf-8")
    with pytest.warns(UserWarning, match="instance_variance_ratio"):
        (row,) = log.read(file)
    assert row == {"step": 1, "time": 1.0, "train/instance_variance_ratio": 0.5}
