"""A belt with a light barrier in front of the whole line, on virtual time.

Every part has a number, which is its tag, and a picture that shows it. World checks every verdict
as it is given: none may be OK by another part's picture.
"""

from itertools import count
from typing import Any

import msgspec

from appliance.codes import (
    CommandCode,
    Control,
    GateStatus,
    Reason,
    Word,
)
from appliance.messages import FrameReady, Verdict
from tests.line_plans import MS, Plan
from tests.line_world import World

ENABLE, EXECUTE = Control.ENABLE, Control.EXECUTE
TWO = ("left", "right")
FOUR = (*TWO, "top", "under")
PERIOD_MS = 120
"""Between parts; the window is 40 ms."""


class Belt:
    """Light barrier, cameras and PLC around a `World`."""

    def __init__(self, world: World, scan_ms: float = 10, transfer_ms: float = 8) -> None:
        self.world, self.scan_ms, self.transfer_ms = world, scan_ms, transfer_ms
        self.control = ENABLE
        self.counted = 0
        self.fifo = [0] * 8
        self.command = 0
        self.numbers = count(1)
        self._scan()

    def _scan(self) -> None:
        world = self.world
        control = self.control
        if self.command:
            control |= EXECUTE
            world.bank.set("Command", self.command)
            self.command = 0
        world.beat(
            control,
            TriggerCount=self.counted,
            TagFifo=self.fifo,
            AckSeq=world.bank.number("RingLast"),
            EpochEcho=world.bank.number("Epoch"),
        )
        world.at(self.scan_ms, self._scan)

    def step(self, tag: int, steps: int = 1) -> None:
        """The PLC's input sees a pulse; its next scan tells."""
        for _ in range(steps):
            self.counted += 1
            self.fifo[(self.counted - 1) % 8] = tag

    def resync(self) -> None:
        """Command 12, with nothing at the camera."""
        self.command = CommandCode.RESYNC
        self.world.run(4 * self.scan_ms)

    def expose(self, number: int, camera: str, late_ms: float = 0) -> None:
        """A picture of this part, taken now; it arrives after transfer and delay."""
        world = self.world
        message = world.frame(0, number, camera)
        delay_ms = self.transfer_ms + late_ms
        message = msgspec.structs.replace(message, age_ns=int(delay_ms * MS))
        eye = world.eyes[camera]
        world.after(eye, delay_ms, lambda: self._send(message, eye.pid))

    def _send(self, message: FrameReady, pid: int) -> None:
        world, camera = self.world, message.camera
        eye = world.eyes[camera]
        if eye.is_alive and eye.pid == pid:
            real_ns = self.world.now - message.age_ns
            shown = world.shows[camera, message.frame_id]
            world.send_frame(message, world._planned(shown, camera))
            assert real_ns <= world.now

    def part(
        self,
        fault: str = "",
        is_bad: bool = False,
        lag_ms: float = 3,
        at: str = "",
        views: dict[str, Plan] | None = None,
        **more: Any,
    ) -> int:
        """One part passes now. Returns its number. at: the camera that has the fault, the first
        one unless it is named. views: what another camera sees otherwise."""
        world, number = self.world, next(self.numbers)
        world.plans[number] = Plan(is_bad=is_bad, **more)
        for camera, plan in (views or {}).items():
            world.views[number, camera] = plan
        for camera in world.cameras:
            is_at = camera == (at or world.cameras[0])
            self._pass(fault if is_at else "", number, camera)
        steps = {"not counted": 0, "counted twice": 2}.get(fault, 1)
        if steps:
            world.at(lag_ms, lambda: self.step(number, steps))
        return number

    def _pass(self, fault: str, number: int, camera: str) -> None:
        world = self.world
        match fault:
            case "dropped":
                world.frame_ids[camera] += 1
            case "missed":
                pass
            case "double":
                self.expose(number, camera)
                world.at(6, lambda: self.expose(number, camera))
            case "incomplete":
                world.frame_ids[camera] += 1
                world.after(
                    world.eyes[camera],
                    self.transfer_ms,
                    lambda: world.no_frame(0, Reason.INCOMPLETE_IMAGE, camera),
                )
            case "late":
                self.expose(number, camera, late_ms=400)
            case _:
                self.expose(number, camera)

    def run(self, parts: int, **more) -> list[int]:
        """Parts one behind the other; returns their numbers."""
        numbers: list[int] = []
        for index in range(parts):
            numbers.append(self.part(is_bad=index % 3 == 2, **more))
            self.world.run(PERIOD_MS)
        return numbers

    def verdict_of(self, number: int) -> Verdict | None:
        """By the tag."""
        found = [s.verdict for s in self.world.verdicts.values() if s.verdict.part_tag == number]
        assert len(found) <= 1, "two verdicts with one tag"
        return found[0] if found else None


def ready(belt: Belt) -> Belt:
    belt.resync()
    assert belt.world.is_ready
    return belt


def words_of(belt: Belt, numbers: list[int]) -> list[Word]:
    verdicts = [belt.verdict_of(number) for number in numbers]
    return [verdict.word if verdict else Word.NONE for verdict in verdicts]


FITTED = GateStatus.CONFIRM_FITTED | GateStatus.AIR_OK


DISAGREEMENTS = [
    "dropped", "missed", "double", "late", "not counted", "counted twice",
]  # fmt: skip
