"""The conservation law of every trigger. Pure.

Four laws, each side counted by another process:

    every Trigger     → exactly one FrameReady or NoFrame     (decide ↔ each camera)
    every FrameReady  → exactly one Scored or InferFailed     (camera ↔ infer, both seen by decide)
    every part        → exactly one verdict                   (PLC ↔ decide)
    every verdict     → exactly one row                       (decide ↔ record)

A law that is broken adds to `unaccounted`, which everybody can see and which must stay 0. An
answer may be late: it is owed until `patience_ns` after the part's deadline, and forgiven where
the process that owed it has died meanwhile (that is an event of its own, counted elsewhere), and so
is what infer owes for a frame of a camera that died: nobody knows whether its last one got there.
Answers that come twice or for nobody are counted by whoever holds the parts (parts.py).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from appliance.messages import camera_label

Debtor = str
"""A process, as in `Health.process`."""
_PER_ROW_NS = 10_000_000
"""Twice what sending one again takes (row_delivery.py)."""
_GRACE_NS = 100_000_000
"""A part may be closed this late (two ticks of the loop) before it counts as forgotten."""


@dataclass(slots=True)
class Ledger:
    """Counts and open debts of one decision process."""

    patience_ns: int = 5_000_000_000
    accepted: int = 0
    verdicts: int = 0
    duplicates: int = 0
    """A second verdict, frame or score for one part."""
    foreign: int = 0
    """Verdict, frame or score for a part that nobody opened, or with another part's frame."""
    overdue: int = 0
    """Parts that were still open after their deadline when the law was checked."""
    vanished: int = 0
    """Difference between pending and the parts that are really open."""
    unanswered: int = 0
    """Triggers without frame and frames without score from a process that lived on."""
    rows_missing: int = 0
    rows_doubled: int = 0
    rows_skipped: int = 0
    """Rows that the recorder acknowledged and its database never counted."""
    rows_pending: int = 0
    rows_dropped: int = 0
    """Verdicts that waited for the recorder until there was no more room for them."""
    _lives: dict[str, int] = field(default_factory=dict[str, int])
    _owed: dict[tuple[Debtor, int, str], int] = field(
        default_factory=dict[tuple[Debtor, int, str], int]
    )
    """Debtor, part, camera → until when the answer may come."""
    _rows: dict[int, int] = field(default_factory=dict[int, int])
    _healthy_since_ns: int | None = None
    _settling_ns: int = 0
    """How long from then on rows that waited may still be on their way."""
    _counted: tuple[int, int] = (0, 0)
    """Life of the recorder, and how many rows its database had counted when it last told."""

    @property
    def pending(self) -> int:
        """Parts without a verdict."""
        return self.accepted - self.verdicts

    @property
    def unaccounted(self) -> int:
        """Must stay 0."""
        return (
            self.duplicates
            + self.foreign
            + self.overdue
            + self.vanished
            + self.unanswered
            + self.rows_missing
            + self.rows_doubled
            + self.rows_skipped
        )

    def seen_alive(self, debtor: Debtor, life: int) -> None:
        """A process reported health; a new life owes nothing that the old one owed."""
        if self._lives.get(debtor) != life:
            self._lives[debtor] = life
            for key in [k for k in self._owed if debtor in _involved(k)]:
                del self._owed[key]

    def owe(self, debtor: Debtor, part_id: int, deadline_ns: int, camera: str = "") -> None:
        """`debtor` was asked and owes one answer for this part, or for one camera's view of it."""
        self._owed[debtor, part_id, camera] = deadline_ns + self.patience_ns

    def answered(self, debtor: Debtor, part_id: int, camera: str = "") -> None:
        """The answer came, or nobody owes one any more."""
        self._owed.pop((debtor, part_id, camera), None)

    def row_sent(self, part_id: int, now_ns: int) -> None:
        """A verdict went to the recorder."""
        self._rows[part_id] = now_ns
        self.rows_pending = len(self._rows)

    def row_stored(self, part_ids: Iterable[int]) -> None:
        """The recorder committed these."""
        for part_id in part_ids:
            self._rows.pop(part_id, None)
        self.rows_pending = len(self._rows)

    def rows_counted(self, life: int, rows: int, acknowledged: int) -> None:
        """With an acknowledgement: what the database of the recorder's life counted so far.

        A row that was counted and never acknowledged is sent again; one that was acknowledged
        and never counted is lost.
        """
        counted = self._counted[1] if self._counted[0] == life else 0
        self.rows_skipped += max(0, acknowledged - (rows - counted))
        self._counted = (life, rows)

    def row_dropped(self, part_id: int) -> None:
        """No room to keep this verdict for the recorder any longer."""
        if self._rows.pop(part_id, None) is not None:
            self.rows_dropped += 1
        self.rows_pending = len(self._rows)

    def rows_wait_anew(self) -> None:
        """The recorder was started anew, maybe too fast for `check` to see it away."""
        self._healthy_since_ns = None

    def check(
        self,
        now_ns: int,
        open_deadlines_ns: Collection[int],
        recorder_is_healthy: bool,
        alive: Collection[Debtor] | None = None,
    ) -> None:
        """Once a second: what is owed too long becomes a broken law.

        open_deadlines_ns: deadlines of all parts without a verdict. Rows count as missing only
        after the recorder was healthy for 5 s, or where many waited then for 10 ms for each: they
        are sent again a few at a time. Until then they are shown as pending. alive: who
        gave a fresh sign of life (None = all); what a silent process owes waits until it answers
        or a new life of it takes its place: its death is a fault of its own, not a lost message.
        """
        self.overdue = sum(1 for deadline in open_deadlines_ns if deadline + _GRACE_NS < now_ns)
        self.vanished = abs(self.pending - len(open_deadlines_ns))
        for key in [k for k, due_ns in self._owed.items() if due_ns < now_ns]:
            if alive is None or all(process in alive for process in _involved(key)):
                del self._owed[key]
                self.unanswered += 1
            else:
                self._owed[key] = now_ns + self.patience_ns
        if not recorder_is_healthy:
            self._healthy_since_ns = None
        elif self._healthy_since_ns is None:
            self._healthy_since_ns = now_ns
            self._settling_ns = max(self.patience_ns, _PER_ROW_NS * len(self._rows))
        settled = self._healthy_since_ns
        if settled is None or now_ns - settled < self._settling_ns:
            self.rows_missing = 0
        else:
            oldest = now_ns - self.patience_ns
            waiting = sum(1 for sent in self._rows.values() if sent < oldest)
            self.rows_missing = waiting + self.rows_dropped

    def figures(self) -> dict[str, int]:
        """For pages, rows and metrics."""
        return {
            "accepted": self.accepted,
            "verdicts": self.verdicts,
            "pending": self.pending,
            "duplicates": self.duplicates,
            "foreign": self.foreign,
            "overdue": self.overdue,
            "vanished": self.vanished,
            "unanswered": self.unanswered,
            "rows_pending": self.rows_pending,
            "rows_dropped": self.rows_dropped,
            "rows_missing": self.rows_missing,
            "rows_doubled": self.rows_doubled,
            "rows_skipped": self.rows_skipped,
            "unaccounted": self.unaccounted,
        }


def _involved(debt: tuple[Debtor, int, str]) -> tuple[Debtor, ...]:
    """Who must live on for this debt to be one: the debtor, and whoever handed the frame to it."""
    debtor, _, camera = debt
    return (debtor, camera_label(camera)) if camera else (debtor,)
