"""The contract as checks: one function per rule, each against a real box. Raises Violation.

The docstring of a rule is the rule, as the report prints it. A rule returns what it measured. Every
rule begins and ends with a box that is Ready and has nothing pending. All of them in one file: it
is the contract once more, read from top to bottom beside docs/plc.md, in the order of the report.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from appliance.codes import CommandCode, Control, Reason, SlotFlags, Status1, Status2, Word
from appliance.registers import MAP_VERSION, PROTOCOL_REVISION, RING_SLOTS, SLOT_WORDS
from tools.plc_conformance_box import Box, NoBox, NotApplicable, Violation

Rule = Callable[[Box], Awaitable[str]]
ENABLE, TRIGGER, EXECUTE = Control.ENABLE, Control.TRIGGER, Control.EXECUTE
BUFFER, ACK, CLEAR = Control.BUFFER_RESULTS, Control.RESULT_ACK, Control.CLEAR_ERROR
RULES: dict[str, Rule] = {}
LONGEST_S = 61.0
"""No part may take longer: the longest deadline that can be configured."""


def rule(name: str) -> Callable[[Rule], Rule]:
    """Into the table, under the name that the report uses."""

    def keep(function: Rule) -> Rule:
        RULES[name] = function
        return function

    return keep


def expect(is_met: bool, otherwise: str) -> None:
    """The rule holds, or this sentence says what was expected and what came."""
    if not is_met:
        raise Violation(otherwise)


def _only(box: Box, mode: str) -> None:
    if box.terms.mode != mode:
        raise NotApplicable(f"the box is in {box.terms.mode} mode")


@rule("M1")
async def identity(box: Box) -> str:
    """Map version, protocol revision and the shape of the ring are those of this contract."""
    await box.read(900, 34)
    await box.read(200, 3)
    for name, wanted in (
        ("MapVersion", MAP_VERSION),
        ("ProtocolRevision", PROTOCOL_REVISION),
        ("RingSlots", RING_SLOTS),
        ("RingSlotWords", SLOT_WORDS),
    ):
        got = box.image.number(name)
        expect(got == wanted, f"{name}: expected {wanted}, got {got}")
    return f"software {box.image.get('SoftwareVersion')}, serial {box.image.get('Serial')}"


@rule("M2")
async def same_by_fc_4(box: Box) -> str:
    """FC 4 returns the same numbers as FC 3."""
    for address, count in ((107, 5), (146, 1), (900, 34)):  # words that stand still
        first, second = await box.read(address, count), await box.read(address, count, 4)
        expect(first == second, f"HR {address}: FC 3 gives {first}, FC 4 {second}")
    return ""


@rule("M3")
async def outside_is_refused(box: Box) -> str:
    """A write outside HR 0–63 is exception 02, and changes nothing."""
    for address, words in ((64, [1]), (100, [1]), (116, [int(Word.OK)]), (60, [0] * 8)):
        before = await box.read(100, 53)
        code = await box.code_of(lambda c, a=address, w=words: c.write_registers(a, w))
        expect(code == 2, f"write of HR {address}: expected exception 02, got {code:02d}")
        after = await box.read(100, 53)
        expect(before[16:17] == after[16:17], f"the refused write of HR {address} changed a word")
    code = await box.code_of(lambda c: c.read_holding_registers(1020, count=10))
    expect(code == 2, f"read beyond the map: expected exception 02, got {code:02d}")
    return ""


@rule("M4")
async def bad_values_are_refused(box: Box) -> str:
    """Control bits 8–15 and ExpectedVerdict above 3 are exception 03, and change nothing."""
    await box.exchange(ENABLE)
    for address, value in ((0, 0x0100), (0, 0x8001), (8, 4)):
        code = await box.code_of(lambda c, a=address, v=value: c.write_register(a, v))
        expect(code == 3, f"HR {address} = {value:#06x}: expected exception 03, got {code:02d}")
        got = (await box.read(address, 1))[0]
        expect(got != value, f"HR {address} took the refused value {value:#06x}")
    return ""


@rule("M5")
async def all_writing_functions(box: Box) -> str:
    """FC 6, 16 and 23 write; FC 23 writes before it reads."""
    for value in (0x1234, 0x4321):
        for request in (
            lambda c, v=value: c.write_register(10, v),
            lambda c, v=value: c.write_registers(10, [v]),
            lambda c, v=value: c.readwrite_registers(
                read_address=10, read_count=1, write_address=10, values=[v]
            ),
        ):
            code = await box.code_of(request)
            expect(code == 0, f"a write of HR 10 was refused with exception {code:02d}")
            got = (await box.read(10, 1))[0]
            expect(got == value, f"HR 10: wrote {value:#06x}, read {got:#06x}")
    answer = await box.ask(
        lambda c: c.readwrite_registers(
            read_address=10, read_count=1, write_address=10, values=[77]
        )
    )
    expect(answer.registers == [77], f"FC 23 answered {answer.registers} to its own write of 77")
    await box.exchange(ENABLE, Lane=0)
    return ""


@rule("M6")
async def no_coils(box: Box) -> str:
    """Coils are not part of the contract: FC 1 and FC 5 are exception 01."""
    for name, request in (
        ("FC 1", lambda c: c.read_coils(0, count=1)),
        ("FC 5", lambda c: c.write_coil(0, True)),
    ):
        code = await box.code_of(request)
        expect(code == 1, f"{name}: expected exception 01, got {code:02d}")
    return ""


@rule("M7")
async def one_writer(box: Box) -> str:
    """A newer connection that writes becomes the writer; one that only reads never does."""
    reader = await Box(box.terms).connect()
    try:
        await reader.read(100, 53)
        await box.exchange(ENABLE)  # still ours
        reader.out.set("PlcHeartbeat", box.out.number("PlcHeartbeat"))
        await reader.exchange(ENABLE)
        try:
            code = await box.code_of(lambda c: c.write_register(10, 1))
        except NoBox:
            code = -1  # closed, as it should be
        expect(code != 0, "two connections may write at the same time")
    finally:
        reader.close()
        box.close()
    await box.connect()
    await box.make_ready()
    return ""


@rule("T6a")
async def vision_heartbeat(box: Box) -> str:
    """VisionHeartbeat changes every 100 ms; it never stands still for 500 ms."""
    beats, longest, last = 0, 0.0, time.monotonic()
    await box.exchange(ENABLE)
    seen, end = box.image.number("VisionHeartbeat"), last + 1.5
    while time.monotonic() < end:
        await box.exchange(ENABLE)
        now, beat = time.monotonic(), box.image.number("VisionHeartbeat")
        if beat != seen:
            beats, seen, last = beats + 1, beat, now
        longest = max(longest, now - last)
        expect(longest < 0.5, "VisionHeartbeat stands still for 500 ms")
        await asyncio.sleep(0.01)
    expect(beats >= 8, f"expected about 15 beats in 1.5 s, got {beats}")
    return f"{beats} beats in 1.5 s, longest pause {longest * 1e3:.0f} ms"


@rule("T6b")
async def plc_heartbeat_is_echoed(box: Box) -> str:
    """PlcHeartbeatEcho shows PlcHeartbeat in the same answer."""
    for _ in range(3):
        await box.exchange(ENABLE)
        sent, got = box.out.number("PlcHeartbeat"), box.image.number("PlcHeartbeatEcho")
        expect(sent == got, f"sent {sent}, echoed {got}")
    return ""


@rule("T6c")
async def silent_plc(box: Box) -> str:
    """PlcHeartbeat unchanged for 500 ms: PlcCommOK and TriggerReady 0, SafeState 1; then back."""
    await box.make_ready()
    begun = time.monotonic()
    while True:
        await box.exchange(ENABLE, beats=False)
        took = (time.monotonic() - begun) * 1e3
        is_safe = box.has2(Status2.SAFE_STATE) and not box.has(Status1.TRIGGER_READY)
        if is_safe and not box.has2(Status2.PLC_COMM_OK):
            break
        limit = 500 + 50 + box.terms.network_ms
        expect(took < limit, f"still not safe {took:.0f} ms after the last heartbeat")
        await asyncio.sleep(0.01)
    expect(took > 300, f"safe after only {took:.0f} ms without a heartbeat")
    await box.make_ready()
    expect(not box.has(Status1.RESULT_VALID), "an old result was shown again")
    return f"safe {took:.0f} ms after the last heartbeat, Ready again by itself"


@rule("T2")
async def trigger_is_acknowledged(box: Box) -> str:
    """TriggerAck within 10 ms; AcqID is new and there before it; Ack falls with Trigger."""
    await box.make_ready()
    before = box.image.number("AcqID")
    begun = time.monotonic()
    tag = box.next_tag
    box.next_tag += 1
    await box.exchange(ENABLE | TRIGGER, PartTag=tag)
    while not box.has(Status1.TRIGGER_ACK):
        took = (time.monotonic() - begun) * 1e3
        expect(took < 10 + box.terms.network_ms, f"no TriggerAck after {took:.0f} ms")
        await box.exchange(ENABLE | TRIGGER)
    took = (time.monotonic() - begun) * 1e3
    acq_id = box.image.number("AcqID")
    expect(acq_id not in (0, before), f"TriggerAck with AcqID {acq_id}, which is not new")
    for _ in range(5):
        await box.exchange(ENABLE | TRIGGER)
        expect(box.image.number("AcqID") == acq_id, "a held Trigger was taken as another part")
    fall = await box.until("TriggerAck falls", lambda: not box.has(Status1.TRIGGER_ACK), 10, ENABLE)
    await _finish(box)
    return f"TriggerAck after {took:.1f} ms, gone {fall:.1f} ms after Trigger"


@rule("T3")
async def trigger_while_not_ready(box: Box) -> str:
    """Trigger while TriggerReady is 0: AcqError, counted, no Ack, no id, no silent queue."""
    await box.make_ready()
    missed = await box.counter("missed_triggers")
    await box.exchange(Control(0))
    expect(not box.has(Status1.TRIGGER_READY), "TriggerReady is 1 without Enable")
    acq_id = box.image.number("AcqID")
    await box.exchange(TRIGGER)
    expect(box.has(Status1.ACQ_ERROR), "AcqError is not set")
    expect(not box.has(Status1.TRIGGER_ACK), "TriggerAck for a refused trigger")
    await box.beat_for(150, ENABLE | TRIGGER)
    expect(not box.has(Status1.TRIGGER_ACK), "a level still held became a trigger")
    expect(box.image.number("AcqID") == acq_id, "a refused trigger was given an AcqID")
    counted = await box.counter("missed_triggers") - missed
    expect(counted == 1, f"missed_triggers grew by {counted}, expected 1")
    await box.exchange(ENABLE)
    await box.exchange(ENABLE | CLEAR)
    expect(not box.has(Status1.ACQ_ERROR), "ClearError does not clear AcqError")
    await box.make_ready()
    return ""


async def _finish(box: Box) -> None:
    """The result of the part under way, whatever it is, and Ready again."""
    if box.terms.mode == "level":
        await box.result()
        await box.acknowledge()
    else:
        await box.until("verdict", lambda: not box.has(Status1.BUSY), 61_000, ENABLE)
    await box.make_ready()


def _result_words(box: Box) -> list[int]:
    return box.image.read(115, 31) + box.image.read(147, 6)


@rule("T4a")
async def result_is_whole_and_held(box: Box) -> str:
    """All words of one part together, antivalent, coded; constant until ResultAck."""
    _only(box, "level")
    await box.make_ready()
    toggle = box.has(Status1.INSPECTION_TOGGLE)
    tag, acq_id = await box.trigger()
    expect(not box.has(Status1.TRIGGER_READY), "TriggerReady is 1 while a part is open")
    await box.result()
    image = box.image
    word = image.number("Verdict")
    for name, wanted in (
        ("InspectionID", acq_id), ("ResultTear", acq_id), ("PartTagEcho", tag),
    ):  # fmt: skip
        expect(image.number(name) == wanted, f"{name}: {image.number(name)} is not {wanted}")
    text = image.get("PartIdEcho")
    expect(text == f"CONF-{tag:06d}", f"PartIdEcho: {text!r}")
    known = [w for w in Word if w != Word.NONE]
    expect(word in known, f"Verdict {word:#06x} is no coded word")
    pass_, fail = box.has(Status1.PASS), box.has(Status1.FAIL)
    expect(pass_ != fail, f"Pass and Fail are not antivalent: {pass_:d},{fail:d}")
    expect(pass_ == (word == Word.OK), f"Pass is {pass_:d} with Verdict {word:#06x}")
    expect(box.has(Status1.INSPECTION_TOGGLE) != toggle, "InspectionToggle did not flip")
    words = _result_words(box)
    end = time.monotonic() + min(0.3, 0.3 * box.terms.acknowledge_ms / 1e3)
    while time.monotonic() < end:
        await box.exchange(ENABLE)
        expect(box.has(Status1.RESULT_VALID), "ResultValid fell without ResultAck")
        expect(_result_words(box) == words, "result words changed before ResultAck")
        expect(not box.has(Status1.TRIGGER_READY), "TriggerReady before the result was taken")
        await asyncio.sleep(0.01)
    took = await box.acknowledge()
    await box.make_ready()
    expect(not box.has(Status1.PASS) and not box.has(Status1.FAIL), "Pass or Fail without result")
    return f"{Word(word).name}, ResultValid gone {took:.1f} ms after ResultAck"


@rule("T4b")
async def unread_result(box: Box) -> str:
    """No ResultAck in the configured time: ResultValid drops, Warning is set."""
    _only(box, "level")
    await box.make_ready()
    await box.trigger()
    await box.result()
    wait = box.terms.acknowledge_ms
    valid = Status1.RESULT_VALID
    took = await box.until("ResultValid drops", lambda: not box.has(valid), wait + 100, ENABLE)
    expect(took > 0.7 * wait, f"ResultValid dropped after {took:.0f} of {wait} ms")
    expect(box.has(Status1.WARNING), "Warning is not set")
    await box.make_ready()
    return f"dropped after {took:.0f} ms"


@rule("T4c")
async def buffered_results(box: Box) -> str:
    """With BufferResults parts overlap; their results follow one after the other, none twice."""
    _only(box, "level")
    control = ENABLE | BUFFER
    await box.make_ready(control)
    sent = [await box.trigger(control) for _ in range(3)]
    read: list[tuple[int, int]] = []
    end = time.monotonic() + LONGEST_S
    while len(read) < len(sent) and time.monotonic() < end:
        await box.exchange(control)
        if box.has(Status1.RESULT_VALID):
            read.append((box.image.number("PartTagEcho"), box.image.number("InspectionID")))
            while box.has(Status1.RESULT_VALID):
                await box.exchange(control | ACK)
        await asyncio.sleep(0.002)
    expect(sorted(read) == sorted(sent), f"sent {sent}, read {read}")
    await box.exchange(control)
    await box.make_ready()
    return ""


@rule("T5")
async def deadline(box: Box) -> str:
    """Every part has its verdict by its deadline; HR 9 may only shorten it."""
    await box.make_ready()
    configured = box.terms.deadline_ms
    if box.terms.mode == "ring":
        begun = time.monotonic()
        tag, _ = await box.trigger()
        slot = await _slot(box, tag, begun)
        return f"slot after {slot:.0f} ms"
    begun = time.monotonic()
    await box.trigger()
    await box.result()
    took = (time.monotonic() - begun) * 1e3
    used, latency = box.image.number("DeadlineUsedMs"), box.image.number("LatencyMs")
    expect(latency <= used, f"LatencyMs {latency} is above the deadline {used}")
    expect(took <= used + box.terms.network_ms, f"verdict after {took:.0f} ms, deadline {used}")
    expect(configured in (0, used), f"deadline used: {used}, configured: {configured}")
    await box.acknowledge()
    await box.make_ready()
    begun = time.monotonic()
    await box.trigger(DeadlineMs=1)
    await box.result()
    short = (time.monotonic() - begun) * 1e3
    got, word = box.image.number("DeadlineUsedMs"), box.image.number("Verdict")
    expect(got == 1, f"HR 9 = 1 ms, used {got} ms")
    expect(word != Word.OK, "OK one millisecond after the trigger")
    reason = box.image.number("Reason")
    expect(short <= 20 + box.terms.network_ms, f"verdict {short:.0f} ms after a deadline of 1 ms")
    await box.acknowledge()
    await box.make_ready()
    await box.trigger(DeadlineMs=0xFFFF)
    warned = box.has(Status1.WARNING)
    await box.result()
    longer = box.image.number("DeadlineUsedMs")
    expect(warned, "a longer deadline does not set Warning")
    expect(longer == used, f"HR 9 = 65535 made the deadline {longer} ms instead of {used}")
    await box.acknowledge()
    await box.exchange(ENABLE, DeadlineMs=0)
    await box.make_ready()
    return f"deadline {used} ms, verdict after {took:.0f} ms; of 1 ms: {Reason(reason).name}"


async def _slot(box: Box, tag: int, begun: float) -> float:
    """Until a slot with this tag is in the ring; ms since `begun`."""
    while True:
        await box.exchange(ENABLE)
        for slot in await box.slots():
            if slot.part_tag == tag and slot.seq == slot.seq_again != 0:
                return (time.monotonic() - begun) * 1e3
        expect(time.monotonic() - begun < LONGEST_S, f"no whole slot with tag {tag}")
        await asyncio.sleep(0.002)


@rule("R1")
async def ring_slot(box: Box) -> str:
    """The ring holds every verdict: both sequences equal, tag, coded word, Epoch byte."""
    await box.make_ready()
    await box.read(205, 2)
    last = box.image.number("RingLast")
    begun = time.monotonic()
    tag, acq_id = await box.trigger()
    await _slot(box, tag, begun)
    await box.exchange(ENABLE)
    slots = await box.slots()
    newest = box.image.number("RingLast")
    expect(newest == last % 65_535 + 1, f"RingLast went from {last} to {newest}")
    slot = next(slot for slot in slots if slot.seq == newest)
    expect(slot.part_tag == tag, f"tag {slot.part_tag}, expected {tag}")
    expect(slot.inspection_id == acq_id, f"inspection id {slot.inspection_id}, expected {acq_id}")
    expect(slot.verdict in [w for w in Word if w], f"verdict {slot.verdict:#06x} is no coded word")
    expect(bool(slot.flags & SlotFlags.TAG_KNOWN), "flag TagKnown is 0")
    epoch = box.image.number("Epoch") & 0xFF
    expect(slot.flags >> 8 == epoch, f"Epoch byte {slot.flags >> 8}, HR 146 ends with {epoch}")
    await _finish(box)
    return f"sequence {newest}"


@rule("R2")
async def ring_overrun(box: Box) -> str:
    """Ring mode: ResultValid stays 0; an unacknowledged slot that is overwritten is counted."""
    _only(box, "ring")
    await box.make_ready()
    await box.read(205, 3)
    epoch, last = box.image.number("Epoch"), box.image.number("RingLast")
    await box.exchange(ENABLE, AckSeq=last, EpochEcho=epoch)
    unread = box.image.number("RingUnread")
    for _ in range(RING_SLOTS + 1):
        begun = time.monotonic()
        tag, _ = await box.trigger()
        await _slot(box, tag, begun)
        await box.exchange(ENABLE)  # the bits as they stand with the slot, not from before it
        expect(not box.has(Status1.RESULT_VALID), "ResultValid is 1 in ring mode")
    await box.slots()
    got = box.image.number("RingUnread") - unread
    expect(got >= 1, "a slot was overwritten before AckSeq passed it, and HR 207 stands still")
    expect(box.has(Status1.OVERRUN), "Overrun is not set")
    await box.exchange(ENABLE, AckSeq=box.image.number("RingLast"))
    await _command(box, CommandCode.CLEAR_OVERRUN)
    expect(not box.has(Status1.OVERRUN), "ClearOverrun does not clear Overrun")
    return f"{got} counted"


async def _command(box: Box, code: int, argument: int = 0, limit_ms: float = 10_000) -> int:
    """One command with its handshake; CmdResult."""
    await box.exchange(ENABLE | EXECUTE, Command=code, CmdArg=argument)
    done, executing = Status1.CMD_DONE, Status1.CMD_EXECUTING
    if not box.has(done):
        await box.until(
            "CmdExecuting", lambda: box.has(executing) or box.has(done), 50, ENABLE | EXECUTE
        )
    await box.until("CmdDone", lambda: box.has(done), limit_ms, ENABLE | EXECUTE)
    expect(not box.has(executing), "CmdExecuting is still 1 with CmdDone")
    echo, result = box.image.number("CmdEcho"), box.image.number("CmdResult")
    expect(echo == code, f"CmdEcho is {echo}, sent {code}")
    failed = box.has2(Status2.CMD_FAILED)
    expect(failed == (result != 0), f"CmdFailed is {failed:d} with CmdResult {result}")
    await box.until("CmdDone falls", lambda: not box.has(done), 50, ENABLE)
    expect(not box.has2(Status2.CMD_FAILED), "CmdFailed stays when Execute dropped")
    return result


@rule("T7a")
async def unknown_command(box: Box) -> str:
    """An unknown command ends with CmdDone, CmdFailed and a code; all fall with Execute."""
    await box.make_ready()
    result = await _command(box, 999)
    expect(result != 0, "an unknown command was done")
    await box.make_ready()
    return f"CmdResult {result}"


@rule("T7b")
async def reset_counters(box: Box) -> str:
    """ResetCounters sets the shift counters to 0 and leaves `unaccounted` alone."""
    await box.make_ready()
    unaccounted = await box.counter("unaccounted")
    result = await _command(box, CommandCode.RESET_COUNTERS)
    expect(result == 0, f"CmdResult {result}")
    await box.beat_for(250)
    triggers = await box.counter("triggers")
    expect(triggers == 0, f"triggers is {triggers} after ResetCounters")
    got = box.image.number("unaccounted")
    expect(got == unaccounted, f"unaccounted went from {unaccounted} to {got}")
    await box.make_ready()
    return ""


@rule("T7c")
async def load_recipe(box: Box) -> str:
    """LoadRecipe of the product in force is done within 60 s; its id and hash are shown."""
    await box.make_ready()
    number, digest = box.image.number("RecipeId"), box.image.number("RecipeHash32")
    result = await _command(box, CommandCode.LOAD_RECIPE, number, 60_000)
    expect(result == 0, f"CmdResult {result}")
    await box.make_ready(limit_ms=60_000)
    got = box.image.number("RecipeId"), box.image.number("RecipeHash32")
    expect(got == (number, digest), f"recipe {number}, {digest:08x} became {got[0]}, {got[1]:08x}")
    wrong = await _command(box, CommandCode.LOAD_RECIPE, 0xFFFF_FFFF, 60_000)
    expect(wrong != 0, "a product that does not exist was loaded")
    await box.make_ready()
    return f"product {number}, hash {digest:08x}"


@rule("L1")
async def every_part_has_one_verdict(box: Box) -> str:
    """Ten parts: ten ids that differ, ten verdicts, counters that agree, unaccounted unchanged."""
    await box.make_ready()
    words = ("ok", "ng", "uncertain", "error_reject")
    triggers = await box.counter("triggers")
    verdicts = sum(box.image.number(name) for name in words)
    unaccounted = box.image.number("unaccounted")
    ids: list[int] = []
    for _ in range(10):
        begun = time.monotonic()
        tag, acq_id = await box.trigger()
        ids.append(acq_id)
        await _slot(box, tag, begun)
        await _finish(box)
        last = box.image.number("RingLast")
        await box.exchange(ENABLE, AckSeq=last, EpochEcho=box.image.number("Epoch"))
    expect(len(set(ids)) == 10 and 0 not in ids, f"AcqIDs: {ids}")
    await box.beat_for(250)
    grown = await box.counter("triggers") - triggers
    given = sum(box.image.number(name) for name in words) - verdicts
    expect(grown == 10, f"triggers grew by {grown}")
    expect(given == 10, f"verdicts grew by {given}")
    got = box.image.number("unaccounted")
    expect(got == unaccounted, f"unaccounted grew from {unaccounted} to {got}")
    return f"unaccounted {got}"
