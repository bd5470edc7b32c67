"""The golden frames of a bundle: does the engine still answer as the model did that was validated?

At a start and after a change of recipe they are part of what makes a set-up ready; DailyProof asks
again while the line is quiet. Whatever answers otherwise is an ArtefactError.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import cv2
import numpy as np

from appliance.bundle import Bundle, Golden, golden_outputs
from appliance.codes import OfflineReason
from appliance.engine import Engine
from appliance.errors import ArtefactError, PartError
from appliance.passport import DAY_NS

Guard = AbstractContextManager[object]


class GoldenFrames:
    """The frames of a bundle with their stored answers, and the engine that must give them.

    Raises ArtefactError, OfflineReason PASSPORT, where there are none or no tolerance is stated.
    """

    def __init__(self, engine: Engine, bundle: Bundle, precision: str) -> None:
        self.engine, self._bundle, self._precision = engine, bundle, precision
        manifest = bundle.path("manifest.json")
        self.frames = bundle.manifest.golden
        if not self.frames:
            raise ArtefactError(
                f"{manifest}: golden", "at least one golden frame", "none", OfflineReason.PASSPORT
            )
        if precision not in bundle.manifest.tolerances:
            raise ArtefactError(
                f"{manifest}: tolerances",
                f"a tolerance for {precision}",
                f"{sorted(bundle.manifest.tolerances)}",
                OfflineReason.PASSPORT,
            )
        self.tolerance = bundle.manifest.tolerances[precision]

    def check(self, how_many: Literal["all", "two"], beat: Callable[[], None]) -> float:
        """Largest difference to the stored answers, in logits. Raises ArtefactError beyond it.

        "two": the first, a good one, and the last, a bad one where there are any.
        """
        chosen = self.frames
        if how_many == "two" and len(chosen) > 2:
            chosen = (chosen[0], chosen[-1])
        largest = 0.0
        for golden in chosen:
            largest = max(largest, self.prove(golden))
            beat()
        return largest

    def prove(self, golden: Golden, guard: Guard | None = None) -> float:
        """Difference of one frame's answer, in logits. Raises ArtefactError beyond tolerance.

        guard: around the call into the engine alone: a large PNG takes longer than a fast engine.
        """
        deviation = self._deviation(golden, guard or nullcontext())
        if not deviation <= self.tolerance:
            raise ArtefactError(
                self._bundle.path(golden.image),
                f"the stored map and score within {self.tolerance:g} logits ({self._precision})",
                f"a difference of {deviation:.3g}",
                OfflineReason.PASSPORT,
            )
        return deviation

    def _deviation(self, golden: Golden, guard: Guard) -> float:
        path = self._bundle.path(golden.image)
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise ArtefactError(path, "a PNG image", "something else", OfflineReason.PASSPORT)
        if image.ndim == 3:
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        stored = golden_outputs(self._bundle.path(golden.outputs))
        out = np.empty(self.engine.spec.map_shape, np.float32)
        if stored["map"].shape != out.shape:
            raise ArtefactError(
                self._bundle.path(golden.outputs),
                f"a map {out.shape}",
                f"{stored['map'].shape}",
                OfflineReason.PASSPORT,
            )
        try:
            with guard:
                score = self.engine.infer(np.asarray(image, np.uint8), out)
        except PartError as err:
            raise ArtefactError(
                path, "a map and a score", err.detail, OfflineReason.PASSPORT
            ) from err
        # By NumPy, whose maximum of a number and NaN is NaN, in whatever order.
        moved = np.abs(out - stored["map"]).max(), np.abs(score - stored["score"]).max()
        return float(np.max(moved))


class DailyProof:
    """All golden frames once a day, one at a time while no frame waits.

    A frame that comes meanwhile waits for one inference at most, so that this runs whenever the
    line is quiet and Ready need not fall for it. On a line that is never quiet it does not run;
    there every start, and every change of recipe, is the proof.
    """

    def __init__(self, golden: GoldenFrames, now_ns: int) -> None:
        self._golden = golden
        self._proved_ns = now_ns
        self._left: list[Golden] = []

    def is_due(self, now_ns: int) -> bool:
        """A frame is to be proved now, or as soon as the line is quiet."""
        return bool(self._left) or now_ns - self._proved_ns >= DAY_NS

    def step(self, now_ns: int, guard: Guard) -> None:
        """Prove one frame, the engine guarded. Raises ArtefactError where it no longer answers as
        stored."""
        if not self._left:
            self._left = list(self._golden.frames)
        self._golden.prove(self._left.pop(), guard)
        if not self._left:
            self._proved_ns = now_ns
