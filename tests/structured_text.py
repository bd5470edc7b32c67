"""The Structured Text of docs/plc.md as objects that run: what a PLC would make of it.

Knows the part of IEC 61131-3 that the samples use, and no more: a statement that it does not know
is an error. Timers take their time from a clock that the test moves.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Clock = Callable[[], float]
"""Milliseconds."""

_MANUAL = Path(__file__).parent.parent / "docs" / "plc.md"
_STATEMENT = re.compile(
    r"IF (?P<if>.+?) THEN\s|ELSIF (?P<elsif>.+?) THEN\s|(?P<else>ELSE)\s|(?P<end>END_IF|END_FOR);"
    r"|FOR (?P<of>\w+) := (?P<first>\S+) TO (?P<last>\S+) DO\s"
    r"|(?P<word>\w+\[\d+\])\.(?P<bit>\d+) := (?P<flag>[^;]+);"
    r"|(?P<set>\w+(\[\d+\])?) := (?P<value>[^;]+);|(?P<call>\w+)\((?P<inputs>[^;]+)\);"
)
_WORDS = {"AND": "and", "OR": "or", "NOT": "not", "TRUE": "True", "FALSE": "False"}
_ZERO = {"BOOL": False, "WORD": 0, "DWORD": 0, "INT": 0, "UINT": 0, "UDINT": 0, "TIME": 0}


class Words:
    """`ARRAY[100..152] OF WORD`."""

    def __init__(self, first: int, words: Sequence[int]) -> None:
        self._first, self._words = first, list(words)

    def __getitem__(self, address: int) -> int:
        return self._words[self._index(address)]

    def __setitem__(self, address: int, word: int) -> None:
        self._words[self._index(address)] = word & 0xFFFF

    def _index(self, address: int) -> int:
        if address < self._first:
            raise IndexError(address)
        return address - self._first


class _OnDelay:
    """TON."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._limit_ms = clock, 0.0
        self._since_ms: float | None = None

    def __call__(self, *, IN: bool, PT: float | None = None) -> None:
        self._limit_ms = self._limit_ms if PT is None else PT
        started = self._clock() if self._since_ms is None else self._since_ms
        self._since_ms = started if IN else None

    @property
    def Q(self) -> bool:
        return self._since_ms is not None and self._clock() - self._since_ms >= self._limit_ms


class _Rising:
    """R_TRIG."""

    def __init__(self) -> None:
        self.Q, self._was = False, False

    def __call__(self, *, CLK: bool) -> None:
        self.Q, self._was = CLK and not self._was, CLK


class Block:
    """One instance of a function block; its variables are attributes."""

    def __init__(self, name: str, clock: Clock) -> None:
        text = _source(name)
        body = text.rpartition("END_VAR")[2]
        self._code = compile(_python(body), name, "exec")
        self._values: dict[str, Any] = {
            "SHR": lambda word, by: word >> by,
            "DWORD_TO_WORD": lambda word: word & 0xFFFF,
            "UINT_TO_WORD": lambda number: number & 0xFFFF,
            "UDINT_TO_DWORD": lambda number: number & 0xFFFFFFFF,
            "bit": lambda word, number: bool(word >> number & 1),
            "with_bit": lambda word, number, flag: word & ~(1 << number) | flag << number,
        }
        for section in re.findall(r"VAR\w*\s(.*?)END_VAR", text, re.DOTALL):
            for names, kind, bounds in re.findall(r"([\w, ]+?)\s*:\s*(\w+)(\[[\d.]+\])?", section):
                for variable in names.split(","):
                    self._values[variable.strip()] = _new(kind, bounds, clock)

    def __call__(self, **inputs: Any) -> None:
        unknown = inputs.keys() - self._values.keys()
        assert not unknown, unknown
        self._values.update(inputs)
        exec(self._code, self._values)

    def __getattr__(self, name: str) -> Any:
        return self._values[name]


def _source(name: str) -> str:
    """Without comments, and without the name."""
    blocks = re.findall(r"```iecst\n(.*?)```", _MANUAL.read_text(encoding="utf-8"), re.DOTALL)
    (text,) = (b for b in blocks if re.match(rf"(FUNCTION_BLOCK|PROGRAM) {name}\n", b))
    return re.sub(r"\(\*.*?\*\)", "", text, flags=re.DOTALL)


def _new(kind: str, bounds: str, clock: Clock) -> Any:
    match kind:
        case "TON":
            return _OnDelay(clock)
        case "R_TRIG":
            return _Rising()
        case "ARRAY":
            first, last = map(int, bounds.strip("[]").split(".."))
            return Words(first, [0] * (last - first + 1))
        case _ if kind.startswith("FB_"):
            return Block(kind, clock)
        case _:
            return _ZERO[kind]


def _python(body: str) -> str:
    lines, depth, place = ["pass"], 0, 0
    body = " ".join(body.split()) + " "
    while body[place:].strip():
        place += len(body[place:]) - len(body[place:].lstrip())
        found = _STATEMENT.match(body, place)
        assert found, f"a statement that is not known: {body[place : place + 60]}"
        part, place = found.groupdict(), found.end()
        depth -= bool(part["elsif"] or part["else"] or part["end"])
        for head, condition in (("if", part["if"]), ("elif", part["elsif"])):
            if condition:
                lines.append("    " * depth + f"{head} {_expression(condition)}:")
        if part["else"]:
            lines.append("    " * depth + "else:")
        if part["of"]:
            bounds = f"{part['first']}, {part['last']} + 1"
            lines.append("    " * depth + f"for {part['of']} in range({bounds}):")
        if part["word"]:
            inputs = f"{part['word']}, {part['bit']}, {_expression(part['flag'])}"
            lines.append("    " * depth + f"{part['word']} = with_bit({inputs})")
        if part["set"]:
            lines.append("    " * depth + f"{part['set']} = {_expression(part['value'])}")
        if part["call"]:
            inputs = _expression(part["inputs"].replace(":=", "\0")).replace("\0", "=")
            lines.append("    " * depth + f"{part['call']}({inputs})")
        depth += bool(part["if"] or part["elsif"] or part["else"] or part["of"])
    return "\n".join(lines)


def _expression(text: str) -> str:
    """AND of a word and a mask is bitwise, of anything else logical."""
    text = re.sub(r"([\w.]+) AND (16#\w+)(?=\s*\))", r"\1 & \2", text)
    text = re.sub(r"(Hr\[[^\]]+\])\.(\d+)", r"bit(\1, \2)", text)
    text = re.sub(r"16#(\w+)", r"0x\1", text)
    text = re.sub(r"T#(\d+)ms", r"\1", text)
    text = re.sub(r"<>", "!=", re.sub(r"(?<![<>:])=", "==", text))
    for word, ours in _WORDS.items():
        text = re.sub(rf"\b{word}\b", ours, text)
    return text
