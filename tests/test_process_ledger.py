"""Six seeded bugs between real processes: each shows in `unaccounted`, and without one it stays 0.

A saboteur sits on five channels: a process at one end of each is told, by the `wire.remote` of its
own configuration, to talk to the saboteur, who hands everything on unless a bug is seeded.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import msgspec
import pytest
from pyModbusTCP.client import ModbusClient

from appliance.codes import Control, FaultCode, Reason, Word
from appliance.messages import AnyMessage, FrameReady, Scored, Stored, Trigger, Verdict
from appliance.wire import CHANNELS, Inbox, Receiver, Sender, Wiring
from tests.rig import Ear, Rig
from tests.waiting import until
from tools.plc_program import Part, Ring

VICTIMS = {
    # channel: (process that is misdirected, peer)
    "trigger": ("decide", "top"),
    "frames": ("infer", "top"),
    "scored": ("infer", ""),
    "verdicts": ("decide", ""),
    "stored": ("record", ""),
}
SHOWN_S = 15.0
"""What is owed shows 5 s after the deadline; the rest is for a loaded machine."""
PARTS = 8

Tamper = Callable[[AnyMessage], list[AnyMessage]]


class Saboteur(threading.Thread):
    """Hands on what comes, unless `tamper` has something else to say about a channel."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(daemon=True)
        self.tamper: dict[str, Tamper] = {}
        self.handed_on = dict.fromkeys(VICTIMS, 0)
        self._over = threading.Event()
        self._folder = rig.root / "evil"
        self._real = rig.config.runtime_dir

    def misdirections(self) -> dict[str, dict[str, str]]:
        """`wire.remote` of each victim."""
        remote: dict[str, dict[str, str]] = {}
        with Wiring(self._folder) as wiring:
            for channel, (process, peer) in VICTIMS.items():
                remote.setdefault(process, {})[channel] = wiring.address(channel, peer)
        return remote

    def run(self) -> None:
        with ExitStack() as stack:
            evil = stack.enter_context(Wiring(self._folder))
            real = stack.enter_context(Wiring(self._real))
            ways: dict[Receiver, tuple[str, Sender]] = {}
            for channel, (_, peer) in VICTIMS.items():
                # The victim looks for the end that owns the address, so that one is ours.
                is_receiver_ours = CHANNELS[channel].binds == "receiver"
                enter, leave = (evil, real) if is_receiver_ours else (real, evil)
                ways[enter.receiver(channel, peer)] = channel, leave.sender(channel, peer)
            inbox = Inbox(*ways)
            while not self._over.is_set():
                for receiver, message in inbox.poll(20):
                    channel, sender = ways[receiver]
                    self._hand_on(channel, sender, message)

    def _hand_on(self, channel: str, sender: Sender, message: AnyMessage) -> None:
        tamper = self.tamper.get(channel)
        for said in [message] if tamper is None else tamper(message):
            while not sender.send(said, wait_ms=50) and not self._over.is_set():
                pass
            self.handed_on[channel] += 1

    def stop(self) -> None:
        self._over.set()
        self.join(10)


class Line:
    """The sabotaged line, its PLC and its ledger."""

    def __init__(self, rig: Rig, ear: Ear, saboteur: Saboteur) -> None:
        self.rig, self.ear, self.saboteur = rig, ear, saboteur

    def drive(self) -> list[Part]:
        """Some parts, several of them at once."""
        until("Ready", lambda: self.ear.is_ready, 30)
        _, parts = self.rig.drive(
            parts=PARTS, rate_hz=25, ring=Ring.PLC, wait_ready_ms=300, patience_s=2
        )
        return parts

    def figures(self) -> dict[str, int]:
        """The ledger as published last."""
        words = self.ear.listen().words
        assert words is not None
        return words.ledger

    def read(self, address: int, count: int = 1) -> list[int]:
        """Holding registers, by another client than the PLC's."""
        client = ModbusClient("127.0.0.1", self.rig.port, timeout=5)
        try:
            words = client.read_holding_registers(address, count)
            assert words is not None, client.last_error_as_txt
            return words
        finally:
            client.close()

    def clear(self) -> None:
        """ClearError, as a person would after having looked into it."""
        client = ModbusClient("127.0.0.1", self.rig.port, timeout=5)
        try:
            for control in (0, int(Control.CLEAR_ERROR), 0):
                assert client.write_single_register(0, control), client.last_error_as_txt
        finally:
            client.close()


@pytest.fixture(scope="module")
def line() -> Iterator[Line]:
    """One line for all bugs; the ledger keeps count of them."""
    changes = {"deadline_ms": 1000, "plc": {"results": "ring"}}
    with Rig(changes) as rig:
        saboteur = Saboteur(rig)
        misdirections = saboteur.misdirections()
        saboteur.start()
        try:
            rig.start_singly(misdirections)
            with rig.ear("camera:top", "infer:0", "decide", "record") as ear:
                until("Ready", lambda: ear.is_ready, 40)
                yield Line(rig, ear, saboteur)
        finally:
            saboteur.stop()


def once(tamper: Tamper, kind: type[AnyMessage]) -> tuple[Tamper, list[AnyMessage]]:
    """`tamper` for the third message of this kind alone; the list holds what it struck."""
    struck: list[AnyMessage] = []
    seen = 0

    def act(message: AnyMessage) -> list[AnyMessage]:
        nonlocal seen
        seen += isinstance(message, kind)
        if seen < 3 or struck or not isinstance(message, kind):
            return [message]
        struck.append(message)
        return tamper(message)

    return act, struck


