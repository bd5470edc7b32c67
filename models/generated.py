"""Generated defects for the one-class protocol of SegAD: good images made bad in one place.

The paper describes them in a sentence (section 4.1: a blurred part of a segment, thin and small
rectangles of random grey, on random segments) and its code does not hold them, so sizes and numbers
here are ours. They are crude on purpose: the forest shall learn which statistics of which region
move when something local is wrong, not what a defect looks like.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from appliance.segments import IGNORED

Frame = npt.NDArray[np.uint8]

_BLUR_SHARE = (0.1, 0.3)
"""Side of a blurred patch, as a share of the shorter side."""
_THIN_LENGTH, _THIN_WIDTH = (0.08, 0.4), (0.004, 0.02)
_SMALL_SIDE = (0.01, 0.06)


class Damage:
    """Makes good frames bad, each call elsewhere; the seed names the whole series.

    labels: the segment map (h, w); frames may be of another size.
    """

    def __init__(self, labels: npt.NDArray[np.uint8], seed: int) -> None:
        self._labels, self._rng = labels, np.random.default_rng(seed)
        self._present = [int(label) for label in np.unique(labels) if label != IGNORED]

    def __call__(self, frame: Frame) -> Frame:
        """(H, W, C) uint8 → a copy with one defect, or two, inside one segment each."""
        damaged = frame.copy()
        if not self._present:
            return damaged
        height, width = frame.shape[:2]
        sized = cv2.resize(self._labels, (width, height), interpolation=cv2.INTER_NEAREST)
        for _ in range(int(self._rng.integers(1, 3))):
            inside = np.asarray(sized == self._rng.choice(self._present))
            rows, columns = np.nonzero(inside)
            if not len(rows):
                continue
            place = int(self._rng.integers(len(rows)))
            centre = (int(columns[place]), int(rows[place]))
            kind = self._rng.integers(3)
            if kind == 0:
                self._blur(damaged, inside, centre)
            else:
                self._rectangle(damaged, inside, centre, is_thin=kind == 1)
        return damaged

    def _blur(self, frame: Frame, inside: npt.NDArray[np.bool_], centre: tuple[int, int]) -> None:
        side = min(frame.shape[:2])
        radius = max(2, int(side * self._rng.uniform(*_BLUR_SHARE) / 2))
        x, y = max(0, centre[0] - radius), max(0, centre[1] - radius)
        window = np.s_[y : centre[1] + radius, x : centre[0] + radius]
        sigma = max(1.0, radius * self._rng.uniform(0.2, 0.5))
        blurred = cv2.GaussianBlur(frame[window], (0, 0), sigma).reshape(frame[window].shape)
        frame[window] = np.where(inside[window][..., None], blurred, frame[window])

    def _rectangle(
        self,
        frame: Frame,
        inside: npt.NDArray[np.bool_],
        centre: tuple[int, int],
        *,
        is_thin: bool,
    ) -> None:
        side = min(frame.shape[:2])
        ranges = (_THIN_LENGTH, _THIN_WIDTH) if is_thin else (_SMALL_SIDE, _SMALL_SIDE)
        length, breadth = (max(2.0, side * self._rng.uniform(*r)) for r in ranges)
        box = cv2.boxPoints((centre, (length, breadth), float(self._rng.uniform(0, 180))))
        mask = np.zeros(frame.shape[:2], np.uint8)
        cv2.fillPoly(mask, [box.round().astype(np.int32)], 1)
        frame[(mask > 0) & inside] = self._rng.integers(0, 256)
