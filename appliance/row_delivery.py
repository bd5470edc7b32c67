"""Every verdict becomes one row: sent to record, sent again until it is acknowledged. Pure.

The journal holds a verdict until its row is committed, so a recorder may be away, die or answer
twice: the row is sent again, and a copy counts as doubled only where nothing was sent twice.
"""

from collections.abc import Callable
from itertools import islice

from appliance.journal import Journal
from appliance.ledger import Ledger
from appliance.messages import Health, Stored, Verdict

_FRESH_NS = 1_000_000_000
_RESEND_NS = 2_000_000_000
_RESEND_MOST = 10
"""Rows sent again in one turn: a backlog must not hold up the loop (20 µs each)."""


class RowDelivery:
    """What the decision process owes the recorder, and what that says of itself."""

    def __init__(
        self, journal: Journal, ledger: Ledger, send: Callable[[Verdict], bool], now_ns: int
    ) -> None:
        """send: to the recorder; False when it does not take it."""
        self._journal, self._ledger, self._send = journal, ledger, send
        self.archive = Stored(part_ids=())
        """What the recorder last said of its disk."""
        self._sent_ns: dict[int, int] = {}
        self._delivered = set(journal.unstored)
        """Rows that the recorder may have, but has not acknowledged."""
        self._resends = 0
        self._start = 0
        """Which life of the recorder was heard last; 0 = none."""
        self._told = 0
        """Doubled rows that this life of the recorder had counted when it last told."""
        self._doubles = 0
        self._seen_ns: int | None = None
        for part_id in journal.unstored:
            ledger.row_sent(part_id, now_ns)
            self._sent_ns[part_id] = now_ns - _RESEND_NS

    def send(self, verdict: Verdict, now_ns: int) -> None:
        """To the recorder, for the first time or again."""
        part_id = verdict.part_id
        if part_id not in self._sent_ns:
            self._ledger.row_sent(part_id, now_ns)
        self._sent_ns[part_id] = now_ns
        if self._send(verdict):
            self._resends += part_id in self._delivered
            self._delivered.add(part_id)

    def stored(self, message: Stored) -> None:
        """Rows are committed."""
        self.archive = message
        if message.life:
            self._ledger.rows_counted(message.life, message.rows, len(message.part_ids))
        if not message.part_ids:
            return
        self._ledger.row_stored(message.part_ids)
        for part_id in message.part_ids:
            self._sent_ns.pop(part_id, None)
            self._delivered.discard(part_id)
        self._journal.stored(message.part_ids)

    def heard(self, health: Health, now_ns: int) -> None:
        """A sign of life of the recorder: rows that came twice, less those that were sent twice."""
        self._seen_ns = now_ns
        total = health.counters.get("doubled", 0) + health.counters.get("contradictions", 0)
        if not self._start:
            self._told = total  # before our own start
        elif health.start != self._start:
            self._told = 0
            self._begin_anew(now_ns)
        self._doubles += max(0, total - self._told)
        self._start, self._told = health.start, total
        self._ledger.rows_doubled = max(self._ledger.rows_doubled, self._doubles - self._resends)

    def _begin_anew(self, now_ns: int) -> None:
        """What went to the recorder's last life went with it: all of it is due at once."""
        for part_id in self._sent_ns:
            self._sent_ns[part_id] = now_ns - _RESEND_NS
        self._ledger.rows_wait_anew()

    def is_recording(self, now_ns: int) -> bool:
        """The recorder lives and can write."""
        is_fresh = self._seen_ns is not None and now_ns - self._seen_ns < _FRESH_NS
        return is_fresh and self.archive.is_writable

    def drop(self) -> None:
        """Give up what the journal had no more room for; the ledger counts it."""
        kept = self._journal.unstored
        for part_id in [p for p in self._sent_ns if p not in kept]:
            del self._sent_ns[part_id]
            self._delivered.discard(part_id)
            self._ledger.row_dropped(part_id)

    def send_again(self, now_ns: int) -> None:
        """What waits for its acknowledgement too long; a few at a time, call it every turn."""
        kept = self._journal.unstored
        due = (p for p, sent in self._sent_ns.items() if now_ns - sent >= _RESEND_NS and p in kept)
        for part_id in list(islice(due, _RESEND_MOST)):
            self.send(kept[part_id], now_ns)
