"""What the commands do with their parsed arguments: call, print, return the exit code."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import demo, export, hloc, info, viz, weights
from .extractor import create
from .files import atomic_path, check_writable
from .folder import extract_folder
from .image import read_image
from .opencv_descriptors import OpenCVFeatures
from .pair import Extractor, Filters, Pair, extract_resized, match_pair

EXIT_OK, EXIT_BAD_INPUT, EXIT_TOO_FEW = 0, 2, 3

_MODEL_NAMES = {"H": "homography", "F": "fundamental matrix"}


def run_match(args: Namespace) -> int:
    """``bindesc match``."""
    if not args.no_viz:
        viz.check_picture_path(args.out)
    for path in (args.npz, args.json):
        if path is not None and str(path) != "-":
            check_writable(path)
    if args.h5:
        hloc.check_folder(args.h5, _hloc_names(args.image0, args.image1))
    image0, image1 = (read_image(path, oriented=not args.h5) for path in (args.image0, args.image1))
    extractor = make_extractor(args, args.descriptor)
    pair = match_pair(
        extract_resized(extractor, image0, args.resize),
        extract_resized(extractor, image1, args.resize),
        norm="l2" if args.descriptor == "sift" else "hamming",
        filters=make_filters(args),
        kind=None if args.geometry == "none" else args.geometry,
        threshold=args.ransac_thr,
        seed=args.seed,
    )
    written = []
    if len(pair.matches):
        if not args.no_viz:
            caption = f"{_title(args)}: {_counts(pair)}"
            inliers = pair.geometry.inliers
            viz.save_picture(
                args.out, viz.draw_matches(image0, pair.xy0, image1, pair.xy1, inliers, caption)
            )
            written.append(args.out)
        if args.npz:
            export.save_pair_npz(args.npz, pair)
            written.append(args.npz)
        if args.h5:
            hloc.save_pair(args.h5, *_hloc_names(args.image0, args.image1), pair)
            written.append(args.h5)
    if args.json is not None:
        _write_json(args.json, _match_report(args, pair))
    if str(args.json) != "-":
        for path, features in ((args.image0, pair.features0), (args.image1, pair.features1)):
            width, height = features.image_size
            print(f"{path}: {width} x {height} pixels, {len(features)} keypoints")
        print(f"{_title(args)}: {_counts(pair)}")
        for path in written:
            print(f"wrote {path}")
    shortfall = pair.shortfall()
    if shortfall:
        print(f"bindesc: too few matches: {shortfall}", file=sys.stderr)
        return EXIT_TOO_FEW
    return EXIT_OK


def run_match_features(args: Namespace) -> int:
    """``bindesc match-features``."""
    check_writable(args.out)
    if args.out.resolve() in (args.features.resolve(), args.pairs.resolve()):
        raise ValueError(f"{args.out}: is what is to be read; choose another output")
    pairs = hloc.read_pairs(args.pairs)
    if not pairs:
        raise ValueError(f"{args.pairs}: holds no pairs")
    count = hloc.match_features(args.features, pairs, args.out, make_filters(args), _batches)
    print(f"{len(pairs)} pairs, {count} matches")
    print(f"wrote {args.out}")
    return EXIT_OK


def run_extract(args: Namespace) -> int:
    """``bindesc extract``."""
    report = extract_folder(
        args.folder,
        args.out,
        lambda: make_extractor(args, "bindesc"),
        feature_settings(args, "bindesc"),
        args.resize,
        _progress,
    )
    for line in report.unreadable:
        print(f"skipped {line}", file=sys.stderr)
    print(
        f"{report.extracted} images extracted ({report.keypoints} keypoints), "
        f"{report.kept} already done, {len(report.unreadable)} unreadable"
    )
    if not report.extracted + report.kept:
        print(f"bindesc: {args.folder}: no image could be read", file=sys.stderr)
        return EXIT_BAD_INPUT
    print(f"wrote {args.out}")
    return EXIT_OK


def run_demo(args: Namespace) -> int:
    """``bindesc demo``."""
    extractors = {
        f"bindesc {Path(args.model).stem}": lambda: make_extractor(args, "bindesc"),
        "orb": lambda: make_extractor(args, "orb"),
    }
    results = demo.run_demo(args.out, extractors)
    width = max(len(result.name) for result in results)
    print(f"{'descriptor':{width}}  matches  inliers  corner error")
    for result in results:
        inliers = result.pair.geometry.inliers
        print(
            f"{result.name:{width}}  {len(inliers):7}  {inliers.sum():7}  "
            f"{result.corner_error:9.2f} px"
        )
    print(f"wrote {args.out / 'demo.png'} (and view0.png, view1.png beside it)")
    shortfall = results[0].pair.shortfall()
    if shortfall:
        print(f"bindesc: too few matches: {shortfall}", file=sys.stderr)
        return EXIT_TOO_FEW
    return EXIT_OK


def run_export(args: Namespace) -> int:
    """``bindesc export``."""
    from .cpp_export import export_cpp
    from .onnx_export import export_onnx

    if not (args.onnx or args.cpp):
        raise ValueError("export: name a file, by --onnx or --cpp")
    if args.cpp:
        export_cpp(args.model, args.cpp)
        print(f"wrote {args.cpp}")
    if args.onnx:
        for path in export_onnx(args.model, args.onnx):
            print(f"wrote {path}")
    return EXIT_OK


def run_info(args: Namespace) -> int:
    """``bindesc info``."""
    facts = info.collect()
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        print("\n".join(info.to_lines(facts)))
    return EXIT_OK


def make_filters(args: Namespace) -> Filters:
    """Which nearest neighbours the options say are matches."""
    return Filters(not args.no_mutual, args.ratio, args.margin, args.max_dist)


def feature_settings(args: Namespace, descriptor: str) -> dict[str, str | int | None]:
    """What decides the features of an image, to be stored beside them."""
    settings = {
        "detector": args.detector,
        "n-kpts": args.n_kpts,
        "resize": args.resize,
        "even": args.even,
        "subpixel": True,
    }
    if descriptor != "bindesc":
        return {"descriptor": descriptor, **settings}
    manifest, _ = weights.read_model(args.model)
    return {"model": manifest.name, "sha256": manifest.sha256, **settings}


def make_extractor(args: Namespace, descriptor: str) -> Extractor:
    """What the options of a command ask for: a bindesc model or one of OpenCV's descriptors."""
    if descriptor != "bindesc":
        return OpenCVFeatures(descriptor, args.detector, args.n_kpts, even=args.even)
    return create(args.detector, args.model, args.n_kpts, args.device, even=args.even)


