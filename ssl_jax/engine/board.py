"""Numbers for TensorBoard, written at once by the thread that has them.

The writer of tensorboardX has a thread and a queue: where that thread meets a full disk it is gone,
and the tenth row after it waits for ever.
"""

import time
from collections.abc import Mapping

from ssl_jax.core import paths


class Board:
    """One event file in `folder`; what other files there hold past step `start` is purged.

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
