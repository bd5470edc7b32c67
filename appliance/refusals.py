"""Who was refused what at the Modbus port, for whoever wires and programs the PLC. Pure."""

_SHOWN_NS = 60_000_000_000
_REMEMBER = 200
_OTHERS = "others, too many to name each: see the counters of the port"


class Refusals:
    """The newest one is shown for a minute; each goes to the log once."""

    def __init__(self) -> None:
        self.newest = ""
        """Address, and why."""
        self._newest_ns = 0
        self._told: dict[str, bool] = {}
        """False until `untold` has given it out. So many are told apart; that there are others is
        told once."""

    def add(self, why: str, now_ns: int) -> None:
        """One more request was refused."""
        self.newest, self._newest_ns = why, now_ns
        is_room = why in self._told or len(self._told) < _REMEMBER
        self._told.setdefault(why if is_room else _OTHERS, False)

    def untold(self) -> list[str]:
        """Those that came for the first time since the last call."""
        new = [why for why, is_told in self._told.items() if not is_told]
        self._told.update(dict.fromkeys(new, True))
        return new

    def note(self, now_ns: int) -> str:
        """The newest one, while it is young; else \"\"."""
        is_young = bool(self.newest) and now_ns - self._newest_ns < _SHOWN_NS
        return f"Modbus, refused: {self.newest}" if is_young else ""
