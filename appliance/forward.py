"""Store and forward: every row of this box to a central database that may be away for days.

A change of a row and the note that it is owed are one transaction of the local store. What the
central database has confirmed is struck off, unless the row changed meanwhile. Sending twice writes
the same row again: nothing is lost and nothing is there twice. When nothing is owed it looks back
once, the newest rows first, for what the central database lacks: rows of before it was named, or of
before its own backup. Runs in a thread of its own.
"""

import threading

from appliance.database import StoreBug, Where
from appliance.errors import ArtefactError, DeviceError
from appliance.outbox import Central, Outbox

ROWS = 500
IDLE_S = 1.0
AWAY_S = 5.0
LOOK_ROWS = 5000
"""Ids that are compared in one step back."""


class Forwarder:
    """From one database to the other. `turn` by itself, or `start` for a thread."""

    def __init__(
        self, local: Where, central: Where, box: str, is_looking_back: bool = True
    ) -> None:
        self._local_at, self._central_at, self._box = local, central, box
        self._local: Outbox | None = None
        self._central: Central | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_looking_back = is_looking_back
        self._looked_to: int | None = None
        """Rows from this id up are there, or owed."""
        self.forwarded = 0
        self.failed = 0
        """How often a bug ended the thread; its traceback is in the log."""
        self.note = ""
        """Why nothing goes; "" while all is well."""

    def start(self) -> None:
        """Go on by itself until `close`."""
        self._begin(0.0)

    def look_after(self) -> None:
        """Now and then: what a bug ended is told, counted and begun anew. No part waits for it."""
        if self._thread is None or self._thread.is_alive() or self._stopping.is_set():
            return
        self.failed += 1
        told = f"a bug ended the forwarding (no. {self.failed}), its traceback is in the log"
        self.note = f"central database: {told}"
        self._let_go()
        self._begin(AWAY_S)

    def _begin(self, wait_s: float) -> None:
        target = self._run
        self._thread = threading.Thread(target=target, args=(wait_s,), name="forward", daemon=True)
        self._thread.start()

    def turn(self) -> int:
        """One batch, or one step back; how many rows went or are owed now. 0: nothing is left.

        Raises DeviceError or ArtefactError.
        """
        if self._local is None:
            self._local = Outbox(self._local_at)
        rows = self._local.outgoing(ROWS)
        if not rows and not self._is_looking_back:
            return 0
        if self._central is None:
            self._central = Central(self._central_at)
        if not rows:
            return self._look_back(self._local, self._central)
        self._central.take_in(self._box, rows)
        self._local.confirm(rows)
        self.forwarded += len(rows)
        return len(rows)

    def _look_back(self, local: Outbox, central: Central) -> int:
        """Until something is lacking, or the first row was looked at."""
        while ids := local.ids_below(self._looked_to, LOOK_ROWS):
            lacking = sorted(set(ids) - central.ids_of(self._box, ids[-1], ids[0]))
            if lacking:
                local.owe(lacking)
            self._looked_to = ids[-1]
            if lacking or self._stopping.is_set():
                return len(lacking)
        self._is_looking_back = False
        return 0

    def close(self) -> None:
        """What was not sent is owed still."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(5)
        self._let_go()

    def _run(self, wait_s: float) -> None:
        while not self._stopping.wait(wait_s):
            wait_s = 0.0
            try:
                if not self.turn():
                    wait_s = IDLE_S
                self.note = ""
            except (DeviceError, ArtefactError) as err:
                self.note = f"central database: {err}"
                wait_s = AWAY_S
            except StoreBug as err:  # told, and tried again: what is owed goes on being owed
                cause = getattr(err, "orig", None) or err  # without the statement and its rows
                self.note = f"central database: {type(err).__name__}: {cause}"
                wait_s = AWAY_S
            if self.note:
                self._let_go()

    def _let_go(self) -> None:
        for store in (self._local, self._central):
            if store is not None:
                store.close()
        self._local = self._central = None
