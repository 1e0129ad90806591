"""What the bytes of an image file promise, read without decoding: format, size, completeness.

OpenCV has no call that reads only the header, allocates whatever a header asks for, and fills the
missing part of a truncated JPEG with grey. The few bytes read here are enough to refuse both.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass

# In entropy-coded JPEG data 0xff is followed by 0x00 (stuffing) or 0xd0..0xd7 (restart); anything
# else but fill bytes ends the scan.
_JPEG_END_OF_SCAN = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_JPEG_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9


class HeaderError(ValueError):
    """The bytes contradict their format; the text says how, without a file name."""


@dataclass(frozen=True)
class Header:
    """The promise of a file.

    Attributes:
        format: ``"JPEG"``, ``"PNG"``, ``"WebP"``, ``"BMP"``, ``"PNM"`` or ``"TIFF"``.
        width: pixels, before any EXIF rotation.
        height: pixels, before any EXIF rotation.
    """

    format: str
    width: int
    height: int


def parse_header(data: bytes) -> Header:
    """Recognise the format by its signature and read its size.

    Args:
        data: the whole file.

    Raises:
        HeaderError: unknown format, damaged header, or fewer bytes than the structure announces.
    """
    for name, signature, size_of in _FORMATS:
        if signature.match(data):
            try:
                width, height = size_of(data)
            except IndexError:
                raise HeaderError(f"truncated {name} file") from None
            if width < 1 or height < 1:
                raise HeaderError(f"{name} header with a size of {width} x {height} pixels")
            return Header(name, width, height)
    names = ", ".join(name for name, _, _ in _FORMATS)
    raise HeaderError(f"not an image in a known format ({names})")


def _uint(data: bytes, start: int, size: int, order: str) -> int:
    field = data[start : start + size]
    if len(field) < size:
        raise IndexError
    return int.from_bytes(field, "big" if order == "big" else "little")


def _jpeg(data: bytes) -> tuple[int, int]:
    """Walk the segments from start to end marker (ITU T.81, annex B)."""
    size = (0, 0)
    position = 2
    while True:
        while data[position] == 0xFF and data[position + 1] == 0xFF:
            position += 1
        if data[position] != 0xFF:
            raise HeaderError("damaged JPEG file: a marker is missing")
        marker = data[position + 1]
        if marker == _JPEG_END:
            return size
        length = _uint(data, position + 2, 2, "big")
        if marker in _JPEG_FRAME:
            size = (
                _uint(data, position + 7, 2, "big"),
                _uint(data, position + 5, 2, "big"),
            )
        position += 2 + length
        if marker == _JPEG_SCAN:
            end = _JPEG_END_OF_SCAN.search(data, position)
            if end is None:
                raise IndexError
            position = end.start()


def _png(data: bytes) -> tuple[int, int]:
    """Walk the chunks to IEND and check each checksum (PNG specification, section 5)."""
    position = 8
    while True:
        length = _uint(data, position, 4, "big")
        checksum = _uint(data, position + 8 + length, 4, "big")
        if zlib.crc32(memoryview(data)[position + 4 : position + 8 + length]) != checksum:
            raise HeaderError("damaged PNG file: a checksum is wrong")
        if data[position + 4 : position + 8] == b"IEND":
            return _uint(data, 16, 4, "big"), _uint(data, 20, 4, "big")
        position += 12 + length


def _webp(data: bytes) -> tuple[int, int]:
    """Read the first chunk of the RIFF container (RFC 9649)."""
    if len(data) < 8 + _uint(data, 4, 4, "little"):
        raise IndexError
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + _uint(data, 24, 3, "little"), 1 + _uint(data, 27, 3, "little")
    if chunk == b"VP8L":
        bits = _uint(data, 21, 4, "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return _uint(data, 26, 2, "little") & 0x3FFF, _uint(data, 28, 2, "little") & 0x3FFF


def _bmp(data: bytes) -> tuple[int, int]:
    """Read the header and, where the rows are not compressed, expect all of them."""
    if _uint(data, 14, 4, "little") == 12:  # the OS/2 header
        width, height, bits = (_uint(data, start, 2, "little") for start in (18, 20, 24))
        compression = 0
    else:
        width, bits = _uint(data, 18, 4, "little"), _uint(data, 28, 2, "little")
        height = abs(int.from_bytes(data[22:26], "little", signed=True))
        compression = _uint(data, 30, 4, "little")
    row = (width * bits + 31) // 32 * 4
    if compression == 0 and len(data) < _uint(data, 10, 4, "little") + row * height:
        raise IndexError
    return width, height


def pnm_white(data: bytes) -> int:
    """The value of white that OpenCV leaves a PNM file's values at; 0 for all that their type has.

    It scales those of the text variants, P2 and P3, if they have 8 bits.
    """
    fields = _pnm_fields(data)
    white = int(fields[4] or 0)
    return white if fields[1] in b"56" or (fields[1] in b"23" and white > 255) else 0


def _pnm_fields(data: bytes) -> re.Match[bytes]:
    gap = rb"(?:\s|#[^\n]*\n)+"
    number = rb"(\d{1,9})"
    fields = re.match(rb"P([1-6])%b%b%b%b(?:%b%b)?" % (gap, number, gap, number, gap, number), data)
    if fields is None:
        raise HeaderError("damaged PNM header")
    return fields


def _pnm(data: bytes) -> tuple[int, int]:
    """Read the header and, in the binary variants P4 to P6, expect all rows."""
    fields = _pnm_fields(data)
    kind, width, height = (int(field) for field in fields.group(1, 2, 3))
    if kind == 4:
        size = (width + 7) // 8 * height
    else:
        sample = 2 if int(fields[4] or 0) > 255 else 1
        size = width * height * sample * {5: 1, 6: 3}.get(kind, 0)
    header = fields.end(3) if kind == 4 else fields.end()
    if len(data) < header + 1 + size:
        raise IndexError
    return width, height


def _tiff(data: bytes) -> tuple[int, int]:
    """Read ImageWidth (256) and ImageLength (257) of the first directory (TIFF 6.0, section 2)."""
    order = "big" if data[:2] == b"MM" else "little"
    directory = _uint(data, 4, 4, order)
    size = {256: 0, 257: 0}
    for entry in range(_uint(data, directory, 2, order)):
        start = directory + 2 + 12 * entry
        tag = _uint(data, start, 2, order)
        if tag in size:
            is_short = _uint(data, start + 2, 2, order) == 3
            size[tag] = _uint(data, start + 8, 2 if is_short else 4, order)
    return size[256], size[257]


_FORMATS: list[tuple[str, re.Pattern[bytes], Callable[[bytes], tuple[int, int]]]] = [
    ("JPEG", re.compile(rb"\xff\xd8\xff"), _jpeg),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n"), _png),
    ("WebP", re.compile(rb"RIFF.{4}WEBPVP8[ LX]", re.DOTALL), _webp),
    ("BMP", re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00", re.DOTALL), _bmp),
    ("PNM", re.compile(rb"P[1-6][\s#]"), _pnm),
    ("TIFF", re.compile(rb"II\*\x00|MM\x00\*"), _tiff),
]
