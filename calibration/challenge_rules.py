"""What a test with challenge parts proves, as food's metal detectors are tested. Pure.

Enters: the challenge parts that passed, in their order, and what a person saw at the gate. Leaves:
what is wrong in words; nothing = the test was passed. Three tests (operations of error-proofing):
*consecutive*, every part in a row at line speed; *memory*, bad–good–bad, which shows that the line
does not reject everything and that the right part is taken out; *fail-safe*, the gate made useless
must stop the line.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

from appliance.codes import Word
from appliance.errors import ConfigError

Kind = Literal["consecutive", "memory", "fail-safe"]
KINDS: tuple[Kind, ...] = ("consecutive", "memory", "fail-safe")
CHECKS = ("confirm", "bin", "air")
"""Fail-safe: the reject sensor blocked, the bin full, the air away."""


class Shown(NamedTuple):
    """One challenge part that went through."""

    part_id: int
    name: str
    """By PartText or PartTag; "" = it has neither."""
    expected: Word
    """Of the list of challenge parts, else of the PLC; NONE = nobody says."""
    word: Word

    @property
    def is_right(self) -> bool:
        """It came out as it must."""
        return self.expected is not Word.NONE and self.word is self.expected


def judge(
    kind: Kind,
    shown: Sequence[Shown],
    needed: Collection[str],
    checks: Mapping[str, bool],
) -> tuple[str, ...]:
    """What is wrong. needed: names of the parts in use. checks: whether the line stopped."""
    found = [wrong(one) for one in shown if not one.is_right]
    if not shown and kind != "fail-safe":
        return ("no challenge part went through",)
    if kind == "consecutive":
        missing = sorted(set(needed) - {one.name for one in shown})
        found += [f"part {name} was not shown" for name in missing]
        if not any(one.expected is Word.NG for one in shown):
            found.append("no bad part was shown")
    elif kind == "memory":
        if not has_pattern(shown):
            found.append("bad, good, bad in a row was not shown")
    else:
        found += [f"{name}: not checked" for name in CHECKS if name not in checks]
        found += [f"{name}: the line did not stop" for name in CHECKS if checks.get(name) is False]
    return tuple(found)


def check_count(shown: Sequence[Shown], most: int) -> None:
    """Raises ConfigError where a test has more parts than are read: older ones may be wrong."""
    if len(shown) >= most:
        raise ConfigError("test", f"fewer than {most} challenge parts", "more: break it off")


def wrong(one: Shown) -> str:
    """In words."""
    name = one.name or f"number {one.part_id}"
    if one.expected is Word.NONE:
        return f"part {name}: nobody says what it must be, got {one.word.name}"
    return f"part {name}: expected {one.expected.name}, got {one.word.name}"


def has_pattern(shown: Sequence[Shown]) -> bool:
    """A bad part, a good one and a bad one right after each other, all as they must."""
    wanted = (Word.NG, Word.OK, Word.NG)
    return any(
        all(one.is_right and one.expected is word for one, word in zip(three, wanted, strict=True))
        for three in zip(shown, shown[1:], shown[2:], strict=False)
    )


def last_good(newest_first: Sequence[Shown]) -> int | None:
    """The highest id of the newest row of challenge parts, one right after the other, that holds a
    bad part and no wrong one: what a PLC that runs its own challenges has proved. None = none."""
    run: list[Shown] = []
    for one in (*newest_first, None):
        if run and (one is None or one.part_id != run[-1].part_id - 1):
            is_good = all(part.is_right for part in run)
            if is_good and any(part.expected is Word.NG for part in run):
                return run[0].part_id
            run = []
        if one is not None:
            run.append(one)
    return None
