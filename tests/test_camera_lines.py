"""Blocks of lines become frames: in their order, whole, and a lost line is never passed over."""

from collections import deque
from pathlib import Path

import cv2
import numpy as np
import pytest

from appliance.camera_files import FolderSource
from appliance.camera_lines import LineSource
from appliance.config import load_config
from appliance.config_camera import Camera, Faults
from appliance.errors import ConfigError
from appliance.recipe import View
from appliance.source import Frame, Incomplete

BLOCKS, LINES, WIDTH = 4, 3, 8


def source(folder: Path, faults: Faults | None = None) -> LineSource:
    """Blocks that say their number, on a clock of their own: slower than they come."""
    for number in range(200):
        cv2.imwrite(str(folder / f"{number:03d}.png"), np.full((LINES, WIDTH), number, np.uint8))
    camera = Camera(
        name="web", kind="files", folder=str(folder), rate_hz=100.0, faults=faults or Faults(),
        blocks=BLOCKS,
    )  # fmt: skip
    ticks = iter(range(0, 10**15, 2_000_000))
    lines = LineSource(FolderSource(camera, "free", lambda: next(ticks)), BLOCKS)
    lines.open()
    assert lines.configure(View()) == BLOCKS * LINES * WIDTH
    lines.start()
    return lines


def shots(lines: LineSource, count: int) -> list[Frame | Incomplete]:
    found: list[Frame | Incomplete] = []
    for _ in range(1000 * count):
        if len(found) == count:
            return found
        if (shot := lines.fetch(0)) is not None:
            found.append(shot)
    raise AssertionError(f"{len(found)} of {count}")


def numbers(frame: Frame) -> list[int]:
    assert frame.pixels.shape == (BLOCKS * LINES, WIDTH)
    blocks = frame.pixels.reshape(BLOCKS, LINES * WIDTH)
    assert (blocks == blocks[:, :1]).all()
    return blocks[:, 0].tolist()


def test_successive_blocks_are_one_frame_first_on_top(tmp_path: Path) -> None:
    lines = source(tmp_path)
    frames = [shot for shot in shots(lines, 10) if isinstance(shot, Frame)]
    assert [numbers(frame) for frame in frames] == [
        list(range(first, first + BLOCKS)) for first in range(0, 10 * BLOCKS, BLOCKS)
    ]
    assert [frame.frame_id for frame in frames] == list(range(1, 11))
    lines.close()


@pytest.mark.parametrize("fault", ["drop_every", "incomplete_every"])
@pytest.mark.parametrize("every", [3, 5, 8])
def test_every_lost_block_costs_a_frame_that_is_told(
    tmp_path: Path, fault: str, every: int
) -> None:
    lines = source(tmp_path, Faults(**{fault: every}))
    seen = shots(lines, 30)
    last = -1
    for shot in seen:
        if isinstance(shot, Incomplete):
            last = -1
            continue
        found = numbers(shot)
        # No block of a frame is missing, and none between two frames without a word.
        assert found == list(range(found[0], found[0] + BLOCKS))
        assert last in (-1, found[0] - 1)
        last = found[-1]
    assert any(isinstance(shot, Incomplete) for shot in seen)
    if every > BLOCKS:
        assert any(isinstance(shot, Frame) for shot in seen)


class Gaps:
    """A device of which the test says which ids come."""

    def __init__(self, ids: list[int]) -> None:
        self._ids, self._last = deque(ids), None

    def start(self) -> None:
        pass

    def fetch(self, timeout_ms: int) -> Frame | None:
        if not self._ids:
            return None
        number = self._ids.popleft()
        lost = 0 if self._last is None else number - self._last - 1
        self._last = number
        pixels = np.full((LINES, WIDTH), number, np.uint8)
        return Frame(pixels=pixels, bits=8, frame_id=number, arrived_ns=0, lost_before=lost)


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        ([0, 1, 2, 3, 5, 6, 7, 8], "F.F"),  # one lost between two frames
        ([0, 1, 3, 4, 5, 6], ".F"),  # one lost within a frame
        ([0, 1, 11, 12, 13, 14], "...F"),  # two held and nine lost were three frames
        ([0, 1, 2, 3, 4, 5], "F"),
    ],
)
def test_as_many_frames_are_told_as_were_lost(ids: list[int], told: str) -> None:
    lines = LineSource(Gaps(ids), BLOCKS)  # pyright: ignore[reportArgumentType]
    lines.start()
    said = ""
    while (shot := lines.fetch(0)) is not None:
        said += "F" if isinstance(shot, Frame) else "."
    assert said == told


@pytest.mark.parametrize(("trigger", "blocks"), [("plc", 2), ("free", 0)])
def test_blocks_need_a_stream(tmp_path: Path, trigger: str, blocks: int) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        f'root = "."\ndeadline_ms = 100\ntrigger = "{trigger}"\n'
        f'[[camera]]\nname = "web"\nkind = "files"\nfolder = "x"\nblocks = {blocks}\n'
    )
    with pytest.raises(ConfigError, match=r"camera\.web\.blocks: expected 1, or more with"):
        load_config(path)
