"""A GPIO chip that is a file: one byte per line, for the desk and for tests.

Another process may read the outputs and move the inputs. Like many real chips it holds the last
level when the process that drove it ends, however it ends.
"""

import asyncio
import mmap
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

LINES = 1024
_POLL_S = 0.002


class VirtualLines:
    """`Lines` on a file."""

    def __init__(self, file: Path, outputs: Mapping[int, bool], inputs: Sequence[int]) -> None:
        """Levels of outputs are set at once; inputs stay as they lie there."""
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(handle, LINES)
            self._levels = mmap.mmap(handle, LINES)
        finally:
            os.close(handle)
        self._inputs = tuple(inputs)
        self._watch: asyncio.Task[None] | None = None
        for offset, level in outputs.items():
            self.write(offset, level)

    def write(self, offset: int, level: bool) -> None:
        """Also how a test or a person moves an input."""
        self._levels[offset] = int(level)

    def read(self, offset: int) -> bool:
        """The level as it lies in the file."""
        return bool(self._levels[offset])

    def listen(self, edge: Callable[[int, bool, int], None]) -> None:
        """Looks every 2 ms: a shorter pulse may be missed."""
        self._watch = asyncio.ensure_future(self._follow(edge))

    def close(self) -> None:
        """The file stays, and so do its levels."""
        if self._watch is not None:
            self._watch.cancel()
        self._levels.close()

    async def _follow(self, edge: Callable[[int, bool, int], None]) -> None:
        seen = {offset: self.read(offset) for offset in self._inputs}
        while True:
            await asyncio.sleep(_POLL_S)
            for offset, before in seen.items():
                level = self.read(offset)
                if level != before:
                    seen[offset] = level
                    edge(offset, level, time.monotonic_ns())
