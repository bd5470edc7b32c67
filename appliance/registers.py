"""The register map as one ordered table; code, document and desk PLC read this one.

Addresses are zero-based holding registers; FC 4 reads the same numbers. Pure data.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["u16", "u32", "f32", "ascii"]

MAP_VERSION = 0x0100
"""Changes only incompatibly, by +256."""
PROTOCOL_REVISION = 1
MAP_WORDS = 1024
WRITABLE_WORDS = 64
"""HR 0–63 belong to the PLC, everything above to the appliance."""


@dataclass(frozen=True)
class Register:
    """One row of the map. `count` is elements, for ascii registers of two characters each."""

    name: str
    address: int
    kind: Kind
    count: int
    meaning: str

    @property
    def size(self) -> int:
        """In 16-bit registers."""
        return self.count * (2 if self.kind in ("u32", "f32") else 1)


FROM_PLC: tuple[Register, ...] = (
    Register("Control", 0, "u16", 1, "bits of Control; b8–15 must be 0"),
    Register("PlcHeartbeat", 1, "u16", 1, "PLC increments at least every 200 ms"),
    Register("AckSeq", 2, "u16", 1, "ring: highest sequence number consumed without a gap"),
    Register("Command", 3, "u16", 1, "one of CommandCode, taken at the edge of Execute"),
    Register("CmdArg", 4, "u32", 1, "argument of Command"),
    Register("PartTag", 6, "u32", 1, "latched at the edge of Trigger, echoed with the result"),
    Register("ExpectedVerdict", 8, "u16", 1, "challenge only: 1 OK, 2 NG, 3 UNCERTAIN"),
    Register("DeadlineMs", 9, "u16", 1, "may only shorten the configured deadline; 0 = that one"),
    Register("Lane", 10, "u16", 1, "lane or position; nothing uses it yet"),
    Register("TriggerCount", 11, "u32", 1, "hardware trigger: the PLC's own count of parts"),
    Register("EpochEcho", 13, "u16", 1, "Epoch as the PLC read it; AckSeq counts while it matches"),
    Register("GateStatus", 14, "u16", 1, "bits of GateStatus"),
    Register("PartId", 16, "ascii", 16, "text of the part, stored and echoed"),
    Register("Lot", 32, "ascii", 8, "text of the lot, stored with the part"),
    Register("ConfirmedTag", 40, "u32", 1, "PartTag of the reject that the gate confirmed"),
    Register(
        "TagFifo",
        44,
        "u32",
        8,
        "hardware trigger: entry (n - 1) mod 8 is the tag of TriggerCount n",
    ),
)

COUNTERS: tuple[tuple[str, str], ...] = (
    ("triggers", "accepted triggers"),
    ("frames_ok", "complete frames"),
    ("frames_incomplete", "frames with missing lines"),
    ("missed_triggers", "triggers while TriggerReady was 0"),
    ("ok", "verdicts OK"),
    ("ng", "verdicts NG"),
    ("uncertain", "verdicts UNCERTAIN"),
    ("error_reject", "verdicts ERROR"),
    ("late", "verdicts given by the deadline, not by a score"),
    ("overruns", "ring slots overwritten before AckSeq passed them"),
    ("unaccounted", "must stay 0"),
    ("archived", "rows stored"),
    ("archive_dropped", "images that were not stored"),
)
"""Name and meaning, 32 bits each from HR 160; they wrap at 2³²."""

FROM_VISION: tuple[Register, ...] = (
    Register("Status1", 100, "u16", 1, "bits of Status1"),
    Register("Status2", 101, "u16", 1, "bits of Status2"),
    Register("VisionHeartbeat", 102, "u16", 1, "+1 every 100 ms, by the decision loop alone"),
    Register("PlcHeartbeatEcho", 103, "u16", 1, "PlcHeartbeat as received"),
    Register("State", 104, "u16", 1, "State, as OPC 40100-1 numbers it"),
    Register("OfflineReason", 105, "u16", 1, "why TriggerReady is 0"),
    Register("FaultCode", 106, "u16", 1, "first cause of a fault"),
    Register("RecipeId", 107, "u32", 1, "product number of the loaded recipe, not the requested"),
    Register("RecipeHash32", 109, "u32", 1, "first 32 bits of the loaded recipe's hash"),
    Register("ModelId", 111, "u16", 1, "first 16 bits of the bundle's id"),
    Register("CmdEcho", 112, "u16", 1, "Command that CmdResult belongs to"),
    Register("CmdResult", 113, "u16", 1, "CommandError; 0 = done"),
    Register("AcqID", 114, "u16", 1, "1…65535, then 1; set before TriggerAck rises"),
    Register("InspectionID", 115, "u16", 1, "AcqID of the result below"),
    Register("Verdict", 116, "u16", 1, "Word; declare it as WORD, never INT"),
    Register("Reason", 117, "u16", 1, "Reason of the verdict"),
    Register("Score", 118, "u16", 1, "10000 × sigmoid of the margin, for people, never compared"),
    Register("ScoreLimit", 119, "u16", 1, "10000 × sigmoid of T2, for people, never compared"),
    Register("LatencyMs", 120, "u16", 1, "trigger to verdict"),
    Register("DeadlineUsedMs", 121, "u16", 1, "deadline of the result"),
    Register("PartTagEcho", 122, "u32", 1, "PartTag of the result"),
    Register("DefectCount", 124, "u16", 1, "regions above their limit"),
    Register("WorstRegion", 125, "u16", 4, "x, y, width, height in source pixels"),
    Register("ResultTear", 129, "u16", 1, "InspectionID again"),
    Register("PartIdEcho", 130, "ascii", 16, "PartId of the result"),
    Register("Epoch", 146, "u16", 1, "+1 at each start of the decision process, never 0"),
    Register("Margin", 147, "f32", 1, "raw margin of the result, NaN where there is none"),
    Register("T1", 149, "f32", 1, "OK below"),
    Register("T2", 151, "f32", 1, "NG from here up"),
    *(Register(name, 160 + 2 * i, "u32", 1, text) for i, (name, text) in enumerate(COUNTERS)),
    Register("RingSlots", 200, "u16", 1, "slots of the ring"),
    Register("RingSlotWords", 201, "u16", 1, "registers per slot"),
    Register("LargeRing", 202, "u16", 1, "address of a larger ring; 0 = none, as in this version"),
    Register("RingLast", 205, "u16", 1, "newest sequence in the ring"),
    Register("RingOldest", 206, "u16", 1, "oldest sequence in the ring"),
    Register("RingUnread", 207, "u16", 1, "slots overwritten before they were acknowledged"),
    Register("VisionHeartbeatCopy", 208, "u16", 1, "VisionHeartbeat, for the one read of the ring"),
    Register("Status1Copy", 209, "u16", 1, "Status1, for the one read of the ring"),
    Register("MapVersion", 900, "u16", 1, "of this table; +256 where it becomes incompatible"),
    Register("ProtocolRevision", 901, "u16", 1, "of the handshake"),
    Register("SoftwareVersion", 902, "ascii", 16, "of inspectd"),
    Register("Serial", 918, "ascii", 16, "host name of the box"),
)

REGISTERS: Mapping[str, Register] = {row.name: row for row in FROM_PLC + FROM_VISION}

RING_SLOTS = 12
SLOT_WORDS = 10
RING_ADDRESS = 210
SLOT_FIELDS: tuple[tuple[str, str], ...] = (
    ("seq", "1…65535, then 1; 0 = empty"),
    ("verdict", "Word"),
    ("reason", "Reason"),
    ("flags", "SlotFlags in the low byte, low byte of Epoch in the high byte"),
    ("score", "10000 × sigmoid of the margin, for people"),
    ("latency ms", "trigger to verdict"),
    ("tag", "PartTag, high word (word_order low_first: low word)"),
    ("tag", "PartTag, low word (word_order low_first: high word)"),
    ("inspection id", "AcqID of the part"),
    ("seq again", "a slot counts only where both are equal"),
)
