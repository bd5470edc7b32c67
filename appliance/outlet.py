"""What leaves the camera: pixels once into the ring, and who is told.

`FrameReady` goes to infer and to decide; where infer's queue refuses it, decide hears
`NoFrame(queue_full)` instead. Where infer is on another box the pixels go behind its message, too;
the ring is for the recorder and the pages then. Frame ids are given here: they grow over
acquisitions and starts of the process, so that none means two pictures, and keep the device's own
distances: a frame that was lost or passed over leaves a gap.
"""

import zlib
from collections.abc import Callable
from typing import Any

import msgspec
import numpy.typing as npt

from appliance.codes import Reason
from appliance.config import Config
from appliance.config_camera import Camera
from appliance.errors import ConfigError, DeviceError
from appliance.frames import RingWriter, inline_pixels, inline_ref, slots_for
from appliance.messages import FrameReady, NoFrame, PixelRef, Prepared, Refused
from appliance.source import Frame
from appliance.wire import SETUP_ANSWER_MS, Wiring

_GRID_PX = 300_000
"""Pixels that a picture is known again by."""


class Outlet:
    """Ring and senders of one camera. `counters` and `gauges` go into its health."""

    def __init__(
        self, config: Config, camera: Camera, wiring: Wiring, clock: Callable[[], int]
    ) -> None:
        self._camera, self._clock = camera.name, clock
        self._delay_ns = int(camera.arrival_delay_ms * 1e6)
        self._rings = config.rings_dir
        self._slots = slots_for(config.deadline_ms, config.record.grace_ms, camera.rate_hz)
        self._ring: RingWriter | None = None
        self._frames = wiring.sender("frames", camera.name)
        self._was_heard = False
        self._seen = wiring.sender("seen")
        self._is_sent_along = wiring.leaves_box("frames", camera.name)
        self._is_ring_seen = not (self._is_sent_along and wiring.leaves_box("seen"))
        # The monotonic clock: a later start of this process begins beyond every earlier id.
        self._frame_id = clock()
        self._device_id: int | None = None
        self._is_shared = config.engine.workers > 1
        self._last_sum: int | None = None
        self.counters = {"frames_ok": 0, "queue_full": 0, "unseen": 0, "rings": 0}
        self.gauges = {"copy_ms": 0.0, "copy_max_ms": 0.0}

    @property
    def is_heard(self) -> bool:
        """infer has been there since this process started."""
        self._was_heard = self._was_heard or self._frames.is_heard
        return self._was_heard

    def begin(self, frame_bytes: int) -> None:
        """A new acquisition, of frames of this size: its first picture repeats nothing."""
        self._last_sum = None
        self.fit(frame_bytes)

    def fit(self, frame_bytes: int) -> None:
        """Make the slots large enough. A new ring is a new epoch; what lay in the old one is gone
        for whoever had not mapped it. Raises DeviceError where shared memory is full: that may end
        by itself, as soon as whoever still maps an older ring lets go of it."""
        if not self._is_ring_seen or (self._ring and self._ring.slot_bytes >= frame_bytes):
            return
        if self._ring:
            self._ring.close()
            self._ring = None
        name = f"frame-{self._camera}"
        try:
            self._ring = RingWriter(self._rings, name, self._slots, frame_bytes)
        except (ConfigError, OSError) as err:
            raise DeviceError(str(err)) from err
        self.counters["rings"] += 1
        self.gauges["ring_slots"] = float(self._slots)
        self.gauges["ring_mb"] = self._slots * self._ring.slot_bytes / 1e6

    def frame(
        self, frame: Frame, part_id: int, setup_hash: str, fired_ns: int | None, is_simulated: bool
    ) -> None:
        """Hand one picture over and let the device have its buffer back."""
        begun_ns = self._clock()
        pixels, payload = self._put(frame)
        is_repeat = self._is_shared and self._repeats(frame)
        frame.release()
        copied_ns = self._clock()
        # As far as the device counted on; where it counts anew or too little, by what was lost.
        step = 0 if self._device_id is None else frame.frame_id - self._device_id
        self._frame_id += max(step, 1 + frame.lost_before)
        self._device_id = frame.frame_id
        copy_ms = (copied_ns - begun_ns) / 1e6
        self.gauges["copy_ms"] = copy_ms
        self.gauges["copy_max_ms"] = max(copy_ms, self.gauges["copy_max_ms"])
        message = FrameReady(
            camera=self._camera,
            part_id=part_id,
            frame_id=self._frame_id,
            setup_hash=setup_hash,
            pixels=pixels,
            bits=frame.bits,
            age_ns=max(0, copied_ns - frame.arrived_ns) + self._delay_ns,
            trigger_to_frame_ns=0 if fired_ns is None else max(0, frame.arrived_ns - fired_ns),
            copy_ns=copied_ns - begun_ns,
            copied_at_ns=copied_ns,
            device_timestamp_ns=frame.device_timestamp_ns,
            source=frame.source,
            is_simulated=is_simulated,
            is_repeat=is_repeat,
            lost_before=frame.lost_before,
        )
        if self._is_sent(message, payload):
            self.counters["frames_ok"] += 1
            self.tell(message)
        else:
            self.counters["queue_full"] += 1
            detail = "infer takes no frame: its queue is full, or it is not there"
            self.none(part_id, Reason.QUEUE_FULL, detail, self._frame_id)

    def _is_sent(self, message: FrameReady, payload: npt.NDArray[Any] | None) -> bool:
        if payload is not None:
            behind = inline_ref(payload, message.frame_id)
            message = msgspec.structs.replace(message, pixels=behind)
        return self._frames.send(message, payload)

    def none(self, part_id: int, reason: Reason, detail: str, frame_id: int = 0) -> None:
        """No usable picture, and why."""
        self.tell(
            NoFrame(
                camera=self._camera,
                part_id=part_id,
                reason=reason,
                detail=detail,
                frame_id=frame_id,
            )
        )

    def tell(self, message: FrameReady | NoFrame | Prepared | Refused) -> None:
        """To decide; counted where it is not there."""
        is_about_setup = isinstance(message, Prepared | Refused)
        if not self._seen.send(message, wait_ms=SETUP_ANSWER_MS if is_about_setup else 0):
            self.counters["unseen"] += 1

    def close(self) -> None:
        """Orderly end: the ring is removed. After a loss it stays for those who still read."""
        if self._ring:
            self._ring.close()

    def _repeats(self, frame: Frame) -> bool:
        """Whether a grid of its pixels equals the last picture's. One infer process sees that by
        itself; of several none sees every frame."""
        rows, columns = frame.pixels.shape[:2]
        step = max(1, round((rows * columns / _GRID_PX) ** 0.5))
        found = zlib.crc32(frame.pixels[::step, ::step].tobytes())
        is_repeat, self._last_sum = found == self._last_sum, found
        return is_repeat

    def _put(self, frame: Frame) -> tuple[PixelRef, npt.NDArray[Any] | None]:
        """Where this box finds the pixels, and what travels to another one."""
        whole = inline_pixels(frame.pixels) if self._is_sent_along else None
        if whole is not None and not self._is_ring_seen:
            return inline_ref(whole, self._frame_id), whole
        self.fit(frame.pixels.nbytes)
        if self._ring is None:
            raise RuntimeError("a frame before its ring")
        return self._ring.put(frame.pixels), whole
