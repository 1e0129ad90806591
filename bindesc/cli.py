"""The command line: options and exit codes; ``commands`` does the work.

Exit codes: 0 a result, 2 unusable input, 3 too few matches (a JSON is still written), 130
interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import __version__, search_cli, sfm_cli, slam_cli
from .arguments import at_least
from .training import cli as training_cli

EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130

_DETECTORS = ("orb", "fast", "sift", "agast", "akaze", "kaze", "brisk")
_DESCRIPTORS = ("bindesc", "orb", "sift", "teblid")
_NO_OPENCV = (
    "OpenCV is missing; install one of its four wheels: opencv-python, opencv-python-headless, "
    "opencv-contrib-python, opencv-contrib-python-headless "
    "(pip install bindesc[opencv] or bindesc[opencv-headless])"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments; by default those of the process.

    Returns:
        The exit code. An error is one line on stderr.
    """
    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPTED)
    except ImportError as error:
        return _fail(_NO_OPENCV if error.name == "cv2" else str(error), EXIT_BAD_INPUT)
    except MemoryError as error:
        return _fail(f"out of memory {error}", EXIT_BAD_INPUT)
    except (ValueError, OSError, FloatingPointError) as error:
        return _fail(str(error), EXIT_BAD_INPUT)


def _fail(message: str, code: int) -> int:
    print(f"bindesc: {' '.join(message.split())}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bindesc",
        description="Learned 256-bit binary local features and exact Hamming matching.",
        epilog="Exit codes: 0 a result, 2 unusable input, 3 too few matches.",
    )
    parser.add_argument("--version", action="version", version=f"bindesc {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_match(commands)
    _add_extract(commands)
    _add_match_features(commands)
    sfm_cli.register(commands, _add_feature_options, _add_resize, _DESCRIPTORS)
    _add_demo(commands)
    _add_info(commands)
    _add_export(commands)
    training_cli.register(commands)
    slam_cli.register(commands, _add_feature_options)
    search_cli.register(commands)
    return parser


def _add_match(commands: Any) -> None:
    parser = commands.add_parser(
        "match",
        help="match two images and draw the result",
        description="Match two images, fit a model to the matches and draw both.",
    )
    parser.set_defaults(run=_command("run_match"))
    parser.add_argument("image0", type=Path, metavar="A")
    parser.add_argument("image1", type=Path, metavar="B")
    _add_resize(parser)
    _add_feature_options(parser)
    parser.add_argument(
        "--descriptor",
        choices=_DESCRIPTORS,
        default="bindesc",
        help="what describes the detector's keypoints (default: bindesc); sift is compared by "
        "Euclidean distance",
    )
    _add_filters(parser)
    geometry = parser.add_argument_group("geometry")
    geometry.add_argument(
        "--geometry",
        choices=("H", "F", "none"),
        default="H",
        help="homography (plane, rotating camera), fundamental matrix (scene with depth) or none "
        "(default: H)",
    )
    geometry.add_argument(
        "--ransac-thr",
        type=float,
        default=3.0,
        metavar="PX",
        help="largest error of an inlier in pixels (default: 3)",
    )
    geometry.add_argument("--seed", type=int, default=0, help="of the robust fit (default: 0)")
    output = parser.add_argument_group("output (nothing but the JSON if there is no match at all)")
    output.add_argument(
        "--out",
        type=Path,
        default=Path("matches.png"),
        metavar="PNG",
        help="picture: inliers green, others faint red (default: matches.png)",
    )
    output.add_argument("--no-viz", action="store_true", help="write no picture")
    output.add_argument(
        "--json", type=Path, metavar="PATH", help="summary; - for stdout, instead of text"
    )
    output.add_argument("--npz", type=Path, metavar="PATH", help="SuperGlue's keys, plus inliers")
    output.add_argument(
        "--h5",
        type=Path,
        metavar="FOLDER",
        help="hloc's layout: features.h5, matches.h5 and pairs.txt; the photos are read as hloc "
        "does, without their EXIF orientation",
    )


def _add_extract(commands: Any) -> None:
    parser = commands.add_parser(
        "extract",
        help="describe a folder of images",
        description="Describe every image below a folder. Images that the output already has are "
        "not done again unless they changed, so that a stopped run can be started again.",
    )
    parser.set_defaults(run=_command("run_extract"))
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="PATH",
        help="NAME.h5 for one file in hloc's layout, whose positions are without the photos' EXIF "
        "orientation, else a folder for an NPZ an image",
    )
    _add_resize(parser)
    _add_feature_options(parser)


def _add_match_features(commands: Any) -> None:
    parser = commands.add_parser(
        "match-features",
        help="match pairs of described images, for hloc",
        description="Match pairs of images in an H5 that 'bindesc extract' wrote; the result is "
        "what hloc's match_features would write.",
    )
    parser.set_defaults(run=_command("run_match_features"))
    parser.add_argument("features", type=Path, metavar="FEATURES.h5")
    parser.add_argument("pairs", type=Path, metavar="PAIRS.txt", help="two names a line")
    parser.add_argument("--out", type=Path, required=True, metavar="H5", help="to write")
    _add_filters(parser)


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        help="match a photo to a changed view of itself",
        description="Match a photo to a warped, blurred, noisy and darker view of itself and "
        "measure the homography against the truth.",
    )
    parser.set_defaults(run=_command("run_demo"))
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), metavar="FOLDER", help="(default: demo)"
    )
    _add_feature_options(parser)


def _add_info(commands: Any) -> None:
    parser = commands.add_parser("info", help="versions, models and backends")
    parser.set_defaults(run=_command("run_info"))
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_export(commands: Any) -> None:
    parser = commands.add_parser("export", help="a model for other runtimes")
    parser.set_defaults(run=_command("run_export"))
    parser.add_argument("model", metavar="NAME|PATH", help="a shipped model or a .safetensors file")
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="to write, for ONNX runtimes")
    parser.add_argument(
        "--cpp", type=Path, metavar="FILE", help="to write, for C++ programs (cuda_ext/bindesc.h)"
    )


def _add_feature_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("features")
    group.add_argument(
        "--detector", choices=_DETECTORS, default="orb", help="of keypoints (default: orb)"
    )
    group.add_argument(
        "--model",
        default="compact",
        metavar="NAME|PATH",
        help="a shipped model or a .safetensors file (default: compact)",
    )
    group.add_argument(
        "--n-kpts",
        type=at_least(1),
        default=1000,
        metavar="N",
        help="most keypoints an image (default: %(default)s)",
    )
    group.add_argument(
        "--even", action="store_true", help="spread the keypoints evenly over the image"
    )
    group.add_argument("--device", default="cpu", help="torch device of the network (default: cpu)")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    keep = parser.add_argument_group("which nearest neighbours are matches")
    keep.add_argument("--no-mutual", action="store_true", help="keep one-sided neighbours too")
    keep.add_argument(
        "--ratio", type=float, metavar="R", help="nearest < R * second nearest, 0 to 1"
    )
    keep.add_argument("--margin", type=int, metavar="BITS", help="second nearest - nearest >= BITS")
    keep.add_argument("--max-dist", type=int, metavar="BITS", help="nearest <= BITS")


def _add_resize(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resize",
        type=at_least(1),
        metavar="PX",
        help="shrink images to this longer side first; results stay in original pixels",
    )


def _command(name: str) -> Callable[[argparse.Namespace], int]:
    """A function of ``commands``, imported on call: --help needs neither OpenCV nor torch."""

    def run(args: argparse.Namespace) -> int:
        from . import commands

        return getattr(commands, name)(args)

    return run
