"""Time of cutting 1000 patches out of a 640x480 photo: bindesc, OpenCV in a loop, kornia.

Run ``python -m benchmarks.patches --save``.
"""

from __future__ import annotations

import argparse
from typing import Any

import cv2
import kornia
import numpy as np
import torch
from numpy.typing import NDArray

from bindesc.detectors import to_arrays
from bindesc.patches import PATCH_SIDE, extract_patches

from .common import Contender, measure, write_results
from .photos import vga_photo

KEYPOINTS = 1000


def with_opencv(
    gray: NDArray[np.uint8], xy: NDArray, size: NDArray, angle: NDArray
) -> NDArray[np.uint8]:
    """One ``cv2.warpAffine`` a keypoint, without a pyramid."""
    half = (PATCH_SIDE - 1) / 2
    patches = np.empty((len(xy), PATCH_SIDE, PATCH_SIDE), np.uint8)
    for i, ((x, y), s, a) in enumerate(zip(xy, size, angle, strict=True)):
        c, d = s / PATCH_SIDE * np.cos(np.radians(a)), s / PATCH_SIDE * np.sin(np.radians(a))
        frame = np.array([[c, -d, x - half * (c - d)], [d, c, y - half * (c + d)]])
        cv2.warpAffine(
            gray,
            frame,
            (PATCH_SIDE, PATCH_SIDE),
            dst=patches[i],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
    return patches


def with_kornia(image: torch.Tensor, lafs: torch.Tensor) -> NDArray[np.float32]:
    """Kornia's pyramid patches; its frames have half the side and the opposite angle."""
    with torch.inference_mode():
        patches = kornia.feature.extract_patches_from_pyramid(image, lafs, PATCH_SIDE)
    return patches[0, :, 0].numpy()


def run() -> list[dict[str, Any]]:
    """Check and time the three."""
    gray = vga_photo()
    keypoints = cv2.ORB.create(KEYPOINTS).detect(gray, None)
    xy, size, angle, _ = to_arrays(keypoints)
    image = torch.from_numpy(gray).float()[None, None]
    lafs = kornia.feature.laf_from_center_scale_ori(
        torch.from_numpy(xy)[None],
        torch.from_numpy(size / 2).reshape(1, -1, 1, 1),
        torch.from_numpy(-angle).reshape(1, -1, 1),
    )
    expected = with_opencv(gray, xy, size, angle).astype(np.float32)
    unscaled = size < 1.4 * PATCH_SIDE  # above that only the ones with a pyramid are antialiased

    def close(patches: NDArray) -> None:
        difference = np.abs(patches.astype(np.float32) - expected)[unscaled].mean()
        if difference > 3:
            raise AssertionError(f"patches are {difference:.2f} grey levels off")

    times = measure(
        {
            "bindesc.patches": Contender(lambda: extract_patches(gray, xy, size, angle)[0], close),
            "cv2.warpAffine in a loop": Contender(
                lambda: with_opencv(gray, xy, size, angle), close
            ),
            "kornia extract_patches_from_pyramid": Contender(
                lambda: with_kornia(image, lafs), close
            ),
        },
        repeats=21,
    )
    return [{"name": name, "time": time} for name, time in times.items()]


def main() -> None:
    """Print the table, and save it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/patches.json")
    args = parser.parse_args()
    rows = run()
    cells = [[row["name"], f"{row['time'].median * 1e3:.1f} ms"] for row in rows]
    for name, time in cells:
        print(f"{name:40} {time:>9}")
    if args.save:
        table = {"header": ["1000 patches of 32x32", "median"], "rows": cells}
        threads = cv2.getNumThreads()
        libraries = ("kornia", "torch")
        write_results("patches", rows, libraries=libraries, threads=threads, table=table)


if __name__ == "__main__":
    main()
