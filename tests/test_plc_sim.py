"""The desk PLC against a real Modbus server, and its command."""

import asyncio
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from appliance.codes import (
    CommandCode,
    CommandError,
    OfflineReason,
    Reason,
    State,
    Status1,
    Status2,
    Word,
)
from appliance.config import Plc
from appliance.handshake import Conditions, Handshake
from appliance.messages import Verdict
from appliance.plc_modbus import ModbusPort
from appliance.words import Bank, PlcInput
from tools.plc_program import Break, Part, PlcOptions, Ring, Sightings
from tools.plc_sim import PlcReport, command, part_object, run_plc
from tools.plc_view import view

OK, NG = Word.OK, Word.NG
MS = 1_000_000
READY = Status1.ONLINE | Status1.TRIGGER_READY
T = TypeVar("T")


class Box:
    """Register bank, Modbus server and handshake as in the decision process; verdicts by tag."""

    def __init__(self, port: int = 0, epoch: int = 1, **settings: Any) -> None:
        self.mode = settings.get("mode", "level")
        self.delay_s = settings.get("delay_ms", 5) / 1e3
        self.word_of: Callable[[int], Word] = settings.get("word_of", lambda _: OK)
        self.epoch = epoch
        self.bank = Bank(settings.get("word_order", "high_first"))
        self.conditions = Conditions(
            state=State.READY, offline=OfflineReason.NONE, status2=settings.get("status2", 0)
        )
        self.taken: list[int] = []
        self.counted: list[str] = []
        self.is_beating = True
        self.handshake = Handshake(
            self.bank, self.conditions, self._accept, self._ask, lambda _: None,
            self.counted.append,
            mode=self.mode, is_triggered_by_plc=True, epoch=epoch, heartbeat_timeout_ms=500,
            acknowledge_timeout_ms=100, deadline_ms=1000,
        )  # fmt: skip
        self.port = ModbusPort(
            Plc(host="127.0.0.1", port=port),
            self.bank,
            self.handshake.on_write,
            time.monotonic_ns,
            self.handshake.shown,
        )

    def _accept(self, plc: PlcInput, now_ns: int) -> int:
        self.taken.append(plc.part_tag)
        acq_id = len(self.taken)
        self.conditions.open_parts += 1
        loop = asyncio.get_running_loop()
        loop.call_later(self.delay_s, self._close, acq_id, plc.part_tag)
        return acq_id

    def _close(self, acq_id: int, tag: int) -> None:
        word = self.word_of(tag)
        self.conditions.open_parts -= 1
        verdict = Verdict(
            part_id=acq_id, acq_id=acq_id, epoch=self.epoch, word=word, part_tag=tag,
            reason=Reason.NONE if word == OK else Reason.ANOMALY_SCORE, margin=float(tag),
        )  # fmt: skip
        self.handshake.deliver(verdict, time.monotonic_ns())

    def _ask(
        self, code: int, argument: int, now_ns: int, done: Callable[[CommandError], None]
    ) -> None:
        result = CommandError.DONE if argument == 1 else CommandError.UNKNOWN_PRODUCT
        asyncio.get_running_loop().call_later(0.02, done, result)

    async def live(self) -> None:
        """The decision loop: heartbeat and ticks."""
        beats = 0
        while True:
            beats += 1
            if self.is_beating:
                self.handshake.beat(beats // 5)
            self.handshake.refresh(time.monotonic_ns())
            await asyncio.sleep(0.02)


@asynccontextmanager
async def box(port: int = 0, **settings: Any):
    appliance = Box(port, **settings)
    await appliance.port.start()
    living = asyncio.ensure_future(appliance.live())
    try:
        yield appliance
    finally:
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)
        await appliance.port.stop()


def run(body: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(body, 30))


def options(appliance: Box, **settings: Any) -> PlcOptions:
    defaults = {"port": appliance.port.port, "parts": 20, "scan_ms": 2, "wait_ready_ms": 1000}
    return PlcOptions(**{**defaults, **settings})


def by_tag(tag: int) -> Word:
    return (Word.OK, Word.NG, Word.UNCERTAIN, Word.ERROR)[tag % 4]


def drive(plc: dict[str, Any], **settings: Any) -> tuple[PlcReport, list[Part], Box]:
    parts: list[Part] = []

    async def body() -> tuple[PlcReport, Box]:
        async with box(**settings) as appliance:
            return await run_plc(options(appliance, **plc), parts.append), appliance

    report, appliance = run(body())
    return report, parts, appliance


