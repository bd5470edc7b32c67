"""Maps of another box, brought into a ring of this one, where decide, record and hmi look for them.

Enters: `Scored` whose map came behind the message. Leaves: the same with its map in the ring, or
`InferFailed` where the map did not come whole. Runs in decide's scoring thread, never on its loop.
"""

import msgspec

from appliance.codes import Reason
from appliance.config import Config
from appliance.errors import ConfigError, PartError
from appliance.frames import RingWriter, inline_view, slots_for
from appliance.messages import InferFailed, Scored


class Landing:
    """The ring of maps that came from elsewhere; made with the first one."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._ring: RingWriter | None = None

    def take(self, scored: Scored, payload: bytes | None) -> Scored | InferFailed:
        """payload: what came behind the message."""
        try:
            amap = inline_view(scored.map, payload)
            ref = self._room(amap.nbytes).put(amap)
        except (PartError, ConfigError, OSError) as err:
            return InferFailed(
                camera=scored.camera,
                part_id=scored.part_id,
                frame_id=scored.frame_id,
                setup_hash=scored.setup_hash,
                reason=Reason.INFERENCE_ERROR,
                detail=f"the map of infer {scored.worker}: {err}",
                gates=scored.gates,
                stages_ns=scored.stages_ns,
                worker=scored.worker,
            )
        return msgspec.structs.replace(scored, map=ref)

    def close(self) -> None:
        """Remove the ring."""
        if self._ring is not None:
            self._ring.close()

    def _room(self, map_bytes: int) -> RingWriter:
        if self._ring is None or self._ring.slot_bytes < map_bytes:
            config = self._config
            rate_hz = sum(camera.rate_hz for camera in config.camera)
            slots = slots_for(config.deadline_ms, config.record.grace_ms, rate_hz)
            larger = RingWriter(config.rings_dir, "map-elsewhere", slots, map_bytes)
            self.close()
            self._ring = larger
        return self._ring
