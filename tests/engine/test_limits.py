"""Impossible numbers in a config, each with one that works; 0 where it has a meaning."""

import pytest

from configs import common
from ssl_jax.core import config as config_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.engine import limits


def config(*texts):
    base = common.base()
    base.data.batch_size = 8
    return config_lib.override(base, texts)


@pytest.mark.parametrize(
    ("text", "use"),
    [
        ("log.every=0", "such as '50 steps'"),
        ("checkpoint.every=0 epochs", "such as '50 steps'"),
        ("log.every=0%", "such as '50 steps'"),
        ("train.accumulate=0", "use 1, for whole batches, or more"),
        ("train.accumulate=-1", "use 1, for whole batches, or more"),
        ("checkpoint.keep_last=0", "use 1 or more"),
        ("data.workers=-1", "use 0, to read in threads"),
        ("data.threads=-1", "use 2, or 0"),
        ("data.batch_size=0", "use 1 or more"),
        ("data.max_bad_share=-0.5", "use 0.0, for none, or more"),
        ("guard.stall_seconds=-1.0", "use 0.0, to wait for ever, or more"),
        ("optim.end_lr=-1.0", "use 0.0 or more"),
        ("seed=9223372036854775808", "use one of 64 bits, such as 0"),
        ("data.label_seed=-18446744073709551616", "use one of 64 bits, such as 0"),
    ],
)
def test_a_number_that_cannot_be_is_named_with_one_that_works(text, use):
    with pytest.raises(ConfigError, match=f"config.{text.partition('=')[0]} is .*: .*{use}"):
        limits.check(config(text))


@pytest.mark.parametrize(
    "text",
    [
        *("eval.every=0", "guard.after=0", "guard.stall_seconds=0", "data.workers=0"),
        *("data.threads=0", "optim.clip=0", "data.labels_per_class=0", "seed=-1"),
        "seed=9223372036854775807",
    ],
)
def test_0_stays_what_it_means(text):
    limits.check(config(text))
