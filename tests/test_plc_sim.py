"""The desk PLC against a real Modbus server."""

import asyncio
import json
import math
import time
from typing import Any

import pytest

from appliance.codes import CommandCode, CommandError, Status1, Status2
from appliance.config import Plc
from appliance.plc_modbus import ModbusPort
from appliance.words import Bank
from tests.played_box import OK, Box, box, by_tag, run
from tools.plc_program import Break, Part, PlcOptions, Ring
from tools.plc_sim import PlcReport, command, part_object, run_plc

MS = 1_000_000


def options(appliance: Box, **settings: Any) -> PlcOptions:
    defaults = {"port": appliance.port.port, "parts": 20, "scan_ms": 2, "wait_ready_ms": 1000}
    return PlcOptions(**{**defaults, **settings})


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
    assert report.rejected_why["not ready: the PLC is silent (OfflineReason 8)"] > 15
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
