"""The engine without a network: the shipped stand-in for tests, rehearsal and measurements.

It reads every pixel, fills its 64 x 64 map with the frame's mean grey value (0 to 255) and returns
the same number as classification, so a number coded into a picture comes back as the part's
margin. Whatever passes through it is marked as simulated.
"""

import shutil
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal, NoReturn

import cv2
import numpy as np
import numpy.typing as npt

from appliance.bundle import Bundle, GateLimits, InputContract, Manifest, finish_bundle
from appliance.codes import Reason
from appliance.config import EngineFaults
from appliance.engine import Engine, Frame, Map, Spec
from appliance.errors import PartError
from appliance.segments import column_names

_SIDE_PX = 64
_SEGMENTS = ("all",)
_DETECTORS = ("null",)
_NO_FAULTS = EngineFaults()


_HOARD_BYTES = 1 << 30


class NullEngine(Engine):
    """delay_ms: pretends to work for so long, as a GPU would: for one frame or several of a call.

    faults: plays these, once it is warm.
    """

    kind = "null"
    runtime = "null 1"
    precisions = ("fp32", "bf16", "fp16", "int8")  # it computes in none
    is_simulated = True

    def __init__(
        self, spec: Spec, delay_ms: float = 0.0, faults: EngineFaults = _NO_FAULTS
    ) -> None:
        super().__init__(spec, b"", "fp32", 1)
        self._delay_s = delay_ms / 1000
        self._faults = faults
        self._warm_calls: int | None = None

    def warm_up(self, together: int = 1) -> int:
        """As every engine; faults come afterwards."""
        p99_ns = super().warm_up(together)
        self._warm_calls = self.calls
        return p99_ns

    def _load(self, model: bytes) -> None:
        pass

    def _make_room(self, count: int) -> bool:
        del count
        return bool(self._delay_s)  # without it, several take as long as one after another

    def _run(self, frames: Sequence[Frame], outs: Sequence[Map]) -> Sequence[float]:
        if self._delay_s:
            time.sleep(self._delay_s)
        scores: list[float] = []
        for call, (frame, out) in enumerate(
            zip(frames, outs, strict=True), self.calls - len(frames) + 1
        ):
            mean = cv2.mean(frame)[: frame.shape[2]]
            scores.append(float(np.float32(sum(mean) / len(mean))))
            out.fill(scores[-1])
            self._play(call, out)
        return scores

    def _play(self, call: int, out: Map) -> None:
        """The faults that strike this frame, the so-and-so-manieth one."""
        faults = self._faults
        if self._strikes(call, faults.nan_every):
            out[..., 0, 0] = np.nan
        if self._strikes(call, faults.slow_every):
            time.sleep(faults.slow_ms / 1000)
        if self._strikes(call, faults.fail_every):
            raise PartError(Reason.INFERENCE_ERROR, "the runtime fails, as the faults ask for")
        if self._strikes(call, faults.hang_every):
            _hang()
        if self._strikes(call, faults.hoard_every):
            hoard: list[bytes] = []
            while len(hoard) << 20 < _HOARD_BYTES:
                hoard.append(b"x" * (1 << 20))
            raise MemoryError(f"{len(hoard)} MB, as the faults ask for")

    def _strikes(self, call: int, every: int) -> bool:
        if not every or self._warm_calls is None:
            return False
        return (call - self._warm_calls) % every == 0

    def _release(self) -> None:
        if self._faults.is_stuck_at_end:
            _hang()


def _hang() -> NoReturn:
    while True:
        time.sleep(60)


def write_null_bundle(
    folder: Path,
    product: str = "null",
    height_px: int = 480,
    width_px: int = 640,
    channels: Literal[1, 3] = 1,
    gates: GateLimits | None = None,
    mean_image: npt.NDArray[np.uint8] | None = None,
) -> Bundle:
    """A bundle for the null engine at `folder`: one segment "all", no forest, no golden frame.

    height_px, width_px: of the frames. mean_image: of `gates`, where they look at the place.
    Raises ArtefactError where `folder` exists.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    draft.chmod(0o755)
    try:
        labels = np.zeros((_SIDE_PX, _SIDE_PX), np.uint8)
        cv2.imwrite(str(draft / "segments.png"), labels)
        if gates is not None:
            cv2.imwrite(str(draft / gates.mean_image), labels if mean_image is None else mean_image)
        manifest = Manifest(
            kind="null",
            product=product,
            created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            files={},
            input=InputContract(
                height_px=_SIDE_PX,
                width_px=_SIDE_PX,
                source_height_px=height_px,
                source_width_px=width_px,
                channels=channels,
                smallest_defect_px=1.0,
            ),
            detectors=_DETECTORS,
            segments=_SEGMENTS,
            columns=column_names(_SEGMENTS, _DETECTORS),
            gates=gates,
        )
        return finish_bundle(draft, folder, manifest)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
