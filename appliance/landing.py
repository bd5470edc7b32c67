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
    """A ring of maps that came from elsewhere for each camera; made with its first one."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._rings: dict[str, RingWriter] = {}

    def take(
        self, scored: Scored, payload: bytes | None, shape: tuple[int, ...] | None
    ) -> Scored | InferFailed:
        """payload: what came behind the message. shape: of this camera's maps, (K, H, W), by the
        recipe in force; None where it judges no such camera."""
        try:
            if scored.map.shape != shape:
                dimensions = len(scored.map.shape)
                got = scored.map.shape if dimensions <= 3 else f"{dimensions} dimensions"
                raise PartError(Reason.INFERENCE_ERROR, f"expected {shape or 'none'}, got {got}")
            amap = inline_view(scored.map, payload)
            ref = self._room(scored.camera, amap.nbytes).put(amap)
        except (PartError, ConfigError, OSError) as err:
            return failed(scored, err)
        return msgspec.structs.replace(scored, map=ref)

    def close(self) -> None:
        """Remove the rings."""
        while self._rings:
            self._rings.popitem()[1].close()

    def _room(self, camera: str, map_bytes: int) -> RingWriter:
        """A larger ring replaces a smaller one when a recipe changes: no part is open then, and a
        reader that has the old ring keeps it."""
        ring = self._rings.get(camera)
        if ring is None or ring.slot_bytes < map_bytes:
            config = self._config
            rate_hz = next(each.rate_hz for each in config.camera if each.name == camera)
            slots = slots_for(config.deadline_ms, config.record.grace_ms, rate_hz)
            name = f"map-elsewhere-{camera}"
            ring = RingWriter(config.rings_dir, name, slots, map_bytes, ring)
            self._rings[camera] = ring
        return ring


def failed(scored: Scored, error: BaseException) -> InferFailed:
    """What comes of a score whose map did not land."""
    return InferFailed(
        camera=scored.camera,
        part_id=scored.part_id,
        frame_id=scored.frame_id,
        setup_hash=scored.setup_hash,
        reason=Reason.INFERENCE_ERROR,
        detail=f"the map of infer {scored.worker}: {error}",
        gates=scored.gates,
        stages_ns=scored.stages_ns,
        worker=scored.worker,
    )
