"""PROCESS: verdicts and pixels → rows, images and recordings.

Enters: `Verdict` (kept and sent again by decide until it is acknowledged) and `LateResult`.
Leaves: rows in `parts.db`, one transaction for all that came within 50 ms; then `Stored`, which
acknowledges them; images of parts worth a look; recordings of all that decide heard
(deck.py, deck_writer.py).
Nothing here delays or changes a verdict: while the store cannot be written, or takes its time, rows
are held and not acknowledged, and the store is tried again.
"""

import os
import socket
from collections import OrderedDict

from appliance.archive import Archive
from appliance.commits import Batch, Commits
from appliance.config import Config
from appliance.database import Where, where
from appliance.deck import Deck
from appliance.errors import ArtefactError, DeviceError
from appliance.forward import Forwarder
from appliance.frames import RingReader
from appliance.messages import Health, LateResult, Stored, Verdict
from appliance.retention import Retention
from appliance.service import Service
from appliance.shortage import own_use
from appliance.store import Added
from appliance.wire import Inbox, Receiver, Wiring

BATCH_ROWS = 64
BATCH_NS = 50_000_000
HOLD_ROWS = 4096
"""Rows held while the store cannot be written; more are refused, decide sends them again."""
RETRY_NS = 500_000_000
HEALTH_NS = 100_000_000
_USUAL_S = 0.1
"""A commit that takes longer goes on beside the loop."""
SLOW_MS = 1_000.0
"""From here on the disk is called slow."""
_SLOW_SHOWN_NS = 10_000_000_000
_HANG_MS = 60_000.0
"""A commit that takes longer than any disk: the loop completes no more turns, its watchdog acts."""
_START_S = 20.0
"""For a torn recording to be repaired, and at the end for all that waits."""
_OPEN_S = 2.0
"""For the store to open; one that takes longer goes on beside the loop, and rows wait for it."""
LOSSY_NS = 60_000_000_000
"""How long after a lost picture the archive calls itself lossy."""
_REMEMBER = 10_000


def main(service: Service, config: Config, name: str) -> None:
    """One blocking poll loop until the service stops, then what has come is still written.

    READY comes before the disk is asked for anything: decide starts after it, and waits for none.
    """
    rings = RingReader(config.rings_dir)
    with Wiring(config.runtime_dir, config.wire.remote, config.keys_dir) as wiring:
        verdicts = wiring.receiver("verdicts")
        stored = wiring.sender("stored")
        health = wiring.sender("health", "record")
        inbox = Inbox(verdicts, *_ears(config, wiring))
        health.send(Health(process="record", pid=os.getpid(), is_serving=False, note="starting"))
        service.ready()
        service.extend(_START_S)
        archive = Archive(
            config.data_dir,
            config.record,
            rings,
            service.clock,
            cameras=config.cameras,
            patience_s=_USUAL_S,
        )
        deck = Deck(config, rings, service.clock, lambda: archive.is_disk_low)
        recorder = Recorder(where(config), archive, service, deck, bool(config.record.central))
        forwarder = _forwarder(config)
        recorder.forwarder = forwarder
        reported_ns = 0
        while not service.is_stopping:
            for receiver, message in inbox.poll(recorder.patience_ms()):
                # `live` carries verdicts, too: a row is written for those sent for the record.
                (recorder.take if receiver is verdicts else deck.heard)(message)
                if recorder.is_due():
                    break
            recorder.collect()
            if recorder.is_due() and (acknowledged := recorder.commit(_USUAL_S)):
                stored.send(recorder.stored(acknowledged))
            now = service.clock()
            if now - reported_ns >= HEALTH_NS:
                reported_ns = now
                archive.check_disk()
                recorder.tidy()
                if forwarder is not None:
                    forwarder.look_after()
                stored.send(recorder.stored(()))
                health.send(recorder.health(verdicts.foreign))
            if not recorder.is_hanging:
                service.turn()
        for receiver, message in inbox.poll(0):
            (recorder.take if receiver is verdicts else deck.heard)(message)
        service.extend(_START_S)
        deck.close()
        stored.send(recorder.stored(recorder.close()))
    if forwarder is not None:
        forwarder.close()


def _forwarder(config: Config) -> Forwarder | None:
    """At work already; None without a central database."""
    if not config.record.central:
        return None
    forwarder = Forwarder(
        where(config),
        config.record.central,
        socket.gethostname(),
        config.record.central_rows == "all",
    )
    forwarder.start()
    return forwarder


