"""What a run writes and prints: metrics.jsonl, TensorBoard, W&B, progress, its parameters."""

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import jax
from ml_collections import ConfigDict

from ssl_jax.core import atomic, paths, progress, renamed
from ssl_jax.core import rows as rows_lib
from ssl_jax.core import tree as tree_lib

Tree = Any

_ROW = {"step": int}
_GO_ON = "Make room or mend the storage: the same command goes on from the newest checkpoint"


class Logger:
    """Writes the numbers of a run to its folder, from the first process only.

    `config` is config.log. metrics.jsonl gets one row per call of `write`, as
    {"step": n, "time": unix seconds, "train/loss": x, ...}; a value that is not finite is null.
    Raises ImportError naming the extra when an asked-for writer is not installed.
    """

    def __init__(self, workdir: str | Path, config: ConfigDict, start: int = 0):
        """Opens the run folder at step `start`; later rows of an interrupted run are dropped."""
        self.path = paths.of(workdir) / "metrics.jsonl"
        self.latest: dict[str, float] = {}
        self._writers: list[Callable[[int, Mapping[str, float]], None]] = []
        self._closers: list[Callable[[], None]] = []
        self._file: paths.Lines | None = None
        if jax.process_index() != 0:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = truncate(self.path, start)
        for row in before:
            self.latest |= {k: v for k, v in row.items() if k not in ("step", "time")}
        self._file = paths.Lines(self.path, [json.dumps(row) for row in before])
        if config.tensorboard:
            self._open_tensorboard(start)
        if config.wandb:
            self._open_wandb(config.wandb)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one row; raises OSError naming the file."""
        self.latest |= metrics
        if self._file is None:
            return
        values = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        row = {"step": step, "time": round(time.time(), 3), **values}
        try:
            self._file.add(json.dumps(row))
        except OSError as error:
            raise OSError(f"cannot write to {self.path}: {error}. {_GO_ON}") from error
        for writer in list(self._writers):  # a copy, since one that fails is removed
            writer(step, metrics)

    def _optional(self, name: str, write: Callable[[int, Mapping[str, float]], None]) -> None:
        """Adds a writer that the run can do without: its first error is printed, and removes it."""

        def safely(step: int, metrics: Mapping[str, float]) -> None:
            try:
                write(step, metrics)
            except Exception as error:
                notify(f"{name} gets no more rows: {_one_line(error)}. metrics.jsonl continues")
                self._writers.remove(safely)

        self._writers.append(safely)

    def flush(self) -> None:
        """Makes every row visible to readers; an object store shows no row before that."""
        if self._file is not None:
            self._file.flush()

    def listen(self, fn: Callable[[int, Mapping[str, float]], None]) -> None:
        """Calls fn(step, metrics) after each row, on the first process."""
        self._writers.append(fn)

    def close(self) -> None:
        """Closes every writer."""
        if self._file is not None:
            self._file.close()
        for close in self._closers:
            try:
                close()
            except Exception as error:
                notify(f"the last rows are only in metrics.jsonl: {_one_line(error)}")

    def _open_tensorboard(self, start: int) -> None:
        try:
            board = _Board(self.path.parent / "tensorboard", start)
        except ImportError as e:
            raise ImportError(_missing("tensorboard", "tensorboardX", "False")) from e
        except OSError as error:
            notify(f"TensorBoard gets no rows: {_one_line(error)}. metrics.jsonl continues")
            return
        self._closers.append(board.close)
        self._optional("TensorBoard", board.write)

    def _open_wandb(self, project: str) -> None:
        try:
            import wandb
        except ImportError as e:
            raise ImportError(_missing("wandb", "wandb", '""')) from e
        folder = paths.absolute(self.path.parent)
        own = None if paths.is_remote(folder) else str(folder)
        run = wandb.init(project=project, name=folder.name, dir=own, resume="allow")
        self._closers.append(run.finish)
        self._optional("W&B", lambda step, metrics: run.log(dict(metrics), step=step))


class _Board:
    """An event file of TensorBoard in `folder`, written at once by the calling thread.

    The writer of tensorboardX has a thread and a queue: on a full disk the thread dies, and the
    tenth row after that waits forever. Rows of other files there past step `start` are purged.
    Raises ImportError without tensorboardX.
    """

    def __init__(self, folder: paths.Given, start: int):
        from tensorboardX import event_file_writer, record_writer, summary
        from tensorboardX.proto import event_pb2

        self._scalar, self._event = summary.scalar, event_pb2.Event
        self._local = not paths.is_remote(folder)
        record_writer.directory_check(str(folder))
        self._file = event_file_writer.EventsWriter(f"{folder}/events")
        began = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._put(step=start + 1, session_log=began)

    def _put(self, **fields: object) -> None:
        self._file.write_event(self._event(wall_time=time.time(), **fields))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the numbers of a step."""
        for name, value in metrics.items():
            self._put(step=step, summary=self._scalar(name, value))
        if self._local:
            self._file.flush()

    def close(self) -> None:
        """Writes what is left."""
        self._file.close()


