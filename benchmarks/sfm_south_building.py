"""3D reconstruction of South Building (128 photos, 1024 pixels) from one set of ORB keypoints.

Every row describes the same 2000 ORB keypoints an image, to a fraction of a pixel, matches the same
pairs of images (each with the next 10 by name) by mutual nearest neighbours, and goes through the
same verification and COLMAP's incremental mapping with the same seed. ``orb-whole`` is ORB on whole
pixels of the keypoints' levels, as OpenCV finds them. ``bindesc-even`` and ``bindesc-fast-even``
have 2000 keypoints of their own, ORB's and FAST's, spread evenly over the image. ``COLMAP SIFT`` is
COLMAP's own pipeline with its defaults: its keypoints (2000 an image), matcher and verification.

Mapping may end in several models, which can share images; an image counts once, points and
observations are summed. It uses one thread, so that the same machine gives the same models again.
Stage times are CPU seconds of the process, because they hold on a busy machine too. ``--times``
times, with one thread, describing by each descriptor and matching every twentieth pair by
``bindesc.match_pairs`` and by ``cv2.BFMatcher`` with cross-check; it needs the row ``bindesc``.

A row's result is kept in the work folder, ``runs/south_building`` by default; a stopped run goes on
where it was. Run ``python -m benchmarks.sfm_south_building``; ``--rows`` chooses rows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bindesc import colmap, sfm
from bindesc.collection import Collection, Rules
from bindesc.detectors import to_arrays
from bindesc.extractor import create
from bindesc.files import atomic_path
from bindesc.folder import find_images
from bindesc.image import read_image, to_gray
from bindesc.image_pairs import PairChoice
from bindesc.matching import match_pairs, nearest
from bindesc.packing import unpack_bits
from bindesc.pair import Extractor
from bindesc.types import Features

from .command import command
from .common import Contender, measure, write_results
from .datasets import data_folder
from .descriptors import PEERS, Described, Descriptor, bindesc_descriptor, detect
from .render_tables import markdown

KEYPOINTS = 2000  # an image
PAIRS = "sequential:10"
SIFT = "colmap-sift"
MODELS = {"bindesc": "compact", "bingan-256": "bingan-256"}
WHOLE = "orb-whole"
# Label and detector of the rows with evenly spread keypoints of their own.
EVEN = {
    "bindesc-even": ("bindesc compact, ORB evenly", "orb"),
    "bindesc-fast-even": ("bindesc compact, FAST evenly", "fast"),
}
ROWS = (*MODELS, *EVEN, "orb", WHOLE, "teblid", SIFT, "beblid", "boost", "latch")
NAME = "sfm_south_building"


class SharedKeypoints:
    """A descriptor on the ORB keypoints that all rows share, as ``sfm`` wants its extractor."""

    def __init__(self, descriptor: Descriptor, *, subpixel: bool = True) -> None:
        self._descriptor = descriptor
        self._subpixel = subpixel

    def extract(self, image: NDArray[np.uint8]) -> Features:
        """Detect as for every row, and describe."""
        gray = to_gray(image)
        keypoints = detect(gray, KEYPOINTS, subpixel=self._subpixel)
        described = self._descriptor.describe(gray, keypoints)
        arrays = to_arrays([keypoints[i] for i in described.index])
        height, width = gray.shape
        return Features(*arrays, described.codes, (width, height))


def run_row(name: str, photos: Path, work: Path) -> dict[str, Any]:
    """Describe, match, verify and map with one descriptor; resumable.

    Raises:
        ValueError: this OpenCV lacks the descriptor.
    """
    settings = _settings(name)
    extractor: Extractor
    if name in EVEN:
        label, detector = EVEN[name]
        extractor = create(detector, nfeatures=KEYPOINTS, even=True)
    else:
        descriptor = _descriptor(name)
        label, extractor = descriptor.label, SharedKeypoints(descriptor, subpixel=name != WHOLE)
    sfm.describe(photos, work, lambda: extractor, settings)
    matching, collection = _cpu(lambda: sfm.match(photos, work, settings))
    mapping, models = _cpu(lambda: sfm.reconstruct(photos, collection, settings, threads=1))
    found = [(len(p.pairs), int(p.geometry.inliers.sum())) for p in collection.verified()]
    times = {"match_verify_s": matching, "map_s": mapping}
    return {"row": label, **_figures(models, found), **times}


def run_sift(photos: Path, work: Path) -> dict[str, Any]:
    """COLMAP's own features, matching and verification; then the same mapping."""
    pycolmap = colmap.import_pycolmap()
    images, database, sparse = work / "png", work / "database.db", work / "sparse"
    for folder in (images, sparse):
        folder.mkdir(parents=True, exist_ok=True)
    names = find_images(photos)
    for name in names:  # COLMAP cannot read WebP
        path = images / f"{Path(name).stem}.png"
        if not path.exists():
            with atomic_path(path) as temporary:
                cv2.imwrite(str(temporary), read_image(photos / name))
    database.unlink(missing_ok=True)
    pycolmap.logging.minloglevel = 2
    pycolmap.set_random_seed(0)
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.sift.max_num_features = KEYPOINTS
    extraction.num_threads = 1
    pycolmap.extract_features(
        database,
        images,
        camera_mode=pycolmap.CameraMode.SINGLE,
        extraction_options=extraction,
        device=pycolmap.Device.cpu,
    )
    pairs = PairChoice.parse(PAIRS).choose(names, lambda _: np.empty((0, 2), np.uint8))
    listed = work / "pairs.txt"
    listed.write_text(
        "".join(f"{Path(names[i]).stem}.png {Path(names[j]).stem}.png\n" for i, j in pairs)
    )
    options = pycolmap.FeatureMatchingOptions()
    options.num_threads = 1
    pairing = pycolmap.ImportedPairingOptions()
    pairing.match_list_path = listed
    matching, _ = _cpu(
        lambda: pycolmap.match_image_pairs(database, options, pairing, device=pycolmap.Device.cpu)
    )
    mapping, models = _cpu(lambda: colmap.incremental_mapping(database, sparse, threads=1))
    with pycolmap.Database.open(database) as opened:
        matches = dict(zip(*opened.read_num_matches(), strict=True))
        inliers = dict(zip(*opened.read_two_view_geometry_num_inliers(), strict=True))
    found = [(count, inliers.get(pair, 0)) for pair, count in matches.items()]
    found += [(0, 0)] * (len(pairs) - len(found))
    times = {"match_verify_s": matching, "map_s": mapping}
    return {"row": "COLMAP SIFT, its own", **_figures(models, found), **times}


