"""Which of the frames that wait come first, and which go through the network together. Pure.

Nothing is ever waited for: what is put together has come already. The oldest deadline comes first,
and no call takes so many that it would be missed, or that of a frame which waits for the next call.
"""

from collections.abc import Callable, Collection, Iterable

import msgspec

from appliance.engine import Engine
from appliance.messages import FrameReady

BESIDE_NS = 10_000_000
"""What a frame needs besides the network, here and in decide: the budget of all of it."""


class Waiting(msgspec.Struct):
    """One frame on its way to its answer."""

    frame: FrameReady
    inline: bytes | None
    """Its pixels, where they came behind the message."""
    due_ns: int
    """The end of its part, as `due_ns` knows it."""
    gates: dict[str, float] = {}
    stages_ns: dict[str, int] = {}


def due_ns(frame: FrameReady, now_ns: int, deadline_ns: int, delay_ns: int = 0) -> int:
    """When decide closes the part of a frame that has just come, by the deadline of the config.

    delay_ns: its camera's `arrival_delay_ms`, which is in its age and in the time since its
    trigger, too.

    A PLC may have asked for less, and a frame from another box was longer on its way: decide alone
    knows, and judges. This orders frames and keeps calls short.
    """
    sent_ns = frame.copied_here_ns or now_ns
    triggered_ns = frame.trigger_to_frame_ns
    since_arrival_ns = frame.age_ns - (delay_ns if triggered_ns else 0)
    return sent_ns - since_arrival_ns - triggered_ns + deadline_ns


def in_order(waiting: Iterable[Waiting]) -> list[Waiting]:
    """Oldest deadline first; what is due at the same time, as it came."""
    return sorted(waiting, key=lambda one: one.due_ns)


def next_batch(
    waiting: list[Waiting], engine_of: Callable[[str], Engine | None], now_ns: int
) -> tuple[list[Waiting], list[Waiting]]:
    """The first frame with as many as its engine shall answer in the same call, and the rest.

    waiting: in order, at least one. engine_of: by camera. At most one frame of each camera: a
    camera's frames are looked at one after another.
    """
    first = waiting[0]
    engine = engine_of(first.frame.camera)
    alike = {first.frame.camera: first}
    for other in waiting[1:]:
        if engine_of(other.frame.camera) is engine:
            alike.setdefault(other.frame.camera, other)
    sizes = {1: 0} if engine is None else engine.batch_ns
    others = _without(waiting, alike.values())
    begins_ns = [one.due_ns - _network_ns(engine_of(one.frame.camera)) for one in others]
    # One that is lost even where the first goes alone keeps nobody from going along.
    soonest_ns = now_ns + _network_ns(engine)
    ends_ns = [begin - BESIDE_NS for begin in begins_ns if begin >= soonest_ns]
    left_ns = min([first.due_ns, *ends_ns]) - now_ns
    count = max(
        size
        for size, ns in sizes.items()
        if size == 1 or (size <= len(alike) and ns + size * BESIDE_NS <= left_ns)
    )
    batch = list(alike.values())[:count]
    return batch, _without(waiting, batch)


def _without(waiting: list[Waiting], taken: Collection[Waiting]) -> list[Waiting]:
    """By identity: two frames may be equal."""
    return [one for one in waiting if not any(one is other for other in taken)]


def _network_ns(engine: Engine | None) -> int:
    """Of a frame that is answered by itself."""
    return 0 if engine is None else engine.batch_ns[1]
