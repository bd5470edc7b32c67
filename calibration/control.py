"""Maintenance: a person takes control from the PLC and gives it back, with a reason, on every page.

While somebody has control TriggerReady is 0 and the PLC commands nothing. Control ends with the
last session of the one who has it: nobody can walk away, or lose the tool, and leave the line held.
"""

import asyncio
import contextlib

from appliance.codes import CommandError
from appliance.errors import ConfigError, DeviceError
from calibration import texts
from calibration.desk import Desk
from calibration.people import Role, User
from calibration.reason import checked

LOOK_S = 1.0


async def take(desk: Desk, by: User, reason: str) -> None:
    """Control goes from the PLC to this person. Raises ConfigError: role, reason, refused."""
    await _hand_over(desk, "take_control", "control.taken", by, reason)


async def give_back(desk: Desk, by: User, reason: str) -> None:
    """Control goes back to the PLC, whoever had it. Raises ConfigError as `take`."""
    await _hand_over(desk, "release_control", "control.released", by, reason)


async def _hand_over(desk: Desk, name: str, what: str, by: User, reason: str) -> None:
    check(by, reason)
    had = desk.words.owner if desk.words else ""
    await desk.ordered(name, what, by, reason, old=had)


def check(by: User, reason: str) -> None:
    """Raises ConfigError where this person may not, or gives no reason."""
    check_role(by)
    checked(reason)


def check_role(by: User) -> None:
    """Raises ConfigError below technician."""
    if by.role < Role.TECHNICIAN:
        raise ConfigError("role", f"{texts.ROLES[Role.TECHNICIAN]} or above", texts.ROLES[by.role])


async def watch(desk: Desk) -> None:
    """For ever: whoever has control and no session any more, has it no more. What cannot be read
    or written now is tried again."""
    while True:
        await asyncio.sleep(LOOK_S)
        with contextlib.suppress(ConfigError, DeviceError, OSError):
            await _look(desk)


async def _look(desk: Desk) -> None:
    owner = desk.words.owner if desk.words else ""
    if not owner or owner in await desk.run(desk.sessions.names):
        return
    code, _ = await desk.order("release_control", owner, texts.SESSION_ENDED)
    if code == CommandError.DONE:
        await desk.run(
            lambda: desk.journal.append(
                "system", "control.released", subject="line", old=owner,
                reason=texts.SESSION_ENDED, source="page",
            )
        )  # fmt: skip
        # The line tells its state ten times a second: until then it says what was.
        await asyncio.sleep(LOOK_S)
