"""The folder format of the PhotoTour patches (Brown, Hua and Winder, PAMI 2011).

http://matthewalunbrown.com/patchdata/patchdata.html describes it. A folder holds

- ``patches0000.bmp``, ``patches0001.bmp``, ...: sheets of 16x16 grey patches, row by row; 64x64
  pixels each in the original, 32x32 in reduced copies, which may be ``.png`` or ``.webp``,
- ``info.txt``: a line a patch, ``POINT 0``; patches of one 3D point have the same number,
- ``interest.txt``: a line a patch, ``IMAGE X Y ORIENTATION SCALE`` of the interest point,
- ``m50_MATCHES_NONMATCHES_0.txt``: a line a pair, ``PATCH POINT 0 PATCH POINT 0``.

The text files may be missing: patches alone are enough for training without labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..files import atomic_folder
from ..image import read_image, to_gray
from ..patches import PATCH_SIDE

GRID = 16  # patches along each side of a sheet
PER_SHEET = GRID * GRID
_SIDES = (32, 64)
_SHEET_NAME = re.compile(r"patches(\d+)\.(bmp|png|webp)")


class BrownError(ValueError):
    """A folder that does not follow the format; the text names the file and the reason."""


@dataclass(frozen=True, eq=False)
class BrownFolder:
    """A folder, opened for reading.

    Attributes:
        folder: where it is.
        sheets: the files of the patches, in order.
        point: ``(N,)`` int64, the 3D point of each patch; None without ``info.txt``.
    """

    folder: Path
    sheets: tuple[Path, ...]
    point: NDArray[np.int64] | None

    def __len__(self) -> int:
        """Number of patches; without ``info.txt`` every sheet counts as full."""
        return PER_SHEET * len(self.sheets) if self.point is None else len(self.point)

    def read_sheets(self) -> Iterator[NDArray[np.uint8]]:
        """The patches sheet by sheet, ``(K, 32, 32)`` uint8, K = 256 but for the last one.

        Patches of 64x64 pixels are reduced by area averaging, as for BinGAN.

        Raises:
            BrownError: a sheet has another size.
            ImageError: a sheet is damaged.
        """
        for index, path in enumerate(self.sheets):
            yield _read_sheet(path)[: len(self) - index * PER_SHEET]

    def read_patches(self) -> NDArray[np.uint8]:
        """All patches, ``(N, 32, 32)`` uint8; see :meth:`read_sheets`."""
        return np.concatenate(list(self.read_sheets()))

    def read_interest(self) -> NDArray[np.float64]:
        """``interest.txt``: ``(N, 5)``, image number, x, y (pixels), angle (radians), log2 scale.

        Raises:
            BrownError: there is no such file, or it does not fit the patches.
        """
        path = self.folder / "interest.txt"
        table = _read_table(path, 5)
        if len(table) != len(self):
            raise BrownError(f"{path}: {len(table)} lines for {len(self)} patches")
        return table

    def read_pairs(
        self, name: str = "m50_100000_100000_0.txt"
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The pairs of an ``m50`` file.

        Returns:
            ``(P, 2)`` int64 patch numbers, and ``(P,)`` bool: both show the same 3D point.

        Raises:
            BrownError: there is no such file, a patch number is outside, or a point is not the
                one that ``info.txt`` gives.
        """
        path = self.folder / name
        table = _read_table(path, 6).astype(np.int64)
        index, point = table[:, [0, 3]], table[:, [1, 4]]
        outside = ((index < 0) | (index >= len(self))).any(1)
        if outside.any():
            row = int(outside.argmax())
            raise BrownError(
                f"{path}, line {row + 1}: patches {index[row, 0]} and {index[row, 1]}, "
                f"but there are {len(self)}"
            )
        if self.point is not None and (self.point[index] != point).any():
            row = int((self.point[index] != point).any(1).argmax())
            raise BrownError(f"{path}, line {row + 1}: info.txt gives these patches other points")
        return index, point[:, 0] == point[:, 1]


