"""The tape: everything that the parts of decide are told, in order, with decide's clock.

A `TapedBook` is the book of parts that tells the tape of every call before it acts on it, and of
every verdict it gives. The same calls in the same order at the same times make the same verdicts:
that is how replay works. A record that nobody takes leaves a gap in the count, which whoever reads
the recording sees; nothing here waits or fails.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Literal, TypeAlias

from appliance.codes import Reason, Word
from appliance.ledger import Ledger
from appliance.messages import (
    AllEnded,
    AnyMessage,
    CameraRestarted,
    Expired,
    FrameReady,
    InferFailed,
    LateResult,
    NoFrame,
    PartEnded,
    PartJudged,
    PartOpened,
    PartPaired,
    PartShown,
    PlcTold,
    PlcWrote,
    Scored,
    Taped,
    UnpairedEnded,
    Verdict,
)
from appliance.part import Judgement, Part, Sight
from appliance.parts import Keeper, PartBook
from appliance.recipe import LoadedRecipe
from appliance.wire import encode
from appliance.words import PlcInput

Topic: TypeAlias = Literal[
    "seen", "opened_by", "ignored", "scored", "book", "plc", "verdicts", "words"
]
"""seen, scored: what came from camera and infer. opened_by, ignored: frames of a free run. book:
what decide itself did. plc: what the PLC wants. verdicts: what came of it. words: its result, as
the PLC could read it."""

_EXPIRED_EVERY_NS = 1_000_000_000
"""Looking at deadlines that closes nothing is told this often: it is when the book forgets."""


class Tape:
    """Counts and sends. `lost`: records that nobody took."""

    def __init__(self, send: Callable[[Taped], bool]) -> None:
        self._send = send
        self._sequence = 0
        self._plc: PlcWrote | None = None
        self.lost = 0

    def tell(self, at_ns: int, topic: Topic, message: AnyMessage) -> None:
        """One thing that was heard or done just now."""
        self._sequence += 1
        taped = Taped(sequence=self._sequence, at_ns=at_ns, topic=topic, data=encode(message))
        if not self._send(taped):
            self.lost += 1

    def plc_wrote(self, plc: PlcInput, at_ns: int) -> None:
        """A write of the PLC; told where more than the heartbeat changed."""
        wrote = PlcWrote(
            control=int(plc.control),
            ack_seq=plc.ack_seq,
            command=plc.command,
            argument=plc.argument,
            part_tag=plc.part_tag,
            deadline_ms=plc.deadline_ms,
            trigger_count=plc.trigger_count,
            epoch_echo=plc.epoch_echo,
            part_text=plc.part_text,
            lot=plc.lot,
        )
        if wrote != self._plc:
            self._plc = wrote
            self.tell(at_ns, "plc", wrote)

    def plc_told(self, told: PlcTold, at_ns: int) -> None:
        """The words of a result lie there for the PLC."""
        self.tell(at_ns, "words", told)


class TapedBook(PartBook):
    """See PartBook. Calls that the book makes of itself are not told: they follow from the rest."""

    def __init__(
        self,
        journal: Keeper,
        ledger: Ledger,
        software: str,
        on_verdict: Callable[[Part, Verdict], None],
        cameras: Sequence[str],
        is_simulated: bool,
        tape: Tape,
    ) -> None:
        def told(part: Part, verdict: Verdict) -> None:
            tape.tell(part.zero_ns + verdict.latency_ns, "verdicts", verdict)
            on_verdict(part, verdict)

        super().__init__(journal, ledger, software, told, cameras, is_simulated)
        self._keeper = journal
        self._tape = tape
        self._is_inside = False
        self._expired_ns = 0

    @contextmanager
    def _told(self, now_ns: int, topic: Topic, message: AnyMessage) -> Generator[None]:
        if self._is_inside:
            yield
            return
        self._tape.tell(now_ns, topic, message)
        self._is_inside = True
        try:
            yield
        finally:
            self._is_inside = False

    def open(
        self,
        zero_ns: int,
        deadline_ns: int,
        recipe: LoadedRecipe,
        *,
        part_tag: int = 0,
        part_text: str = "",
        lot: str = "",
        is_challenge: bool = False,
        expected: Word = Word.NONE,
        is_paired: bool = True,
    ) -> Part:
        """See PartBook; told once it has its id."""
        part = super().open(
            zero_ns,
            deadline_ns,
            recipe,
            part_tag=part_tag,
            part_text=part_text,
            lot=lot,
            is_challenge=is_challenge,
            expected=expected,
            is_paired=is_paired,
        )
        opened = PartOpened(
            part_id=part.part_id,
            epoch=self._keeper.epoch,
            zero_ns=zero_ns,
            deadline_ns=deadline_ns,
            recipe=recipe.name,
            recipe_hash=recipe.hash,
            setup_hash=recipe.setup_hash,
            bundle=recipe.recipe.bundle,
            part_tag=part_tag,
            part_text=part_text,
            lot=lot,
            is_challenge=is_challenge,
            expected_word=expected,
            opened_utc_ns=part.opened_utc_ns,
            is_paired=is_paired,
        )
        self._tape.tell(zero_ns, "book", opened)
        return part

    def opened_by_frame(self, message: FrameReady, part: Part, now_ns: int) -> Sight | None:
        """See PartBook."""
        self._tape.tell(now_ns, "book", PartShown(part_id=part.part_id))
        with self._told(now_ns, "opened_by", message):
            return super().opened_by_frame(message, part, now_ns)

    def ignore(self, message: FrameReady, now_ns: int) -> None:
        """See PartBook."""
        with self._told(now_ns, "ignored", message):
            super().ignore(message, now_ns)

    def camera_restarted(self, camera: str) -> None:
        """See PartBook."""
        with self._told(0, "book", CameraRestarted(camera=camera)):
            super().camera_restarted(camera)

    def frame(self, message: FrameReady, now_ns: int) -> Sight | None:
        """See PartBook."""
        with self._told(now_ns, "seen", message):
            return super().frame(message, now_ns)

    def no_frame(self, message: NoFrame, now_ns: int) -> None:
        """See PartBook."""
        with self._told(now_ns, "seen", message):
            super().no_frame(message, now_ns)

    def scored(self, message: Scored, now_ns: int) -> Sight | None:
        """See PartBook."""
        with self._told(now_ns, "scored", message):
            return super().scored(message, now_ns)

    def failed(self, message: InferFailed, now_ns: int) -> None:
        """See PartBook."""
        with self._told(now_ns, "scored", message):
            super().failed(message, now_ns)

    def judged(self, sight: Sight, result: Judgement, now_ns: int) -> LateResult | None:
        """See PartBook."""
        judged = PartJudged(part_id=sight.part.part_id, camera=sight.camera)
        with self._told(now_ns, "book", judged):
            return super().judged(sight, result, now_ns)

    def paired(self, part: Part, now_ns: int, is_whole: bool = True) -> LateResult | None:
        """See PartBook."""
        paired = PartPaired(
            part_id=part.part_id,
            zero_ns=part.zero_ns,
            deadline_ns=part.deadline_ns,
            part_tag=part.part_tag,
            is_tag_known=part.is_tag_known,
            part_text=part.part_text,
            lot=part.lot,
            is_whole=is_whole,
        )
        with self._told(now_ns, "book", paired):
            return super().paired(part, now_ns, is_whole)

    def close_unpaired(self, doubtful: tuple[int, ...], detail: str, now_ns: int) -> None:
        """See PartBook."""
        with self._told(now_ns, "book", UnpairedEnded(doubtful=doubtful, detail=detail)):
            super().close_unpaired(doubtful, detail, now_ns)

    def expire(self, now_ns: int, guard_ns: int = 0) -> None:
        """See PartBook."""
        is_due = any(deadline <= now_ns + guard_ns for deadline in self.deadlines_ns)
        if is_due or now_ns - self._expired_ns >= _EXPIRED_EVERY_NS:
            self._expired_ns = now_ns
            with self._told(now_ns, "book", Expired(guard_ns=guard_ns)):
                super().expire(now_ns, guard_ns)

    def close_all(self, reason: Reason, detail: str, now_ns: int) -> None:
        """See PartBook."""
        with self._told(now_ns, "book", AllEnded(reason=reason, detail=detail)):
            super().close_all(reason, detail, now_ns)

    def close(
        self,
        sight: Sight,
        word: Word,
        reason: Reason,
        now_ns: int,
        detail: str = "",
        gates: dict[str, float] | None = None,
        stages_ns: dict[str, int] | None = None,
    ) -> None:
        """See PartBook."""
        ended = PartEnded(
            part_id=sight.part.part_id,
            word=word,
            reason=reason,
            detail=detail,
            camera=sight.camera,
        )
        with self._told(now_ns, "book", ended):
            super().close(sight, word, reason, now_ns, detail, gates, stages_ns)
