"""A line-scan camera whose blocks of lines are put together to frames of a greater height.

Enters: a source that delivers blocks by itself. Leaves: every so many successive blocks as one
frame, first block on top. A block that was lost or came incomplete costs the frame that it belongs
to, told as incomplete, and the next frame begins with the next whole block. Only where no trigger
says where a part begins: with one, the device's own `Height` is the frame.
"""

from typing import Any

import numpy as np

from appliance.camera_settings import Feature, Settings
from appliance.recipe import View
from appliance.source import Counts, Frame, Incomplete, Source


class LineSource:
    """See `source.Source`. blocks: of one frame, at least 2."""

    def __init__(self, inner: Source, blocks: int) -> None:
        self._inner, self._blocks = inner, blocks
        self._whole: Any = None
        self._first: Frame | None = None
        self._held = 0
        self._made = 0
        self._broken = 0
        """Frames that were lost, in whole or in part, and are yet to be told."""
        self._waiting: Frame | None = None

    @property
    def is_simulated(self) -> bool:
        """As the device."""
        return self._inner.is_simulated

    @property
    def is_streaming(self) -> bool:
        """As the device."""
        return self._inner.is_streaming

    @property
    def counts(self) -> Counts:
        """Of blocks."""
        return self._inner.counts

    @property
    def settings(self) -> Settings:
        """As the device."""
        return self._inner.settings

    @property
    def remark(self) -> str:
        """As the device."""
        return self._inner.remark

    def features(self) -> list[Feature]:
        """As the device."""
        return self._inner.features()

    def open(self) -> None:
        """As the device."""
        self._inner.open()

    def configure(self, view: View) -> int:
        """The bytes of a whole frame."""
        return self._inner.configure(view) * self._blocks

    def start(self) -> None:
        """With the next block a frame begins."""
        self._drop()
        self._made = self._broken = 0
        self._waiting = None
        self._inner.start()

    def trigger(self, part_tag: int) -> None:
        """As the device."""
        self._inner.trigger(part_tag)

    def fetch(self, timeout_ms: int) -> Frame | Incomplete | None:
        """The next whole frame, or one that blocks are missing of."""
        while True:
            if self._broken:
                self._broken -= 1
                return Incomplete("blocks of lines were lost")
            block, self._waiting = self._waiting, None
            shot = block or self._inner.fetch(timeout_ms)
            if shot is None:
                return None
            if isinstance(shot, Incomplete):
                self._drop()
                return shot
            if shot.lost_before:
                # What they belonged to is broken; this block begins the next frame.
                self._broken = -(-(self._held + shot.lost_before) // self._blocks)
                shot.lost_before = 0
                self._drop()
                self._waiting = shot
            elif (frame := self._add(shot)) is not None:
                return frame
            timeout_ms = 0

    def close(self) -> None:
        """As the device."""
        self._drop()
        self._inner.close()

    def _add(self, block: Frame) -> Frame | None:
        """Copy a block below the others; the frame where it was the last one."""
        lines = block.pixels.shape[0]
        if self._whole is None or self._first is None:
            shape = (lines * self._blocks, *block.pixels.shape[1:])
            self._whole, self._first = np.empty(shape, block.pixels.dtype), block
        self._whole[self._held * lines : (self._held + 1) * lines] = block.pixels
        block.release()
        self._held += 1
        if self._held < self._blocks:
            return None
        whole, first = self._whole, self._first
        self._drop()
        self._made += 1
        return Frame(
            pixels=whole,
            bits=block.bits,
            frame_id=self._made,
            arrived_ns=block.arrived_ns,
            device_timestamp_ns=first.device_timestamp_ns,
            source=first.source,
        )

    def _drop(self) -> None:
        self._whole, self._first, self._held = None, None, 0
