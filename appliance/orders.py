"""Commands of the PLC (by code) and of people and slow buses (by name), and who may give them.

One rule: while a person has control (Maintenance), only people command; TriggerReady is 0 and the
PLC is told "not in control". Everyone else commands while the PLC has control. What a command does
is in actions.py.
"""

from appliance.actions import Actions
from appliance.codes import CommandCode, CommandError
from appliance.messages import Command
from appliance.setups import Answer

_HAND_OVER = ("take_control", "release_control")
_REASONED = ("unlock_challenge", "pass_challenge", "fail_challenge")
"""A person alone, and never without a reason: what a PLC cannot see."""
_PLAIN = ("clear_error", "halt", "reset")
_HIGHEST_DRIFT = 3
_MOST = 0xFFFFFFFF
"""As in the two registers of CmdArg and of PartTag."""
_BY_NAME = {code.name.lower(): code for code in CommandCode}


class Orders:
    """Every command comes through here."""

    def __init__(self, actions: Actions) -> None:
        self._actions = actions
        self.owner = ""
        """The person who has control; "" = the PLC has it."""

    def by_code(self, code: int, argument: int, now_ns: int, answer: Answer) -> None:
        """A command of the PLC."""
        if self.owner:
            answer(CommandError.NOT_IN_CONTROL, f"{self.owner} has control")
        else:
            self._do(code, argument, now_ns, answer)

    def by_name(self, command: Command, now_ns: int, answer: Answer) -> None:
        """A command of a person or of a slow bus."""
        name, by = command.name, command.by
        # A page knows who asks; a slow bus puts its own name in front: "opcua:mes".
        is_person = by != "" and ":" not in by
        if self.owner and not is_person:
            answer(CommandError.NOT_IN_CONTROL, f"{self.owner} has control")
        elif name in _HAND_OVER:
            self._hand_over(name, by, is_person, now_ns, answer)
        elif name in _REASONED and not (is_person and command.argument):
            answer(CommandError.NOT_IN_CONTROL, "expected a person with a reason")
        elif name == "drift":
            self._drift(command.argument, answer)
        elif name in (*_REASONED, *_PLAIN):
            getattr(self._actions, name)(now_ns)
            answer(CommandError.DONE, "")
        elif name == "reload_products":
            self._actions.reload_products(answer)
        elif name == "start_job":
            self._start_job(command.argument, now_ns, answer)
        elif name == "end_challenge" and is_person:
            # The page judges the test, and orders pass_challenge or fail_challenge.
            answer(self._actions.end_challenge(False), "")
        elif name in _BY_NAME:
            text = command.argument or "0"
            number = _number(text, _MOST)
            if number is None:
                expected = f"expected a number from 0 to {_MOST}"
                answer(CommandError.UNKNOWN_COMMAND, f"{name}: {expected}, got {text[:40]!r}")
            else:
                self._do(_BY_NAME[name], number, now_ns, answer)
        else:
            names = (*_HAND_OVER, *_REASONED, *_PLAIN, "drift", "reload_products", "start_job")
            known = ", ".join((*names, *_BY_NAME))
            answer(CommandError.UNKNOWN_COMMAND, f"expected one of {known}, got {name[:40]!r}")

    def _hand_over(self, name: str, by: str, is_person: bool, now_ns: int, answer: Answer) -> None:
        if not is_person:
            answer(CommandError.NOT_IN_CONTROL, f"expected a person, got {by!r}")
        elif name == "take_control" and self.owner not in ("", by):
            answer(CommandError.NOT_IN_CONTROL, f"{self.owner} has control")
        else:
            owner = by if name == "take_control" else ""
            if owner != self.owner:
                self.owner = owner
                self._actions.owner_changed(owner, now_ns)
            answer(CommandError.DONE, "")

    def _drift(self, argument: str, answer: Answer) -> None:
        level = _number(argument, _HIGHEST_DRIFT)
        if level is None:
            expected = f"expected a level from 0 to {_HIGHEST_DRIFT}"
            answer(CommandError.UNKNOWN_COMMAND, f"drift: {expected}, got {argument[:40]!r}")
        else:
            self._actions.drift(level)
            answer(CommandError.DONE, "")

    def _start_job(self, argument: str, now_ns: int, answer: Answer) -> None:
        tag = _number(argument or "0", _MOST)
        if tag is None:
            expected = f"expected a part tag from 0 to {_MOST}"
            answer(CommandError.UNKNOWN_COMMAND, f"start_job: {expected}, got {argument[:40]!r}")
        elif part_id := self._actions.start_job(tag, now_ns):
            answer(CommandError.DONE, str(part_id))
        else:
            answer(CommandError.WRONG_STATE, "TriggerReady is 0, or the PLC triggers just now")

    def _do(self, code: int, argument: int, now_ns: int, answer: Answer) -> None:
        actions = self._actions
        result = CommandError.DONE
        match code:
            case CommandCode.LOAD_RECIPE:
                actions.load_recipe(argument, answer)
                return
            case CommandCode.LOAD_RECIPE_BY_HASH:
                actions.load_recipe_by_hash(argument, answer)
                return
            case CommandCode.RESET_COUNTERS:
                actions.reset_counters()
            case CommandCode.CLEAR_OVERRUN:
                actions.clear_overrun()
            case CommandCode.START_CONTINUOUS | CommandCode.STOP:
                result = actions.set_running(code == CommandCode.START_CONTINUOUS, now_ns)
            case CommandCode.RESYNC:
                result = actions.resync(now_ns)
            case CommandCode.START_CHALLENGE:
                result = actions.start_challenge()
            case CommandCode.END_CHALLENGE:
                result = actions.end_challenge(True)
            case CommandCode.SAVE_NEXT_N:
                actions.save_next(argument)
            case _:
                result = CommandError.UNKNOWN_COMMAND
        answer(result, "")


def _number(text: str, most: int) -> int | None:
    """0 to `most`; None where the text, which may be anything and of any length, is none."""
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(most))
    return int(text) if is_number and int(text) <= most else None
