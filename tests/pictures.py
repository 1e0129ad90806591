"""Synthetic pictures and files that tests share."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np


def textured(height: int = 240, width: int = 320, seed: int = 0) -> np.ndarray:
    """Random filled rectangles, (H, W, 3) uint8 BGR: hundreds of corners."""
    random = np.random.default_rng(seed)
    image = np.full((height, width, 3), 128, np.uint8)
    for _ in range(150):
        x, y = random.integers(0, (width, height)).tolist()
        w, h = random.integers(4, 50, 2).tolist()
        color = random.integers(0, 256, 3).tolist()
        cv2.rectangle(image, (x, y), (x + w, y + h), color, cv2.FILLED)
    return cv2.GaussianBlur(image, (0, 0), 0.8)


def textured_gray(height: int = 240, width: int = 320, seed: int = 0) -> np.ndarray:
    """The same in grey, (H, W) uint8."""
    return cv2.cvtColor(textured(height, width, seed), cv2.COLOR_BGR2GRAY)


def shifted(image: np.ndarray, dx: int, dy: int) -> np.ndarray:
    """The image moved right and down, mirrored into the gap."""
    motion = np.array([[1.0, 0, dx], [0, 1, dy]])
    size = (image.shape[1], image.shape[0])
    return cv2.warpAffine(image, motion, size, borderMode=cv2.BORDER_REFLECT)


def png_header(width: int, height: int) -> bytes:
    """A well-formed PNG that promises a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def write_cifar10(folder: Path, batches: Sequence[np.ndarray]) -> None:
    """Write the binary training batches of CIFAR-10: ``(N, 32, 32, 3)`` uint8 RGB each."""
    for number, images in enumerate(batches, 1):
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        rows = np.column_stack([np.arange(len(images), dtype=np.uint8), planes])
        (folder / f"data_batch_{number}.bin").write_bytes(rows.tobytes())


def turned_by_exif(jpeg: bytes) -> bytes:
    """A JPEG file that is to be shown after a quarter turn clockwise."""
    quarter_turn = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0" + b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + quarter_turn + bytes(4)
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    return jpeg[:2] + segment + jpeg[2:]