def test_every_part_gets_its_own_verdict_through_the_level_words() -> None:
    report, parts, appliance = drive({"parts": 100, "first_tag": 1000}, word_of=by_tag)
    assert [part.tag for part in parts] == list(range(1000, 1100)) == appliance.taken
    assert [part.word for part in parts] == [by_tag(tag) for tag in appliance.taken]
    assert [part.is_accepted for part in parts] == [part.word == OK for part in parts]
    assert [part.acq_id for part in parts] == list(range(1, 101))
    assert all(part.margin == part.tag for part in parts)
    assert (report.accepted, report.rejected) == (25, 75)
    assert (report.seen.stale_results, report.seen.torn_results) == (0, 0)
    assert appliance.counted == [], "no trigger missed, no result unread"
    assert report.summary()["latency_ms"]["p50"] > 5


@pytest.mark.parametrize("order", ["high_first", "low_first"])
def test_ring_results_while_the_next_parts_are_triggered(order: str) -> None:
    report, parts, appliance = drive(
        {"parts": 60, "ring": Ring.PLC, "first_tag": 70_001, "word_order": order},
        mode="ring",
        delay_ms=30,
        word_of=by_tag,
        word_order=order,
    )
    assert sorted(part.tag for part in parts) == list(range(70_001, 70_061)) == appliance.taken
    assert all(part.word == by_tag(part.tag) for part in parts)
    assert (report.accepted, report.rejected) == (15, 45)
    assert report.seen.missing_slots == report.seen.unmatched_slots == 0
    assert appliance.counted == []
    assert report.elapsed_s < 60 * 0.03, "parts overlapped"


def test_a_rate_is_kept() -> None:
    report, parts, _ = drive({"parts": 11, "rate_hz": 25})
    assert report.accepted == 11
    due = [(part.due_ns - parts[0].due_ns) / MS for part in parts]
    assert due == pytest.approx([40.0 * n for n in range(11)])
    assert all(part.triggered_ns >= part.due_ns for part in parts)


@pytest.mark.parametrize(("accept", "accepted"), [(False, 0), (True, 5)])
def test_simulated_parts_pass_only_where_a_rehearsal_says_so(accept: bool, accepted: int) -> None:
    report, _, _ = drive({"parts": 5, "accept_simulated": accept}, status2=Status2.SIMULATED)
    assert report.accepted == accepted
    assert report.words == {"OK": 5}


def test_late_results_are_rejects_and_do_not_reach_the_next_part() -> None:
    report, parts, _ = drive({"parts": 4, "deadline_ms": 40}, delay_ms=80)
    assert report.accepted == 0
    assert report.rejected_why == {"no result by the deadline": 4}
    assert [part.tag for part in parts] == [1, 2, 3, 4]


def test_a_box_that_dies_and_comes_back() -> None:
    async def body() -> tuple[PlcReport, list[Part], int, int]:
        parts: list[Part] = []
        async with box(delay_ms=10) as first:
            port = first.port.port
            running = asyncio.ensure_future(
                run_plc(options(first, parts=40, rate_hz=40, wait_ready_ms=100), parts.append)
            )
            while len(parts) < 10:
                await asyncio.sleep(0.001)
        died_ns = time.monotonic_ns()
        await asyncio.sleep(0.3)
        async with box(port, epoch=2, delay_ms=10):
            back_ns = time.monotonic_ns()
            return await running, parts, died_ns, back_ns

    report, parts, died_ns, back_ns = run(body())
    assert (report.parts, len(parts)) == (40, 40)
    assert report.seen.epochs == [1, 2]
    assert report.communication_losses == 1
    meanwhile = [part for part in parts if died_ns + 50 * MS < part.decided_ns < back_ns]
    assert meanwhile
    assert all(part.why == ("no communication: no connection",) for part in meanwhile)
    assert parts[-1].is_accepted
    assert all(part.epoch == (1 if part.decided_ns < back_ns else 2) for part in parts
               if part.is_accepted)  # fmt: skip


def test_a_box_whose_decision_loop_stands_still_gets_no_more_parts() -> None:
    async def body() -> list[Part]:
        parts: list[Part] = []
        async with box() as appliance:
            running = asyncio.ensure_future(
                run_plc(options(appliance, parts=30, rate_hz=20, wait_ready_ms=50), parts.append)
            )
            while len(parts) < 5:
                await asyncio.sleep(0.001)
            appliance.is_beating = False
            frozen_ns = time.monotonic_ns()
            await running
            return [part for part in parts if part.decided_ns > frozen_ns + 650 * MS]

    after = run(body())
    assert len(after) > 5
    assert not any(part.is_accepted or part.triggered_ns for part in after)


