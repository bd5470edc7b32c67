"""24 V outputs on the desk and on a whole line whose deciding process is killed in an OK window."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.codes import OfflineReason, State, Status1, Status2, Word
from appliance.config_io import Io
from appliance.handshake import Conditions, Handshake
from appliance.plc_io import IoPort, open_lines
from appliance.words import Bank, PlcInput
from tests.handshake_desk import MS, Desk
from tests.rig import Rig
from tests.waiting import until

OK, NG, HEALTHY, READY, TRIGGER, ENABLE = range(6)
WIRED: dict[str, Any] = {
    "chip": "virtual", "watchdog": "external", "ok": OK, "ng": NG, "healthy": HEALTHY,
    "ready": READY, "trigger": TRIGGER, "enable": ENABLE,
}  # fmt: skip
RELAY_S = 0.3
"""The external watchdog: longer without a change of HEALTHY, and it cuts OK."""


class Wired(Desk):
    """The handshake's own desk, its PLC at the 24 V lines."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        super().__init__()
        self.folder = folder
        io = Io(**(WIRED | changes))
        self.port = IoPort(io, open_lines(io, folder), self.bank, self.on_write, lambda: self.now)

    def on_write(self, plc: PlcInput, now_ns: int) -> None:
        self.handshake.on_write(plc, now_ns)
        self.handshake.shown()

    def lamp(self, offset: int) -> bool:
        return bool((self.folder / "gpio").read_bytes()[offset])

    def pull(self, offset: int, level: bool) -> None:
        self.port._lines.write(offset, level)

    def ready_at_the_lines(self) -> "Wired":
        self.pull(ENABLE, True)
        for _ in range(3):
            self.wait(100)
            self.port.beat()
        assert self.lamp(READY)
        return self

    def edge(self, offset: int, level: bool, waited_ms: int = 0) -> None:
        self.pull(offset, level)
        self.port._edge(offset, level, self.now - waited_ms * MS)

    def close(self, word: Word, **more: Any) -> None:
        """A verdict for the newest part, as decide hands it on."""
        verdicts: list[Any] = []
        deliver = self.handshake.deliver

        def take(verdict: Any, now_ns: int) -> None:
            verdicts.append(verdict)
            deliver(verdict, now_ns)

        self.handshake.deliver = take  # type: ignore[method-assign]
        self.verdict(self.last_id, word, **{"part_tag": self.accepted[-1].part_tag, **more})
        self.handshake.deliver = deliver  # type: ignore[method-assign]
        self.port.verdict(verdicts[0])


def test_ok_is_a_window_and_ng_its_opposite(tmp_path: Path) -> None:
    async def live() -> None:
        desk = Wired(tmp_path, pulse_ms=40).ready_at_the_lines()
        assert (desk.lamp(OK), desk.lamp(NG)) == (False, True)
        desk.edge(TRIGGER, True)
        assert desk.last_id == 1
        assert not desk.lamp(READY)
        desk.close(Word.OK)
        assert (desk.lamp(OK), desk.lamp(NG)) == (True, False)
        await asyncio.sleep(0)
        await asyncio.sleep(0.06)
        assert (desk.lamp(OK), desk.lamp(NG)) == (False, True)
        assert desk.lamp(READY), "the result was acknowledged by the port itself"

    asyncio.run(live())


@pytest.mark.parametrize("word", [Word.NG, Word.UNCERTAIN, Word.ERROR])
def test_everything_else_is_a_reject_and_ends_an_open_window(tmp_path: Path, word: Word) -> None:
    async def live() -> None:
        desk = Wired(tmp_path, pulse_ms=10_000).ready_at_the_lines()
        desk.edge(TRIGGER, True)
        desk.close(Word.OK)
        await asyncio.sleep(0)
        desk.edge(TRIGGER, False)
        desk.edge(TRIGGER, True)
        assert desk.last_id == 2
        desk.close(word)
        assert (desk.lamp(OK), desk.lamp(NG)) == (False, True)
        desk.port.close()

    asyncio.run(live())


def test_a_simulated_part_never_raises_ok_on_a_real_chip(tmp_path: Path) -> None:
    async def live() -> None:
        settings: dict[str, Any] = {**WIRED, "chip": "/dev/gpiochip0"}
        io = Io(**settings)
        desk = Wired(tmp_path).ready_at_the_lines()
        desk.port._io = io
        desk.edge(TRIGGER, True)
        desk.close(Word.OK, is_simulated=True)
        assert not desk.lamp(OK)

    asyncio.run(live())


