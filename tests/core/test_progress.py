"""Progress: silent at first, rewritten on a terminal, lines elsewhere, as wide as the terminal."""

import fcntl
import io
import os
import select
import struct
import termios
import time

import pytest

from ssl_jax.core import paths, progress


class Clock:
    """A clock that the test advances."""

    now = 0.0

    def __call__(self):
        return self.now


def counted(out, steps, total=10, seconds=1.0, **options):
    """Returns a bar after `steps` steps of `seconds` each."""
    clock = Clock()
    bar = progress.Progress("features", total, clock=clock, out=out, **options)
    for _ in range(steps):
        clock.now += seconds
        bar.step()
    return bar


def test_progress_waits_and_then_shows_the_time_left():
    out = io.StringIO()
    counted(out, 4).close()
    assert out.getvalue() == ""
    counted(out, 5).close()
    assert out.getvalue().splitlines() == [
        "features: 5/10 (50%)  1/s  5s left",
        "features: 5/10 (50%)  1/s  5s in total",
    ]


def test_where_there_is_no_terminal_a_line_comes_every_ten_seconds():
    out = io.StringIO()
    counted(out, 26, total=None)
    assert out.getvalue().splitlines() == [f"features: {n}  1/s" for n in (5, 15, 25)]


def test_what_was_done_before_took_no_time():
    out = io.StringIO()
    counted(out, 1, total=100, seconds=8.0, done=90)
    assert out.getvalue() == "features: 91/100 (91%)  0.125/s  1m12s left\n"


def test_no_step_yet_has_no_time_left():
    out, clock = io.StringIO(), Clock()
    bar = progress.Progress("features", 10, clock=clock, out=out)
    clock.now = 6.0
    bar.step(0)
    assert out.getvalue() == "features: 0/10 (0%)  6s so far\n"


def test_items_are_counted_and_an_error_ends_the_line(capsys, monkeypatch):
    monkeypatch.setitem(progress.Progress.__init__.__kwdefaults__, "patience", 0.0)
    items = progress.along("abc", "letters")
    assert next(items) == "a" and next(items) == "b"
    items.close()
    assert list(progress.along("", "none")) == []
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("letters: 1/3 (33%)") and last.startswith("letters: 1/3 (33%)")
    assert first.endswith(" left") and last.endswith("0s in total")


@pytest.fixture
def terminal():
    """A terminal of 40 columns: (stream to write to, function that reads its screen)."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))

    def shown():
        data = b""
        while select.select([ours], [], [], 0.2)[0]:  # it may arrive in several parts
            data += os.read(ours, 10_000)
        return data.decode()

    with os.fdopen(theirs, "w") as out:
        yield out, shown
    os.close(ours)


def test_a_line_of_a_terminal_is_rewritten_within_its_width(terminal):
    out, shown = terminal
    counted(out, 6, total=1000).close()
    first = "\r\033[Kfeatures: 5/1000 (0%)  1/s  16m35s left"
    second = "\r\033[Kfeatures: 6/1000 (1%)  1/s  16m34s left"
    assert shown() == f"{first}{second}\r\033[Kfeatures: 6/1000 (1%)  1/s  6s in total\r\n"
    line = progress.Line(out)
    line.update("step 30/100 (30%)  loss 0.2500  8.0 examples/s  1m10s left")
    assert shown() == "\r\033[Kstep 30/100 (30%)  1m10s left"


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (54, "copying files: 5/10 (50%)  2.0/s  loss 1.0  3s left"),
        (51, "copying files: 5/10 (50%)  2.0/s  3s left"),
        (41, "copying files: 5/10 (50%)  3s left"),
        (20, "5/10 (50%)  3s left"),
        (1, "t"),
    ],
)
def test_a_long_line_keeps_its_count_and_the_time_left(width, text):
    line = "copying files: 5/10 (50%)  2.0/s  loss 1.0  3s left"
    assert progress.fitted(line, width) == text


def test_a_stream_that_is_gone_stops_no_work():
    out = io.StringIO()
    out.close()
    counted(out, 20).close()


def test_a_copy_from_a_store_is_counted(bucket, monkeypatch, capsys):
    monkeypatch.setitem(progress.Progress.__init__.__kwdefaults__, "patience", 0.0)
    for name in "ab":
        paths.of(f"gs://bucket/shards/{name}").write_text("x")
    paths.fetched("gs://bucket/shards")
    assert "copying files of gs://bucket/shards: 2/2 (100%)" in capsys.readouterr().err


def test_time_without_a_step_and_compilation_do_not_slow_the_speed(monkeypatch):
    clock, compiled = Clock(), Clock()
    monkeypatch.setattr(progress._screen, "compiling", compiled)
    out = io.StringIO()
    bar = progress.Progress("features", 10, clock=clock, out=out)
    clock.now, compiled.now = 21.0, 20.0
    bar.step()
    clock.now = 60.0  # the second step goes on
    bar.refresh()
    assert out.getvalue().splitlines() == ["features: 1/10 (10%)  1/s  9s left"] * 2


def test_what_takes_long_is_shown_though_nothing_is_counted(monkeypatch):
    monkeypatch.setattr(progress, "_TICK", 0.01)
    monkeypatch.setattr(progress._screen, "ticker", None)
    out = io.StringIO()
    outer = progress.Progress("files", 2, patience=0.0, out=out)
    with outer, progress.Waiting("compiling", out=out):
        deadline = time.monotonic() + 20
        while not out.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert out.getvalue().startswith("compiling  0s\n")  # the innermost
    assert not progress._screen.open


def test_a_wait_is_shown_at_once_and_its_beginning_stays(terminal):
    out, shown = terminal
    with progress.Waiting("compiling step for audio (8, 6400) (1 of 3 shapes)", out=out):
        assert shown() == "\r\033[Kcompiling step for audio (8, 640  0s"
    assert shown() == "\r\033[K"
    progress.Line(out).update("step 1/2")
    progress.tell("done", out)
    assert shown() == "\r\033[Kstep 1/2\r\033[Kdone\r\n"


def test_lines_that_stay_are_wrapped_between_their_parts():
    text = "step 100:  valid/loss 0.97  valid/std 0.4  valid/masked_share 0.49"
    assert progress.wrapped(text, 30) == (
        "step 100:  valid/loss 0.97\n  valid/std 0.4\n  valid/masked_share 0.49"
    )
    assert progress.wrapped(text, 80) == text
    assert progress.wrapped("one long sentence", 5) == "one long sentence"


def test_a_stage_hides_details_and_names_its_progress():
    out = io.StringIO()
    with progress.within("pretrain"):
        progress.detail("its parameters", out)
        progress.tell("3 files skipped", out)
        clock = Clock()
        rare = progress.Line(out, clock, patience=0.0)
        clock.now = 59.0
        assert not rare.due()  # where there is no terminal
        line = progress.Line(out)
        line.update("step 1/2")
        line.end("step 2/2")
    progress.detail("shown", out)
    assert out.getvalue().splitlines() == ["3 files skipped", "[pretrain] step 1/2", "shown"]


def test_a_line_left_on_a_terminal_is_taken_off(terminal):
    out, shown = terminal
    progress.Line(out).update("step 1/2")
    progress.clear()
    progress.clear()
    assert shown() == "\r\033[Kstep 1/2\r\033[K"
    assert progress.width(out) == 40 and progress.width(io.StringIO()) == 0
