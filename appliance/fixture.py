"""Where a part lies: its fixture found in a frame, and the frame moved so that it lies in place.

In: a frame (uint8) and a recipe's `Fixture`. Out: the picture that training would have seen, or
PartError "fixture not found": a part that lies outside the limits is never scored, because a static
segment map would lay its regions over the wrong places; nor is one that the frame cuts off.

The region of the reference is searched in a reduced window first, in every pose that the limits
allow, then at full resolution around the best place. Poses are searched one step beyond the limits,
so that a part that lies just outside is seen to lie there and not taken for one at the edge.
"""

import itertools
import math
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from appliance.bundle import Bundle
from appliance.codes import OfflineReason, Reason
from appliance.errors import ArtefactError, PartError
from appliance.recipe import Fixture

Image = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.float64]
"""2x3: pixels of the training images → pixels of the frame."""
Roi = tuple[int, int, int, int]

MOST_POSES = 400
"""Turned and scaled templates; each costs a search."""

_LEAST_PX = 16
_SEARCHED_PX = 64
"""Longer side of the reduced template; twice as large costs sixteen times as much."""
_ECC_PX = 160
_ECC_STEPS, _ECC_EPSILON = 30, 1e-4
_SCALE_STEP = 0.02
_MOST_DEFORMED_PX = 1.5
"""How far a corner of the region may lie from where move, turn and scale alone bring it, in the
pixels that ECC compares. Noise of 25 grey values moves it by 0.9 (synthetic parts, 2026)."""

_MOST_BEYOND_PX = 1.0
"""How far beyond the frame's outermost pixels a placed picture may reach; they are repeated."""


class Found(NamedTuple):
    """Where the region lies."""

    matrix: Matrix
    shift_px: tuple[float, float]
    """Of the region's middle, right and down."""
    rotation_deg: float
    """Clockwise in the picture."""
    scale: float
    likeness: float
    deformed_px: float = 0.0
    """Of the region's corners beyond this pose: stretch, shear, a turn where none is allowed."""

    def figures(self) -> dict[str, float]:
        """For the part's record."""
        return {
            "fixture_x_px": self.shift_px[0],
            "fixture_y_px": self.shift_px[1],
            "fixture_deg": self.rotation_deg,
            "fixture_scale": self.scale,
            "fixture_likeness": self.likeness,
        }


