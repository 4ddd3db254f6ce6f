"""Several real processes with collectives over gloo, and a run that is killed repeatedly."""

import random
import signal
import socket
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import train_corpus as corpora

from ssl_jax.core import tree
from ssl_jax.engine import checkpoint, hosts, log

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from herd import Child, Herd

pytestmark = pytest.mark.slow
KWS = str(corpora.CONFIGS / "supervised" / "kws.py") + ":toy"
STEPS = 40
OPTIONS = {
    "train.duration": f"{STEPS} steps",
    "checkpoint.every": "4 steps",
    "checkpoint.best_metric": "",
    "eval.every": "100%",
    "data.batch_size": 8,  # the 12 clips of validation fill a batch and a half
    # linear in the gradient and slow, so that the order of a sum matters little
    "optim.name": "sgd",
    "optim.lr": 1e-4,
    "optim.weight_decay": 0.0,
    "method.encoder.depth": 1,  # every process compiles, or reads what another compiled
}
KILLS = 12


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return corpora.write_corpus(tmp_path_factory.mktemp("corpus") / "tones")


@pytest.fixture
def herd(tmp_path):
    with Herd(tmp_path) as found:
        yield found


def arguments(folder: Path, corpus: Path, **changes: object) -> list[str]:
    texts = corpora.overrides(corpus, **(OPTIONS | changes))
    return ["--config", KWS, "--workdir", str(folder), *texts]


def together(herd: Herd, count: int, given: list[str], other=(), pause: float = 0.0) -> list[Child]:
    """Starts `count` processes of one run; the last also gets the arguments `other`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"--coordinator=127.0.0.1:{free.getsockname()[1]}"
    where = [*given, where, f"--processes={count}", "--heartbeat=10"]
    last = count - 1
    return [
        herd.start(*where, f"--process={n}", *(other if n == last else ()), pause=pause)
        for n in range(count)
    ]


def newest(folder: Path) -> int:
    names = [p.name for p in (folder / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def ends(children: list[Child]) -> list[int]:
    return [child.wait() for child in children]


def test_processes_come_and_go_and_the_result_is_that_of_one(tmp_path, corpus, herd):
    one = herd.start(*arguments(tmp_path / "one", corpus))
    assert one.wait() == 0, one.text()
    folder = tmp_path / "many"

    # two, with every matrix in two shards; one of them is killed
    given = arguments(folder, corpus, **{"mesh.fsdp": 2})
    first = together(herd, 2, given, pause=0.1)
    first[0].until(lambda: newest(folder) >= 4)
    first[1].signal(signal.SIGKILL)
    assert first[0].wait() != 0, first[0].text()
    told = first[0].text()  # by this package, or by the timeout of jax, which ends the process
    assert hosts.LOST in told or "heartbeat" in told or "terminating process" in told, told

    # four, of which two hold the same rows; SIGTERM to one of them
    before = newest(folder)
    given = arguments(folder, corpus, **{"mesh.model": 2})
    second = together(herd, 4, given, pause=0.1)
    second[0].until(lambda: newest(folder) > before)
    second[3].signal(signal.SIGTERM)
    assert ends(second) == [0] * 4, second[0].text()
    saved = newest(folder)
    assert f"SIGTERM: saved step {saved}" in second[0].text() and saved < STEPS

    last = together(herd, 2, arguments(folder, corpus))
    assert ends(last) == [0, 0], last[0].text()
    _compare(tmp_path / "one", folder)


def _compare(one: Path, many: Path) -> None:
    rows = [log.read(folder / "metrics.jsonl") for folder in (one, many)]
    assert [r["step"] for r in rows[1]] == [*range(1, STEPS + 1), STEPS]
    for a, b in zip(*rows, strict=True):
        for name in (n for n in a if n != "time" and not n.endswith("per_second")):
            assert b[name] == pytest.approx(a[name], rel=1e-4, abs=1e-6), (a["step"], name)
    assert rows[0][-1]["valid/loss"] > 0  # over 12 clips, each counted once across processes
    pairs = [tree.named_leaves(checkpoint.restore_params(f)) for f in (one, many)]
    for (name, a), (_, b) in zip(*pairs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=name)


def test_hosts_with_different_configs_all_end_naming_the_difference(tmp_path, corpus, herd):
    given = arguments(tmp_path / "run", corpus)
    children = together(herd, 2, given, other=["--config.optim.lr=0.25"])
    assert ends(children) == [1, 1]
    for child in children:
        told = child.text()
        assert "error: the hosts do not run the same thing:\n  config.optim.lr: " in told, told
        assert "0.0001 on process 0, 0.25 on process 1\nstart the same command" in told, told
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_kills_at_any_moment_change_no_bit(tmp_path, corpus, herd):
    changes = {"train.duration": "400 steps", "eval.every": "400 steps", "checkpoint.every": 5}
    # tests/engine/test_kill.py kills at every change of a folder; these come at random
    start = time.monotonic()
    whole = herd.start(*arguments(tmp_path / "whole", corpus, **changes))
    whole.until(lambda: newest(tmp_path / "whole") > 0)
    ready = time.monotonic() - start
    assert whole.wait() == 0, whole.text()
    folder, draw = tmp_path / "killed", random.Random(0)
    command = arguments(folder, corpus, **changes)
    reached = [0]
    for life in range(KILLS):
        child = herd.start(*command, pause=0.02)  # slow enough to be killed before it ends
        if life % 2:  # while it starts, at the latest during its first save
            late = time.monotonic() + draw.uniform(0, ready)
            child.until(lambda late=late: time.monotonic() > late or newest(folder) > reached[-1])
        else:  # while it trains and saves
            child.until(lambda: newest(folder) > reached[-1])
            time.sleep(draw.uniform(0, 0.2))
        child.signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL, child.text()
        reached.append(newest(folder))
    assert reached == sorted(reached) and reached[-1] < 400, reached
    assert len(set(reached)) > KILLS // 2, reached
    last = herd.start(*command)
    assert last.wait() == 0, last.text()
    assert f"at step {reached[-1]}" in last.text()
    for read in (_state, lambda f: log.read(f / "metrics.jsonl")[-1]["valid/loss"]):
        assert read(folder) == read(tmp_path / "whole")


def _state(folder: Path) -> dict[str, bytes]:
    """Returns every array of the last state."""
    last = folder / "checkpoints" / "400"
    found = {part: checkpoint._arrays(last / part) for part in ("params", "rest")}
    return {name: np.asarray(x).tobytes() for name, x in tree.named_leaves(jax.device_get(found))}