def _title(args: Namespace) -> str:
    name = f"bindesc {Path(args.model).stem}" if args.descriptor == "bindesc" else args.descriptor
    return f"{name} on {args.detector} keypoints"


def _counts(pair: Pair) -> str:
    counts = f"{len(pair.matches)} matches"
    if pair.kind is not None:
        counts += f", {pair.geometry.inliers.sum()} inliers of a {_MODEL_NAMES[pair.kind]}"
    return counts


def _match_report(args: Namespace, pair: Pair) -> dict[str, Any]:
    model = pair.geometry.model
    return {
        "images": [
            {
                "path": str(path),
                "width": features.image_size[0],
                "height": features.image_size[1],
                "keypoints": len(features),
            }
            for path, features in ((args.image0, pair.features0), (args.image1, pair.features1))
        ],
        "descriptor": args.descriptor,
        "model": str(args.model) if args.descriptor == "bindesc" else None,
        "detector": args.detector,
        "matches": len(pair.matches),
        "inliers": int(pair.geometry.inliers.sum()),
        "geometry": {
            "kind": pair.kind,
            "matrix": None if model is None else model.tolist(),
            "threshold_px": args.ransac_thr,
            "seed": args.seed,
        },
        "too_few": pair.shortfall(),
    }


def _write_json(path: Path, report: dict[str, Any]) -> None:
    text = json.dumps(report, indent=2) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
        return
    with atomic_path(path) as temporary:
        temporary.write_text(text, "utf-8")


def _hloc_names(path0: Path, path1: Path) -> tuple[str, str]:
    """Names relative to the folder that both images share, as hloc wants them."""
    paths = [path.parent.resolve() / path.name for path in (path0, path1)]
    root = Path(os.path.commonpath([path.parent for path in paths]))
    first, second = (path.relative_to(root).as_posix() for path in paths)
    return first, second


def _progress(names: Sequence[str]) -> Iterator[str]:
    from tqdm import tqdm

    return iter(tqdm(names, unit="image", disable=not names))


def _batches(starts: Sequence[int]) -> Iterator[int]:
    from tqdm import tqdm

    return iter(tqdm(starts, unit="batch", disable=len(starts) < 2))
