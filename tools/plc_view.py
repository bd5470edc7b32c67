"""What the desk PLC reads and writes, as text for a person who looks on. Pure.

Enters: the image of the last good answer, the control block, the newest parts. Leaves: lines.
"""

from collections.abc import Sequence
from enum import IntEnum, IntFlag

from appliance.codes import (
    Control,
    FaultCode,
    OfflineReason,
    Reason,
    State,
    Status1,
    Status2,
    Word,
)
from appliance.words import Bank
from tools.plc_program import Break, Part, PlcOptions, Ring, Sightings

KEPT_PARTS = 8
_WIDTH = 14


def name_of(kind: type[IntEnum], value: int) -> str:
    """The name of a code; the number where the code is none."""
    try:
        return kind(value).name
    except ValueError:
        return f"0x{value:04X}"


def view(
    options: PlcOptions,
    image: Bank | None,
    out: Bank,
    parts: Sequence[Part],
    seen: Sightings,
    summary: str,
) -> list[str]:
    """One screen, 80 columns or a little more.

    image: None while nobody answers. parts: the newest first.
    """
    results = "level words" if options.ring == Ring.NONE else f"ring, parts by {options.ring.value}"
    head = (
        f"PLC on the desk → {options.host}:{options.port}, {results}, scan {options.scan_ms:g} ms"
    )
    lines = [head]
    if options.breaks != Break.NONE:
        lines.append(f"breaks a rule: {options.breaks.value} from part {options.break_from} on")
    lines += ["", *(_answer(image) if image is not None else ["no answer"]), ""]
    lines.append(_row("Control", _bits(Control, out.number("Control"))))
    lines.append(
        _row(
            "written",
            f"PartTag {out.number('PartTag')}, PlcHeartbeat {out.number('PlcHeartbeat')}, "
            f"AckSeq {out.number('AckSeq')}, TriggerCount {out.number('TriggerCount')}",
        )
    )
    odd = ", ".join(
        f"{name} {count}"
        for name, count in (
            ("stale results", seen.stale_results),
            ("torn results", seen.torn_results),
            ("missing slots", seen.missing_slots),
            ("unmatched slots", seen.unmatched_slots),
        )
        if count
    )
    lines += ["", summary, *([odd] if odd else []), ""]
    return lines + [_part(part) for part in parts[:KEPT_PARTS]]


def _answer(image: Bank) -> list[str]:
    state = f"{image.number('State')} {name_of(State, image.number('State'))}"
    offline, fault = image.number("OfflineReason"), image.number("FaultCode")
    stop = f"OfflineReason {offline} {name_of(OfflineReason, offline)}"
    result = (
        f"InspectionID {image.number('InspectionID')}, "
        f"Verdict {name_of(Word, image.number('Verdict'))}, "
        f"Reason {name_of(Reason, image.number('Reason'))}"
    )
    return [
        _row("State", f"{state}, {stop}, FaultCode {fault} {name_of(FaultCode, fault)}"),
        _row("Status1", _bits(Status1, image.number("Status1"))),
        _row("Status2", _bits(Status2, image.number("Status2"))),
        _row("result", f"AcqID {image.number('AcqID')}, {result}"),
        _row(
            "loaded",
            f"RecipeId {image.number('RecipeId')}, "
            f"RecipeHash32 {image.number('RecipeHash32'):08x}, Epoch {image.number('Epoch')}, "
            f"VisionHeartbeat {image.number('VisionHeartbeat')}",
        ),
    ]


def _row(name: str, text: str) -> str:
    return f"{name:{_WIDTH}}{text}"


def _bits(kind: type[IntFlag], value: int) -> str:
    return " ".join(bit.name or "" for bit in kind if bit & value) or "–"


def _part(part: Part) -> str:
    decided = "accepted" if part.is_accepted else "rejected"
    latency = f"{part.latency_ms:7.1f} ms" if part.word != Word.NONE else " " * 10
    word = name_of(Word, part.word)
    return f"tag {part.tag:<10} {word:9} {latency}  {decided} {', '.join(part.why)}".rstrip()
