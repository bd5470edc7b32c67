"""The conformance kit: every rule holds on a good box, and names what a broken one breaks."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.codes import CommandCode, CommandError, OfflineReason, Reason, State, Status1, Word
from appliance.config import Plc
from appliance.handshake import Conditions, Handshake
from appliance.messages import Verdict
from appliance.plc_modbus import ModbusPort
from appliance.registers import RING_SLOTS
from appliance.tally import Tally
from appliance.words import Bank, PlcInput
from tests.ports import free_port
from tests.rig import Rig
from tests.waiting import until
from tools.plc_conformance import BROKEN, PASSED, SKIPPED, Report, check
from tools.plc_conformance_box import Terms
from tools.plc_conformance_rules import RULES

MS = 1_000_000
DEADLINE_MS, ACKNOWLEDGE_MS = 400, 700
NO_BITS = Status1(0)
NETWORK_MS = 150.0
"""Generous: what is tested is that a rule looks, not how fast this machine is."""


class DeskBox:
    """The real server and the real handshake with a decision of 5 ms; `spoil` breaks a rule."""

    def __init__(self, mode: Any = "level", **settings: Any) -> None:
        self.spoil: Callable[[DeskBox], None] = settings.get("spoil", lambda box: None)
        self.bank = Bank("high_first", "test", "desk")
        self.conditions = Conditions(state=State.READY, offline=OfflineReason.NONE)
        self.tally = Tally({})
        self.unaccounted = 0
        self.last_id = 0
        self.beats = 0
        self.open: dict[int, PlcInput] = {}
        self.plc: PlcInput | None = None
        self.handshake = Handshake(
            self.bank, self.conditions, self._accept, self._ask, lambda _: None, self.tally.add,
            mode=mode, is_triggered_by_plc=True, epoch=9,
            heartbeat_timeout_ms=settings.get("heartbeat_ms", 500),
            acknowledge_timeout_ms=settings.get("acknowledge_ms", ACKNOWLEDGE_MS),
            deadline_ms=DEADLINE_MS,
        )  # fmt: skip
        self.bank.set("RecipeId", 1)
        self.bank.set("RecipeHash32", 0xABCD1234)
        self.port = ModbusPort(
            Plc(host="127.0.0.1", port=0),
            self.bank,
            self._written,
            time.monotonic_ns,
            self.handshake.shown,
        )

    def _written(self, plc: PlcInput, now_ns: int) -> None:
        self.plc = plc
        self.handshake.on_write(plc, now_ns)
        self.spoil(self)

    def _accept(self, plc: PlcInput, now_ns: int) -> int:
        self.last_id += 1
        self.tally.add("triggers")
        self.open[self.last_id] = plc
        self.conditions.open_parts = len(self.open)
        asyncio.get_running_loop().call_later(0.005, self._close, self.last_id)
        return self.last_id

    def _close(self, acq_id: int) -> None:
        plc = self.open.pop(acq_id)
        self.conditions.open_parts = len(self.open)
        used = plc.deadline_ms if 0 < plc.deadline_ms <= DEADLINE_MS else DEADLINE_MS
        is_late = used < 5
        verdict = Verdict(
            part_id=acq_id, acq_id=acq_id, epoch=9, part_tag=plc.part_tag,
            part_text=plc.part_text, word=Word.ERROR if is_late else Word.OK,
            reason=Reason.LATE if is_late else Reason.NONE,
            latency_ns=min(5, used) * MS, deadline_ns=used * MS,
        )  # fmt: skip
        self.tally.verdict(verdict)
        self.handshake.deliver(verdict, time.monotonic_ns())
        self.spoil(self)

    def _ask(
        self, code: int, argument: int, now_ns: int, done: Callable[[CommandError], None]
    ) -> None:
        result = CommandError.DONE
        match code:
            case CommandCode.RESET_COUNTERS:
                self.tally.reset_shift()
            case CommandCode.CLEAR_OVERRUN:
                self.handshake.clear_overrun()
            case CommandCode.LOAD_RECIPE:
                result = CommandError.DONE if argument == 1 else CommandError.UNKNOWN_PRODUCT
            case _:
                result = CommandError.UNKNOWN_COMMAND
        asyncio.get_running_loop().call_later(0.01, done, result)

    async def live(self) -> None:
        """The decision loop: heartbeat, counters and ticks."""
        while True:
            self.beats += 1
            self.handshake.beat(self.beats // 5)
            self.handshake.show_counters(self.tally.shift | {"unaccounted": self.unaccounted})
            self.handshake.refresh(time.monotonic_ns())
            self.spoil(self)
            await asyncio.sleep(0.02)

    def bits(self, clear: Status1 = NO_BITS, put: Status1 = NO_BITS) -> None:
        """Change HR 100 behind the handshake's back."""
        self.bank.set("Status1", Status1(self.bank.number("Status1")) & ~clear | put)

    def has(self, bit: Status1) -> bool:
        return bit in Status1(self.bank.number("Status1"))


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[DeskBox]:
    box = DeskBox(**settings)
    await box.port.start()
    living = asyncio.create_task(box.live())
    try:
        yield box
    finally:
        living.cancel()
        await box.port.stop()