def _missing(key: str, package: str, off: str) -> str:
    return (
        f"config.log.{key} needs the package {package}, which is not installed: "
        f"pip install 'ssl_jax[log]', or set config.log.{key}={off}"
    )


def read(path: str | Path) -> list[dict[str, Any]]:
    """Returns the rows of a metrics.jsonl, without a last line cut off by a crash and without
    damaged rows, which are reported by number."""
    found = rows_lib.read(path, _ROW, notify)
    return [{renamed.metric(name): value for name, value in row.items()} for row in found]


def truncate(path: str | Path, step: int) -> list[dict[str, Any]]:
    """Drops the rows past `step`, in one atomic replacement; returns those that stay.

    Damaged rows go to a file of their own, whatever their step.
    """
    found = rows_lib.mend(path, _ROW, notify)
    rows = [row for row in found if row["step"] <= step]
    if len(rows) < len(found):
        atomic.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def notify(text: str) -> None:
    """Prints a line to the error stream, on the first process only."""
    if jax.process_index() == 0:
        progress.show(text + "\n", sys.stderr)


def _one_line(error: Exception) -> str:
    """Returns an error in one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


class Progress:
    """The progress line of training: step, loss, rates and the time left."""

    def __init__(
        self,
        start: int,
        total: int,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        peak: float = 0.0,
    ):
        """`peak`: FLOP/s that the devices can do together, 0 where that is not known."""
        self.peak = peak
        self.total, self.loss = total, math.nan
        self._clock, self._line = clock, progress.Line(out, clock)
        self._quiet = jax.process_index() != 0
        self._since = clock()
        self._first = start
        self._examples = self._seconds = self._flops = 0.0

    def note(self, text: str) -> None:
        """Prints a line of its own."""
        if not self._quiet:
            self._line.note(text)

    def restart(self, step: int) -> None:
        """Begins the rates anew, so that compiling does not count as training."""
        self._since, self._first = self._clock(), step
        self._examples = self._seconds = self._flops = 0.0

    def update(self, step: int, examples: float, seconds: float, flops: float = 0.0) -> None:
        """Counts one step that has ended, of `examples`, `seconds` of audio and `flops` operations;
        shows the line when it is time."""
        self._flops += flops
        self._examples += examples
        self._seconds += seconds
        if not self._quiet and self._line.due():
            self._line.update(self.line(step))

    def rates(self) -> dict[str, float]:
        """Returns examples, hours of audio and operations per second since the start or the
        restart, and the share of the peak if that is known; {} before the first step."""
        if not self._examples:
            return {}
        spent = max(self._clock() - self._since, 1e-9)
        rates = {
            "examples_per_second": self._examples / spent,
            "audio_hours_per_second": self._seconds / 3600 / spent,
        }
        if self._flops:
            rates["teraflop_per_second"] = self._flops / 1e12 / spent
        if self._flops and self.peak:
            rates["utilization"] = self._flops / self.peak / spent
        return rates

    def line(self, step: int) -> str:
        """Returns step, share done, loss, rates and the time left, as one line."""
        rates = self.rates()
        spent = self._clock() - self._since
        done = step - self._first
        left = progress.clock_text(spent / done * (self.total - step)) if done > 0 else "?"
        examples, hours = (rates.get(f"{k}_per_second", 0.0) for k in ("examples", "audio_hours"))
        loss = "?" if math.isnan(self.loss) else f"{self.loss:.4f}"
        work = ""
        if "teraflop_per_second" in rates:
            work = f"{rates['teraflop_per_second']:.3g} TFLOP/s  "
        if "utilization" in rates:
            work = f"{work.rstrip()}, {rates['utilization']:.0%} of peak  "
        return (
            f"step {step}/{self.total} ({step / max(self.total, 1):.0%})  loss {loss}  "
            f"{examples:.1f} examples/s  {hours:.3g} h audio/s  "
            f"{work}{left} left"
        )


def parameter_table(params: Tree) -> str:
    """Returns one line per parameter: name, shape, count and sharding; and the total."""
    rows = [("parameter", "shape", "count", "sharding")]
    for name, x in tree_lib.named_leaves(params):
        spec = getattr(getattr(x, "sharding", None), "spec", None)
        split = "whole" if not spec or not any(spec) else ", ".join(str(a or "-") for a in spec)
        rows.append((name, "x".join(map(str, x.shape)) or "scalar", f"{x.size:,}", split))
    rows.append(("total", "", f"{tree_lib.count(params):,}", ""))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        f"{n:<{widths[0]}}  {s:<{widths[1]}}  {c:>{widths[2]}}  {split}".rstrip()
        for n, s, c, split in rows
    )
