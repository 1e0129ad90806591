"""Time of describing a 640x480 photo: bindesc against cv2.ORB, and where the time goes.

A keypoint's patch is cut, adapted and described in one pass; what each of these takes by itself,
with arrays between them, is the rows "alone". Every shipped compact model is timed, and the default
one also as torch runs it in floating point.
Run ``python -m benchmarks.extractor --save``. kornia's networks have random weights here; only
their time counts.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import cv2
import kornia
import numpy as np
import torch
from numpy.typing import NDArray

import bindesc
from bindesc.detectors import SCALE_FACTORS, to_arrays
from bindesc.extractor import DEFAULT_MODEL
from bindesc.runtime import Runtime
from bindesc.weights import list_models, load_model, read_model

from .common import Contender, Timing, measure, timed_as, write_results
from .photos import vga_photo

SIZES = (500, 1000, 2000)
BATCH = 16
BATCHED = f"extract_batch, each of {BATCH}"


def _shape(rows: int, columns: int) -> Any:
    def check(result: Any) -> None:
        codes = result[1] if isinstance(result, tuple) else result
        if codes.shape != (rows, columns):
            raise AssertionError(f"got {codes.shape}, expected {(rows, columns)}")

    return check


def _anything(_: Any) -> None:
    pass


def _describe_with(network: torch.nn.Module, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.inference_mode():
        images = torch.from_numpy(patches).float()[:, None] / 255
        return torch.cat([network(part) for part in images.split(256)]).numpy()


def run(nfeatures: int) -> dict[str, Any]:
    """Check and time everything for one number of keypoints."""
    gray = vga_photo()
    orb = cv2.ORB.create(nfeatures)
    default = bindesc.create(nfeatures=nfeatures)
    runtime = Runtime(DEFAULT_MODEL)
    keypoints = default.detect(gray)
    count = len(keypoints)
    xy, size, angle, _ = to_arrays(keypoints)
    scale = SCALE_FACTORS["orb"] * runtime.support
    points = gray, xy, size, angle
    cut = partial(runtime.cut, *points, scale=scale)
    patches, _ = cut()
    adapted, _ = runtime.adapt(patches)
    codes = _shape(count, 32)
    batch = [np.roll(gray, 40 * i, axis=1) for i in range(BATCH)]

    def check_batch(result: Any) -> None:
        for image, features in zip(batch, result, strict=True):
            if (features.descriptors != default.extract(image).descriptors).any():
                raise AssertionError("an image has other codes in a batch than alone")

    contenders = {
        "cv2.ORB detectAndCompute": Contender(lambda: orb.detectAndCompute(gray, None), codes),
        "bindesc detectAndCompute": Contender(lambda: default.detectAndCompute(gray, None), codes),
        "of which detection": Contender(lambda: default.detect(gray), _anything),
        "of which description": Contender(
            partial(runtime.describe_keypoints, *points, scale=scale), _anything
        ),
        "patches alone": Contender(cut, _anything),
        "orientation alone": Contender(partial(runtime.adapt, patches), _anything),
        "network alone": Contender(partial(runtime.encode, adapted), codes),
    }
    contenders[BATCHED] = Contender(lambda: default.extract_batch(batch), check_batch)
    for name in list_models():
        if name != DEFAULT_MODEL and read_model(name)[0].architecture == "compact":
            extractor = bindesc.create(model=name, nfeatures=nfeatures)
            contenders[f"{name}, detectAndCompute"] = Contender(
                partial(extractor.detectAndCompute, gray, None), codes
            )
            contenders[f"{name}, network"] = Contender(partial(Runtime(name).codes, patches), codes)
    network: Any = load_model(DEFAULT_MODEL)[0]
    floats = network.for_inference().to(memory_format=torch.channels_last)
    for name, other, columns in (
        ("torch float32, the same network", floats, 256),
        ("kornia HardNet, network", kornia.feature.HardNet(pretrained=False).eval(), 128),
        ("kornia TFeat, network", kornia.feature.TFeat(pretrained=False).eval(), 128),
    ):
        contenders[name] = Contender(
            partial(_describe_with, other, patches), _shape(count, columns)
        )
    times = measure(contenders, repeats=15, budget=6.0)
    return {"nfeatures": nfeatures, "keypoints": count, "times": times}


def _seconds_an_image(name: str, timing: Timing) -> float:
    return timing.median / (BATCH if name == BATCHED else 1)


def main() -> None:
    """Print the table, and save it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--save",
        action="store_true",
        help="write benchmarks/results/extractor.json, extractor_avx2.json without AVX-512",
    )
    args = parser.parse_args()
    rows = [run(nfeatures) for nfeatures in SIZES]
    header = ["median, ms", *(f"{row['keypoints']} keypoints" for row in rows)]
    cells = [
        [name, *(f"{_seconds_an_image(name, row['times'][name]) * 1e3:.1f}" for row in rows)]
        for name in rows[0]["times"]
    ]
    for line in [header, *cells]:
        print(f"{line[0]:32}", *(f"{cell:>16}" for cell in line[1:]))
    if args.save:
        threads = {"OpenCV": cv2.getNumThreads(), "torch": torch.get_num_threads()}
        libraries = ("kornia", "torch")
        table = {"header": header, "rows": cells}
        name = timed_as("extractor")
        write_results(name, rows, libraries=libraries, threads=threads, table=table)


if __name__ == "__main__":
    main()
