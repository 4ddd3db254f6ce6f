"""What a run writes and prints: metrics.jsonl, TensorBoard, W&B, progress, its parameters."""

import collections
import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
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
        progress.tell(text)


def detail(text: str) -> None:
    """The same for a line that a pipeline shows only with --verbose."""
    if jax.process_index() == 0:
        progress.detail(text)


def _one_line(error: Exception) -> str:
    """Returns an error in one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


class Progress:
    """The progress line of training: step, loss, speeds and the time left.

    Its speeds are those of the last steps that ended, without the first ones after a start, a
    compilation or an evaluation, which are slower or were prepared meanwhile.
    """

    WINDOW = 1000  # steps
    UNLIKE = 2  # first steps that do not count

    def __init__(
        self,
        start: int,
        total: int,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        peak: float = 0.0,
        rest: Callable[[int], tuple[float, bool]] = lambda step: (0.0, False),
    ):
        """`peak`: FLOP/s that the devices can do together, 0 where that is not known. rest(step):
        seconds of the evaluations to come, and whether there are others that none is known of."""
        self.peak, self._rest = peak, rest
        self.total, self.loss = total, math.nan
        self._clock, self._line = clock, progress.Line(out, clock, patience=0.0)
        self._quiet = jax.process_index() != 0
        self._begun = clock()
        self._steps: collections.deque = collections.deque(maxlen=self.WINDOW)
        self.restart()

    def note(self, text: str) -> None:
        """Prints a line of its own."""
        if not self._quiet:
            progress.tell(text, self._line.out)

    def detail(self, text: str) -> None:
        """The same for a line that a pipeline does not show."""
        if not self._quiet:
            progress.detail(text, self._line.out)

    def waiting(self, text: str) -> contextlib.AbstractContextManager:
        """Shows `text`, and for how long it goes on, until the block ends."""
        nothing = contextlib.nullcontext()
        return nothing if self._quiet else progress.Waiting(text, out=self._line.out)

    def restart(self) -> None:
        """Begins the time of a step here; the first ones do not count as the others do."""
        self._restarted = self._since = self._clock()
        self._compiled, self._count = progress.compiling(), 0
        self._work = np.zeros(3)  # examples, seconds of audio and operations since

    def update(self, step: int, examples: float, seconds: float, flops: float = 0.0) -> None:
        """Counts one step that has ended, of `examples`, `seconds` of audio and `flops` operations;
        shows the line when it is time."""
        now, compiled = self._clock(), progress.compiling()
        spent = max(now - self._since - (compiled - self._compiled), 0.0)
        self._since, self._compiled = now, compiled
        self._work += (examples, seconds, flops)
        self._count += 1
        if self._count > self.UNLIKE:
            self._steps.append((spent, examples, seconds, flops))
        self.show(step)

    def __enter__(self) -> "Progress":
        progress.keep_alive(self)
        return self

    def __exit__(self, *error: object) -> None:
        progress.let_go(self)

    def refresh(self) -> None:
        """Keeps the line as it is between two steps."""

    def due(self) -> bool:
        """Returns whether it is time for another line."""
        return not self._quiet and self._line.due()

    def show(self, step: int) -> None:
        """Shows the line of step `step` when it is time."""
        if self.due():
            self._line.update(self.line(step))

    def rates(self) -> dict[str, float]:
        """Returns examples, hours of audio and operations per second since the start or the
        restart, and the share of the peak if that is known; {} before the first step."""
        return self._per_second(self._clock() - self._restarted, *self._work)

    def _per_second(
        self, spent: float, examples: float, seconds: float, flops: float
    ) -> dict[str, float]:
        if not examples:
            return {}
        spent = max(spent, 1e-9)
        rates = {
            "examples_per_second": examples / spent,
            "audio_hours_per_second": seconds / 3600 / spent,
        }
        if flops:
            rates["teraflop_per_second"] = flops / 1e12 / spent
        if flops and self.peak:
            rates["utilization"] = flops / self.peak / spent
        return {name: float(rate) for name, rate in rates.items()}

    def left(self, step: int) -> str:
        """Returns the time left after step `step`: "3m05s left", or "over 3m05s left" where there
        are evaluations to come, and it is not known yet how long they take."""
        if not self._steps:
            return ""
        seconds, more = self._rest(step)
        seconds += sum(one[0] for one in self._steps) / len(self._steps) * (self.total - step)
        return "over " * more + progress.clock_text(seconds) + " left"

    def line(self, step: int, end: str = "") -> str:
        """Returns step, share done, loss, speeds and the time left (or `end`), as one line."""
        rates = self._per_second(*map(sum, zip(*self._steps, strict=True))) if self._steps else {}
        parts = [f"step {step}/{self.total} ({step / max(self.total, 1):.0%})"]
        parts += [] if math.isnan(self.loss) else [f"loss {self.loss:.4f}"]
        if rates:
            parts += [f"{rates['examples_per_second']:.1f} examples/s"]
        if rates.get("audio_hours_per_second"):
            parts += [f"{rates['audio_hours_per_second']:.3g} h audio/s"]
        if "teraflop_per_second" in rates:
            share = f", {rates['utilization']:.0%} of peak" if "utilization" in rates else ""
            parts += [f"{rates['teraflop_per_second']:.3g} TFLOP/s{share}"]
        return "  ".join([*parts, *filter(None, [end or self.left(step)])])

    def close(self, step: int) -> None:
        """Shows the last line, which stays, with the time that the steps took."""
        if not self._quiet:
            spent = progress.clock_text(self._clock() - self._begun)
            self._line.end(self.line(step, f"{spent} in total"))


def parameter_table(params: Tree, columns: int = 0) -> str:
    """Returns one line per parameter: name, shape, count and sharding; and the total.

    columns: of a terminal; what does not fit is left out, the sharding first (0: all of it).
    """
    rows = [("parameter", "shape", "count", "sharding")]
    for name, x in tree_lib.named_leaves(params):
        spec = getattr(getattr(x, "sharding", None), "spec", None)
        split = "whole" if not spec or not any(spec) else ", ".join(str(a or "-") for a in spec)
        rows.append((name, "x".join(map(str, x.shape)) or "scalar", f"{x.size:,}", split))
    rows.append(("total", "", f"{tree_lib.count(params):,}", ""))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    keep = [0, 1, 2, 3]
    for i in (3, 1):
        if columns and sum(widths[j] + 2 for j in keep) - 2 > columns:
            keep.remove(i)
    room = columns - sum(widths[i] + 2 for i in keep[1:])
    if columns and widths[0] > room:  # the end of a name tells more than its beginning
        widths[0] = max(room, 1)
        rows = [(row[0][-widths[0] :], *row[1:]) for row in rows]
    align = "<<><"
    return "\n".join(
        "  ".join(f"{row[i]:{align[i]}{widths[i]}}" for i in keep).rstrip() for row in rows
    )
