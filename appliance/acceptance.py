"""The acceptance rule: which words let a part pass. What the manual gives the PLC programmer.

The PLC applies it, never the appliance. It stands here as plain functions of an image of the map,
for the desk PLC, the conformance checks and every test that asks whether the words could be
believed. Whatever it does not accept is a reject.
"""

from dataclasses import dataclass

from appliance.codes import SlotFlags, Status1, Status2, Word
from appliance.words import Bank, Slot

HEARTBEAT_LIMIT_MS = 500.0


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What the PLC latched at the trigger; AcqID when it saw TriggerAck."""

    part_tag: int
    epoch: int
    acq_id: int
    deadline_ms: float
    """On the PLC's own clock, from its own trigger."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What the PLC's own clock says as it reads the words."""

    since_trigger_ms: float
    since_heartbeat_ms: float
    """Since VisionHeartbeat was last seen to change; infinite before the first change."""


def level_objections(
    image: Bank, sent: Sent, timing: Timing, accept_simulated: bool = False
) -> tuple[str, ...]:
    """Why the level words do not let this part pass; empty = ACCEPT.

    `image` holds HR 100–152 of one request.
    """
    status = Status1(image.number("Status1"))
    verdict = image.number("Verdict")
    rule = (
        (Status1.RESULT_VALID in status, "ResultValid is 0"),
        (image.number("InspectionID") == sent.acq_id != 0, "InspectionID is not AcqID"),
        (image.number("PartTagEcho") == sent.part_tag, "PartTagEcho is not PartTag"),
        (image.number("Epoch") == sent.epoch, "Epoch changed"),
        (Status1.PASS in status, "Pass is 0"),
        (Status1.FAIL not in status, "Fail is 1"),
        (verdict == Word.OK, f"Verdict is {verdict:04X}"),
        (
            accept_simulated or Status2.SIMULATED not in Status2(image.number("Status2")),
            "Simulated is 1",
        ),
        *_in_time(sent, timing),
    )
    return tuple(objection for is_met, objection in rule if not is_met)


def slot_objections(
    slot: Slot, epoch: int, sent: Sent, timing: Timing, accept_simulated: bool = False
) -> tuple[str, ...]:
    """Why this ring slot does not let this part pass; empty = ACCEPT.

    `slot` comes from one request over HR 205–329, `epoch` from HR 146 as last read.
    """
    flags = SlotFlags(slot.flags & 0xFF)
    rule = (
        (slot.seq == slot.seq_again != 0, "the two sequence numbers differ"),
        (SlotFlags.TAG_KNOWN in flags, "tag is not known"),
        (slot.part_tag == sent.part_tag, "tag is not PartTag"),
        (slot.verdict == Word.OK, f"Verdict is {slot.verdict:04X}"),
        (accept_simulated or SlotFlags.SIMULATED not in flags, "Simulated is 1"),
        (slot.flags >> 8 == epoch & 0xFF, "Epoch changed"),
        *_in_time(sent, timing),
    )
    return tuple(objection for is_met, objection in rule if not is_met)


def _in_time(sent: Sent, timing: Timing) -> tuple[tuple[bool, str], ...]:
    return (
        (timing.since_heartbeat_ms <= HEARTBEAT_LIMIT_MS, "VisionHeartbeat stands still"),
        (timing.since_trigger_ms <= sent.deadline_ms, "later than the deadline"),
    )
