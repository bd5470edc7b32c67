"""Where lines of the log go: stderr, which may be full, closed or slow. No process of a line waits
for it."""

import atexit
import contextlib
import os
import queue
import sys
import threading
import time

_PIECES = 4000
"""That wait for whoever reads: two of each line."""
_END_S = 0.5
_STDERR = 2


class Lines:
    """stderr, where it takes a line; a full disk behind it, or nobody who reads, is no error."""

    def write(self, text: str) -> None:
        """All of it, or nothing."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
            sys.stderr.write(text)

    def flush(self) -> None:
        """At once."""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()

    def end(self) -> None:
        """Nothing waits."""


class LinesBeside:
    """The same by a thread: a terminal that Ctrl-S has stopped, a pipe that nobody reads and a
    journald that waits for its disk hold up whoever writes. What has no room is lost, and told.
    """

    def __init__(self) -> None:
        self._pieces: queue.Queue[str] = queue.Queue(_PIECES)
        self._lost = 0
        threading.Thread(target=self._run, name="log", daemon=True).start()
        atexit.register(self.end)

    def write(self, text: str) -> None:
        """Soon."""
        try:
            self._pieces.put_nowait(text)
        except queue.Full:
            self._lost += 1

    def flush(self) -> None:
        """The thread does it."""

    def _run(self) -> None:
        while True:
            _write(self._pieces.get())
            if self._lost and self._pieces.empty():
                lost, self._lost = self._lost, 0
                _write(f"{lost // 2} lines of the log were lost: nobody took them\n")
            self._pieces.task_done()

    def end(self) -> None:
        """What was said last is still said, where somebody reads; half a second at most."""
        until_s = time.monotonic() + _END_S
        while self._pieces.unfinished_tasks and time.monotonic() < until_s:
            time.sleep(0.01)


def _write(text: str) -> None:
    """Not through sys.stderr: a thread that waits inside it would keep the process from ending."""
    data = text.encode("utf-8", "backslashreplace")
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(_STDERR, data) :]
