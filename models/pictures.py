"""Image and mask files as training and evaluation see them.

8 bits, grey or RGB, turned as their EXIF says: masks are drawn on what a viewer shows.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from appliance.errors import ConfigError

SUFFIXES = frozenset({".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff"})

_TURNED = frozenset({".jpg", ".jpeg", ".tif", ".tiff"})
"""Formats whose files may carry an orientation, which OpenCV heeds unless asked for raw data."""

Shape = tuple[int, int, int]
"""Height, width and channels (1 grey, 3 RGB)."""


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """(H, W) grey or (H, W, 3) RGB, uint8. Raises ConfigError naming the file.

    A fourth channel is dropped where it is opaque everywhere, and refused where it is not.
    """
    image = _decoded(path)
    if image.ndim == 2:
        return image
    if image.shape[2] == 4:
        if int(image[:, :, 3].min()) < 255:
            raise ConfigError(path, "an opaque picture", "one with transparent pixels")
        image = np.ascontiguousarray(image[:, :, :3])
    if image.shape[2] != 3:
        raise ConfigError(path, "grey or colour", f"{image.shape[2]} channels")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def read_mask(path: Path, size: tuple[int, int], image: Path) -> npt.NDArray[np.uint8]:
    """Defects as (H, W) uint8 of 0 and 1: every pixel that is not 0. Raises ConfigError.

    size: (H, W) of `image`, the picture that the mask belongs to.
    """
    mask = _decoded(path)
    if mask.ndim == 3:
        mask = mask[:, :, :3].max(axis=2)
    if mask.shape != size:
        raise ConfigError(
            path,
            f"{size[1]}x{size[0]} pixels as {image.name}",
            f"{mask.shape[1]}x{mask.shape[0]}",
        )
    return (mask > 0).astype(np.uint8)


def shape_of(image: npt.NDArray[np.uint8]) -> Shape:
    """Of an image from `read_image`."""
    return image.shape[0], image.shape[1], image.shape[2] if image.ndim == 3 else 1


def like(
    image: npt.NDArray[np.uint8], wanted: Shape, path: Path, *, stretch: bool = False
) -> npt.NDArray[np.uint8]:
    """The image as (H, W, C) of the wanted shape: as it is, or stretched to it where allowed.

    Raises ConfigError where it has another shape and must not be stretched.
    """
    height, width, channels = shape_of(image)
    if (height, width, channels) != wanted and stretch:
        if channels != wanted[2]:
            image = cv2.cvtColor(
                image, cv2.COLOR_RGB2GRAY if channels == 3 else cv2.COLOR_GRAY2RGB
            ).astype(np.uint8, copy=False)
        image = stretched(image, wanted[:2])
    elif (height, width, channels) != wanted:
        raise ConfigError(
            path,
            f"{wanted[1]}x{wanted[0]} pixels and {wanted[2]} channel(s) as the first image",
            f"{width}x{height} and {channels}",
        )
    return image.reshape(wanted)


def stretched(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """(H, W, …) brought to another (H, W): mean of pixels where it shrinks, else bilinear."""
    shrinks = image.shape[0] * image.shape[1] > size[0] * size[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, size[::-1], interpolation=method).astype(np.uint8, copy=False)


def images_in(folder: Path) -> list[Path]:
    """Image files of a folder by name. Raises ConfigError where there are none."""
    if not folder.is_dir():
        raise ConfigError(folder, "a folder of images", "no folder")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ConfigError(folder, f"images ({' '.join(sorted(SUFFIXES))})", "none")
    return found


def _decoded(path: Path) -> npt.NDArray[np.uint8]:
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as err:
        raise ConfigError(path, "an image", err.strerror or str(err)) from err
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if image is None:
        raise ConfigError(path, "an image", f"{data.size} bytes that are none")
    if image.dtype != np.uint8:
        raise ConfigError(path, "8 bits per channel", str(image.dtype))
    if path.suffix.lower() in _TURNED and (image.ndim == 2 or image.shape[2] == 3):
        flag = cv2.IMREAD_GRAYSCALE if image.ndim == 2 else cv2.IMREAD_COLOR
        image = cv2.imdecode(data, flag)
        if image is None:
            raise ConfigError(path, "an image", f"{data.size} bytes that are none")
    return image.astype(np.uint8, copy=False)