def time_matching(collection: Collection) -> dict[str, Any]:
    """Time the matching of every twentieth pair by bindesc and by OpenCV, one thread each."""
    pairs = [(a, b) for a in collection.partners for b in collection.partners[a]][::20]
    codes = [
        (collection.features(a).descriptors, collection.features(b).descriptors) for a, b in pairs
    ]
    matcher = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True)
    expected = match_pairs(codes, num_threads=1)

    def check_own(result: Any) -> None:
        for found, (first, second) in zip(result, codes, strict=True):
            _check_mutual(found.pairs, first, second)

    def check_opencv(result: Any) -> None:
        for found, own, (first, second) in zip(result, expected, codes, strict=True):
            pairs = {(match.queryIdx, match.trainIdx) for match in found}
            # OpenCV resolves ties by another rule: where the two differ, both must be nearest.
            others = pairs.symmetric_difference(map(tuple, own.pairs.tolist()))
            _check_mutual(np.array(sorted(others), int).reshape(-1, 2), first, second)

    with _one_thread():
        timings = measure(
            {
                "bindesc.match_pairs": Contender(
                    lambda: match_pairs(codes, num_threads=1), check_own
                ),
                "cv2.BFMatcher crossCheck": Contender(
                    lambda: [matcher.match(*pair) for pair in codes], check_opencv
                ),
            },
            repeats=5,
            budget=30,
        )
    each = {name: 1000 * timing.median / len(codes) for name, timing in timings.items()}
    return {"pairs": len(codes), "ms_a_pair": each, "timings": timings}


def time_describing(photo: Path, names: Sequence[str]) -> dict[str, float]:
    """Milliseconds that each descriptor takes for the shared keypoints of a photo, one thread."""
    gray = to_gray(read_image(photo))
    keypoints = detect(gray, KEYPOINTS)

    def check(described: Described) -> None:
        if not len(described.codes) == len(described.index) > 0:
            raise ValueError("not a code for each keypoint")

    contenders = {
        name: Contender(partial(_descriptor(name).describe, gray, keypoints), check)
        for name in names
    }
    with _one_thread():
        timings = measure(contenders, repeats=7, budget=30)
    return {name: 1000 * timing.median for name, timing in timings.items()}