def test_a_server_that_takes_requests_and_never_answers() -> None:
    async def body() -> PlcReport:
        async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(1024):
                pass
            writer.close()

        server = await asyncio.start_server(swallow, "127.0.0.1", 0)
        async with server:
            plc = PlcOptions(
                port=server.sockets[0].getsockname()[1], parts=3, timeout_ms=50, patience_s=0.5
            )
            return await run_plc(plc)

    report = run(body())
    assert (report.rejected, report.triggered) == (3, 0)
    assert report.rejected_why == {"no communication: no answer": 3}


def test_nobody_there_at_all() -> None:
    report = run(run_plc(PlcOptions(port=1, parts=2, patience_s=0.2)))
    assert report.rejected_why == {"no communication: no connection": 2}
    assert report.summary()["latency_ms"] == {"p50": None, "p99": None, "max": None}


def test_a_plc_that_may_not_write_rejects_everything() -> None:
    async def body() -> PlcReport:
        bank = Bank()
        plc = Plc(host="127.0.0.1", port=0, allow=("127.0.0.9",))
        port = ModbusPort(plc, bank, lambda _, __: None, time.monotonic_ns)
        await port.start()
        report = await run_plc(PlcOptions(port=port.port, parts=2, patience_s=0.2))
        await port.stop()
        return report

    assert run(body()).rejected_why == {"no communication: exception 01": 2}


def test_a_dropped_acknowledgement_costs_time_not_truth() -> None:
    report, parts, appliance = drive({"parts": 3, "breaks": Break.DROPPED_ACK}, word_of=by_tag)
    assert [part.word for part in parts] == [by_tag(part.tag) for part in parts]
    assert appliance.counted == ["unread"] * 3
    assert report.elapsed_s > 0.3, "each result was held until the acknowledgement timed out"


def test_a_stuck_trigger_opens_one_part_alone() -> None:
    report, _, appliance = drive(
        {"parts": 4, "breaks": Break.STUCK_TRIGGER, "break_from": 2, "wait_ready_ms": 100}
    )
    assert appliance.taken == [1, 2]
    assert (report.accepted, report.rejected) == (2, 2)


def test_a_silent_heartbeat_stops_the_line() -> None:
    report, _, appliance = drive(
        {"parts": 60, "breaks": Break.SILENT_HEARTBEAT, "rate_hz": 50, "wait_ready_ms": 20}
    )
    assert len(appliance.taken) < 45
    assert report.rejected_why["not ready"] > 15
    # One that was on its way may be late on a loaded machine, and is rejected for that.
    assert sum(report.rejected_why.values()) + report.accepted == 60


def test_a_wrong_tag_is_never_accepted() -> None:
    report, _, appliance = drive({"parts": 3, "breaks": Break.WRONG_TAG})
    assert len(appliance.taken) == 3
    assert report.rejected_why == {"PartTagEcho is not PartTag": 3}


@pytest.mark.parametrize(
    ("product", "expected"), [(1, CommandError.DONE), (9, CommandError.UNKNOWN_PRODUCT)]
)
def test_a_recipe_is_asked_for(product: int, expected: CommandError) -> None:
    async def body() -> tuple[CommandError, int]:
        async with box() as appliance:
            result = await command(options(appliance), CommandCode.LOAD_RECIPE, product)
            return result, appliance.bank.number("Status1") & Status1.CMD_DONE

    assert run(body()) == (expected, 0)


def test_hardware_needs_a_rate() -> None:
    with pytest.raises(ValueError, match="needs a rate"):
        run(run_plc(PlcOptions(ring=Ring.HARDWARE)))


def test_figures_that_do_not_apply_are_null() -> None:
    record = part_object(Part(tag=1, due_ns=5, why=("not ready",), decided_ns=9))
    assert (record["margin"], record["latency_ms"], record["triggered_ns"]) == (None, None, None)
    assert math.isnan(Part(tag=1, due_ns=0).margin)
    json.dumps(record, allow_nan=False)


# ---- the command ---------------------------------------------------------------------------


class Serving:
    """A Box on its own loop and thread, for a desk PLC in another process."""

    def __init__(self, **settings: Any) -> None:
        self.up, self.stopping = threading.Event(), asyncio.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.serve(settings)))
        self.thread.start()
        assert self.up.wait(10)

    async def serve(self, settings: dict[str, Any]) -> None:
        self.loop = asyncio.get_running_loop()
        async with box(**settings) as self.box:
            self.up.set()
            await self.stopping.wait()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.stopping.set)
        self.thread.join(10)


