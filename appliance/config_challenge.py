"""Section `[challenge]` of `config.toml`: when challenge parts are due."""

import re

from appliance.toml_file import Section


class ChallengePlan(Section, frozen=True, kw_only=True):
    """A challenge that was passed ends what is due; nothing is ever due by default."""

    shift_starts: tuple[str, ...] = ()
    """Local times such as "06:00"."""
    every_hours: float = 0.0
    """Since the last one that was passed; 0 = never."""
    every_parts: int = 0
    """Since the last one that was passed; 0 = never."""
    after_change: bool = False
    """Another product, version, limits or model is in force."""
    after_fault: bool = False
    """A fault came, but for FaultCode 4: a machine that was slow judges as before."""
    hold_after_min: float | None = None
    """So long after it fell due TriggerReady falls until one is passed; left out = it is only
    shown, 0 = at once."""

    @property
    def is_used(self) -> bool:
        """Something can make a challenge due."""
        return bool(
            self.shift_starts
            or self.every_hours
            or self.every_parts
            or self.after_change
            or self.after_fault
        )


def challenge_problem(plan: ChallengePlan, trigger: str) -> tuple[str, str, str] | None:
    """Key, what was expected and what came; None where the section can be used."""
    for text in plan.shift_starts:
        if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text):
            return "challenge.shift_starts", '"00:00" to "23:59"', repr(text)
    if not 0 <= plan.every_hours <= 10_000:
        return "challenge.every_hours", "0 to 10000", str(plan.every_hours)
    if not 0 <= plan.every_parts <= 1_000_000_000:
        return "challenge.every_parts", "0 to 1000000000", str(plan.every_parts)
    if plan.hold_after_min is not None and not 0 <= plan.hold_after_min <= 100_000:
        return "challenge.hold_after_min", "0 to 100000", str(plan.hold_after_min)
    if plan.is_used and trigger != "plc":
        # Only a PLC's Trigger says what must come out: no other line could ever pass one.
        return "trigger", '"plc", with a [challenge]', repr(trigger)
    return None
