"""Descriptors of bare 32x32 patches, upright and all at once.

OpenCV's descriptors want an image and keypoints. The patches, each with a mirrored border, are laid
out as tiles of a large image, with a keypoint in the middle of each whose described area is the
patch (see :mod:`benchmarks.descriptors`). BRIEF and LATCH know no scale: their windows are 48
pixels wide, so the patches are enlarged to that.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bindesc.patches import PATCH_SIDE
from bindesc.runtime import Runtime
from bindesc.training.gan import INITIAL_SAMPLES, spread
from bindesc.training.gan_step import Gan, GanConfig
from bindesc.weights import save_model

from .descriptors import PEERS, Descriptor, brief

_ENLARGED = 48  # pixels: the window of BRIEF and of LATCH
_BORDER = 40  # mirrored pixels around a tile's patch: more than any descriptor's margin
_ACROSS = 8  # tiles along each side of an image

PATCH_PEERS: dict[str, Callable[[], Descriptor]] = {"brief": brief, **PEERS}


@dataclass(frozen=True, eq=False)
class PatchDescriptor:
    """One row of the table.

    Attributes:
        label: its name.
        code: what it writes, such as "256 bits".
        describe: patches, ``(N, S, S)`` uint8, to ``(N, B)`` uint8 packed bits, or ``(N, D)``
            float32.
        support: side of the patches it wants, over the keypoint's size.
        side: S that it wants, or None for log-polar patches.
    """

    label: str
    code: str
    describe: Callable[[NDArray[np.uint8]], NDArray]
    support: float = 1.0
    side: int | None = PATCH_SIDE


def opencv_row(name: str, support: float = 1.0) -> PatchDescriptor:
    """One of OpenCV's descriptors, by its key in ``PATCH_PEERS``.

    Raises:
        ValueError: this OpenCV has it not.
    """
    descriptor = PATCH_PEERS[name]()
    side = _ENLARGED if name in ("brief", "latch") else 32

    def describe(patches: NDArray[np.uint8]) -> NDArray:
        per_image = _ACROSS**2
        parts = [patches[i : i + per_image] for i in range(0, len(patches), per_image)]
        return np.concatenate([_describe_tiles(descriptor, part, side) for part in parts])

    return PatchDescriptor(descriptor.label, descriptor.code, describe, support)


def model_rows(label: str, model: str | Path) -> Iterator[PatchDescriptor]:
    """A bindesc model, by name or path.

    One that sees log-polar patches is given them as they are cut for keypoints, and made of square
    ones in a row of its own; one that turns patches has a row with that.

    Raises:
        WeightsError: there is no such model, or its file is damaged.
    """
    runtime = Runtime(model)
    code = f"{8 * runtime.descriptor_bytes} bits"
    support = runtime.support
    if not runtime.log_polar:
        yield PatchDescriptor(label, code, runtime.describe, support)
        return

    def upright(patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return runtime.codes(patches, np.ones(len(patches), np.bool_))

    yield PatchDescriptor(label, code, upright, support, None)
    if runtime.adapts:
        yield PatchDescriptor(f"{label}, turned", code, runtime.codes, support, None)
    squares = 2 * PATCH_SIDE
    label = f"{label}, {squares}x{squares} patches"
    yield PatchDescriptor(label, code, runtime.describe, support, squares)


def untrained_row(
    training: NDArray[np.uint8], support: float, config: GanConfig | None = None
) -> PatchDescriptor:
    """BinGAN's discriminator before its first step: random weights, initialised from data.

    Args:
        training: ``(N, 32, 32)`` uint8, 500 of which set gains and biases, as in training.
        support: of the patches to describe.
        config: by default that of the paper.
    """
    gan = Gan(config or GanConfig())
    gan.initialise(spread(training, INITIAL_SAMPLES), discriminator=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "untrained.safetensors"
        save_model(path, gan.discriminator)
        (row,) = model_rows("BinGAN untrained", path)
    return PatchDescriptor(row.label, row.code, row.describe, support)


def _describe_tiles(descriptor: Descriptor, patches: NDArray[np.uint8], side: int) -> NDArray:
    """Codes of at most ``_ACROSS`` squared patches."""
    tile = side + 2 * _BORDER
    image = np.zeros((_ACROSS * tile, _ACROSS * tile), np.uint8)
    keypoints = []
    for index, patch in enumerate(patches):
        large = cv2.resize(patch, (side, side), interpolation=cv2.INTER_LINEAR)
        # Mirrored twice: a border must not be wider than the patch.
        half = _BORDER // 2
        for _ in range(2):
            large = cv2.copyMakeBorder(large, half, half, half, half, cv2.BORDER_REFLECT_101)
        y, x = (tile * i for i in divmod(index, _ACROSS))
        image[y : y + tile, x : x + tile] = large
        middle = (tile - 1) / 2
        keypoints.append(cv2.KeyPoint(x + middle, y + middle, float(side), 0.0, 1.0, 0, index))
    described = descriptor.describe(image, keypoints)
    if len(described.index) != len(patches):
        raise ValueError(f"{descriptor.label}: described {len(described.index)} of {len(patches)}")
    codes = np.empty_like(described.codes)
    codes[described.index] = described.codes
    return codes
