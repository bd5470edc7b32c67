"""What a slow bus is given and may ask. Every `plc_…` file of the process `bus` is one of these."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

from appliance.messages import CommandResult, Verdict, Words
from appliance.words import Bank

Ask: TypeAlias = Callable[[str, str, str], Awaitable[CommandResult]]
"""Name, argument and by whom, to the decision process; always answers, with TIMED_OUT at worst."""


class Projection(Protocol):
    """One bus. Its calls only note what is new; `serve` carries it out, and may take its time."""

    name: str
    counters: dict[str, int]

    def words(self, image: Bank, words: Words) -> None:
        """Ten times a second: the registers (HR 100–209) and what belongs to them.

        `image` also holds a ring of its own (HR 205–329), filled from the verdicts that came.
        It goes on changing: copy what is kept.
        """
        ...

    def verdict(self, verdict: Verdict, image: Bank) -> None:
        """A part was closed; it lies in the ring of `image`."""
        ...

    def silent(self) -> None:
        """decide has said nothing for 500 ms: nothing that was shown may be believed any more."""
        ...

    async def prepare(self) -> None:
        """Once, before anything is served: what takes seconds."""
        ...

    async def serve(self) -> None:
        """Until cancelled. Raises DeviceError where the other side is lost; called again then."""
        ...
