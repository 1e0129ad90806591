"""Stereo visual odometry on 51 frames of KITTI: bindesc against ORB and TEBLID.

Run ``python -m benchmarks.vo_kitti --save``; TEBLID needs opencv-contrib-python. All rows but the
last two describe the same 1000 ORB keypoints an image: on whole pixels of their levels as OpenCV
finds them, or to a fraction of a pixel as bindesc does. The last have bindesc's own choice of 1000
keypoints, FAST corners: of ORB, FAST (each strongest or evenly spread) and SIFT they gave bindesc
the most inliers of a fundamental matrix between neighbouring photos of the training scenes. Nothing
is tuned on KITTI (Geiger, Lenz and Urtasun, CVPR 2012). The table gives

- inliers: keypoints a frame that agree with its pose within 2 pixels, mean, and as a multiple of
  those of ORB on whole pixels;
- translation, rotation: error of the motion from a frame to the next, mean;
- ATE: root mean square distance from the true positions after a rigid alignment;
- track: frames over which a point is followed, mean over points seen at least twice;
- extraction: detection and description of one image, median;
- stereo frames/s: from twice that, and matching and pose.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bindesc.detectors import to_arrays
from bindesc.extractor import create
from bindesc.files import atomic_path
from bindesc.image import read_image, to_gray
from bindesc.opencv_descriptors import OpenCVFeatures
from bindesc.pair import Extractor

from .command import command
from .common import RESULTS, write_results
from .datasets import data_folder
from .descriptors import KEYPOINTS, PEERS, Descriptor, bindesc_descriptor, detect
from .odometry import Path3D, Stereo, View, aligned, read_kitti, relative_errors, run_odometry
from .render_tables import markdown

Describe = Callable[[NDArray[np.uint8]], View]


@dataclass(frozen=True)
class Result:
    """What one row scores; see the module's text."""

    row: str
    inliers: float
    times_orb: float | None
    translation_percent: float
    rotation_degrees: float
    ate_metres: float
    track_frames: float
    lost_frames: int
    extraction_ms: float
    frames_per_second: float


@dataclass(frozen=True, eq=False)
class Run:
    """How one row followed the camera.

    Attributes:
        path: where it went.
        extraction: seconds that detection and description of each image took.
        rest: seconds of everything else.
    """

    path: Path3D
    extraction: list[float]
    rest: float


def follow(
    images: Sequence[NDArray[np.uint8]], rows: Mapping[str, Describe], stereo: Stereo
) -> dict[str, Run]:
    """Follow the camera with each descriptor.

    They take turns on each image, so that other load on the machine hits all alike, each with a
    call before that is not timed: the threads of the one before may still spin.

    Args:
        images: left and right in turns, ``(H, W)`` uint8.
        rows: by label, what finds and describes the keypoints of an image, at most ``KEYPOINTS``.
        stereo: the cameras.
    """
    views: dict[str, list[View]] = {label: [] for label in rows}
    seconds: dict[str, list[float]] = {label: [] for label in rows}
    for image in images:
        for label, describe in rows.items():
            describe(image)
            start = time.perf_counter()
            views[label].append(describe(image))
            seconds[label].append(time.perf_counter() - start)
    runs = {}
    for label, found in views.items():
        start = time.perf_counter()
        path = run_odometry(zip(found[::2], found[1::2], strict=True), stereo)
        runs[label] = Run(path, seconds[label], time.perf_counter() - start)
    return runs


def _on_orb_keypoints(descriptor: Descriptor, *, subpixel: bool = True) -> Describe:
    def describe(image: NDArray[np.uint8]) -> View:
        keypoints = detect(image, subpixel=subpixel)
        described = descriptor.describe(image, keypoints)
        return View(to_arrays(keypoints)[0][described.index], described.codes)

    return describe


def _extract(extractor: Extractor) -> Describe:
    def describe(image: NDArray[np.uint8]) -> View:
        features = extractor.extract(image)
        return View(features.xy, features.descriptors)

    return describe


# Label, and what makes the description with a bindesc model.
ROWS: dict[str, tuple[str, Callable[[str], Describe]]] = {
    "orb-whole": (
        "ORB, whole pixels",
        lambda _: _on_orb_keypoints(PEERS["orb"](), subpixel=False),
    ),
    "teblid-whole": (
        "TEBLID, whole pixels",
        lambda _: _on_orb_keypoints(PEERS["teblid"](), subpixel=False),
    ),
    "bindesc-whole": (
        "bindesc, whole pixels",
        lambda model: _on_orb_keypoints(bindesc_descriptor(model), subpixel=False),
    ),
    "orb": ("ORB", lambda _: _on_orb_keypoints(PEERS["orb"]())),
    "teblid": ("TEBLID", lambda _: _on_orb_keypoints(PEERS["teblid"]())),
    "bindesc": ("bindesc", lambda model: _on_orb_keypoints(bindesc_descriptor(model))),
    "orb-fast": (
        "ORB, FAST keypoints",
        lambda _: _extract(OpenCVFeatures("orb", "fast", KEYPOINTS)),
    ),
    "bindesc-fast": (
        "bindesc, FAST keypoints",
        lambda model: _extract(create("fast", model, KEYPOINTS)),
    ),
}
BASE = "orb-whole"  # what the column "x ORB" is relative to
DRAWN = ("orb-whole", "orb", "bindesc", "orb-fast", "bindesc-fast")