def test_a_trigger_while_not_ready_is_refused_and_counted(tmp_path: Path) -> None:
    async def live() -> None:
        desk = Wired(tmp_path)
        desk.port.beat()
        desk.edge(TRIGGER, True)
        assert desk.last_id == 0
        assert desk.counted == ["missed_triggers"]

    asyncio.run(live())


def test_an_edge_that_waited_in_a_stall_is_a_missed_trigger_and_no_part(tmp_path: Path) -> None:
    async def live() -> None:
        desk = Wired(tmp_path).ready_at_the_lines()
        desk.edge(TRIGGER, True, waited_ms=21)
        desk.edge(TRIGGER, False)
        assert desk.last_id == 0
        assert desk.counted == ["missed_triggers"]
        assert Status1.ACQ_ERROR in desk.bits
        assert desk.lamp(READY), "the next part may come"
        desk.edge(TRIGGER, True)
        assert desk.last_id == 1
        desk.port.close()

    asyncio.run(live())


@pytest.mark.parametrize("waited_ms", [0, 100], ids=["at once", "in a stall"])
def test_a_part_gets_no_ok_once_a_refused_one_follows_it(tmp_path: Path, waited_ms: int) -> None:
    async def live() -> None:
        desk = Wired(tmp_path).ready_at_the_lines()
        desk.edge(TRIGGER, True)
        desk.edge(TRIGGER, False)
        desk.edge(TRIGGER, True, waited_ms)
        assert desk.counted == ["missed_triggers"]
        desk.close(Word.OK)
        assert (desk.lamp(OK), desk.lamp(NG)) == (False, True)
        await asyncio.sleep(0)
        desk.edge(TRIGGER, True)
        desk.close(Word.OK)
        assert desk.lamp(OK), "the next part of its own is not held up"
        desk.port.close()

    asyncio.run(live())


@pytest.mark.parametrize("next_is", ["accepted", "refused"])
def test_the_edge_of_the_next_part_ends_the_window(tmp_path: Path, next_is: str) -> None:
    async def live() -> None:
        desk = Wired(tmp_path, pulse_ms=10_000).ready_at_the_lines()
        desk.edge(TRIGGER, True)
        desk.edge(TRIGGER, False)
        desk.close(Word.OK)
        if next_is == "accepted":
            await asyncio.sleep(0)  # the result is acknowledged
        assert desk.lamp(OK)
        desk.edge(TRIGGER, True)
        assert (desk.lamp(OK), desk.lamp(NG)) == (False, True)
        assert len(desk.counted) == (next_is == "refused")
        desk.port.close()

    asyncio.run(live())


def test_safe_state_ends_the_window_and_opens_none(tmp_path: Path) -> None:
    async def live() -> None:
        desk = Wired(tmp_path, pulse_ms=10_000).ready_at_the_lines()
        desk.edge(TRIGGER, True)
        desk.close(Word.OK)
        await asyncio.sleep(0)
        assert desk.lamp(OK)
        desk.conditions.offline = OfflineReason.CAMERA
        desk.wait(100)
        desk.port.beat()
        assert (desk.lamp(OK), desk.lamp(NG)) == (False, True)
        desk.conditions.offline = OfflineReason.NONE
        desk.edge(TRIGGER, False)
        desk.edge(TRIGGER, True)
        assert desk.last_id == 2
        desk.conditions.offline = OfflineReason.CAMERA
        desk.close(Word.OK)
        assert Status2.SAFE_STATE in desk.bits2
        assert (desk.lamp(OK), desk.lamp(NG)) == (False, True)
        desk.port.close()

    asyncio.run(live())


def test_a_cut_enable_wire_is_a_silent_plc(tmp_path: Path) -> None:
    """Enable falls: not Ready at once; after 500 ms safe, and HEALTHY stands still."""

    async def live() -> None:
        desk = Wired(tmp_path).ready_at_the_lines()
        desk.edge(ENABLE, False)
        assert not desk.lamp(READY)
        levels = []
        for _ in range(12):
            desk.wait(100)
            desk.port.beat()
            levels.append(desk.lamp(HEALTHY))
        assert Status2.SAFE_STATE in desk.bits2
        assert not any(levels[-4:])
        desk.ready_at_the_lines()
        assert Status2.SAFE_STATE not in desk.bits2

    asyncio.run(live())


def test_healthy_toggles_by_the_decision_loop_alone(tmp_path: Path) -> None:
    async def live() -> None:
        desk = Wired(tmp_path).ready_at_the_lines()
        levels = []
        for _ in range(6):
            desk.wait(100)
            desk.port.beat()
            levels.append(desk.lamp(HEALTHY))
        assert levels in ([True, False] * 3, [False, True] * 3)
        before = desk.lamp(HEALTHY)
        await asyncio.sleep(0.25)
        assert desk.lamp(HEALTHY) == before, "nobody else toggles it"
        desk.conditions.offline = OfflineReason.CAMERA
        for _ in range(3):
            desk.wait(100)
            desk.port.beat()
        assert not desk.lamp(HEALTHY)

    asyncio.run(live())