def _figures(forwarder: Forwarder | None) -> dict[str, int]:
    if forwarder is None:
        return {}
    return {"forwarded": forwarder.forwarded, "forward_failed": forwarder.failed}


def _ears(config: Config, wiring: Wiring) -> list[Receiver]:
    """What a recording holds beside the verdicts; nothing where nothing is recorded."""
    if not config.is_taped:
        return []
    return [
        wiring.receiver("tape"),
        wiring.receiver("live"),
        wiring.receiver("health", *config.peers, "decide"),
    ]


class Recorder:
    """Rows in hand and what became of them; no sockets."""

    def __init__(
        self,
        where: Where,
        archive: Archive,
        service: Service,
        deck: Deck | None = None,
        is_forwarding: bool = False,
    ) -> None:
        self._archive, self._deck = archive, deck
        self.forwarder: Forwarder | None = None
        self._clock, self._log = service.clock, service.log
        self._commits = Commits(where, is_forwarding, service.clock)
        self._retention = Retention(
            archive.folder, archive.policy, archive, self._commits.words, service.clock
        )
        self._held = Batch({}, {}, {})
        self._writing = Batch({}, {}, {})
        """What a commit that runs has in hand."""
        self._first_ns = 0
        self._slow_until_ns = 0
        self._retry_ns = 0
        self._seen: OrderedDict[int, None] = OrderedDict()
        self._failure = ""
        self._counters: dict[str, int] = dict.fromkeys(
            (
                "received",
                "doubled",  # came again in this life: the ledger takes off what was sent again
                "rows",
                "known",  # their row was there already
                "contradictions",
                "refused",
                "commits_failed",
            ),
            0,
        )
        self.commit(_OPEN_S)

    @property
    def is_writable(self) -> bool:
        """False from a failed write until the next one that succeeds."""
        return not self._failure

    @property
    def is_slow(self) -> bool:
        """The commit that runs takes its time, or the last one did a moment ago."""
        return self._commits.running_ms > SLOW_MS or self._clock() < self._slow_until_ns

    @property
    def is_hanging(self) -> bool:
        """No disk is that slow. Tables of fifty million rows are: what was half migrated when the
        watchdog came would begin anew, and never end."""
        return self._commits.running_ms > _HANG_MS and not self._commits.is_opening

    def take(self, message: object) -> None:
        """A verdict or a late result; its picture is copied now, its row is written soon."""
        if isinstance(message, LateResult):
            if len(self._held.late) < HOLD_ROWS:
                self._hold()
                self._held.late[message.part_id] = message
            else:
                self._counters["refused"] += 1
            return
        if not isinstance(message, Verdict):
            return
        self._counters["received"] += 1
        part_id = message.part_id
        if part_id in self._seen:
            self._counters["doubled"] += 1
        else:
            self._seen[part_id] = None
            if len(self._seen) > _REMEMBER:
                self._seen.popitem(last=False)
            self._archive.offer(message)
        held = self._held.rows.get(part_id) or self._writing.rows.get(part_id)
        if held is None and self._rows_held >= HOLD_ROWS:
            self._counters["refused"] += 1
            return
        if held is not None:
            self._counters["contradictions"] += held.word is not message.word
        if held is None or held.is_rebuilt:
            self._hold()
            self._held.put(message)

    def collect(self) -> None:
        """Learn which pictures the archive has written or removed."""
        if news := self._archive.collect():
            self._hold()
            self._held.images.update(news)

    def tidy(self) -> None:
        """Let go of what the disk has no room for, or what is too old: a few files at a time."""
        if self.is_writable and not self._commits.is_running:
            try:
                self._retention.step()
            except (DeviceError, ArtefactError) as err:
                self._failed(err)

    def is_due(self) -> bool:
        """Whether it is time to write (enough rows, or the oldest has waited long enough), or to
        hear what came of the commit that went on beside the loop."""
        if self._commits.is_running:
            return self._commits.is_over
        if not self.is_writable:
            return self._clock() >= self._retry_ns
        if not self._held:
            return False
        return len(self._held.rows) >= BATCH_ROWS or self._clock() - self._first_ns >= BATCH_NS

    def patience_ms(self) -> int:
        """How long the loop may wait for more."""
        if self.is_writable and self._held and not self._commits.is_running:
            return max(0, (self._first_ns + BATCH_NS - self._clock()) // 1_000_000)
        return HEALTH_NS // 2_000_000

    def commit(self, patience_s: float | None = None) -> tuple[int, ...]:
        """One transaction. Returns the parts whose rows are on the disk; () where it failed, or
        where it still runs after so long a wait (None: as long as it takes): then ask again.

        A part whose stored row contradicts the verdict is never acknowledged: it stays owed, and
        the ledger shows it.
        """
        if not self._commits.is_running:
            self._writing, self._held = self._held, Batch({}, {}, {})
            self._commits.begin(self._writing, must_prove=not self.is_writable)
        try:
            added = self._commits.end(patience_s)
        except (DeviceError, ArtefactError) as err:
            self._take_back()
            self._failed(err)
            return ()
        return self._written(added) if added is not None else ()

    def _written(self, added: Added) -> tuple[int, ...]:
        rows = self._writing.rows
        # Not the first one, without rows, which may make or migrate the database.
        if self._writing and self._commits.took_ms > SLOW_MS:
            self._slow_until_ns = self._clock() + _SLOW_SHOWN_NS
        self._writing = Batch({}, {}, {})
        if not self.is_writable:
            self._log.info("the store can be written again", held=len(rows))
            self._failure = ""
        self._counters["rows"] += added.new
        self._counters["known"] += added.known
        if added.contradictions:
            self._counters["contradictions"] += len(added.contradictions)
            self._log.error("stored rows say otherwise", parts=added.contradictions[:8])
        return tuple(sorted(rows.keys() - set(added.contradictions)))

    def _take_back(self) -> None:
        """What was not written is held again, before what came meanwhile."""
        newer, self._held, self._writing = self._held, self._writing, Batch({}, {}, {})
        for verdict in newer.rows.values():
            self._held.put(verdict)
        self._held.late.update(newer.late)
        self._held.images.update(newer.images)

    def close(self) -> tuple[int, ...]:
        """Write what is held, finish the pictures, write their paths. Returns as `commit`."""
        acknowledged = self.commit() if self._commits.is_running else ()
        acknowledged += self.commit()
        self._archive.close()
        self.collect()
        if self._held.images and self.is_writable:
            self.commit()
        self._commits.close()
        return acknowledged

    def stored(self, part_ids: tuple[int, ...]) -> Stored:
        """The acknowledgement, and how the archive feels."""
        archive = self._archive
        return Stored(
            part_ids=part_ids,
            life=os.getpid(),
            rows=self._counters["rows"] + self._counters["known"],
            is_disk_low=archive.is_disk_low,
            is_lossy=self._is_lossy(),
            is_writable=self.is_writable,
            is_slow=self.is_slow,
        )

    def health(self, foreign: int) -> Health:
        """Figures for everyone."""
        archive, deck = self._archive, self._deck
        return Health(
            process="record",
            pid=os.getpid(),
            is_serving=self.is_writable,
            counters={
                **self._counters,
                **archive.counters,
                **(deck.figures() if deck else {}),
                "retired": self._retention.removed,
                "retire_waiting": self._retention.waiting,
                **_figures(self.forwarder),
                "rows_held": self._rows_held,
                "images_queued": archive.queued,
                "foreign": foreign,
            },
            gauges={
                "free_gb": archive.free_bytes / 1e9,
                "commit_ms": self._commits.took_ms,
                **own_use(),
            },
            note=self._failure
            or ("the disk is slow: a commit takes longer than 1 s" if self.is_slow else "")
            or archive.note
            or self._retention.note
            or (deck.note if deck else "")
            or (self.forwarder.note if self.forwarder else ""),
        )

    def _is_lossy(self) -> bool:
        dropped = [self._archive.dropped_at_ns, self._deck.dropped_at_ns if self._deck else None]
        recent = any(at is not None and self._clock() - at < LOSSY_NS for at in dropped)
        return recent or self._archive.is_disk_low or not self.is_writable

    @property
    def _rows_held(self) -> int:
        return len(self._held.rows) + len(self._writing.rows)

    def _hold(self) -> None:
        if not self._held:
            self._first_ns = self._clock()

    def _failed(self, err: Exception) -> None:
        self._counters["commits_failed"] += 1
        self._retry_ns = self._clock() + RETRY_NS
        if self.is_writable:
            self._log.error("rows are held: the store cannot be written", cause=str(err))
        self._failure = str(err)