def rows_of(names: Sequence[str], model: str) -> Iterator[tuple[str, Describe]]:
    """Label and description of each row; one that this OpenCV lacks is left out."""
    for name in names:
        label, make = ROWS[name]
        try:
            yield label, make(model)
        except ValueError as error:
            if name.startswith("bindesc"):
                raise
            print(f"skipped {name}: {error}", file=sys.stderr)


def summarise(
    label: str,
    run: Run,
    truth: NDArray[np.float64],
    orb_inliers: float | None,
) -> Result:
    """The figures of one row; ``orb_inliers`` is ORB's mean, if it ran."""
    path = run.path
    poses = np.stack(path.poses)
    translation, rotation = relative_errors(poses, truth)
    distance = np.linalg.norm(aligned(poses, truth) - truth[:, :3, 3], axis=1)
    inliers = float(np.mean(path.inliers))
    extraction = float(np.median(run.extraction))
    return Result(
        row=label,
        inliers=inliers,
        times_orb=inliers / orb_inliers if orb_inliers else None,
        translation_percent=float(translation.mean()),
        rotation_degrees=float(rotation.mean()),
        ate_metres=float(np.sqrt((distance**2).mean())),
        track_frames=float(np.mean(path.track_lengths)),
        lost_frames=path.lost,
        extraction_ms=1e3 * extraction,
        frames_per_second=1 / (2 * extraction + run.rest / len(poses)),
    )


def table(results: Sequence[Result]) -> dict[str, list]:
    """Header and rows of text."""
    header = [
        "", "inliers", "x ORB", "translation", "rotation", "ATE", "track", "extraction",
        "stereo frames/s",
    ]  # fmt: skip
    rows = [
        [
            result.row,
            f"{result.inliers:.0f}",
            "-" if result.times_orb is None else f"{result.times_orb:.2f}",
            f"{result.translation_percent:.2f} %",
            f"{result.rotation_degrees:.3f}°",
            f"{result.ate_metres:.3f} m",
            f"{result.track_frames:.2f}",
            f"{result.extraction_ms:.0f} ms",
            f"{result.frames_per_second:.1f}",
        ]
        for result in results
    ]
    return {"header": header, "rows": rows}


def plot(path: Path, paths: Mapping[str, Path3D], truth: NDArray[np.float64]) -> None:
    """The drawn rows' paths from above, and their distance from the truth, as a small PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, error) = pyplot.subplots(1, 2, figsize=(9, 4), dpi=80)
    target = truth[:, :3, 3]
    above.plot(target[:, 0], target[:, 2], color="black", linewidth=3, label="truth")
    drawn = [ROWS[name][0] for name in DRAWN]
    for label in (label for label in drawn if label in paths):
        positions = aligned(np.stack(paths[label].poses), truth)
        above.plot(positions[:, 0], positions[:, 2], linewidth=1, label=label)
        error.plot(100 * np.linalg.norm(positions - target, axis=1), label=label)
    above.set(xlabel="x, m", ylabel="z, m", title="path from above, aligned")
    error.set(xlabel="frame", ylabel="distance from the truth, cm", ylim=(0, None))
    above.legend()
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
    pyplot.close(figure)


@command("vo_kitti")
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    stereo, truth, files = read_kitti(data_folder() / "kitti_seq1")
    images = [to_gray(read_image(path)) for pair in files for path in pair]
    runs = follow(images, dict(rows_of(options.rows, options.model)), stereo)
    base, _ = ROWS[BASE]
    orb = float(np.mean(runs[base].path.inliers)) if base in runs else None
    results = [summarise(label, run, truth, orb) for label, run in runs.items()]
    text = table(results)
    print(markdown(text["header"], text["rows"]))
    if options.save:
        settings = {"keypoints": KEYPOINTS, "frames": len(truth)}
        path = write_results(
            "vo_kitti",
            [asdict(result) for result in results],
            libraries=("torch",),
            settings=settings,
            table=text,
        )
        plot(RESULTS / "vo_kitti.png", {label: run.path for label, run in runs.items()}, truth)
        print(f"wrote {path} and vo_kitti.png beside it", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vo_kitti",
        description="Stereo visual odometry on KITTI: bindesc against ORB and TEBLID.",
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="descriptors")
    parser.add_argument("--model", default="compact", help="a bindesc model or .safetensors file")
    parser.add_argument(
        "--save", action="store_true", help="write benchmarks/results/vo_kitti.json and .png"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
