"""Which frames come first, and which go through the network together, on times that are told."""

from typing import Any

import msgspec
import pytest

from appliance.batches import BESIDE_NS, Waiting, due_ns, in_order, next_batch
from appliance.engine import Spec
from appliance.engine_null import NullEngine
from appliance.frames import INLINE
from appliance.messages import FrameReady, PixelRef

MS = 1_000_000
SPEC = Spec(height_px=4, width_px=4, channels=1, map_shape=(1, 64, 64))


def ready(camera: str = "a", ring: str = "frame-a.1.ring", **more: Any) -> FrameReady:
    pixels = PixelRef(ring=ring, epoch=1, slot=0, sequence=1, dtype="uint8", shape=(4, 4))
    told = {"part_id": 0, "frame_id": 0, "age_ns": 0, **more}
    return FrameReady(camera=camera, setup_hash="s", pixels=pixels, **told)


def waiting(camera: str, due_ms: int, frame_id: int = 0) -> Waiting:
    return Waiting(ready(camera, frame_id=frame_id), None, due_ms * MS)


def engine(**batch_ms: int) -> NullEngine:
    """Times by "n" and how many frames."""
    made = NullEngine(SPEC)
    made.batch_ns = {int(name[1:]): ms * MS for name, ms in batch_ms.items()}
    return made


def shown(frames: list[Waiting]) -> list[str]:
    return [one.frame.camera for one in frames]


def test_a_part_ends_its_deadline_after_the_trigger_or_the_exposure() -> None:
    frame = ready(copied_at_ns=900, age_ns=100, trigger_to_frame_ns=50)
    assert due_ns(frame, 1000, 10_000) == 900 - 100 - 50 + 10_000


@pytest.mark.parametrize(("trigger_to_frame_ns", "since_ns"), [(0, 100 + 30), (50, 100 + 50)])
def test_the_way_from_exposure_to_arrival_counts_once(
    trigger_to_frame_ns: int, since_ns: int
) -> None:
    """Without a trigger the part begins with the exposure, with one at the trigger."""
    delay_ns = 30
    frame = ready(copied_at_ns=900, age_ns=100 + delay_ns, trigger_to_frame_ns=trigger_to_frame_ns)
    assert due_ns(frame, 1000, 10_000, delay_ns) == 900 - since_ns + 10_000


@pytest.mark.parametrize("ring", [INLINE, "frame-a.1.ring"])
def test_where_no_time_of_this_clock_is_told_it_counts_from_now(ring: str) -> None:
    frame = ready(ring=ring, age_ns=100, copied_at_ns=77 if ring == INLINE else 0)
    assert due_ns(frame, 1000, 10_000) == 1000 - 100 + 10_000


def test_the_oldest_deadline_comes_first_and_equal_ones_as_they_came() -> None:
    frames = [waiting("a", 30), waiting("b", 10), waiting("c", 30), waiting("d", 20)]
    assert shown(in_order(frames)) == ["b", "d", "a", "c"]


def test_a_frame_alone_goes_alone() -> None:
    batch, rest = next_batch([waiting("a", 100)], lambda _: engine(n1=5, n4=6), 0)
    assert shown(batch) == ["a"] and rest == []


def test_as_many_as_a_call_takes_go_together_in_order() -> None:
    one = engine(n1=5, n2=6, n4=8)
    frames = [waiting(name, 1000) for name in "abcdefg"]
    batch, rest = next_batch(frames, lambda _: one, 0)
    assert (shown(batch), shown(rest)) == (list("abcd"), list("efg"))
    batch, rest = next_batch(rest, lambda _: one, 0)
    assert (shown(batch), shown(rest)) == (list("ef"), list("g"))


def test_an_engine_without_batches_takes_the_most_urgent_frame() -> None:
    one = engine(n1=5)
    batch, rest = next_batch([waiting("a", 10), waiting("b", 20)], lambda _: one, 0)
    assert (shown(batch), shown(rest)) == (["a"], ["b"])


def test_frames_of_another_engine_wait_where_they_are() -> None:
    engines = {"a": engine(n1=5, n2=6), "b": engine(n1=5, n2=6)}
    engines["c"] = engines["a"]
    frames = [waiting("a", 10_000), waiting("b", 10_000), waiting("c", 10_000)]
    batch, rest = next_batch(frames, engines.get, 0)
    assert (shown(batch), shown(rest)) == (["a", "c"], ["b"])


def test_a_camera_that_nobody_knows_goes_alone() -> None:
    frames = [waiting("a", 10_000), waiting("b", 10_000)]
    batch, rest = next_batch(frames, lambda _: None, 0)
    assert (shown(batch), shown(rest)) == (["a"], ["b"])


def test_of_one_camera_one_frame_at_a_time_the_first_that_came() -> None:
    one = engine(n1=5, n2=6, n4=7)
    frames = [waiting("a", 9000, 1), waiting("a", 9000, 2), waiting("b", 9000, 3)]
    batch, rest = next_batch(frames, lambda _: one, 0)
    assert [w.frame.frame_id for w in batch] == [1, 3]
    assert [w.frame.frame_id for w in rest] == [2]


@pytest.mark.parametrize(
    ("left_ms", "count"),
    # 60 for two in one call, each 10 besides, and then 30 + 10 for the other engine's; after a
    # call for one, 40, it has still 30 or is lost
    [(60 + 20 + 40, 2), (60 + 20 + 39, 1), (40 + 30, 1), (40 + 29, 2)],
)
def test_no_call_takes_so_many_that_one_of_another_engine_is_late(left_ms: int, count: int) -> None:
    engines = {"a": engine(n1=40, n2=60), "b": engine(n1=30)}
    engines["c"] = engines["a"]
    frames = [waiting("a", 1000), waiting("c", 5000), waiting("b", left_ms)]
    batch, rest = next_batch(frames, engines.get, 0)
    assert shown(batch) == ["a", "c"][:count]
    assert len(batch) + len(rest) == 3


def test_equal_frames_are_two_and_none_is_lost() -> None:
    frames = [waiting("a", 100), waiting("a", 100)]
    batch, rest = next_batch(frames, lambda _: engine(n1=5, n2=6), 0)
    assert batch[0] is frames[0] and rest[0] is frames[1]
    assert msgspec.structs.astuple(batch[0]) == msgspec.structs.astuple(rest[0])


@pytest.mark.parametrize(
    ("left_ms", "count"),
    [(200, 4), (80 + 40, 4), (80 + 39, 2), (60 + 20, 2), (60 + 19, 1), (10, 1), (-50, 1)],
)
def test_no_call_takes_so_many_that_the_most_urgent_one_is_late(left_ms: int, count: int) -> None:
    """Each frame needs its share besides the network; where it is late anyhow it goes alone."""
    assert BESIDE_NS == 10 * MS
    one = engine(n1=50, n2=60, n4=80)
    now_ns = 7 * MS
    frames = [waiting("a", 7 + left_ms), *(waiting(name, 5000) for name in "bcd")]
    batch, rest = next_batch(frames, lambda _: one, now_ns)
    assert len(batch) == count
    assert shown(batch + rest) == list("abcd")