def open_brown(folder: Path) -> BrownFolder:
    """Open a folder; the pixels are read later.

    Raises:
        BrownError: there are no sheets, a number is missing, or ``info.txt`` does not fit them.
    """
    found: dict[int, Path] = {}
    for path in sorted(folder.glob("patches*")):
        match = _SHEET_NAME.fullmatch(path.name.lower())
        if match:
            number = int(match[1])
            if number in found:
                raise BrownError(f"{path}: {found[number].name} has the same number")
            found[number] = path
    if not found:
        raise BrownError(f"{folder}: no sheets of patches (patches0000.bmp, .png or .webp)")
    missing = set(range(max(found) + 1)) - set(found)
    if missing:
        raise BrownError(f"{folder}: sheet {min(missing)} of {max(found) + 1} is missing")
    point = None
    info = folder / "info.txt"
    if info.exists():
        point = _read_table(info, 2)[:, 0].astype(np.int64)
        if -(-len(point) // PER_SHEET) != len(found):
            raise BrownError(
                f"{info}: {len(point)} lines for {len(found)} sheets of {PER_SHEET} patches"
            )
    return BrownFolder(folder, tuple(found[number] for number in sorted(found)), point)


def write_brown(
    folder: Path,
    patches: NDArray[np.uint8],
    point: ArrayLike,
    interest: ArrayLike | None = None,
    pairs: Mapping[str, ArrayLike] | None = None,
) -> None:
    """Write a folder, with sheets as PNG.

    Args:
        folder: must not exist; it appears only when it is complete.
        patches: ``(N, S, S)`` uint8, S = 32 or 64, N at least 1.
        point: ``(N,)`` integers, the 3D point of each patch.
        interest: ``(N, 5)``, see :meth:`BrownFolder.read_interest`; None writes no such file.
        pairs: file name to ``(P, 2)`` patch numbers.

    Raises:
        ValueError: a shape, dtype or patch number does not fit.
        FileExistsError: ``folder`` exists.
    """
    side = patches.shape[-1]
    if patches.dtype != np.uint8 or patches.ndim != 3 or patches.shape[1] != side:
        raise ValueError(f"patches: expected (N, S, S) uint8, got {patches.shape} {patches.dtype}")
    if side not in _SIDES or not len(patches):
        raise ValueError(f"patches: expected at least one of 32 or 64 pixels, got {patches.shape}")
    point = np.asarray(point, np.int64)
    if point.shape != (len(patches),):
        raise ValueError(f"point: expected ({len(patches)},), got {point.shape}")
    with atomic_folder(folder) as partial:
        for number, start in enumerate(range(0, len(patches), PER_SHEET)):
            sheet = _to_sheet(patches[start : start + PER_SHEET])
            if not cv2.imwrite(str(partial / f"patches{number:04d}.png"), sheet):
                raise OSError(f"cannot write {partial / f'patches{number:04d}.png'}")
        _write_table(partial / "info.txt", np.stack([point, np.zeros_like(point)], 1))
        if interest is not None:
            interest = np.asarray(interest, np.float64)
            if interest.shape != (len(patches), 5):
                raise ValueError(f"interest: expected ({len(patches)}, 5), got {interest.shape}")
            _write_table(partial / "interest.txt", interest)
        for name, rows in (pairs or {}).items():
            index = np.asarray(rows, np.int64).reshape(-1, 2)
            if ((index < 0) | (index >= len(patches))).any():
                raise ValueError(f"pairs: {name} has patch numbers outside 0..{len(patches) - 1}")
            columns = np.stack([index, point[index], np.zeros_like(index)], 2)
            _write_table(partial / name, columns.reshape(-1, 6))


def _read_sheet(path: Path) -> NDArray[np.uint8]:
    sheet = to_gray(read_image(path))
    height, width = sheet.shape
    if height != width or height not in [GRID * side for side in _SIDES]:
        raise BrownError(
            f"{path}: {width}x{height} pixels; a sheet of {GRID}x{GRID} patches has "
            f"{GRID * _SIDES[0]} or {GRID * _SIDES[1]} on each side"
        )
    side = GRID * PATCH_SIDE
    reduced = cv2.resize(sheet, (side, side), interpolation=cv2.INTER_AREA)
    grid = reduced.reshape(GRID, PATCH_SIDE, GRID, PATCH_SIDE)
    return np.ascontiguousarray(grid.swapaxes(1, 2)).reshape(-1, PATCH_SIDE, PATCH_SIDE)


def _to_sheet(patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
    side = patches.shape[1]
    full = np.zeros((PER_SHEET, side, side), np.uint8)
    full[: len(patches)] = patches
    grid = full.reshape(GRID, GRID, side, side).swapaxes(1, 2)
    return np.ascontiguousarray(grid).reshape(GRID * side, GRID * side)


def _read_table(path: Path, columns: int) -> NDArray[np.float64]:
    """Numbers separated by blanks, ``(lines, columns)``; more columns are ignored."""
    if not path.is_file():
        raise BrownError(f"{path}: no such file")
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append([float(word) for word in line.split()[:columns]])
        except ValueError:
            raise BrownError(f"{path}, line {number}: not numbers: {line[:60]!r}") from None
        if len(rows[-1]) < columns:
            raise BrownError(f"{path}, line {number}: expected {columns} numbers: {line[:60]!r}")
    return np.array(rows, np.float64).reshape(-1, columns)


def _write_table(path: Path, rows: NDArray) -> None:
    lines = (" ".join(map(repr, row)) for row in rows.tolist())
    path.write_text("".join(line + "\n" for line in lines))
