"""How long to wait before the next attempt, kept in a file so that a new process knows it."""

from contextlib import suppress
from pathlib import Path

FIRST_S = 1.0


class Backoff:
    """1, 2, 4 … up to `max_s` seconds; nothing after a good run or a start without a failure.

    file: below the runtime directory, so that a reboot forgets it.
    """

    def __init__(self, file: Path, max_s: float) -> None:
        self._file, self._max_s = file, max_s
        try:
            self.wait_s = min(max_s, max(0.0, float(file.read_text(encoding="ascii"))))
        except (FileNotFoundError, ValueError):
            self.wait_s = 0.0

    def failed(self) -> None:
        """Wait longer the next time."""
        self.wait_s = min(self._max_s, max(FIRST_S, 2 * self.wait_s))
        with suppress(OSError):  # a full /run: the next process waits as long as the last one did
            self._file.write_text(f"{self.wait_s}", encoding="ascii")

    def succeeded(self) -> None:
        """Wait no more."""
        if self.wait_s:
            self.wait_s = 0.0
            with suppress(OSError):
                self._file.unlink(missing_ok=True)
