"""docs/plc-registers.md from the code: `python -m tools.plc_doc` writes it, a test compares it."""

import ast
import inspect
from collections.abc import Iterable, Sequence
from enum import IntEnum, IntFlag
from itertools import pairwise
from pathlib import Path

from appliance.codes import (
    CommandCode,
    CommandError,
    Control,
    ExpectedVerdict,
    FaultCode,
    GateStatus,
    OfflineReason,
    Reason,
    SlotFlags,
    State,
    Status1,
    Status2,
    Word,
)
from appliance.registers import (
    FROM_PLC,
    FROM_VISION,
    MAP_VERSION,
    PROTOCOL_REVISION,
    RING_ADDRESS,
    RING_SLOTS,
    SLOT_FIELDS,
    SLOT_WORDS,
    Register,
)

DOCUMENT = Path(__file__).parent.parent / "docs" / "plc-registers.md"

_HEAD = f"""# Register map

<!-- Written by `python -m tools.plc_doc` from appliance/registers.py and appliance/codes.py. -->

Map version {MAP_VERSION}, protocol revision {PROTOCOL_REVISION}. Everything lies in holding
registers; HR is the zero-based address of the protocol, 4x what many PLC tools show. Function codes
3, 4 (the same numbers), 6, 16 and 23; 23 writes before it reads, and its answer already shows what
its own write caused. 32-bit values and floats have the high word first unless `[plc] word_order =
"low_first"`; text has two ASCII characters a word, the first in the high byte. One request never
sees half of a result.

Exceptions: 01 unknown function code, or a write by another client than the writer; 02 an address
outside the map, or a write outside HR 0–63; 03 counts that disagree, more than 125 registers, or a
value that the map forbids. A refused request changes nothing.
"""

_EXPLAINED: dict[type[IntEnum] | type[IntFlag], str] = {
    GateStatus: "the-reject-gate",
    OfflineReason: "when-it-is-not-ready",
    FaultCode: "when-it-is-not-ready",
    CommandCode: "commands",
    ExpectedVerdict: "challenge-parts",
}
"""Where plc.md says what to do."""


def document() -> str:
    """The whole file."""
    sections = [
        _HEAD,
        "## PLC → appliance\n",
        _registers(FROM_PLC),
        "## Appliance → PLC\n",
        _registers(FROM_VISION),
        "## Ring slots\n",
        f"Slot i of {RING_SLOTS} begins at HR {RING_ADDRESS} + {SLOT_WORDS} × i. Read HR 205–329 "
        "in one request of 125 words.\n",
        _table(("word", "field", "meaning"), ((i, *row) for i, row in enumerate(SLOT_FIELDS))),
        "## Bits\n",
        *(_bits(kind) for kind in (Control, GateStatus, Status1, Status2, SlotFlags)),
        "## Codes\n",
        *(
            _codes(kind)
            for kind in (
                Word,
                Reason,
                State,
                OfflineReason,
                FaultCode,
                CommandCode,
                CommandError,
                ExpectedVerdict,
            )
        ),
    ]
    return "\n".join(sections)


def main() -> None:
    """Write the document."""
    DOCUMENT.write_text(document(), encoding="utf-8")


def _registers(registers: Sequence[Register]) -> str:
    rows = (
        (_span(r), 400_001 + r.address, r.name, _kind(r), r.meaning)
        for r in sorted(registers, key=lambda r: r.address)
    )
    return _table(("HR", "4x", "name", "type", "meaning"), rows)


def _span(register: Register) -> str:
    last = register.address + register.size - 1
    return f"{register.address}" if register.size == 1 else f"{register.address}–{last}"


def _kind(register: Register) -> str:
    if register.kind == "ascii":
        return f"ASCII {2 * register.count}"
    return register.kind if register.count == 1 else f"{register.kind} × {register.count}"


def _bits(kind: type[IntFlag]) -> str:
    said = meanings(kind)
    rows = (
        (f"b{bit.value.bit_length() - 1}", _joined(bit.name or ""), said[bit.name or ""])
        for bit in kind
    )
    return _section(kind, ("bit", "name", "meaning"), rows)


def _codes(kind: type[IntEnum]) -> str:
    said = meanings(kind)
    rows: Iterable[tuple[object, ...]] = (
        (f"16#{code:04X}", code.name) if kind is Word else (code.value, _say(code.name))
        for code in kind
    )
    if not said:  # explained in plc.md, with what to do
        return _section(kind, ("code", "name"), rows)
    rows = ((*row, said.get(code.name, "")) for row, code in zip(rows, kind, strict=True))
    return _section(kind, ("code", "name", "meaning"), rows)


def meanings(kind: type[IntEnum] | type[IntFlag]) -> dict[str, str]:
    """Name of a field → the string below it in the code."""
    (declared,) = ast.parse(inspect.getsource(kind)).body
    found: dict[str, str] = {}
    if isinstance(declared, ast.ClassDef):
        for field, below in pairwise(declared.body):
            match field, below:
                case (
                    ast.Assign(targets=[ast.Name(id=name)]),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name] = text
                case _:
                    pass
    return found


def _section(
    kind: type[IntEnum] | type[IntFlag], head: Sequence[str], rows: Iterable[Sequence[object]]
) -> str:
    summary = " ".join((kind.__doc__ or "").split())
    more = f" More in [plc.md](plc.md#{_EXPLAINED[kind]})." if kind in _EXPLAINED else ""
    return f"### {kind.__name__}\n\n{summary}{more}\n\n" + _table(head, rows)


def _joined(name: str) -> str:
    """As plc.md writes a bit: PLC_COMM_OK → PlcCommOK."""
    return "".join(word if word == "OK" else word.capitalize() for word in name.split("_"))


def _say(name: str) -> str:
    return name.replace("_", " ") if len(name) < 4 else name.replace("_", " ").lower()


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
