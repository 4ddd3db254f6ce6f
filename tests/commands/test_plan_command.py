"""The plan command: what it prints, what it refuses, and that it works for every config."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from experiments.benchmarks import prediction
from ssl_jax import plan
from ssl_jax.core import config as config_lib
from ssl_jax.core.chips import GIB
from ssl_jax.engine import flops
from ssl_jax.planning import aot, budget
from ssl_jax.planning.rescale import change

TOY = "configs/mae/image.py:toy"
TRACE = aot.Program.trace


def configs(root):
    for path in sorted((root / "configs").glob("*/**/*.py")):
        if "def get_config" in path.read_text():
            yield path.relative_to(root).as_posix()


def ask(capsys, *arguments):
    plan.main(["--inside", *arguments])
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def toy(root):
    return config_lib.load(str(root / TOY))


@pytest.fixture(scope="module")
def found(toy):
    return plan.step(toy, "h100:1")


def test_the_plan_shows_the_cost_of_a_step_and_of_the_run(root, monkeypatch, capsys, found):
    monkeypatch.chdir(root)
    text = ask(capsys, "--config", TOY, "--topology", "h100:8", "--chips", "1")
    first, _, rest = text.partition("\n\n")
    assert first == "the same updates on 1 chips: no change"
    assert rest.startswith(f"{TOY} on h100:1, 1 chips")
    lines = {line[:20].strip(): line[20:].strip() for line in rest.splitlines()}
    assert lines["parameters"] == f"{found.parameters:,}"
    assert f"{found.flops:.4g} FLOP" in lines["work per step"]
    assert f"{found.times.total * 1e3:.1f} ms" in lines["time per step"]
    memory = r"parameters 3e-05, optimizer 6e-05, .*activations and buffers 0.0\d+; 0\.00 of"
    assert re.match(memory, lines["memory per chip"]), lines["memory per chip"]
    assert re.search(r"of 78\.00 GiB: fits, 7\d\.\d\d to spare", lines["memory per chip"])
    assert lines["communication"] == "none"
    assert lines["whole run"].startswith("4 steps") and "16 images" in lines["whole run"]


def test_it_shows_by_how_much_a_step_does_not_fit(toy, found):
    short = type(found)(**(vars(found) | {"limit": sum(found.memory.values()) - 3 * GIB}))
    text = budget.text("x", toy, plan.chips.topology("h100:1"), short, budget.whole_run(toy), [])
    assert "DOES NOT FIT, by 3.00" in text and "teacher turnover" not in text
    tried = [({"mesh.fsdp": 1, "train.accumulate": n}, e) for n, e in ((1, short), (2, found))]
    rows = budget.table(tried).splitlines()
    assert rows[1].split()[3] == "2" and rows[1].endswith("fits")
    assert rows[2].endswith("does not fit, by 3.00 GiB")


def test_it_shows_the_turnover_of_the_teacher(root, monkeypatch, found):
    config = config_lib.load(str(root / "configs/data2vec/kws.py:mini"))
    monkeypatch.setattr(plan.estimate, "of_step", lambda *_, **more: found)
    monkeypatch.setattr(plan, "program", lambda *_: None)
    options = SimpleNamespace(topology="h100:1", config="x", classes=0, examples=0, hours=0.0)
    options.chips, options.search, options.compiles = 0, False, False
    lines = plan.answer(options, config).splitlines()
    (line,) = [line for line in lines if "teacher turnover" in line]
    assert (
        line.split(None, 2)[2]
        == "6.3 in 6,000 updates: 0.2% of the teacher is its start at the end"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--topology", "v5e:3x3"], r"no topology 'v5e:3x3': use one of v5e:1x1, v5e:2x2"),
        (["--topology", "v5p"], r"no topology 'v5p': use one of v5p:2x2x1"),
        (["--inside", "--topology", "h100:2", "--chips", "-1"], "--chips is -1: use 1 or more"),
        (
            ["--inside", "--topology", "h100:1", "--config.method.encoder.remt=full"],
            r"config\.method\.encoder\.remt does not exist: did you mean 'remat'",
        ),
        (
            ["--inside", "--topology", "h100:1", "--config.method.encoder.remat=some"],
            r"config\.method\.encoder\.remat is 'some': use one of none, full",
        ),
        (["--config.log.every=0"], r"config\.log\.every is '0': use 1 or more"),
        (["--config.optim.lrr=1"], r"config\.optim\.lrr does not exist: did you mean 'lr'"),
        (["--inside", "--topology", "h100:1", "--config.mesh.fsdp=3"], r"config\.mesh .*1 devices"),
    ],
)
def test_bad_input_is_one_line(root, arguments, words):
    with pytest.raises(SystemExit, match=f"^error: .*{words}"):
        plan.main(["--config", str(root / TOY), *arguments])


def command(root, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "ssl_jax.plan", *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
def test_a_process_of_its_own_has_a_device_for_every_chip(root):
    bad = command(root, "--config", TOY, "--topology", "h100:8")
    assert bad.returncode == 1
    last = bad.stderr.splitlines()[-1]
    assert last.startswith("error: config.data.batch_size 4 does not divide over the 8")
    done = command(root, "--config", TOY, "--topology", "h100:2", "--search")
    assert done.returncode == 0, done.stderr
    assert "on h100:2, 2 chips" in done.stdout and "all-reduce" in done.stdout
    table = done.stdout.split("by predicted time:\n")[1].splitlines()
    times = [float(row.split()[4]) for row in table[1:]]
    assert times == sorted(times) and len(times) == 4 * 2 * 2


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_tpu_that_is_not_there_compiles_the_step(root):
    done = command(root, "--config", TOY, "--topology", "v5e:2x2", "--config.mesh.fsdp=2")
    assert done.returncode == 0, done.stderr
    assert "(as compiled)" in done.stdout and "all-gather" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "hubert/audio.py:xlarge",
        "best_rq/speech.py:xxl",
        "lighthubert/speech.py:base",
        "mae/image.py:huge",
        "mvd/video.py:h_h",
        "videomae/video.py:huge",
        "wav2vec2/audio.py:1b",
    ],
)
def test_a_large_model_fits_the_chips_of_its_config(root, name):
    """Sharded over eight chips of 16 GB with one example each, estimated from shapes."""
    changes = ["--config.data.batch_size=8", "--config.train.accumulate=1"]
    done = command(
        root, "--config", f"configs/{name}", "--topology", "v5e:2x4", "--no-compile", *changes
    )
    assert done.returncode == 0, done.stderr
    held = re.search(r"([\d.]+) of 15.75 GiB: fits", done.stdout)
    assert held and float(held[1]) < 8, done.stdout


@pytest.mark.slow
def test_every_config_has_a_plan(root, monkeypatch):
    """Memory per chip at full size; FLOPs of a step in the small form, without compiling, once for
    each method, kind of encoder and kind of block."""
    paths, traces, seen = list(configs(root)), [], set()
    monkeypatch.setattr(aot.Program, "trace", lambda made: traces.append(TRACE(made)) or traces[-1])
    assert len(paths) >= 18
    for path in paths:
        full = change(config_lib.load(str(root / path)), {"mesh.fsdp": 1})
        program = plan.program(full, "h100:1")
        program.check()
        held = program.held()
        assert held["parameters"] > 1e5 and held["batch"] > 0, path
        toy = change(config_lib.load(str(root / f"{path}:toy")), {"precision": "bfloat16"})
        encoder = toy.method.get("encoder", {})
        kind = (toy.method.name, encoder.get("kind"), encoder.get("blocks"))
        if kind in seen:
            continue
        seen.add(kind)
        found = plan.step(toy, "h100:1")
        assert 0 < found.times.total < 1, path
        assert found.flops > 0 and found.memory["temporaries"] > 0 and found.spare > 0, path
        assert budget.text(path, toy, plan.chips.topology("h100:1"), found, _run(full), [])
        wide = in_float32(traces.pop())
        assert not [name for name in wide if "blocks" in name or "/convs/" in name], path


def in_float32(trace):
    """Returns the scopes of the products whose operands are all float32."""
    products = [eqn for eqn, _ in flops.walk(trace.jaxpr) if flops.equation_flops(eqn)]
    assert products
    return {
        str(eqn.source_info.name_stack)
        for eqn in products
        if {str(x.aval.dtype) for x in eqn.invars[:2]} == {"float32"}
    }


@pytest.mark.slow
def test_products_compute_in_the_type_that_the_config_names(root):
    """Methods and layers choose no type of their own; heads and losses stay in float32."""
    kws = str(root / "configs/data2vec/kws.py:toy")
    half, whole = (
        in_float32(plan.program(config_lib.load(kws, [f"precision={name}"]), "h100:1").trace())
        for name in ("bfloat16", "float32")
    )
    assert any("blocks" in name for name in whole)
    assert half < whole and not any("blocks" in name for name in half)
    assert any("predictor" in name for name in half)


def _run(config):
    found = budget.whole_run(config, examples=1_000_000)
    assert found.steps > 0 and found.data
    return found


def test_predictions_stand_beside_the_clock(tmp_path, monkeypatch, capsys, found):
    row = {"rows": 32, "masks": 1, "depth": 12, "seconds": {"ours": found.times.total * 2}}
    measured = {"machine": "1 x x86_64, NVIDIA H100 80GB HBM3", "systems": {"hubert_audio": row}}
    (tmp_path / "measured.json").write_text(json.dumps(measured))
    asked = []
    monkeypatch.setattr(plan, "step", lambda *given: asked.append(given) or found)
    files = ["--measured", str(tmp_path / "measured.json"), "--out", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", ["prediction", *files])
    prediction.main()
    ((config, topology),) = asked
    assert (config.data.batch_size, config.data.buckets) == (32, (5.0,))
    assert topology == "h100:1"
    written = json.loads((tmp_path / "out.json").read_text())["systems"]["hubert_audio"]
    assert written["ratio"] == 0.5
    assert f"{written['predicted']} ms predicted" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="figures of GeForce are unknown"):
        prediction.compare(measured | {"machine": "1 x x86_64, GeForce"})
