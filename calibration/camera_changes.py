"""Who set which feature of a camera last, on all pages: nobody undoes unseen what one set. Pure.

The device remembers one value and no author. A page shows what it had when the page was made.
"""

from dataclasses import dataclass

from appliance.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Change:
    """The newest one of a feature."""

    number: int
    page: int
    by: str
    value: str


class CameraChanges:
    """Of all cameras, since the tool started."""

    def __init__(self) -> None:
        self.count = 0
        """A page that is made now has seen this many."""
        self._pages = 0
        self._last: dict[tuple[str, str], Change] = {}

    def new_page(self) -> int:
        """Its number."""
        self._pages += 1
        return self._pages

    def begin(
        self, camera: str, feature: str, value: str, by: str, *, page: int, seen: int
    ) -> Change | None:
        """About to be set on this page, which shows so many changes; the one before, for `undo`.

        Raises ConfigError where another page made a newer one.
        """
        last = self._last.get((camera, feature))
        if last is not None and last.page != page and last.number > seen:
            expected = "the value that this page showed before"
            got = f"{last.value or 'a command'}, set by {last.by} meanwhile"
            raise ConfigError(f"{camera}: {feature}", expected, got)
        self.count += 1
        self._last[camera, feature] = Change(self.count, page, by, value)
        return last

    def undo(self, camera: str, feature: str, before: Change | None) -> None:
        """The device did not take it."""
        if before is None:
            self._last.pop((camera, feature), None)
        else:
            self._last[camera, feature] = before
