"""Rows onto the disk: one transaction at a time, in a thread of its own.

Worn flash, a full write cache or a busy server takes seconds for a commit now and then. The process
must go on meanwhile, or its watchdog kills it, the transaction is undone, and the next one as well.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

from appliance.codes import Word
from appliance.database import Where
from appliance.errors import ArtefactError, DeviceError
from appliance.messages import LateResult, Verdict
from appliance.store import Added, Store


class Batch(NamedTuple):
    """What is written together, by part id."""

    rows: dict[int, Verdict]
    late: dict[int, LateResult]
    images: dict[int, str]

    def __bool__(self) -> bool:
        return bool(self.rows or self.late or self.images)

    def put(self, verdict: Verdict) -> None:
        """The first one stays, unless it was rebuilt from the journal and this one has details."""
        held = self.rows.get(verdict.part_id)
        if held is None or (held.is_rebuilt and not verdict.is_rebuilt):
            self.rows[verdict.part_id] = verdict


class Commits:
    """The store of one loop. After a write that failed it is opened anew."""

    def __init__(self, where: Where, is_forwarding: bool, clock: Callable[[], int]) -> None:
        self._where, self._is_forwarding, self._clock = where, is_forwarding, clock
        self._store: Store | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commits")
        self._running: Future[Added] | None = None
        self._began_ns = 0
        self.took_ms = 0.0
        """The last one that succeeded."""

    @property
    def running_ms(self) -> float:
        """How long the one that was begun and not ended has taken so far; 0.0 = there is none."""
        return (self._clock() - self._began_ns) / 1e6 if self._running is not None else 0.0

    @property
    def is_running(self) -> bool:
        """`begin` was called and `end` has not told yet what came of it."""
        return self._running is not None

    @property
    def is_opening(self) -> bool:
        """The one that runs opens the store, which after an upgrade brings all rows up to date."""
        return self.is_running and self._store is None

    @property
    def is_over(self) -> bool:
        """`end` will not wait."""
        return self._running is not None and self._running.done()

    def begin(self, batch: Batch, must_prove: bool) -> None:
        """Write it; the caller leaves it alone until `end` has told what came of it.

        must_prove: an empty batch, too, shall find out whether the disk takes a write.
        """
        self._began_ns = self._clock()
        self._running = self._thread.submit(self._write, batch, must_prove)

    def end(self, patience_s: float | None) -> Added | None:
        """What came of it; None = it still runs, after so long a wait (None: as long as it takes).

        Raises DeviceError, ArtefactError: nothing was written.
        """
        running = self._running
        if running is None or not wait([running], patience_s).done:
            return None
        took_ms, self._running = self.running_ms, None
        added = running.result()
        self.took_ms = took_ms
        return added

    def words(self, part_ids: Sequence[int]) -> Mapping[int, Word]:
        """What the stored rows say; only while none is running."""
        return self._store.words(part_ids) if self._store is not None else {}

    def close(self) -> None:
        """After the last one."""
        self._thread.shutdown()
        if self._store is not None:
            self._store.close()

    def _write(self, batch: Batch, must_prove: bool) -> Added:
        try:
            if self._store is None:
                self._store = Store(self._where, is_forwarding=self._is_forwarding)
            if must_prove:
                self._store.prove()
            return self._store.add(
                tuple(batch.rows.values()), tuple(batch.late.values()), batch.images
            )
        except (DeviceError, ArtefactError):
            # A connection that was opened on a read-only disk stays read-only: begin afresh.
            if self._store is not None:
                self._store.close()
                self._store = None
            raise
