"""The desk PLC's program for one command (load a recipe, resync …). Pure; time is an argument."""

from appliance.codes import CommandError, Control, Status1, Status2
from appliance.words import Bank, WordOrder
from tools.plc_program import HEARTBEAT_EVERY_NS

GUARD_NS = 60_000_000_000
"""The appliance's own limit for a recipe; other commands have 10 s."""


class CommandProgram:
    """One command: Execute held until CmdDone, then dropped; never longer than the guard time."""

    def __init__(self, code: int, argument: int, now_ns: int, word_order: WordOrder) -> None:
        self.out = Bank(word_order)
        self.out.set("Command", code)
        self.out.set("CmdArg", argument)
        self.result: int | None = None
        """CommandError as the appliance gave it."""
        self.is_done = False
        self._code = code
        self._is_asking = False
        self._until_ns = now_ns + GUARD_NS

    def scan(self, image: Bank, now_ns: int) -> None:
        """One cycle after a good request."""
        status = Status1(image.number("Status1"))
        if self.result is not None:
            self.is_done = Status1.CMD_DONE not in status
        elif not self._is_asking:
            self._is_asking = not status & (Status1.CMD_DONE | Status1.CMD_EXECUTING)
        elif Status1.CMD_DONE in status:
            self.result = self._answer(image)
            self._is_asking = False
        self._write(now_ns)

    def lost(self, now_ns: int, why: str) -> None:
        """One cycle without an answer: asked again after it, within the same guard time."""
        self._is_asking = False
        self._write(now_ns)

    def _answer(self, image: Bank) -> int:
        if image.number("CmdEcho") != self._code:
            return CommandError.BUSY
        result = image.number("CmdResult")
        has_failed = Status2.CMD_FAILED in Status2(image.number("Status2"))
        return result if result or not has_failed else CommandError.BUSY

    def _write(self, now_ns: int) -> None:
        if now_ns > self._until_ns and not self.is_done:
            self.result, self.is_done = self.result or CommandError.TIMED_OUT, True
            self._is_asking = False
        self.out.set("Control", Control.EXECUTE if self._is_asking else 0)
        self.out.set_counter("PlcHeartbeat", now_ns // HEARTBEAT_EVERY_NS)
