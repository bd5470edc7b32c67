"""The timing diagrams of docs/plc.md as SVG: `python -m tools.timing_diagrams` writes them.

A diagram is a table: one lane per bit or word, with the moments at which it changes. Time runs in
steps that have no scale; a number stands for a step of the text.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent.parent / "docs" / "images"

_LABEL, _STEP, _LANE, _TOP, _HIGH = 176, 46, 34, 52, 20
_STYLE = """
  .card { fill: #ffffff; stroke: #c8d0d6 } .name, .word { fill: #1b242c } .step { fill: #52616c }
  .plc { stroke: #1769aa } .box { stroke: #0b7a4b } .wire { stroke: #8a6d3b }
  .bus { fill: #eef3f6 } .grid { stroke: #dfe5e9 }
  .dot { fill: #52616c } .number { fill: #ffffff }
  @media (prefers-color-scheme: dark) {
    .card { fill: #12181d; stroke: #33414b } .name, .word { fill: #e8eef2 } .step { fill: #9fb0bc }
    .plc { stroke: #6cb6ff } .box { stroke: #56d39a } .wire { stroke: #d8c3a0 }
    .bus { fill: #1d2830 }
    .grid { stroke: #26323a } .dot { fill: #9fb0bc } .number { fill: #12181d }
  }
  text { font: 13px system-ui, sans-serif } .number { font-weight: 600; text-anchor: middle }
  .word { font-size: 12px; text-anchor: middle } .step { font-size: 12px }
  path, line { fill: none; stroke-width: 1.8 } .grid { stroke-width: 1; stroke-dasharray: 3 4 }
"""


class Lane(NamedTuple):
    """One bit (values 0 and 1) or one word (values are texts): (step, value) in order of time."""

    owner: str
    """Who writes it: "plc", "box", or "wire": a signal that is no word."""
    name: str
    changes: Sequence[tuple[float, int | str]]


class Diagram(NamedTuple):
    """One picture."""

    title: str
    steps: int
    marks: Sequence[float]
    """Where steps 1, 2, 3 … of the text happen."""
    lanes: Sequence[Lane]


DIAGRAMS = {
    "level": Diagram(
        "Level mode: one part",
        13,
        (1, 1.5, 3, 5.5, 8, 10, 11.5),
        (
            Lane("plc", "PartTag", ((0, ""), (1, "4711"), (11.5, "4712"))),
            Lane("plc", "Trigger", ((0, 0), (1, 1), (3, 0))),
            Lane("plc", "ResultAck", ((0, 0), (10, 1), (11.5, 0))),
            Lane("box", "TriggerReady", ((0, 1), (1.5, 0), (10.3, 1))),
            Lane("box", "AcqID", ((0, "17"), (1.5, "18"))),
            Lane("box", "TriggerAck", ((0, 0), (1.5, 1), (3.3, 0))),
            Lane("box", "ExposureComplete", ((0, 1), (1.5, 0), (5.5, 1))),
            Lane("box", "Busy", ((0, 0), (1.5, 1), (8, 0))),
            Lane("box", "HR 115–152", ((0, "result of 17"), (8, "result of 18"))),
            Lane("box", "InspectionToggle", ((0, 0), (8, 1))),
            Lane("box", "ResultValid", ((0, 0), (8, 1), (10.3, 0))),
            Lane("box", "Pass or Fail", ((0, 0), (8, 1), (10.3, 0))),
        ),
    ),
    "ring": Diagram(
        "Ring mode: parts overlap",
        14,
        (1, 1.5, 2.4, 5, 6.2, 9),
        (
            Lane("plc", "PartTag", ((0, ""), (1, "4711"), (4, "4712"), (7.5, "4713"))),
            Lane(
                "plc",
                "Trigger",
                ((0, 0), (1, 1), (2.4, 0), (4, 1), (5.4, 0), (7.5, 1), (8.9, 0)),
            ),
            Lane("plc", "AckSeq", ((0, "90"), (6.2, "91"), (10.2, "92"), (13, "93"))),
            Lane("box", "TriggerReady", ((0, 1),)),
            Lane("box", "AcqID", ((0, "17"), (1.5, "18"), (4.5, "19"), (8, "20"))),
            Lane(
                "box",
                "TriggerAck",
                ((0, 0), (1.5, 1), (2.7, 0), (4.5, 1), (5.7, 0), (8, 1), (9.2, 0)),
            ),
            Lane("box", "slot A", ((0, "seq 79"), (5, "seq 91 · tag 4711"))),
            Lane("box", "slot B", ((0, "seq 80"), (9, "seq 92 · tag 4712"))),
            Lane("box", "slot C", ((0, "seq 81"), (12, "seq 93"))),
            Lane("box", "RingLast", ((0, "90"), (5, "91"), (9, "92"), (12, "93"))),
        ),
    ),
    "hardware": Diagram(
        "Hardware trigger: the light barrier fires the camera, the PLC counts",
        14,
        (1, 2.4, 4.6),
        (
            Lane(
                "wire",
                "light barrier",
                ((0, 0), (1, 1), (1.4, 0), (5, 1), (5.4, 0), (9, 1), (9.4, 0)),
            ),
            Lane(
                "wire",
                "exposure",
                ((0, 0), (1.1, 1), (1.7, 0), (5.1, 1), (5.7, 0), (9.1, 1), (9.7, 0)),
            ),
            Lane(
                "plc",
                "TagFifo",
                ((0, ""), (2, "[1] = 4711"), (6, "[2] = 4712"), (10, "[3] = 4713")),
            ),
            Lane("plc", "TriggerCount", ((0, "17"), (2, "18"), (6, "19"), (10, "20"))),
            Lane("plc", "AckSeq", ((0, "90"), (5.2, "91"), (9.2, "92"), (13.2, "93"))),
            Lane("box", "TriggerReady", ((0, 1),)),
            Lane(
                "box",
                "Busy",
                ((0, 0), (2.4, 1), (4.6, 0), (6.4, 1), (8.6, 0), (10.4, 1), (12.6, 0)),
            ),
            Lane("box", "slot A", ((0, "seq 79"), (4.6, "seq 91 · tag 4711"))),
            Lane("box", "slot B", ((0, "seq 80"), (8.6, "seq 92 · tag 4712"))),
            Lane("box", "slot C", ((0, "seq 81"), (12.6, "seq 93"))),
        ),
    ),
    "recipe": Diagram(
        "LoadRecipe: change to product 2",
        13,
        (1, 1.5, 4, 8, 10),
        (
            Lane("plc", "Command, CmdArg", ((0, ""), (0.7, "1 LoadRecipe, product 2"))),
            Lane("plc", "Execute", ((0, 0), (1, 1), (10, 0))),
            Lane("box", "CmdExecuting", ((0, 0), (1.5, 1), (8, 0))),
            Lane("box", "TriggerReady", ((0, 1), (1.5, 0), (9.3, 1))),
            Lane("box", "Busy", ((0, 1), (4, 0))),
            Lane("box", "State", ((0, "6"), (2, "5 Initialized"), (9.3, "6"))),
            Lane("box", "RecipeId, Hash", ((0, "1 · old"), (8, "2 · new"))),
            Lane("box", "CmdDone", ((0, 0), (8, 1), (10.3, 0))),
            Lane("box", "CmdResult", ((0, ""), (8, "0 done"))),
        ),
    ),
}  # fmt: skip


def svg(diagram: Diagram) -> str:
    """The whole file."""
    width = _LABEL + _STEP * diagram.steps + 20
    height = _TOP + _LANE * len(diagram.lanes) + 14
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(diagram.title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="card" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>',
        '<text class="step" x="16" y="22">blue: the PLC writes</text>',
        '<text class="step" x="16" y="38">green: the appliance writes</text>',
        *(
            ['<text class="step" x="16" y="54">brown: signals</text>']
            if any(lane.owner == "wire" for lane in diagram.lanes)
            else []
        ),
    ]
    for number, step in enumerate(diagram.marks, 1):
        x = _x(step)
        parts += [
            f'<line class="grid" x1="{x}" y1="40" x2="{x}" y2="{height - 10}"/>',
            f'<circle class="dot" cx="{x}" cy="24" r="10"/>',
            f'<text class="number" x="{x}" y="28.5">{number}</text>',
        ]
    for index, lane in enumerate(diagram.lanes):
        base = _TOP + _LANE * (index + 1) - 8
        parts.append(f'<text class="name" x="16" y="{base - 5}">{escape(lane.name)}</text>')
        draw = _word if isinstance(lane.changes[0][1], str) else _bit
        parts += draw(lane, base, diagram.steps)
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Write all diagrams."""
    for name, diagram in DIAGRAMS.items():
        (FOLDER / f"{name}.svg").write_text(svg(diagram), encoding="utf-8")


def _x(step: float) -> float:
    return round(_LABEL + _STEP * step, 1)


def _bit(lane: Lane, base: float, steps: int) -> list[str]:
    path = ""
    for step, value in lane.changes:
        y = base - _HIGH * int(value)
        path += f"H{_x(step)} V{y} " if path else f"M{_x(step)} {y} "
    return [f'<path class="{lane.owner}" d="{path}H{_x(steps)}"/>']


def _word(lane: Lane, base: float, steps: int) -> list[str]:
    parts: list[str] = []
    ends = [*(step for step, _ in lane.changes[1:]), steps]
    for (step, text), end in zip(lane.changes, ends, strict=True):
        left, right = _x(step), _x(end)
        parts.append(
            f'<rect class="bus {lane.owner}" x="{left}" y="{base - _HIGH}" rx="4" '
            f'width="{right - left:.1f}" height="{_HIGH}" stroke-width="1.4"/>'
        )
        label, middle = escape(str(text)), round((left + right) / 2, 1)
        parts.append(f'<text class="word" x="{middle}" y="{base - 6}">{label}</text>')
    return parts


if __name__ == "__main__":
    main()
