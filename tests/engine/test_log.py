"""Rows, writers, the progress line, the parameter table and the profile range."""

import errno
import io
import json
import struct
import sys
import time
import types

import jax
import numpy as np
import pytest
import toy_method as toy

from ssl_jax.core import progress as progress_lib
from ssl_jax.core.mesh import make_mesh
from ssl_jax.engine import environment, log


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


def test_a_damaged_row_ends_no_resume_and_takes_no_other_row_with_it(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"step": n, "time": 1.0, "train/loss": float(n)}) for n in (2, 4, 6, 8)]
    rows[1:1] = ['{"step": 3, "ti', "null", '{"time": 2.0}']
    path.write_text("\n".join(rows) + "\n")
    logger = toy.open_logger(tmp_path, 6)
    logger.write(8, {"train/loss": 9.0})
    logger.close()
    assert [(r["step"], r["train/loss"]) for r in log.read(path)] == [
        (2, 2),
        (4, 4),
        (6, 6),
        (8, 9),
    ]
    told = capsys.readouterr().err.splitlines()
    assert told == [
        f"{path}: rows 2, 3, 4 are damaged and set aside in metrics.jsonl.damaged; "
        "the other rows stay"
    ]


def test_a_damaged_row_of_the_environment_is_set_aside(tmp_path, capsys):
    (tmp_path / environment.FILE).write_bytes(b'{"event": "start", "time": 1.0}\n\x00\x00\n')
    environment.began(tmp_path)
    environment.ended(tmp_path, "done")
    assert [row["event"] for row in environment.read(tmp_path)] == ["start", "start", "end"]
    assert "row 2 is damaged and set aside in environment.jsonl.damaged" in capsys.readouterr().err


def events(folder):
    """Returns {step: loss} of each event file in order, and the step from which it purges."""
    found, event_pb2 = [], pytest.importorskip("tensorboardX.proto.event_pb2")
    for file in sorted(folder.iterdir()):
        data, losses, purged = file.read_bytes(), {}, None
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            purged = event.step if event.HasField("session_log") else purged
            for value in event.summary.value:
                losses[event.step] = value.simple_value
        found.append((losses, purged))
    return found


def test_tensorboard_gets_the_numbers_at_once_and_a_resume_purges_what_is_past_it(
    tmp_path, monkeypatch
):
    pytest.importorskip("tensorboardX")
    start = {"log.tensorboard": True}
    for begin, now in ((0, 1e9), (4, 1e9 + 60)):
        monkeypatch.setattr(time, "time", lambda now=now: now)  # determines the name of the file
        logger = toy.open_logger(tmp_path, begin, **start)
        for step in (begin + 2, begin + 4):
            logger.write(step, {"train/loss": step / 8})  # and is killed: nothing is closed
    assert events(tmp_path / "tensorboard") == [({2: 0.25, 4: 0.5}, 1), ({6: 0.75, 8: 1.0}, 5)]


def test_tensorboard_without_room_ends_no_run(tmp_path, monkeypatch, capsys):
    event_file_writer = pytest.importorskip("tensorboardX.event_file_writer")
    logger = toy.open_logger(tmp_path, **{"log.tensorboard": True})

    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(event_file_writer.EventsWriter, "write_event", full)
    monkeypatch.setattr(event_file_writer.EventsWriter, "close", full)
    for step in range(20):
        logger.write(step, {"train/loss": 1.0})
    logger.close()
    assert len(log.read(tmp_path / "metrics.jsonl")) == 20
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("TensorBoard gets no more rows: OSError: [Errno 28]")
    assert last.startswith("the last rows are only in metrics.jsonl: OSError")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tensorboard").write_text("a file in the place of the folder")
    toy.open_logger(tmp_path / "other", **{"log.tensorboard": True}).write(1, {"train/loss": 1.0})
    assert "TensorBoard gets no rows: " in capsys.readouterr().err