class Finder:
    """One fixture, ready.

    reference: (H, W) or (H, W, 3) uint8 of the training images' size. origin: where its top left
    pixel lies in the frame. Raises ArtefactError, named `where`, on limits that make no sense.
    """

    def __init__(
        self, fixture: Fixture, reference: Image, origin: tuple[int, int], where: str
    ) -> None:
        self.fixture, self._origin = fixture, origin
        self._size = (reference.shape[1], reference.shape[0])
        _check_limits(fixture, self._size, where)
        x, y, width, height = fixture.region
        self._middle = np.array([x + (width - 1) / 2, y + (height - 1) / 2])
        self._reference = _grey(reference)
        part = self._reference[y : y + height, x : x + width]
        if float(part.std()) < 1.0:
            raise _wrong(where, "region", "something to recognise", "an even area")
        self._factor = max(
            1, min(max(width, height) // _SEARCHED_PX, min(width, height) // _LEAST_PX)
        )
        self._poses = _poses(fixture, self._factor, math.hypot(width, height))
        if len(self._poses) > MOST_POSES:
            raise _wrong(where, "max_rotation_deg and scale", f"limits of {MOST_POSES} poses",
                         f"{len(self._poses)}; a smaller region needs fewer")  # fmt: skip
        self._ecc_factor = max(1, max(width, height) // _ECC_PX)
        self._templates = [self._template(*pose) for pose in self._poses]
        self._reduced = [_reduced(template, self._factor) for template in self._templates]

    def locate(self, frame: Image) -> Found:
        """Raises PartError FIXTURE where the region is not found within the limits."""
        coarse = self._coarse(frame)
        found = self._fine(frame, *coarse)
        if self.fixture.method == "ecc":
            found = self._refined(frame, found)
        fault = self._fault(found)
        if fault:
            raise PartError(Reason.FIXTURE, f"fixture not found: {fault}")
        return found

    def placed(self, frame: Image, found: Found) -> Image:
        """The frame as training would have seen it, of the training images' size.

        A shift alone is a view where the frame holds it. Raises PartError FIXTURE where the picture
        would need pixels that were never imaged.
        """
        self._check_held(frame, found)
        if found.rotation_deg == 0 and found.scale == 1:
            x, y = (round(float(value)) for value in found.matrix[:, 2])
            if min(x, y) >= 0 and x + self._size[0] <= frame.shape[1]:
                if y + self._size[1] <= frame.shape[0]:
                    return frame[y : y + self._size[1], x : x + self._size[0]]
        moved = cv2.warpAffine(
            frame, found.matrix, self._size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip
        return np.asarray(moved, np.uint8)

    def _check_held(self, frame: Image, found: Found) -> None:
        """Raises PartError where the training images' corners, placed, lie beyond the frame."""
        right, bottom = self._size[0] - 1, self._size[1] - 1
        corners = np.array([[0, right, 0, right], [0, 0, bottom, bottom]])
        x, y = found.matrix[:, :2] @ corners + found.matrix[:, 2:]
        height, width = frame.shape[:2]
        beyond = max(-x.min(), -y.min(), x.max() - (width - 1), y.max() - (height - 1))
        if not beyond <= _MOST_BEYOND_PX:
            raise PartError(
                Reason.FIXTURE,
                f"fixture not found: expected a part that lies whole in the frame of {width}x"
                f"{height}, got one that needs {beyond:.1f} px beyond its edge",
            )

    def _window(self, frame: Image, around: tuple[float, float], margin: float) -> tuple[Any, ...]:
        """Grey pixels in which the region can lie: shift `around` ± margin; and its corner."""
        x, y, width, height = self.fixture.region
        left = math.floor(self._origin[0] + x + around[0] - margin)
        top = math.floor(self._origin[1] + y + around[1] - margin)
        right = math.ceil(self._origin[0] + x + around[0] + margin) + width
        bottom = math.ceil(self._origin[1] + y + around[1] + margin) + height
        left, top = max(0, left), max(0, top)
        window = frame[top : min(bottom, frame.shape[0]), left : min(right, frame.shape[1])]
        if window.shape[0] < height or window.shape[1] < width:
            raise PartError(
                Reason.FIXTURE,
                f"fixture not found: expected a frame that holds the region {self.fixture.region}, "
                f"got {frame.shape[1]}x{frame.shape[0]}",
            )
        return _grey(window), left, top

    def _coarse(self, frame: Image) -> tuple[int, tuple[float, float]]:
        """Best pose and shift, to about the reduction's factor."""
        factor = self._factor
        margin = self.fixture.max_shift_px + 2 * factor
        window, left, top = self._window(frame, (0.0, 0.0), margin)
        small = _reduced(window, factor)
        best = (-2.0, 0, (0, 0))
        for number, template in enumerate(self._reduced):
            if template.shape[0] > small.shape[0] or template.shape[1] > small.shape[1]:
                continue
            likeness, place = _best(small, template)
            best = max(best, (likeness, number, place))
        x, y = best[2]
        region = self.fixture.region
        return best[1], (
            left + x * factor - self._origin[0] - region[0],
            top + y * factor - self._origin[1] - region[1],
        )

    def _fine(self, frame: Image, number: int, around: tuple[float, float]) -> Found:
        """The best pose at full resolution around a shift, to a fraction of a pixel."""
        window, left, top = self._window(frame, around, self._factor + 1.0)
        template = self._templates[number]
        likeness = cv2.matchTemplate(window, template, cv2.TM_CCOEFF_NORMED)
        _, highest, _, (x, y) = cv2.minMaxLoc(likeness)
        region = self.fixture.region
        shift = (
            left + x + _between(likeness[y], x) - self._origin[0] - region[0],
            top + y + _between(likeness[:, x], y) - self._origin[1] - region[1],
        )
        rotation, scale = self._poses[number]
        return Found(self._matrix(shift, rotation, scale), shift, rotation, scale, float(highest))

    def _refined(self, frame: Image, found: Found) -> Found:
        """By ECC from a found pose: shift, rotation and scale as far as the limits are open.

        OpenCV fits a scale only together with stretch and shear. These are measured, and never
        undone: a deformed part made to look right would pass.
        """
        x, y, width, height = self.fixture.region
        factor = self._ecc_factor
        margin = 2.0 * factor + 2
        window, left, top = self._window(frame, found.shift_px, margin)
        part = self._reference[y : y + height, x : x + width]
        small, into = _reduced(part, factor), _reduced(window, factor)
        # Reduced pixels of the region → reduced pixels of the window.
        to_region = np.array([[factor, 0, x + (factor - 1) / 2], [0, factor, y + (factor - 1) / 2]])
        to_window = np.array([[factor, 0, left + (factor - 1) / 2],
                              [0, factor, top + (factor - 1) / 2]])  # fmt: skip
        start = _compose(_inverse(to_window), _compose(found.matrix, to_region))
        motion = cv2.MOTION_AFFINE if self.fixture.scale != (1.0, 1.0) else cv2.MOTION_EUCLIDEAN
        if self.fixture.max_rotation_deg == 0 and motion == cv2.MOTION_EUCLIDEAN:
            motion = cv2.MOTION_TRANSLATION
        criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _ECC_STEPS, _ECC_EPSILON)
        try:
            likeness, warp = cv2.findTransformECC(
                small,
                into,
                start.astype(np.float32),
                motion,
                criteria,
                np.full(into.shape, 255, np.uint8),
                1,
            )
        except cv2.error:  # it says so where it does not converge
            return found._replace(likeness=-1.0)
        matrix = _compose(to_window, _compose(np.asarray(warp, np.float64), _inverse(to_region)))
        shift = matrix[:, :2] @ self._middle + matrix[:, 2] - self._middle - self._origin
        shift_px = (float(shift[0]), float(shift[1]))
        rotation, scale = self._turn_and_scale(matrix)
        posed = self._matrix(shift_px, rotation, scale)
        beyond = (matrix - posed)[:, :2] @ [[width / 2, width / 2], [height / 2, -height / 2]]
        deformed_px = float(np.hypot(*beyond).max())
        return Found(posed, shift_px, rotation, scale, float(likeness), deformed_px)

    def _turn_and_scale(self, matrix: Matrix) -> tuple[float, float]:
        """Degrees and factor nearest to a matrix (least squares), of what the limits leave open."""
        along = float(matrix[0, 0] + matrix[1, 1]) / 2
        across = float(matrix[1, 0] - matrix[0, 1]) / 2
        if self.fixture.max_rotation_deg == 0:
            across = 0.0
        rotation = math.degrees(math.atan2(across, along)) if across else 0.0
        scale = math.hypot(along, across) if self.fixture.scale != (1.0, 1.0) else 1.0
        return rotation, scale

    def _fault(self, found: Found) -> str:
        """What is outside the limits; "" where all is within. Written so that NaN fails."""
        fixture = self.fixture
        shift, turn = math.hypot(*found.shift_px), abs(found.rotation_deg)
        if not found.likeness >= fixture.min_likeness:
            return (
                f"expected a likeness of at least {fixture.min_likeness:g}, "
                f"got {found.likeness:.2f}"
            )
        if not shift <= fixture.max_shift_px:
            return f"expected a shift of at most {fixture.max_shift_px:g} px, got {shift:.1f} px"
        if not turn <= fixture.max_rotation_deg + 1e-6:
            return f"expected a turn of at most {fixture.max_rotation_deg:g}°, got {turn:.2f}°"
        if not fixture.scale[0] - 1e-6 <= found.scale <= fixture.scale[1] + 1e-6:
            low, high = fixture.scale
            return f"expected a scale of {low:g} to {high:g}, got {found.scale:.3f}"
        most_px = _MOST_DEFORMED_PX * self._ecc_factor
        if not found.deformed_px <= most_px:
            return (
                f"expected the region's corners within {most_px:g} px of where the part's place, "
                f"turn and size bring them, got {found.deformed_px:.1f} px (stretched, sheared, "
                f"or turned where no turn is allowed)"
            )
        return ""

    def _template(self, rotation: float, scale: float) -> Image:
        """The region as it looks when the part is turned and scaled about the region's middle."""
        x, y, width, height = self.fixture.region
        if rotation == 0 and scale == 1:
            return np.ascontiguousarray(self._reference[y : y + height, x : x + width])
        matrix = self._matrix((0.0, 0.0), rotation, scale)
        matrix[:, 2] -= (self._origin[0] + x, self._origin[1] + y)
        turned = cv2.warpAffine(
            self._reference, matrix, (width, height), flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip
        return np.asarray(turned, np.uint8)

    def _matrix(self, shift: tuple[float, float], rotation: float, scale: float) -> Matrix:
        """Turn and scale about the region's middle, then move."""
        angle = math.radians(rotation)
        turn = scale * np.array([[math.cos(angle), -math.sin(angle)],
                                 [math.sin(angle), math.cos(angle)]])  # fmt: skip
        move = self._middle + shift + self._origin - turn @ self._middle
        return np.concatenate([turn, move[:, None]], axis=1)


def finder_of(fixture: Fixture, bundle: Bundle, roi: Roi | None, where: str) -> Finder:
    """A fixture of a recipe, made ready. Raises ArtefactError naming the recipe or the bundle."""
    contract = bundle.manifest.input
    source = (contract.source_width_px, contract.source_height_px)
    if roi is not None and roi[2:] != source:
        expected = f"{source[0]}x{source[1]} pixels as the training images, for a fixture"
        raise _wrong(where.replace(".fixture", ".roi"), "", expected, f"{roi[2]}x{roi[3]}")
    if fixture.reference not in bundle.manifest.files:
        raise _wrong(where, "reference", "a picture in the bundle", repr(fixture.reference))
    image = cv2.imread(str(bundle.path(fixture.reference)), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint8 or image.shape[:2] != source[::-1]:
        got = "something else" if image is None else f"{image.shape[1]}x{image.shape[0]}"
        raise _wrong(where, "reference", f"a picture of {source[0]}x{source[1]} pixels", got)
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return Finder(fixture, np.asarray(image, np.uint8), roi[:2] if roi else (0, 0), where)


def _check_limits(fixture: Fixture, size: tuple[int, int], where: str) -> None:
    x, y, width, height = fixture.region
    if min(x, y) < 0 or min(width, height) < _LEAST_PX or x + width > size[0] or (
        y + height > size[1]
    ):  # fmt: skip
        raise _wrong(where, "region", f"{_LEAST_PX} pixels or more each way, inside {size[0]}x"
                     f"{size[1]}", f"{fixture.region}")  # fmt: skip
    low, high = fixture.scale
    for name, holds, expected, got in (
        ("max_shift_px", 0 < fixture.max_shift_px < max(size), f"between 0 and {max(size)}",
         fixture.max_shift_px),
        ("max_rotation_deg", 0 <= fixture.max_rotation_deg <= 180, "0 to 180",
         fixture.max_rotation_deg),
        ("scale", 0.5 <= low <= 1 <= high <= 2, "0.5 to 1 and 1 to 2", fixture.scale),
        ("min_likeness", 0 < fixture.min_likeness <= 1, "above 0, up to 1", fixture.min_likeness),
    ):  # fmt: skip
        if not holds:
            raise _wrong(where, name, expected, f"{got}")


def _wrong(where: str, key: str, expected: str, got: str) -> ArtefactError:
    name = f"{where}.{key}" if key else where
    return ArtefactError(name, expected, got, OfflineReason.NO_RECIPE)


def _poses(fixture: Fixture, factor: int, diagonal: float) -> list[tuple[float, float]]:
    """Rotation in degrees and scale, one step beyond the limits; upright and as it is first."""
    rotations, scales = [0.0], [1.0]
    if fixture.max_rotation_deg > 0:
        # A step moves the corners of the region by one and a half reduced pixels.
        step = math.degrees(2 * 1.5 * factor / diagonal)
        step = min(step, fixture.max_rotation_deg)
        count = math.ceil(fixture.max_rotation_deg / step) + 1
        rotations += [sign * step * number for number in range(1, count + 1) for sign in (1, -1)]
        rotations = [turn for turn in rotations if -180 < turn <= 180]
    low, high = fixture.scale
    if low < high:
        down = math.ceil((1 - low) / _SCALE_STEP) + 1
        up = math.ceil((high - 1) / _SCALE_STEP) + 1
        scales += [1 + _SCALE_STEP * n for n in range(-down, up + 1) if n]
    return list(itertools.product(rotations, scales))


def _grey(image: Image) -> Image:
    if image.ndim == 3 and image.shape[2] == 3:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    return image.reshape(image.shape[:2])


def _reduced(image: Image, factor: int) -> Image:
    """Means of whole cells; what is left at the right and below is cut off."""
    if factor == 1:
        return image
    height, width = (side // factor * factor for side in image.shape)
    size = (width // factor, height // factor)
    small = cv2.resize(image[:height, :width], size, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def _best(image: Image, template: Image) -> tuple[float, tuple[int, int]]:
    likeness = cv2.matchTemplate(image, template, cv2.TM_CCOEFF_NORMED)
    _, highest, _, place = cv2.minMaxLoc(likeness)
    return float(highest), (int(place[0]), int(place[1]))


def _between(row: npt.NDArray[Any], place: int) -> float:
    """Vertex of the parabola through a maximum and its neighbours, relative to it; 0 at an edge."""
    if not 0 < place < len(row) - 1:
        return 0.0
    left, middle, right = (float(value) for value in row[place - 1 : place + 2])
    bend = left - 2 * middle + right
    return 0.5 * (left - right) / bend if bend < 0 else 0.0


def _compose(after: Matrix, before: Matrix) -> Matrix:
    """The 2x3 matrix that does `before`, then `after`."""
    linear = after[:, :2] @ before[:, :2]
    return np.concatenate([linear, (after[:, :2] @ before[:, 2] + after[:, 2])[:, None]], axis=1)


def _inverse(matrix: Matrix) -> Matrix:
    linear = np.asarray(np.linalg.inv(matrix[:, :2]), np.float64)
    return np.concatenate([linear, -(linear @ matrix[:, 2])[:, None]], axis=1)
