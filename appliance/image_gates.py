"""Image health before the network: no black, burnt out, blurred, frozen or shifted picture passes.

In: a frame as the network will see it (uint8, ROI cut). Out: figures, and what is wrong with them.
Nothing here decides about parts: a picture that fails is ERROR 13 or 21, never OK and never NG.

Every figure comes from a part of the pixels, so that 5 megapixels cost about two milliseconds:
- `mean`, `saturated`: a grid of pixels (every n-th row and column, about 300 000 of them);
- `focus`: variance of the Laplacian in 16 full-resolution tiles, spread evenly: a coarser grid
  would not see blur, and whole frames cost ten times as much;
- `noise`: standard deviation of the sensor's noise in grey values, in the middle one of 16 such
  tiles by how rough they are: a mask that answers 0 to a slope and six times the noise to noise
  (Immerkær, Fast Noise Variance Estimation, 1996). Gain, a dark lamp or a worn sensor raise it
  where `focus` sees the part's own edges alone;
- `identical`: 1 where the grid equals that of the camera's last frame in every bit. The noise of a
  sensor makes that impossible, so it proves a frozen device. It takes no limits, and is judged of
  a bundle that has learnt none, too. A folder or a recording may show the same file twice: `judge`
  forgives frames that say that they are simulated;
- `shift_px`: where the middle of the mean good image correlates best with the frame (normalised,
  both reduced to at most 128 pixels). Sees up to a tenth of the side; what moved further gives a
  random place at that edge. Phase correlation, tried first, answers 0.5 % to a shift of 10 % on
  aligned bottles: a defect or a static background outweighs the part.
"""

from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt

from appliance.bundle import Bundle, GateLimits
from appliance.codes import Reason
from appliance.errors import ArtefactError

Image = npt.NDArray[np.uint8]

_GRID_PIXELS = 300_000
_TILE_PX = 128
_TILES = 4
_NOISE_MASK = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
_NOISE_SCALE = float(np.sqrt(np.pi / 2) / 6)
"""Mean of the mask's absolute answer → standard deviation of normal noise."""
_REDUCED_PX = 128
_SEARCH_SHARE = 0.1
"""Largest shift that is searched, as a share of each side."""
_ALIGNED_SHARE = 0.04
"""Parts count as aligned when 99 % of the good ones lie within this share of the shorter side."""
_SHIFT_SHARE = 0.02
"""Smallest limit of the shift, as a share of the shorter side: the reduced image is coarse."""


class Gates:
    """The gates of one camera: knows the mean image and the last frame.

    mean_image: grey uint8, reduced, as from `learn`; None where parts are not aligned.
    """

    def __init__(self, mean_image: Image | None = None) -> None:
        self._mean_image = mean_image
        self._lasts: dict[str, Image] = {}
        self._looker = ""

    def forget(self) -> None:
        """The next frame has no last one."""
        self._lasts = {}

    def look_as(self, worker: str) -> None:
        """In replay: the frames that follow were seen by this one of several infer processes."""
        self._looker = worker

    def compare(self, frame: Image) -> dict[str, float]:
        """`identical` alone, which needs no limits; remembers the frame as the last one."""
        return {"identical": self._repeats(_grid(frame))}

    def measure(self, frame: Image) -> dict[str, float]:
        """Figures of a frame, uint8 (H, W) or (H, W, 3); remembers it as the last one."""
        grid = _grid(frame)
        figures = {
            "mean": float(grid.mean()),
            "saturated": _saturated(grid),
            "focus": _focus(frame),
            "noise": _noise(frame),
            "identical": self._repeats(grid),
        }
        if self._mean_image is not None:
            reduced = _resized(grid, *self._mean_image.shape)
            figures["shift_px"] = _shift_px(reduced, self._mean_image, *frame.shape[:2])
        return figures

    def _repeats(self, grid: Image) -> float:
        last = self._lasts.get(self._looker)
        self._lasts[self._looker] = grid
        return float(last is not None and np.array_equal(grid, last))


def judge(
    figures: dict[str, float], limits: GateLimits | None, *, may_repeat: bool
) -> tuple[Reason, str] | None:
    """The first gate that a frame fails, with what was expected and what came; None = healthy.

    limits: None where nothing was learnt; a frozen device shows all the same.
    may_repeat: True for simulated frames, which may be identical to the last one.
    """
    if figures["identical"] and not may_repeat:
        return Reason.IMAGE_HEALTH, "identical: the picture equals the last one in every bit"
    if limits is None:
        return None
    for name, limit in (
        ("mean", limits.mean),
        ("saturated", limits.saturated),
        ("focus", limits.focus),
        ("noise", limits.noise),
    ):
        if limit is None:
            continue
        low, high = limit
        # Written so that NaN fails.
        if not low <= figures[name] <= high:
            return Reason.IMAGE_HEALTH, f"{name}: expected {low:.4g} to {high:.4g}, got " + (
                f"{figures[name]:.4g}"
            )
    if limits.shift_px is not None and not figures["shift_px"] <= limits.shift_px:
        return Reason.FIXTURE, (
            f"shift: expected at most {limits.shift_px:.1f} px, got {figures['shift_px']:.1f} px"
        )
    return None