def test_a_stream_that_is_gone_ends_no_run(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys, "stderr", Gone())
    log.notify("to nobody")
    progress = log.Progress(0, 10, Gone())
    progress.note("to nobody")
    monkeypatch.setattr(sys, "stderr", closed := io.StringIO())
    closed.close()
    log.notify("to nobody")


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
    """A clock that the test advances."""

    now = 0.0

    def __call__(self):
        return self.now


def test_the_progress_line_has_rates_and_the_time_left():
    out, clock = io.StringIO(), Clock()
    progress = log.Progress(0, 100, out, clock)
    progress.loss = 0.25
    for step in range(1, 32):
        clock.now += 1
        progress.update(step, examples=8, seconds=3600)
    lines = out.getvalue().splitlines()
    assert lines[0] == "step 1/100 (1%)  loss 0.2500"  # at once, without a speed
    assert len(lines) == 4  # then every ten seconds without a terminal
    expected = "step 31/100 (31%)  loss 0.2500  8.0 examples/s  1 h audio/s  1m09s left"
    assert lines[-1] == expected
    busy = log.Progress(0, 100, out, clock, peak=4e12)
    for step in range(1, 4):
        clock.now += 2
        busy.update(step, examples=8, seconds=3600, flops=2e12)
    assert "0.5 h audio/s  1 TFLOP/s, 25% of peak  3m14s left" in busy.line(3)
    busy.close(100)
    assert out.getvalue().splitlines()[-1].endswith("6s in total")


def test_the_first_steps_after_a_restart_do_not_count():
    out, clock = io.StringIO(), Clock()
    progress = log.Progress(0, 10, out, clock)
    clock.now += 1000
    progress.restart()
    assert progress.rates() == {} and "left" not in progress.line(1)
    clock.now += 3
    progress.update(2, examples=6, seconds=0)
    assert progress.rates()["examples_per_second"] == 2  # as the row of metrics has it
    assert "left" not in progress.line(2) and "examples/s" not in progress.line(2)
    for step in (3, 4):
        clock.now += 1
        progress.update(step, examples=4, seconds=0)
    assert "4.0 examples/s  6s left" in progress.line(4)
    progress.restart()  # an evaluation: the speed stays known
    clock.now += 50
    progress.update(5, examples=4, seconds=0)
    assert "4.0 examples/s  5s left" in progress.line(5)


def test_the_time_left_is_right_within_a_third_from_its_first_value_on(monkeypatch):
    """Two sizes of batches, slow first steps, two compilations, an evaluation every 20 steps."""
    clock, compiled, shown, total = Clock(), Clock(), [], 200
    monkeypatch.setattr(progress_lib._screen, "compiling", compiled)
    took = []  # of evaluations

    def rest(step):
        calls = total // 20 - (step - 1) // 20
        return calls * took[-1] if took else 0.0, not took

    line = log.Progress(0, total, io.StringIO(), clock, rest=rest)
    slow = 3
    for step in range(1, total + 1):
        if step in (1, 6):
            clock.now, compiled.now, slow = clock.now + 40, compiled.now + 40, 2
            line.restart()
        clock.now += (1.0 if step % 2 else 2.0) + 5.0 * (slow > 0)
        slow -= 1
        line.update(step, 8, 0.0)
        shown.append((clock.now, line.left(step), bool(took)))
        if step % 20 == 0:
            clock.now, slow = clock.now + 10, 2
            took.append(10.0)
            line.restart()
    known = [(at, text) for at, text, whole in shown if whole]
    assert len(known) >= 180 - 1
    for at, text in known[:-10]:
        minutes, _, seconds = text.removesuffix("s left").rpartition("m")
        left = 60 * int(minutes or 0) + int(seconds)
        assert abs(left - (clock.now - at)) <= (clock.now - at) / 3
    early = [text for _, text, whole in shown if text and not whole]
    assert early and all(text.startswith("over ") for text in early)


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
    sizes = {
        n: len(max(log.parameter_table(state.params, n).splitlines(), key=len)) for n in (40, 20)
    }
    assert sizes[40] <= 40 and sizes[20] <= 20  # the end of each name and its count stay
    assert log.parameter_table(state.params, 20).splitlines()[-1].split() == ["total", "264"]
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
