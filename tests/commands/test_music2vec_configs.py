"""The configs of Music2Vec: the sweep loads as plain data; protocols have the documented values."""

import pytest

from ssl_jax.core import config as config_lib

PATH = "configs/music2vec/music2vec.py"
MARBLE = "configs/music2vec/marble.py"


def functions(path):
    space = {}
    exec(compile(path.read_text(), str(path), "exec"), space)
    return space


def test_every_run_of_the_sweep_loads_and_differs(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root))
    base, seen = config_lib.load(f"{root}/{PATH}:base"), set()
    runs = functions(root / PATH)["sweep"]()
    for changes in runs:
        texts = [f"{key}={value}" for key, value in changes.items()]
        config = config_lib.load(f"{root}/{PATH}:base", texts)
        assert set(config_lib.diff(base, config)) == set(changes)
        seen.add(config_lib.sign(config))
    assert len(seen) == len(runs) == 7


def test_five_and_thirty_seconds_have_equal_audio_per_step(root):
    long, short = (config_lib.load(f"{root}/{PATH}:{arg}") for arg in ("base", "crop5s"))
    assert long.data.buckets == (30.0,) and short.data.buckets == (5.0,)
    seconds = [c.data.buckets[0] * c.data.batch_size for c in (long, short)]
    assert seconds[0] == seconds[1] == 64 * 60


def test_another_learning_rate_or_teacher_is_an_option(root):
    texts = [
        "init_from=runs/speech",
        "init_extra=True",
        "method.ema.anneal=5",
        "data.sample_rate=8",
    ]
    config = config_lib.load(f"{root}/{PATH}", texts)
    assert config.init_extra and config.data.sample_rate == 8


@pytest.mark.parametrize("task", ["mtt", "giantsteps", "emo", "gtzan"])
def test_protocols_are_those_of_marble(root, task):
    protocol = config_lib.load(f"{root}/{MARBLE}:{task}", (), "get_protocol")
    assert set(protocol) == {"data", "window_seconds", "task", "probe", "baselines", "pool"}
    assert protocol.baselines == ("librosa",)
    assert protocol.window_seconds == 30.0 and protocol.data.buckets[-1] >= 30.0
    assert protocol.probe.rates == (1e-2, 5e-3, 1e-3, 5e-4, 1e-4, 5e-5)
    assert (protocol.probe.width, protocol.probe.dropout) == (512, 0.2)
    truth = set(protocol.data.train[task]) - {"kind", "path", "where"}
    assert truth == {protocol.task.kind}
    with pytest.raises(config_lib.ConfigError, match="use one of mtt"):
        config_lib.load(f"{root}/{MARBLE}:gta", (), "get_protocol")