def checked(only: tuple[str, ...] = (), **settings: Any) -> Report:
    """The kit against a desk box."""

    async def go() -> Report:
        async with running(**settings) as box:
            terms = Terms(
                host="127.0.0.1", port=box.port.port, mode=settings.get("mode", "level"),
                acknowledge_ms=ACKNOWLEDGE_MS, deadline_ms=DEADLINE_MS, network_ms=NETWORK_MS,
            )  # fmt: skip
            return await check(terms, only)

    return asyncio.run(go())


@pytest.mark.parametrize("mode", ["level", "ring"])
def test_every_rule_holds_on_a_good_box(mode: str) -> None:
    report = checked(mode=mode)
    broken = {f.rule: f.detail for f in report.findings if f.outcome == BROKEN}
    assert broken == {}
    assert report.is_conformant
    assert [f.rule for f in report.findings] == list(RULES)
    skipped = {f.rule for f in report.findings if f.outcome == SKIPPED}
    assert skipped == ({"R2"} if mode == "level" else {"T4a", "T4b", "T4c"})
    assert all(f.text for f in report.findings)


def old_map(box: DeskBox) -> None:
    box.bank.set("MapVersion", 0x0200)


def late_ack(box: DeskBox) -> None:
    if box.has(Status1.TRIGGER_ACK):
        begun = box.__dict__.setdefault("ack_ns", time.monotonic_ns())
        if time.monotonic_ns() - begun < 400 * MS:
            box.bits(clear=Status1.TRIGGER_ACK)


def same_id(box: DeskBox) -> None:
    box.bank.set("AcqID", 5)


def frozen_heart(box: DeskBox) -> None:
    box.bank.set("VisionHeartbeat", 3)


def no_echo(box: DeskBox) -> None:
    box.bank.set("PlcHeartbeatEcho", 0)


def hides_refused_triggers(box: DeskBox) -> None:
    box.bits(clear=Status1.ACQ_ERROR)


def both_bits(box: DeskBox) -> None:
    if box.has(Status1.RESULT_VALID):
        box.bits(put=Status1.PASS | Status1.FAIL)


def plain_word(box: DeskBox) -> None:
    if box.has(Status1.RESULT_VALID):
        box.bank.set("Verdict", 1)


def foreign_tag(box: DeskBox) -> None:
    if box.has(Status1.RESULT_VALID):
        box.bank.set("PartTagEcho", 77_777)


def restless(box: DeskBox) -> None:
    if box.has(Status1.RESULT_VALID):
        box.bank.set("Score", box.beats & 0xFFF)


def never_drops(box: DeskBox) -> None:
    if box.bank.number("InspectionID"):
        box.bits(put=Status1.RESULT_VALID)


def ready_too_early(box: DeskBox) -> None:
    box.bits(put=Status1.TRIGGER_READY)


def lengthens(box: DeskBox) -> None:
    if box.plc is not None and box.plc.deadline_ms > DEADLINE_MS:
        box.bank.set("DeadlineUsedMs", box.plc.deadline_ms)


def ok_after_the_deadline(box: DeskBox) -> None:
    if box.has(Status1.RESULT_VALID):
        box.bank.set("Verdict", Word.OK)


