"""The only way from a file or an array to pixels: reading, grey conversion, checks, resizing."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .image_header import HeaderError, parse_header, pnm_white

MAX_PIXELS = 2**28
"""Files that promise more pixels (268 million) are refused before they are decoded."""

_MIN_GREY_LEVELS = 32
_LOGGING: Any = getattr(cv2.utils, "logging", cv2)  # OpenCV 4.8 has its functions at the top


class ImageError(ValueError):
    """An image that cannot be used; the text names the file or argument and the reason."""


def read_image(
    path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS, *, oriented: bool = True
) -> NDArray[np.uint8]:
    """Read a JPEG, PNG, TIFF, WebP, BMP or PNM file as 8-bit pixels.

    The EXIF orientation is applied, so that the pixels stand as a photo viewer shows them; an
    alpha channel is dropped. 16-bit values are scaled by 255 / 65535, as ``cv2.imread`` does by
    default, and those of a PNM by what its header calls white; a 16-bit file whose values would
    fill fewer than 32 of the 256 grey levels (raw thermal or depth data) is refused, because it
    must be stretched first and only its owner knows how. A truncated file is refused and never
    partly decoded.

    Args:
        path: the file.
        max_pixels: largest width times height that is decoded.
        oriented: False leaves the pixels as they are stored, as COLMAP and hloc read them.

    Returns:
        ``(H, W)`` grey or ``(H, W, 3)`` BGR, uint8, C-contiguous.

    Raises:
        ImageError: the path is missing, is no file or cannot be read; the content is no image, is
            truncated or damaged, is larger than ``max_pixels``, or is float or 32-bit.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {_reason(error)}") from None
    if not data:
        raise ImageError(f"{path}: the file is empty")
    try:
        header = parse_header(data)
    except HeaderError as error:
        raise ImageError(f"{path}: {error}") from None
    if header.width * header.height > max_pixels:
        raise ImageError(
            f"{path}: {header.width} x {header.height} pixels, "
            f"more than the limit of {max_pixels:,} pixels; reduce the image first"
        )
    pixels = _decode(data, f"{path}: the {header.format} file", oriented)
    white = pnm_white(data) if header.format == "PNM" else 0  # OpenCV leaves it to the reader
    return _to_8_bit(pixels, white, path)


def to_gray(image: Any, name: str = "image") -> NDArray[np.uint8]:
    """Check an image and convert it to grey.

    Args:
        image: ``(H, W)``, ``(H, W, 1)`` grey, ``(H, W, 3)`` BGR or ``(H, W, 4)`` BGRA, uint8; an
            array or a ``cv2.UMat``.
        name: how the error calls the argument.

    Returns:
        ``(H, W)`` uint8, C-contiguous; a view of ``image`` where that already is one.

    Raises:
        ImageError: another type, dtype or shape, or no pixels.
    """
    array = _as_array(image, name)
    if array.dtype != np.uint8:
        raise ImageError(f"{name}: expected uint8 values in 0..255, got {array.dtype}")
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ImageError(
            f"{name}: expected shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {array.shape}"
        )
    if array.size == 0:
        raise ImageError(f"{name}: has no pixels, its shape is {array.shape}")
    if channels > 1:
        code = cv2.COLOR_BGR2GRAY if channels == 3 else cv2.COLOR_BGRA2GRAY
        array = cv2.cvtColor(np.ascontiguousarray(array), code)
    return np.ascontiguousarray(array.reshape(array.shape[:2]))


def check_mask(mask: Any, gray: NDArray[np.uint8], name: str = "mask") -> NDArray[np.uint8] | None:
    """Check a detection mask and bring it to the form that OpenCV takes.

    Args:
        mask: None, or ``(H, W)`` or ``(H, W, 1)`` bool or integers, any nonzero value valid; an
            array or a ``cv2.UMat``.
        gray: ``(H, W)`` uint8, the image that it belongs to.
        name: how the error calls the argument.

    Returns:
        ``(H, W)`` uint8 of 0 and 255, or None.

    Raises:
        ImageError: another type or dtype, or a size that is not the image's.
    """
    if mask is None:
        return None
    array = _as_array(mask, name)
    if array.dtype.kind not in "bui":
        raise ImageError(f"{name}: expected bool or integers, got {array.dtype}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.shape != gray.shape:
        raise ImageError(f"{name}: expected the image's shape {gray.shape}, got {array.shape}")
    return np.where(array != 0, np.uint8(255), np.uint8(0))


def resize_to(image: NDArray[np.uint8], long_side: int) -> NDArray[np.uint8]:
    """Shrink an image by area averaging until its longer side fits; never enlarge.

    Args:
        image: ``(H, W)`` or ``(H, W, C)`` uint8.
        long_side: the longest side wanted, pixels, at least 1.

    Returns:
        The image itself where it already fits, else a smaller one of the same aspect ratio.

    Raises:
        ImageError: ``long_side`` is below 1.
    """
    if long_side < 1:
        raise ImageError(f"long_side: expected at least 1 pixel, got {long_side}")
    height, width = image.shape[:2]
    scale = long_side / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "is a folder, expected an image file"
    return f"cannot be read ({error.strerror})"


class _Silence:
    """OpenCV writes no log while any thread is inside: its level belongs to the whole process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._level = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._level = _LOGGING.getLogLevel()
                _LOGGING.setLogLevel(0)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                _LOGGING.setLogLevel(self._level)


_opencv_is_silent = _Silence()


def _decode(data: bytes, name: str, oriented: bool) -> NDArray[Any]:
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH  # this pair applies the EXIF orientation
    if not oriented:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        with _opencv_is_silent:  # the errors below say it, in one line
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f"{name} cannot be decoded ({error.err})") from None
    if pixels is None:
        raise ImageError(f"{name} is damaged, or this OpenCV cannot decode it")
    return pixels


def _to_8_bit(pixels: NDArray[Any], white: int, path: Path) -> NDArray[np.uint8]:
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"{path}: {pixels.dtype} pixels, expected 8 or 16 bits; convert it first")
    white = white or np.iinfo(pixels.dtype).max
    if white == 255:
        return pixels
    low, high = int(pixels.min()), int(pixels.max())
    if pixels.dtype == np.uint16 and (high - low) * 255 / white < _MIN_GREY_LEVELS:
        raise ImageError(
            f"{path}: 16-bit values that span only {low} to {high} of 0 to {white}; "
            "stretch the image to 8 bits first"
        )
    return cv2.convertScaleAbs(pixels, alpha=255 / white)


def _as_array(value: Any, name: str) -> NDArray[Any]:
    array = value.get() if isinstance(value, cv2.UMat) else value
    if not isinstance(array, np.ndarray):
        hint = "; cv2.imread returns it for what it cannot read" if value is None else ""
        raise ImageError(f"{name}: expected an array, got {type(value).__name__}{hint}")
    return array