def table(rows: Sequence[dict[str, Any]], describing: Mapping[str, float]) -> dict[str, list]:
    """The figures as header and rows of text.

    Args:
        rows: of :func:`run_row` and :func:`run_sift`.
        describing: of :func:`time_describing`, or nothing.
    """
    header = [
        "2000 keypoints, ORB's unless said",
        "images",
        "in models of",
        "points",
        "track",
        "error, px",
        "verified / pair",
        "inlier ratio",
        "describe, ms",
        "map, s",
    ]
    body = [
        [
            row["row"],
            str(row["registered"]),
            " + ".join(map(str, row["images"])),
            f"{sum(row['points']):,}",
            f"{row['track']:.2f}",
            f"{row['error']:.2f}",
            f"{row['inliers_a_pair']:.0f}",
            f"{row['inlier_ratio']:.2f}",
            f"{describing[row['name']]:.0f}" if row["name"] in describing else "-",
            f"{row['map_s']:.0f}",
        ]
        for row in rows
    ]
    return {"header": header, "rows": body}


@command(NAME)
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    photos = data_folder() / "south_building"
    find_images(photos)
    for name in options.rows:
        path = options.work / name / "result.json"
        if not path.exists():
            try:
                run = run_sift if name == SIFT else lambda *a, name=name: run_row(name, *a)
                result = run(photos, options.work / name)
            except (ValueError, sfm.TooFewError) as error:
                print(f"skipped {name}: {error}", file=sys.stderr)
                continue
            _save(path, result)
        print(path.read_text(), flush=True)
    timed = options.work / "times.json"
    if options.times:
        collection = sfm.match(photos, options.work / "bindesc", _settings("bindesc"))
        names = [name for name in options.rows if name not in (SIFT, WHOLE, *EVEN)]
        describing = time_describing(photos / find_images(photos)[0], names)
        _save(timed, {"matching": time_matching(collection), "describing_ms": describing})
        print(timed.read_text())
    times = json.loads(timed.read_text()) if timed.exists() else {}
    done = {name: options.work / name / "result.json" for name in ROWS}
    rows = [
        {"name": name, **json.loads(path.read_text())}
        for name, path in done.items()
        if path.exists()
    ]
    made = table(rows, times.get("describing_ms", {}))
    print(markdown(**made))
    if options.save:
        path = write_results(
            NAME,
            rows,
            libraries=("pycolmap", "torch"),
            settings={"keypoints": KEYPOINTS, "pairs": PAIRS, "ratio": Rules().ratio},
            **times,
            table=made,
        )
        print(f"wrote {path}", file=sys.stderr)


def _descriptor(name: str) -> Descriptor:
    if name in MODELS:
        return bindesc_descriptor(MODELS[name])
    if name == WHOLE:
        return replace(PEERS["orb"](), label="ORB, whole pixels")
    return PEERS[name]()


def _settings(name: str) -> sfm.SfmSettings:
    return sfm.SfmSettings(
        {"descriptor": name, "n-kpts": KEYPOINTS, "subpixel": name != WHOLE}, PAIRS
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """OpenCV, and bindesc and torch with it, on one thread."""
    import torch

    before = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before[0])
        torch.set_num_threads(before[1])


def _figures(models: Sequence[Any], found: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """What the models and the ``(matches, inliers)`` of each pair amount to."""
    observations = [model.compute_num_observations() for model in models]
    errors = [model.compute_mean_reprojection_error() for model in models]
    points = [model.num_points3D() for model in models]
    inliers = sum(count for _, count in found)
    return {
        "registered": len(set().union(*map(colmap.registered_names, models))),
        "images": [model.num_reg_images() for model in models],
        "points": points,
        "track": sum(observations) / sum(points),
        "error": float(np.average(errors, weights=observations)),
        "pairs": len(found),
        "inliers_a_pair": inliers / len(found),
        "inlier_ratio": inliers / sum(count for count, _ in found),
    }


def _check_mutual(pairs: NDArray[Any], first: NDArray[Any], second: NDArray[Any]) -> None:
    """Raise ValueError unless no code is nearer to either of a pair than they are to each other."""
    bits = np.bitwise_xor(first[pairs[:, 0]], second[pairs[:, 1]])
    distance = unpack_bits(bits).sum(axis=1)
    for column, query, train in ((0, first, second), (1, second, first)):
        if (nearest(query, train, 1).distance[pairs[:, column], 0] != distance).any():
            raise ValueError("a match is not the nearest neighbour")


def _cpu(run: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of all threads, and the result."""
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def _save(path: Path, result: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1, default=vars) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{NAME}",
        description="3D reconstruction of South Building by descriptor.",
    )
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=ROWS, help="descriptors")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("runs/south_building"),
        help="folder that keeps what is done (%(default)s)",
    )
    parser.add_argument("--times", action="store_true", help="time describing and matching")
    parser.add_argument("--save", action="store_true", help=f"write benchmarks/results/{NAME}.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