def test_outputs_alone_leave_the_handshake_to_modbus(tmp_path: Path) -> None:
    async def live() -> None:
        written: list[PlcInput] = []
        io = Io(chip="virtual", watchdog="external", ok=OK, healthy=HEALTHY)
        bank, conditions = Bank(), Conditions(state=State.READY)
        Handshake(
            bank, conditions, lambda *_: 1, lambda *_: None, lambda _: None, lambda _: None,
            mode="level", is_triggered_by_plc=True, epoch=1, heartbeat_timeout_ms=500,
            acknowledge_timeout_ms=2000, deadline_ms=200,
        )  # fmt: skip
        port = IoPort(
            io, open_lines(io, tmp_path), bank, lambda plc, _: written.append(plc), lambda: 0
        )
        assert not port.is_master
        port.start()
        port.beat()
        assert written == []

    asyncio.run(live())


class Relay(threading.Thread):
    """What stands in series with OK: samples the lines every 2 ms, as a PLC's input card does."""

    def __init__(self, file: Path) -> None:
        super().__init__(daemon=True)
        self._file = file
        self.is_ending = False
        self.passes = False
        """OK as it leaves the relay."""
        self.ok = False
        self.toggles = 0
        self.longest_s = 0.0
        """For so long OK passed while HEALTHY stood still, as this thread saw it."""

    def run(self) -> None:
        healthy, changed_s = False, -1.0
        while not self.is_ending:
            levels = self._file.read_bytes()
            if bool(levels[HEALTHY]) != healthy:
                healthy, changed_s = not healthy, time.monotonic()
                self.toggles += 1
            self.ok = bool(levels[OK])
            still_s = time.monotonic() - changed_s
            self.passes = self.ok and still_s < RELAY_S
            if self.passes:
                self.longest_s = max(self.longest_s, still_s)
            time.sleep(0.002)


@pytest.fixture(scope="module")
def line() -> Iterator[tuple[Rig, Relay, Path]]:
    with Rig({"deadline_ms": 1000, "io": {**WIRED, "pulse_ms": 800}}, {"rate_hz": 1.0}) as rig:
        rig.start()
        file = rig.config.runtime_dir / "gpio"
        until("the chip", file.exists, 30)
        relay = Relay(file)
        pull(file, ENABLE, 1)
        relay.start()
        try:
            yield rig, relay, file
        finally:
            relay.is_ending = True
            relay.join()


def pull(file: Path, offset: int, level: int) -> None:
    with file.open("r+b") as lines:
        lines.seek(offset)
        lines.write(bytes([level]))


def test_parts_by_light_barrier_pass_and_every_one_is_accounted_for(
    line: tuple[Rig, Relay, Path],
) -> None:
    rig, relay, file = line
    for _ in range(3):
        until("READY", lambda: file.read_bytes()[READY], 30)
        pull(file, TRIGGER, 1)
        until("OK", lambda: relay.passes)
        pull(file, TRIGGER, 0)
        until("the end of the window", lambda: not relay.ok)
    with rig.ear() as ear:
        until("rows", lambda: ear.has_rows(3))
        assert ear.unaccounted == 0
    assert sorted(row.verdict.part_tag for row in rig.rows()) == [1, 2, 3]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["kill", "stop"])
def test_a_decision_that_ends_in_an_ok_window_passes_nothing_for_long(
    line: tuple[Rig, Relay, Path], number: int
) -> None:
    """The chip holds OK; HEALTHY stands still, and the relay cuts OK. Then everything is back."""
    rig, relay, file = line
    until("READY", lambda: file.read_bytes()[READY], 30)
    pull(file, TRIGGER, 1)
    until("OK", lambda: relay.passes)
    pull(file, TRIGGER, 0)
    pid = rig.kill("decide", number)
    until("the relay cuts OK", lambda: not relay.passes)
    assert 0 < relay.longest_s < RELAY_S
    if number == signal.SIGSTOP:
        assert relay.ok, "the output itself still says OK"
        os.kill(pid, signal.SIGKILL)
    until("a new decision lets OK fall", lambda: not relay.ok)
    until("READY", lambda: file.read_bytes()[READY], 20)
    toggles = relay.toggles
    until("HEALTHY toggles", lambda: relay.toggles > toggles + 2)
    assert not relay.ok, "the old OK is not said again"
    with rig.ear() as ear:
        until("words", lambda: ear.listen().words is not None)
        assert ear.unaccounted == 0
