"""One measured figure beside its budget, and how figures are summed up. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Value = float | int | None


class NotMeasuredError(Exception):
    """The measurement could not be made; says why."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    bench: str
    """Which measurement it comes from; what `--only` names."""
    what: str
    value: float | None
    """The figure that is compared; None = could not be measured."""
    unit: str
    must: float | None = None
    """The budget; None = there is none, or this run was too short for it."""
    ambition: float | None = None
    is_floor: bool = False
    """The figure must reach the budget; else it must not exceed it."""
    spread: dict[str, Value] = field(default_factory=dict[str, Value])
    """Further figures of the same run: p50, p99, max, counts."""
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """None where there is no budget."""
        if self.must is None:
            return None
        if self.value is None:
            return False
        return self.value >= self.must if self.is_floor else self.value <= self.must

    def as_object(self) -> dict[str, Any]:
        """One element of `rows` in the output of `--json`."""
        return {
            "bench": self.bench,
            "what": self.what,
            "value": self.value,
            "unit": self.unit,
            "must": self.must,
            "ambition": self.ambition,
            "is_floor": self.is_floor,
            "is_met": self.is_met,
            "spread": self.spread,
            "note": self.note,
        }


Bench = Callable[[float], list[Row]]
"""Seconds that a run may take where its length is free → rows. Raises NotMeasuredError."""


def quantiles(values: Sequence[float] | np.ndarray) -> dict[str, Value]:
    """p50, p99 and max, in the unit of the values; None where there are no values."""
    if not len(values):
        return {"p50": None, "p99": None, "max": None}
    found = np.percentile(np.asarray(values, np.float64), (50, 99, 100))
    return {name: figure(number) for name, number in zip(("p50", "p99", "max"), found, strict=True)}


def figure(number: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{number:.4g}")
