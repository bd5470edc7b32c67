"""Which recipe is in force, and how the next one gets there. Pure; time is an argument.

TriggerReady 0 → open parts end → `Prepare` to camera and infer → all `Prepared` → `Swap` → Ready.
A `Refused` or 60 s without an answer: the old recipe stays and everybody is told so. A camera or
infer that started afresh is given the recipe in force again; what it refuses is asked again every
few seconds, because a person may have mended the file.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from appliance.codes import CommandError, OfflineReason
from appliance.messages import INFER, Health, Prepare, Prepared, Refused, Swap
from appliance.recipe import LoadedRecipe

GUARD_NS = 60_000_000_000
"""From the order to the end of a change. Whoever ordered it then counts on the old recipe."""
_ASK_AGAIN_NS = 3_000_000_000
_AT_WORK = (
    ", it may be at work still: order again when it is done, what it made and proved is kept and "
    "takes less time then; where that fails, too, run `inspectd engine` on the bundle before"
)

Answer: TypeAlias = Callable[[CommandError, str], None]
"""Called once, perhaps at once, with the result and one sentence."""
Send = Callable[[str, Prepare | Swap], bool]
"""To the process with this label; False where it takes nothing just now."""


@dataclass(slots=True)
class Peer:
    """What is known of one camera or infer process."""

    label: str
    start: int = 0
    seen_ns: int | None = None
    is_serving: bool = False
    setup_hash: str = ""
    is_simulated: bool = False
    """Its pictures, or its network, are not real."""
    hang_limit_ns: int = 0
    """How long it may be silent by its own word: an inference can take that long."""
    note: str = ""
    asked_ns: int | None = None
    refusal: Refused | None = None

    def is_fresh(self, now_ns: int, limit_ns: int) -> bool:
        """Its last sign of life is not older than this."""
        return self.seen_ns is not None and now_ns - self.seen_ns < limit_ns


@dataclass(slots=True)
class _Change:
    target: LoadedRecipe
    begun_ns: int
    done: Answer
    asked: set[str] = field(default_factory=set[str])
    prepared: set[str] = field(default_factory=set[str])


class Setups:
    """The recipe in force and the one on its way."""

    def __init__(self, labels: tuple[str, ...], send: Send) -> None:
        self._send = send
        self.peers = {label: Peer(label) for label in labels}
        self.current: LoadedRecipe | None = None
        self._change: _Change | None = None

    @property
    def is_changing(self) -> bool:
        """A change of recipe is under way: no part may be triggered."""
        return self._change is not None

    @property
    def refusal(self) -> Refused | None:
        """Why a process does not take the recipe in force; None where all do."""
        return next((p.refusal for p in self.peers.values() if p.refusal is not None), None)

    @property
    def is_simulated(self) -> bool:
        """A process shows or judges what is not real, whatever `config.toml` lets expect."""
        return any(peer.is_simulated for peer in self.peers.values())

    def uses_current(self, label: str) -> bool:
        """This process works with the recipe in force."""
        current = self.current
        return current is not None and self.peers[label].setup_hash == current.setup_hash

    def begin(self, target: LoadedRecipe, asked_ns: int, done: Answer) -> None:
        """Change to `target`; `done` is called once, with DONE or why not. asked_ns: when it was
        ordered, before its files were read."""
        if self._change is not None:
            done(CommandError.BUSY, "another change of recipe is under way")
        elif self.current is not None and self.current.setup_hash == target.setup_hash:
            self.current = target
            done(CommandError.DONE, "")
        else:
            self._change = _Change(target, asked_ns, done)

    def confirm(self, now_ns: int) -> None:
        """Ask everyone for the recipe in force once more; not Ready until all have answered."""
        if self.current is not None and self._change is None:
            self._change = _Change(self.current, now_ns, lambda code, detail: None)

    def heard(self, health: Health, now_ns: int) -> bool:
        """A sign of life. True where the process is a new one since the last."""
        peer = self.peers.get(health.process)
        if peer is None:
            return False
        is_new = peer.start != health.start
        if is_new:
            peer.start, peer.asked_ns, peer.refusal = health.start, None, None
            if self._change is not None:
                self._change.asked.discard(peer.label)
                self._change.prepared.discard(peer.label)
        peer.seen_ns = now_ns
        peer.is_serving, peer.note = health.is_serving, health.note
        peer.setup_hash, peer.is_simulated = health.setup_hash, health.is_simulated
        peer.hang_limit_ns = int(health.gauges.get("hang_limit_ms", 0.0) * 1e6)
        if self.uses_current(peer.label):
            peer.refusal = None
        return is_new

    def prepared(self, message: Prepared) -> None:
        """A process is ready to swap."""
        change, current = self._change, self.current
        if change is not None and message.setup_hash == change.target.setup_hash:
            # What was not asked by this change answers an earlier one.
            change.prepared |= {message.process} & change.asked
            if change.prepared >= set(self.peers):
                self.current, self._change = change.target, None
                for label in self.peers:
                    self._send(label, Swap(setup_hash=change.target.setup_hash))
                change.done(CommandError.DONE, "")
        elif (
            current is not None
            and message.setup_hash == current.setup_hash
            and message.process in self.peers
        ):
            self._send(message.process, Swap(setup_hash=current.setup_hash))

    def refused(self, message: Refused) -> None:
        """A process cannot use what it was asked to prepare."""
        change, current = self._change, self.current
        if change is not None and message.setup_hash == change.target.setup_hash:
            if message.process not in change.asked:
                return  # the answer to an earlier change
            self._give_up(change, CommandError.REFUSED_ARTEFACT, message.why)
        elif (
            current is not None
            and message.setup_hash == current.setup_hash
            and message.process in self.peers
        ):
            self.peers[message.process].refusal = message

    def tick(self, now_ns: int, open_parts: int) -> None:
        """Move a change on; give the recipe in force to whoever lost it."""
        change, current = self._change, self.current
        if change is not None:
            if now_ns - change.begun_ns > GUARD_NS:
                silent = sorted(set(self.peers) - change.prepared)
                missing = "open parts" if open_parts else ", ".join(silent)
                sentence = f"no answer from {missing} in 60 s"
                if not open_parts and any(label.startswith(INFER) for label in silent):
                    sentence += _AT_WORK
                self._give_up(change, CommandError.TIMED_OUT, sentence)
            elif open_parts == 0:
                for label in set(self.peers) - change.asked:
                    if self._send(label, _prepare(change.target)):
                        change.asked.add(label)
            return
        if current is None:
            return
        for peer in self.peers.values():
            if peer.seen_ns is None or peer.setup_hash == current.setup_hash:
                continue
            if peer.asked_ns is None or now_ns - peer.asked_ns > _ASK_AGAIN_NS:
                if self._send(peer.label, _prepare(current)):
                    peer.asked_ns = now_ns

    def offline(self) -> OfflineReason:
        """Why the recipe keeps the box from being Ready; NONE where it does not."""
        if self._change is not None:
            return OfflineReason.RECIPE_CHANGING
        if self.current is None:
            return OfflineReason.NO_RECIPE
        refusal = self.refusal
        return refusal.offline if refusal else OfflineReason.NONE

    def _give_up(self, change: _Change, code: CommandError, detail: str) -> None:
        self._change = None
        if self.current is not None:
            for label in self.peers:
                self._send(label, Swap(setup_hash=self.current.setup_hash))
        change.done(code, detail)


def _prepare(target: LoadedRecipe) -> Prepare:
    return Prepare(recipe=target.name, setup_hash=target.setup_hash)
