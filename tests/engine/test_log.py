"""Rows, writers, progress line, parameter table and profile range."""

import io
import json
import sys
import types

import jax
import numpy as np
import pytest
import toy_method as toy

from ssl_jax.core.mesh import make_mesh
from ssl_jax.engine import log


def test_rows_are_json_with_step_time_and_names(tmp_path):
    logger = toy.open_logger(tmp_path)
    logger.write(2, {"train/loss": 0.5, "train/bad": float("nan")})
    logger.write(4, {"valid/accuracy": 1.0})
    logger.close()
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines] == [2, 4] and lines[0]["time"] > 1e9
    assert lines[0]["train/loss"] == 0.5 and lines[0]["train/bad"] is None
    assert logger.latest["valid/accuracy"] == 1.0 and logger.latest["train/loss"] == 0.5


def test_a_resume_drops_later_rows_and_a_line_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": n, "time": 1.0, "train/loss": float(n)} for n in (2, 4, 6)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"step": 8, "ti')
    logger = toy.open_logger(tmp_path, 4)
    assert logger.latest == {"train/loss": 4.0}
    logger.write(6, {"train/loss": 9.0})
    logger.close()
    assert [(r["step"], r["train/loss"]) for r in log.read(path)] == [(2, 2), (4, 4), (6, 9)]


def test_tensorboard_gets_the_numbers(tmp_path):
    pytest.importorskip("tensorboardX")
    logger = toy.open_logger(tmp_path, **{"log.tensorboard": True})
    logger.write(2, {"train/loss": 0.5})
    logger.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss" in events.read_bytes()


@pytest.mark.parametrize(
    ("module", "key", "value"), [("tensorboardX", "tensorboard", True), ("wandb", "wandb", "mine")]
)
def test_a_missing_writer_names_the_extra(tmp_path, monkeypatch, module, key, value):
    monkeypatch.setitem(sys.modules, module, None)
    expected = rf"config.log.{key} needs the package {module}.*ssl_jax\[log\]"
    with pytest.raises(ImportError, match=expected):
        toy.open_logger(tmp_path, **{f"log.{key}": value})


def test_wandb_gets_the_numbers(tmp_path, monkeypatch):
    seen = []
    run = types.SimpleNamespace(
        log=lambda values, step: seen.append((step, values)), finish=lambda: seen.append("end")
    )
    fake = types.SimpleNamespace(init=lambda **options: seen.append(options["project"]) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    logger = toy.open_logger(tmp_path, **{"log.wandb": "mine"})
    logger.write(2, {"train/loss": 0.5})
    logger.close()
    assert seen == ["mine", (2, {"train/loss": 0.5}), "end"]


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self):
        return self.now


def test_the_progress_line_has_rates_and_the_time_left():
    out, clock = io.StringIO(), Clock()
    progress = log.Progress(0, 100, out, clock)
    progress.loss = 0.25
    for step in range(1, 31):
        clock.now += 1
        progress.update(step, examples=8, seconds=3600)
    lines = out.getvalue().splitlines()
    assert len(lines) == 3  # every ten seconds where no terminal is
    expected = "step 30/100 (30%)  loss 0.2500  8.0 examples/s  1 h audio/s  1m10s left"
    assert lines[-1] == expected
    busy = log.Progress(0, 100, out, clock, peak=4e12)
    clock.now += 2
    busy.update(1, examples=8, seconds=3600, flops=2e12)
    assert "0.5 h audio/s  1 TFLOP/s, 25% of peak  3m18s left" in busy.line(1)
    busy.restart(1)
    clock.now += 1
    assert "FLOP" not in busy.line(2) and "utilization" not in busy.rates()


def test_compiling_does_not_count_as_training():
    out, clock = io.StringIO(), Clock()
    progress = log.Progress(0, 10, out, clock)
    clock.now += 1000
    progress.restart(1)
    clock.now += 1
    progress.update(2, examples=4, seconds=0)
    assert progress.rates()["examples_per_second"] == 4
    assert "8s left" in progress.line(2)


def test_a_terminal_line_is_rewritten_in_place():
    out, clock = io.StringIO(), Clock()
    out.isatty = lambda: True
    progress = log.Progress(0, 10, out, clock)
    for step in range(1, 4):
        clock.now += 1
        progress.update(step, 1, 0)
    assert out.getvalue().count("\r") == 3 and "\n" not in out.getvalue()


def test_the_parameter_table_counts_and_shows_shardings():
    mesh = make_mesh({"data": -1}, jax.devices()[:1])
    state, _, _, _ = toy.start(mesh)
    table = log.parameter_table(state.params)
    lines = {line.split()[0]: line.split() for line in table.splitlines()}
    assert lines["encoder/kernel"] == ["encoder/kernel", "16x8", "128", "fsdp,", "model"]
    assert lines["total"] == ["total", str(128 + 8 + 128)]
    whole = log.parameter_table({"a": np.zeros((2, 3))}).splitlines()[1].split()
    assert whole == ["a", "2x3", "6", "whole"]


def test_a_log_in_an_object_store_is_whole_whenever_it_is_flushed(bucket):
    run = "gs://bucket/run"
    logger = toy.open_logger(run)
    for step in (2, 4):
        logger.write(step, {"train/loss": 1.0 / step})
    assert not bucket.objects
    logger.flush()
    assert [row["step"] for row in log.read(f"{run}/metrics.jsonl")] == [2, 4]
    logger.write(6, {"train/loss": 0.1})
    logger.close()
    again = toy.open_logger(run, start_step=4)  # a run cut off after step 4
    assert again.latest == {"train/loss": 0.25}
    again.write(5, {"train/loss": 0.2})
    again.close()
    assert [row["step"] for row in log.read(f"{run}/metrics.jsonl")] == [2, 4, 5]
