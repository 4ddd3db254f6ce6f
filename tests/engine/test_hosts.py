"""Many hosts, as far as one process can test: flags, agreement, errors, parts of a batch."""

import argparse
import json
import os
import signal
import types

import jax
import pytest
import toy_method as toy

from ssl_jax.core import config as config_lib
from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core import stop
from ssl_jax.engine import hosts

WHERE = {"coordinator": "10.0.0.1:8476", "processes": "2", "process": "1"}


def flags(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    hosts.add_flags(parser)
    return parser.parse_args(arguments)


@pytest.fixture
def joined(monkeypatch):
    """Replaces jax.distributed.initialize and returns the arguments of its calls."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: calls.append((a, k)))
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_flags_and_environment_say_where_the_others_are(joined, monkeypatch):
    by_flags = flags(*(f"--{k}={v}" for k, v in WHERE.items()), "--heartbeat=7")
    with hosts.session(by_flags):
        assert joined == [(("10.0.0.1:8476", 2, 1), {"heartbeat_timeout_seconds": 7})]
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "node0:99")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "4")
    monkeypatch.setenv("JAX_PROCESS_ID", "3")
    hosts.connect()
    hosts.connect(process=0)
    assert [a for a, _ in joined[1:]] == [("node0:99", 4, 3), ("node0:99", 4, 0)]
    hosts.connect("node0:99", 1, 0)  # a single process joins no others
    assert len(joined) == 3


def test_a_cluster_that_jax_knows_needs_no_flags(joined, monkeypatch):
    hosts.connect()
    assert joined == [((), {"heartbeat_timeout_seconds": hosts.HEARTBEAT})]
    monkeypatch.setenv("SLURM_NTASKS", "1")
    hosts.connect()
    assert len(joined) == 1


def test_without_a_cluster_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    jax.devices()  # as in a notebook that has already used jax
    hosts.connect()
    assert not jax.distributed.is_initialized()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"process": ""}, r"need --process \(or \$JAX_PROCESS_ID\) too: give --coordinator="),
        ({"coordinator": ""}, r"need --coordinator \(or \$JAX_COORDINATOR_ADDRESS\) too"),
        ({"process": "2"}, r"--process is 2 of --processes=2: give .*--process=0"),
        ({"processes": "two"}, r"--processes is 'two', not a number"),
        ({"coordinator": "10.0.0.1"}, r"--coordinator is '10.0.0.1': give .*10.0.0.1:8476"),
    ],
)
def test_wrong_flags_are_one_line(joined, changes, expected):
    given = flags(*(f"--{k}={v}" for k, v in (WHERE | changes).items()))
    with pytest.raises(SystemExit, match="^error: .*" + expected), hosts.session(given):
        raise AssertionError("not reached")
    assert not joined


def test_hosts_that_differ_raise_an_error_with_the_differences(monkeypatch):
    config = config_lib.load("configs/supervised/kws.py:toy")
    mine = hosts._identity(config, hosts.__file__)
    changed = config_lib.override(config, ["optim.lr=0.5", "data.threads=7"])
    other = hosts._identity(changed, None) | {
        "package jax": "0.0.1",
        "code ssl_jax/train.py": "beef",
    }
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    texts = [json.dumps(x) for x in (mine, mine, other)]
    monkeypatch.setattr(hosts, "_gather", lambda text: texts)
    with pytest.raises(config_lib.ConfigError) as error:
        hosts.check_same_run(config, None)
    lines = str(error.value).splitlines()
    assert len(lines) == 5 and lines[-1].startswith("start the same command")
    assert lines[2] == "  config.optim.lr: 0.001 on process 0, 0.5 on process 2"
    assert lines[1].startswith("  code ssl_jax/train.py: ") and "0.0.1 on process 2" in lines[3]
    monkeypatch.setattr(hosts, "_gather", lambda text: [text] * 3)
    hosts.check_same_run(config, None)


def test_a_method_of_ones_own_is_code_too(tmp_path):
    config = config_lib.load("configs/supervised/kws.py:toy")
    module, package = tmp_path / "mine.py", tmp_path / "theirs" / "__init__.py"
    package.parent.mkdir()
    helper = package.with_name("helper.py")
    for path in (module, package, helper):
        path.write_text("a = 1\n")
    own = [hosts._identity(config, str(path)) for path in (module, package)]
    module.write_text("a = 2\n")
    helper.write_text("a = 2\n")
    for path, before, name in (
        (module, own[0], tmp_path.name + "/mine"),
        (package, own[1], "theirs/helper"),
    ):
        after = hosts._identity(config, str(path))
        assert {k for k in before if before[k] != after[k]} == {f"code {name}.py"}


def test_only_errors_of_this_package_are_one_line(joined):
    with pytest.raises(SystemExit, match=r"^error: config\.mesh has no axis"), _alone():
        mesh_lib.make_mesh({"pipeline": 2})
    with pytest.raises(ValueError, match="of the caller"), _alone():
        raise ValueError("of the caller")


def _alone():
    return hosts.session(flags("--coordinator=a:1", "--processes=1", "--process=0"))


def test_a_process_holds_the_parts_of_its_devices():
    mesh = mesh_lib.make_mesh({"data": -1})
    ways = len(jax.devices())
    assert mesh_lib.local_parts(mesh) == (tuple(range(ways)), ways)
    assert toy.BATCH % ways == 0


def test_the_first_line_of_a_command_names_its_devices(joined, capsys):
    count = jax.device_count()
    with _alone():
        print("result")
    assert capsys.readouterr().err.splitlines() == [
        f"{count} device{'s' * (count > 1)}: cpu ({os.cpu_count()} cores)"
    ]


def test_devices_of_several_hosts_are_counted_together(monkeypatch):
    chip = types.SimpleNamespace(device_kind="TPU v5 lite", platform="tpu")
    monkeypatch.setattr(jax, "devices", lambda: [chip] * 8)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert hosts.devices() == "8 devices: TPU v5 lite, on 2 hosts"
    monkeypatch.setattr(jax, "devices", lambda: [chip])
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    assert hosts.devices() == "1 device: TPU v5 lite"


def test_ctrl_c_is_one_line_and_a_second_one_ends_at_once(joined, capsys, monkeypatch):
    handlers, soon = [], []
    monkeypatch.setattr(hosts.signal, "signal", lambda *given: handlers.append(given))
    monkeypatch.setattr(stop, "leave_soon", soon.append)
    with pytest.raises(SystemExit) as ended, _alone():
        raise KeyboardInterrupt
    assert ended.value.code == 130 and soon == [130]
    assert handlers == [(signal.SIGINT, signal.SIG_DFL)]
    assert capsys.readouterr().err.splitlines()[1:] == [
        "Ctrl-C: ended; the same command goes on from what is complete"
    ]