def swap_ids() -> tuple[Tamper, list[AnyMessage]]:
    """Keeps one score until the next comes, and exchanges their part ids."""
    struck: list[AnyMessage] = []

    def act(message: AnyMessage) -> list[AnyMessage]:
        if len(struck) == 2 or not isinstance(message, Scored):
            return [message]
        struck.append(message)
        if len(struck) == 1:
            return []
        first, second = struck
        assert isinstance(first, Scored) and isinstance(second, Scored)
        return [
            msgspec.structs.replace(first, part_id=second.part_id),
            msgspec.structs.replace(second, part_id=first.part_id),
        ]

    return act, struck


def skip_row() -> tuple[Tamper, Tamper, list[AnyMessage]]:
    """A recorder that loses a verdict and acknowledges it: one end eats it, the other claims it."""
    eat, eaten = once(lambda _: [], Verdict)
    claimed: list[int] = []

    def claim(message: AnyMessage) -> list[AnyMessage]:
        if not eaten or claimed or not isinstance(message, Stored):
            return [message]
        assert isinstance(eaten[0], Verdict)
        claimed.append(eaten[0].part_id)
        return [msgspec.structs.replace(message, part_ids=(*message.part_ids, *claimed))]

    return eat, claim, eaten


def check_shown(line: Line, before: dict[str, int], figure: str, least: int = 1) -> None:
    """The bug is in `unaccounted`, by its name, on Modbus, and no part goes on until cleared."""
    until(f"{figure} in the ledger", lambda: line.figures()[figure] >= before[figure] + least,
          SHOWN_S)  # fmt: skip
    assert line.figures()["unaccounted"] >= before["unaccounted"] + least
    until("HR 180", lambda: line.read(180, 2) == [0, line.figures()["unaccounted"]])
    until("the fault", lambda: line.read(106) == [FaultCode.LEDGER])
    line.saboteur.tamper.clear()
    line.clear()
    until("no fault", lambda: line.read(106) == [FaultCode.NONE])


def test_a_saboteur_that_does_nothing(line: Line) -> None:
    """Longer than any debt may last: the ledger stays at 0, on the wire and on Modbus."""
    answered = [part for part in line.drive() if part.word != Word.NONE]
    assert {part.word for part in answered} == {Word.OK} and len(answered) >= PARTS // 2
    end = time.monotonic() + 7
    while time.monotonic() < end:
        assert line.ear.unaccounted == 0
        time.sleep(0.05)
    assert line.read(180, 2) == [0, 0]
    assert line.ear.has_rows(len(answered))
    handed_on = dict(line.saboteur.handed_on)
    assert handed_on.pop("stored") > 0
    assert min(handed_on.values()) >= len(answered)


def test_a_score_is_dropped(line: Line) -> None:
    before = line.figures()
    line.saboteur.tamper["scored"], struck = once(lambda _: [], Scored)
    parts = line.drive()
    assert len(struck) == 1
    check_shown(line, before, "unanswered")
    assert Reason.LATE in {part.reason for part in parts}


def test_a_verdict_is_doubled(line: Line) -> None:
    before = line.figures()
    line.saboteur.tamper["verdicts"], struck = once(lambda verdict: [verdict, verdict], Verdict)
    line.drive()
    assert len(struck) == 1
    check_shown(line, before, "rows_doubled")


def test_a_row_is_skipped(line: Line) -> None:
    before = line.figures()
    eat, claim, eaten = skip_row()
    line.saboteur.tamper |= {"verdicts": eat, "stored": claim}
    line.drive()
    assert len(eaten) == 1 and isinstance(eaten[0], Verdict)
    check_shown(line, before, "rows_skipped")
    until("all other rows", lambda: line.ear.has_rows(before["accepted"] + 3))
    assert eaten[0].part_id not in {row.verdict.part_id for row in line.rig.rows()}


def test_the_ids_of_two_scores_are_swapped(line: Line) -> None:
    before = line.figures()
    line.saboteur.tamper["scored"], struck = swap_ids()
    parts = line.drive()
    assert len(struck) == 2
    check_shown(line, before, "foreign", least=2)
    until("their rows", lambda: line.ear.has_rows(before["accepted"] + 2))
    wrong = {score.part_id for score in struck if isinstance(score, Scored)}
    rows = {row.verdict.part_id: row.verdict for row in line.rig.rows()}
    assert {rows[part_id].word for part_id in wrong} == {Word.ERROR}
    acq_ids = {rows[part_id].acq_id for part_id in wrong}
    assert all(part.word != Word.OK for part in parts if part.acq_id in acq_ids)


def test_a_frame_is_lost_on_its_way_to_infer(line: Line) -> None:
    before = line.figures()
    line.saboteur.tamper["frames"], struck = once(lambda _: [], FrameReady)
    parts = line.drive()
    assert len(struck) == 1
    check_shown(line, before, "unanswered")
    assert Reason.LATE in {part.reason for part in parts}


def test_a_trigger_is_doubled(line: Line) -> None:
    before = line.figures()
    line.saboteur.tamper["trigger"], struck = once(lambda trigger: [trigger, trigger], Trigger)
    line.drive()
    assert len(struck) == 1
    check_shown(line, before, "duplicates")