def learn(images: Iterable[Image], mean_image: str = "gates.png") -> tuple[GateLimits, Image]:
    """Limits and mean image from good images, uint8 (H, W) or (H, W, 3), walked through once.

    The ranges are wide on purpose: a bad part is a healthy picture and has to reach the network.
    Images of several sizes are not aligned. `mean_image` is the file name that the limits will
    state; the caller writes the image there. Raises ArtefactError on fewer than two images.
    """
    gates, figures, reduced = Gates(), list[dict[str, float]](), list[Image]()
    sizes: set[tuple[int, ...]] = set()
    for image in images:
        figures.append(gates.measure(image))
        small = _reduce(_grid(image))
        target = reduced[0].shape if reduced else small.shape
        reduced.append(_resized(small, target[0], target[1]))
        sizes.add(image.shape[:2])
    if len(figures) < 2:
        raise ArtefactError("gates", "two or more good images", str(len(figures)))
    total = np.sum(reduced, axis=0, dtype=np.float64)
    mean = (total / len(reduced)).round().astype(np.uint8)
    height, width = max(sizes)
    # Against the mean of the others: an image always lies well on a mean that holds itself.
    others = (((total - r) / (len(reduced) - 1)).round().astype(np.uint8) for r in reduced)
    pairs = zip(reduced, others, strict=True)
    shift = float(np.quantile([_shift_px(r, o, height, width) for r, o in pairs], 0.99))
    side = min(height, width)
    names = ("mean", "saturated", "focus", "noise")
    columns = {name: [row[name] for row in figures] for name in names}
    is_aligned = len(sizes) == 1 and shift <= _ALIGNED_SHARE * side
    limits = GateLimits(
        mean=(min(columns["mean"]) / 2, (max(columns["mean"]) + 255) / 2),
        saturated=(0.0, min(1.0, 1.5 * max(columns["saturated"]) + 0.1)),
        focus=(min(columns["focus"]) / 4, max(columns["focus"]) * 4),
        noise=(min(columns["noise"]) / 4, max(columns["noise"]) * 3 + 0.5),
        shift_px=max(2 * shift, _SHIFT_SHARE * side) if is_aligned else None,
        mean_image=mean_image,
    )
    return limits, mean


def gates_of(bundle: Bundle) -> Gates:
    """Fresh gates for one camera. Raises ArtefactError."""
    limits = bundle.manifest.gates
    if limits is None or limits.shift_px is None:
        return Gates()
    path = bundle.path(limits.mean_image)
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint8 or image.ndim != 2:
        raise ArtefactError(path, "an 8-bit grey PNG", "something else")
    return Gates(np.asarray(image, np.uint8))


def _grid(frame: Image) -> Image:
    """Every n-th row and column, grey, a copy of its own."""
    step = max(1, round(np.sqrt(frame.shape[0] * frame.shape[1] / _GRID_PIXELS)))
    return _grey(frame[::step, ::step].copy())


def _reduce(grid: Image) -> Image:
    scale = min(1.0, _REDUCED_PX / max(grid.shape))
    size = (max(1, round(grid.shape[1] * scale)), max(1, round(grid.shape[0] * scale)))
    return _resized(grid, size[1], size[0])


def _grey(image: Image) -> Image:
    if image.ndim == 2:
        return image
    if image.shape[2] == 1:
        return image[:, :, 0]
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def _saturated(grid: Image) -> float:
    return float(np.count_nonzero(grid == 0) + np.count_nonzero(grid == 255)) / grid.size


def _focus(frame: Image) -> float:
    """Variance of the Laplacian over tiles, pooled."""
    if frame.shape[0] * frame.shape[1] <= _TILES * _TILES * _TILE_PX * _TILE_PX:
        return _variance(frame)
    return float(np.mean([_variance(tile) for tile in _tiles(frame, _TILE_PX)]))


def _noise(frame: Image) -> float:
    """Standard deviation in grey values, of the tile that is neither rough nor smooth."""
    side = max(3, min(_TILE_PX, min(frame.shape[:2]) // _TILES))
    answers = [
        float(np.abs(cv2.filter2D(_grey(tile), cv2.CV_16S, _NOISE_MASK)[1:-1, 1:-1]).mean())
        for tile in _tiles(frame, side)
    ]
    return _NOISE_SCALE * float(np.median(answers))


def _tiles(frame: Image, side: int) -> list[Image]:
    """Views of `side` pixels at full resolution, spread evenly."""
    height, width = frame.shape[:2]
    rows = np.linspace(0, max(0, height - side), _TILES).astype(int)
    columns = np.linspace(0, max(0, width - side), _TILES).astype(int)
    return [frame[y : y + side, x : x + side] for y in rows for x in columns]


def _variance(tile: Image) -> float:
    laplacian = cv2.Laplacian(_grey(tile), cv2.CV_16S)
    _, deviation = cv2.meanStdDev(laplacian)
    return float(deviation[0, 0] ** 2)


def _resized(image: Image, height: int, width: int) -> Image:
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _shift_px(reduced: Image, mean_image: Image, height: int, width: int) -> float:
    """Shift in pixels of a frame of `height` x `width`, from its reduced image."""
    rows, columns = mean_image.shape
    top, left = round(rows * _SEARCH_SHARE), round(columns * _SEARCH_SHARE)
    middle = np.ascontiguousarray(mean_image[top : rows - top, left : columns - left])
    likeness = cv2.matchTemplate(reduced, middle, cv2.TM_CCOEFF_NORMED)
    y, x = np.unravel_index(int(likeness.argmax()), likeness.shape)
    return float(np.hypot((y - top) * height / rows, (x - left) * width / columns))