def torn_slots(box: DeskBox) -> None:
    for index in range(RING_SLOTS):
        box.bank.write(219 + 10 * index, [0])


def old_epoch(box: DeskBox) -> None:
    for index in range(RING_SLOTS):
        slot = box.bank.read(213 + 10 * index, 1)[0]
        box.bank.write(213 + 10 * index, [slot & 0xFF | 0x0800])


def wrong_echo(box: DeskBox) -> None:
    box.bank.set("CmdEcho", 1)


def loses_parts(box: DeskBox) -> None:
    box.unaccounted = box.last_id


def counts_nothing(box: DeskBox) -> None:
    box.bank.set("ok", 0)


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (old_map, "M1"),
        (frozen_heart, "T6a"),
        (no_echo, "T6b"),
        (late_ack, "T2"),
        (same_id, "T2"),
        (hides_refused_triggers, "T3"),
        (both_bits, "T4a"),
        (plain_word, "T4a"),
        (foreign_tag, "T4a"),
        (restless, "T4a"),
        (never_drops, "T4a"),
        (ready_too_early, "T4a"),
        (lengthens, "T5"),
        (ok_after_the_deadline, "T5"),
        (torn_slots, "R1"),
        (old_epoch, "R1"),
        (wrong_echo, "T7a"),
        (loses_parts, "L1"),
        (counts_nothing, "L1"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_box_that_breaks_a_rule_is_found_out(
    spoil: Callable[[DeskBox], None], rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A torn slot is waited for as long as a part may take; here nobody has that much time.
    monkeypatch.setattr("tools.plc_conformance_rules.LONGEST_S", 1.0)
    report = checked((rule,), spoil=spoil)
    (finding,) = report.findings
    assert finding.outcome == BROKEN
    assert finding.detail
    assert not report.is_conformant


@pytest.mark.parametrize(
    ("settings", "rule"), [({"heartbeat_ms": 60_000}, "T6c"), ({"acknowledge_ms": 60_000}, "T4b")]
)
def test_a_box_that_waits_for_ever_is_found_out(settings: dict[str, int], rule: str) -> None:
    assert checked((rule,), **settings).findings[0].outcome == BROKEN


def test_a_broken_rule_does_not_spoil_the_next_one() -> None:
    outcomes = {f.rule: f.outcome for f in checked(("T6b", "T2", "M1"), spoil=no_echo).findings}
    assert outcomes == {"T6b": BROKEN, "T2": PASSED, "M1": PASSED}


def kit(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "appliance", "plc-conformance", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_nobody_there_is_an_answer() -> None:
    port = free_port()
    done = kit("127.0.0.1", "--port", str(port))
    assert done.returncode == 1
    expected = "expected an appliance's Modbus server, got no connection"
    assert done.stderr == f"inspectd: 127.0.0.1:{port}: {expected}\n"


@pytest.mark.parametrize("wrong", [("--only", "X9"), ("--mode", "both")])
def test_wrong_usage(wrong: tuple[str, str]) -> None:
    done = kit("127.0.0.1", *wrong)
    assert done.returncode == 2
    assert "expected" in done.stderr


def test_a_real_line_keeps_the_contract_and_the_report_can_be_signed(tmp_path: Path) -> None:
    with Rig({"deadline_ms": 1000}) as rig:
        rig.start()
        with rig.ear() as ear:
            until("camera and network", lambda: ear.listen().words is not None, 30)
            until("a recipe in use", lambda: ear.listen().said.registers[105] in (0, 8), 30)
            file = tmp_path / "report.html"
            done = kit(
                "127.0.0.1", "--port", str(rig.port), "--deadline-ms", "1000", "--json",
                "--network-ms", "300", "--html", str(file),
            )  # fmt: skip
            assert done.stdout, done.stderr
            report = json.loads(done.stdout)
            broken = {f["rule"]: f["detail"] for f in report["findings"] if f["outcome"] == BROKEN}
            assert broken == {}
            assert done.returncode == 0
            assert ear.unaccounted == 0
        page = file.read_text()
        assert page.count("<tr class=") == len(RULES)
        assert "signature" in page
