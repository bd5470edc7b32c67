"""What keeps the box from being Ready, what is wrong, and what the status bits say. Pure.

`Facts` is all that the decision process knows of the box; fault, offline reason and bits follow
from it alone. The order of the questions is the order in which a person would want to know.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from appliance.codes import FaultCode, OfflineReason, Status2
from appliance.messages import Refused

JUDGING = ("camera", "infer", "decide", "record")
"""Processes without which no part is judged and kept. A page, a slow bus or metrics that do not
start are a Warning: a certificate that ran out stops no factory."""


@dataclass(frozen=True, slots=True)
class Facts:
    """One moment of the box."""

    is_camera_ok: bool
    """Every camera serves, and gives pictures."""
    is_infer_ok: bool
    """Every worker serves."""
    is_using: bool
    """All of them with the recipe in force."""
    is_changing: bool
    """A change of recipe is under way at the processes."""
    is_ordered: bool
    """A change of recipe was ordered and is not answered."""
    recipe: OfflineReason
    """Why the recipe keeps the box from being Ready."""
    refusal: Refused | None
    was_ready: bool
    """At least once since the start: what is missing now was lost, not awaited."""
    is_starting: bool
    """The time that a start may take is not over."""
    is_unaccounted: bool
    """The ledger broke a law that nobody has acknowledged."""
    is_journal_bad: bool
    is_reject_missing: bool
    is_stalled: bool
    is_budget_spent: bool
    """Of a process that is needed to judge parts."""
    is_unkept: bool
    """Rows or pictures cannot be kept, and the policy wants no part without."""
    is_stopped: bool
    """Stopped or halted by a person or the PLC."""
    is_ended: bool
    """The process ends."""

    @property
    def is_usable(self) -> bool:
        """Camera and infer would take a part for the recipe in force."""
        return self.is_using and not self.is_changing and not self.is_ordered


def fault_of(facts: Facts) -> FaultCode:
    """What is wrong, the gravest first; NONE where nothing is."""
    is_refused = facts.refusal is not None and facts.refusal.offline == OfflineReason.PASSPORT
    is_engine_lost = facts.was_ready and not facts.is_infer_ok and not facts.is_changing
    causes = (
        (facts.is_unaccounted, FaultCode.LEDGER),
        (facts.is_journal_bad, FaultCode.STORAGE),
        (facts.is_reject_missing, FaultCode.REJECT_NOT_CONFIRMED),
        (facts.is_stalled, FaultCode.DECISION_LATE),
        (facts.is_budget_spent, FaultCode.RESTART_BUDGET_SPENT),
        (facts.was_ready and not facts.is_camera_ok, FaultCode.CAMERA_LOST),
        (is_engine_lost, FaultCode.ENGINE_FAILED),
        (is_refused, FaultCode.PASSPORT),
    )
    return next((fault for is_so, fault in causes if is_so), FaultCode.NONE)


def offline_of(facts: Facts, is_locked: bool, is_association_lost: bool) -> OfflineReason:
    """Why no part may come; NONE where one may.

    is_locked: by a challenge. is_association_lost: of a hardware trigger.
    """
    if facts.is_ended:
        return OfflineReason.STOPPED_BY_PERSON
    if facts.is_changing or facts.is_ordered:
        return OfflineReason.RECIPE_CHANGING
    if facts.recipe != OfflineReason.NONE:
        return facts.recipe
    if not facts.is_using:
        if facts.is_starting:
            return OfflineReason.STARTING
        return OfflineReason.ENGINE if facts.is_camera_ok else OfflineReason.CAMERA
    causes = (
        (facts.is_stopped, OfflineReason.STOPPED_BY_PERSON),
        (is_locked, OfflineReason.CHALLENGE_LOCK),
        (is_association_lost, OfflineReason.ASSOCIATION_LOST),
        (facts.is_journal_bad or facts.is_unkept, OfflineReason.STORAGE_POLICY),
    )
    return next((reason for is_so, reason in causes if is_so), OfflineReason.NONE)


def bits_of(flags: Mapping[Status2, object]) -> Status2:
    """The bits whose flag is true."""
    bits = Status2(0)
    for bit, is_set in flags.items():
        bits |= bit if is_set else Status2(0)
    return bits