def plc_sim(serving: Serving, *arguments: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "appliance", "plc-sim", "--port", str(serving.box.port.port)]
    return subprocess.Popen(
        [*line, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=Path(__file__).parent.parent, env=dict(os.environ),
    )  # fmt: skip


def test_the_command_prints_one_object_and_writes_one_line_per_part(tmp_path: Path) -> None:
    serving = Serving(word_of=by_tag)
    file = tmp_path / "parts.jsonl"
    try:
        process = plc_sim(
            serving, "--parts", "8", "--load-recipe", "1", "--json", "--parts-file", str(file)
        )
        out, err = process.communicate(timeout=30)
    finally:
        serving.close()
    assert process.returncode == 0, err
    summary = json.loads(out)
    assert (summary["parts"], summary["accepted"], summary["rejected"]) == (8, 2, 6)
    assert summary["words"] == {"NG": 2, "UNCERTAIN": 2, "ERROR": 2, "OK": 2}
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [record["tag"] for record in records] == list(range(1, 9))
    assert [record["word"] for record in records] == [by_tag(tag) for tag in range(1, 9)]
    assert "2 accepted, 6 rejected" in err


def test_the_view_shows_words_bits_and_the_newest_parts() -> None:
    serving = Serving()
    try:
        process = plc_sim(
            serving, "--parts", "3", "--deadline-ms", "5000", "--view",
            "--break", "wrong-tag", "--break-from", "3",
        )  # fmt: skip
        _, err = process.communicate(timeout=30)
    finally:
        serving.close()
    shown = err.splitlines()
    assert shown[0].startswith("PLC on the desk → 127.0.0.1:"), err
    assert shown[1] == "breaks a rule: wrong-tag from part 3 on"
    assert "\nStatus1       ONLINE" in err
    assert "3 parts, 2 accepted, 1 rejected" in err
    newest = [line for line in shown if line.startswith("tag ")]
    assert len(newest) == 3
    assert newest[0].startswith("tag 3 ") and "rejected" in newest[0]
    assert newest[2].startswith("tag 1 ") and "accepted" in newest[2]


def test_the_view_of_a_box_that_does_not_answer() -> None:
    lines = view(PlcOptions(ring=Ring.HARDWARE), None, Bank(), [], Sightings(missing_slots=2), "s")
    assert "no answer" in lines
    assert "missing slots 2" in lines
    assert "ring, parts by hardware" in lines[0]


def test_the_view_names_bits_codes_and_unknown_numbers() -> None:
    image = Bank()
    image.set("Status1", READY)
    image.set("State", State.READY)
    image.set("Verdict", 0x1234)
    image.set("OfflineReason", OfflineReason.PLC_COMMUNICATION)
    text = "\n".join(view(PlcOptions(), image, Bank(), [], Sightings(), "s"))
    assert "ONLINE TRIGGER_READY" in text
    assert "6 READY, OfflineReason 8 PLC_COMMUNICATION, FaultCode 0 NONE" in text
    assert "Verdict 0x1234" in text


def test_the_command_ends_on_sigterm_with_what_it_has() -> None:
    serving = Serving()
    try:
        process = plc_sim(serving, "--forever", "--json")
        end = time.monotonic() + 20
        while len(serving.box.taken) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
    finally:
        serving.close()
    assert process.returncode == 0, err
    assert json.loads(out)["accepted"] >= 2


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--ring", "hardware"], 2, "needs --rate"),
        (["--parts-file", "/nowhere/parts.jsonl"], 78, "/nowhere/parts.jsonl: expected a file"),
        (["--parts", "0"], 2, "--parts"),
    ],
)
def test_wrong_usage_is_one_clear_line(arguments: list[str], code: int, says: str) -> None:
    line = [sys.executable, "-m", "appliance", "plc-sim", "--port", "1", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_recipe_that_is_unknown_is_an_answer() -> None:
    serving = Serving()
    try:
        process = plc_sim(serving, "--load-recipe", "9")
        _, err = process.communicate(timeout=30)
    finally:
        serving.close()
    assert process.returncode == 1
    assert "recipe 9 not loaded: UNKNOWN_PRODUCT" in err


def test_nobody_at_the_port_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tools.plc_client.TELL_S", 0.1)
    with socket.socket() as taken:  # bound and not listening: every connection is refused
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        said: list[str] = []

        async def wait_for_the_line() -> None:
            stop = asyncio.Event()
            running = asyncio.create_task(run_plc(PlcOptions(port=port), stop=stop))
            while not said:
                said.extend(capsys.readouterr().err.splitlines())
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            stop.set()
            await running

        run(wait_for_the_line())
        said.extend(capsys.readouterr().err.splitlines())
    expected = f"127.0.0.1:{port}: expected an appliance's Modbus server, got no connection"
    assert said == [f"inspectd: {expected}; trying on"]
