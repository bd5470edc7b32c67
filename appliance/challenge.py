"""Challenge parts: real inspections of parts whose verdict is known. A wrong one locks the line,
and so does one that is overdue, where the plan says so.

The lock is two counters that survive a restart: failed challenges, and those that were answered
for, by a challenge that passed or by a person with a reason. Pure.
"""

from collections.abc import Callable, Mapping

from appliance.challenge_due import ChallengeDue
from appliance.codes import CommandError, Control, ExpectedVerdict, FaultCode, Word
from appliance.messages import Verdict
from appliance.words import PlcInput

_WORDS = {
    ExpectedVerdict.NONE: Word.NONE,
    ExpectedVerdict.OK: Word.OK,
    ExpectedVerdict.NG: Word.NG,
    ExpectedVerdict.UNCERTAIN: Word.UNCERTAIN,
}


DRIFT_DUE, DRIFT_HOLD = 2, 3
_DRIFT, _DRIFT_SINCE = "challenge.drift", "challenge.drift_since_s"


class Challenge:
    """Of one line. `count(name, how_many)` adds to a lifetime counter, `total(name)` reads it."""

    def __init__(
        self,
        count: Callable[[str, int], None],
        total: Callable[[str], int],
        due: ChallengeDue,
        utc_s: Callable[[], int],
        restored: Mapping[str, int],
    ) -> None:
        """restored: the counters of the journal."""
        self._count, self._total, self._utc_s = count, total, utc_s
        self.due = due
        self.is_running = False
        """Between StartChallenge and EndChallenge every part is a challenge part."""
        self._passed = self._failed = 0
        self.drift = restored.get(_DRIFT, 0)
        """0 calm, 1 warn, 2 a challenge is due, 3 hold: as the tool found it in accepted parts."""
        self._drift_since_s = restored.get(_DRIFT_SINCE, 0)

    @property
    def persistent(self) -> dict[str, int]:
        """For the journal: what is due, and a hold by drift, outlive a restart."""
        return self.due.persistent | {_DRIFT: self.drift, _DRIFT_SINCE: self._drift_since_s}

    @property
    def is_failed(self) -> bool:
        """A challenge part had another verdict than it must have, and nobody answered for it."""
        return self._total("challenges_failed") > self._total("challenges_answered")

    @property
    def is_locked(self) -> bool:
        """No part but those of a new challenge."""
        is_held = self.due.is_overdue or self.drift >= DRIFT_HOLD
        return (self.is_failed or is_held) and not self.is_running

    @property
    def due_since_s(self) -> int | None:
        """Since when one is due, by the plan or by drift; None = none is."""
        since = (self.due.since_s, self._drift_since_s if self.drift >= DRIFT_DUE else None)
        return min((one for one in since if one is not None), default=None)

    def drifted(self, level: int) -> None:
        """Accepted parts have moved, or not. It moves no limit; a challenge that passes ends it."""
        if level >= DRIFT_DUE > self.drift:
            self._drift_since_s = self._utc_s()
        self.drift = level

    def follow(self, recipe: int, fault: FaultCode) -> None:
        """What may make one due: time, parts, another recipe (32 bits of its hash), a fault."""
        self.due.follow(self._utc_s(), self._total("triggers"), recipe, fault)

    def terms(self, plc: PlcInput) -> tuple[bool, Word]:
        """Whether the part that this input triggers is one, and what its verdict must be."""
        is_challenge = self.is_running or Control.CHALLENGE_MODE in plc.control
        return is_challenge, _WORDS[plc.expected_verdict] if is_challenge else Word.NONE

    def verdict(self, verdict: Verdict) -> bool:
        """Compare. True where this one failed."""
        if not verdict.is_challenge or verdict.expected_word == Word.NONE:
            return False
        is_failed = verdict.word != verdict.expected_word
        self._failed += is_failed
        self._passed += not is_failed
        if is_failed:
            self._count("challenges_failed", 1)
        return is_failed

    def start(self) -> CommandError:
        """StartChallenge."""
        if self.is_running:
            return CommandError.WRONG_STATE
        self.is_running, self._passed, self._failed = True, 0, 0
        return CommandError.DONE

    def end(self, is_proof: bool = True) -> CommandError:
        """EndChallenge: a session that had parts and no wrong one ends the lock.

        is_proof: False where a person ends it, whose own judgement of the test follows.
        """
        if not self.is_running:
            return CommandError.WRONG_STATE
        self.is_running = False
        if is_proof and self._passed and not self._failed:
            self.passed()
        return CommandError.DONE

    def passed(self) -> None:
        """All of a test came out as it must: nothing is locked or due any more."""
        self.answer()
        self.drift = 0
        self.due.passed(self._utc_s(), self._total("triggers"))

    def failed(self) -> None:
        """Something of a test did not, as a person saw it: the line is locked."""
        self._count("challenges_failed", 1)

    def answer(self) -> None:
        """The lock ends; a person does this with a reason, which the log keeps."""
        open_ones = self._total("challenges_failed") - self._total("challenges_answered")
        self._count("challenges_answered", max(0, open_ones))
