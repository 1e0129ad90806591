"""Patch pairs from unlabelled photos: two views, keypoints detected anew in both.

The second view is made from the same photo, or is another photo of the place, if a COLMAP
reconstruction ties them together. Detecting again, instead of carrying keypoints over, shows a
network the errors of position, scale and orientation that the detector really makes; only views in
which it would find little again have carried ones. A set is a folder: ``patches.npy``
(memory-mapped), ``xy.npy``, ``side.npy``, ``linear.npy``, and ``set.json`` with the groups and the
settings. A group is one pair of views.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..detectors import SCALE_FACTORS, create_detector, detect, to_arrays
from ..files import atomic_folder
from ..folder import find_images
from ..image import ImageError, read_image, to_gray
from ..patches import PATCH_SIDE, extract_patches, similarities
from ..runtime import Runtime
from ..weights import model_path, read_model
from .noise import FrameNoise
from .pairing import Points, Tolerance, carry_points, pair_keypoints
from .views import Partner, Views, check_shape, find_partners, made_views, taken_views

SEEN_BY = "model.safetensors"  # in a set of what a network sees
_LEAST_SIDE = 8  # pixels, of a patch that is carried into another view


@dataclass(frozen=True)
class PairSettings:
    """How views are made and keypoints paired.

    Attributes:
        views: pairs of views made from each photo.
        partners: other photos of the place that each photo is paired with, where they are known.
        pairs_per_view: pairs kept of each, drawn at random.
        min_pairs: views with fewer pairs are dropped.
        detectors: detectors to draw from, one a view pair; repeat a name to weight it.
        keypoints: keypoints detected in each view.
        support: side of the described patch over the detector's scale factor.
        margin: side of the stored patch over that of the described one; above 1, training can turn
            and shift what it cuts out of it.
        sides: range of the photo's longer side after resizing, pixels.
        warped: share of the view pairs in which the second one is seen by a homography.
        model: name or path of a model: the patches that its networks see are stored instead of wide
            ones. That is just what they are given later; patches that are cut out of wide ones have
            been sampled twice. Empty for wide patches.
        noise: share of the view pairs whose keypoints get errors of place and size besides the
            detector's, if there is a ``model``; wide patches get theirs in training.
        hard: share of the view pairs of one photo that are tilted or blurred so strongly, see
            :func:`made_views`, that a detector would find little again. The second view's keypoints
            are those of the first, with errors of the angle, and of place and size as by ``noise``.
        tolerance: how far the keypoints of a pair may differ.
        seed: seed of all randomness.
    """

    views: int = 8
    partners: int = 8
    pairs_per_view: int = 160
    min_pairs: int = 32
    detectors: tuple[str, ...] = ("orb",)
    keypoints: int = 1500
    support: float = 1.0
    margin: float = 1.0
    sides: tuple[int, int] = (400, 1024)
    warped: float = 0.6
    model: str = ""
    noise: float = 0.0
    hard: float = 0.0
    tolerance: Tolerance = field(default_factory=Tolerance)
    seed: int = 0

    @property
    def side(self) -> int:
        """Of a stored patch, S, samples."""
        return PATCH_SIDE if self.model else 2 * round(PATCH_SIDE * self.margin / 2)


class Pairs(NamedTuple):
    """Pairs of two views.

    Attributes:
        patches: ``(K, 2, S, S)`` uint8.
        xy: ``(K, 2)`` float32, position in the first view, pixels.
        side: ``(K,)`` float32, side of the detector's patch there, pixels.
        linear: ``(K, 2, 2)`` float32: takes places in the first patch to those in the second, both
            from the patch's centre and over its side; without the keypoints' errors, the identity.
    """

    patches: NDArray[np.uint8]
    xy: NDArray[np.float32]
    side: NDArray[np.float32]
    linear: NDArray[np.float32]


def pairs_of_views(
    views: Views, settings: PairSettings, rng: np.random.Generator, *, hard: bool = False
) -> Pairs:
    """The pairs of one group."""
    name = settings.detectors[rng.integers(len(settings.detectors))]
    detector = create_detector(name, settings.keypoints)
    subpixel = bool(rng.random() < 0.5)  # a model is used with both

    def found(view: NDArray[np.uint8]) -> Points:
        keypoints = detect(detector, view, None, settings.keypoints, subpixel=subpixel)
        xy, size, angle, _ = to_arrays(keypoints)
        return xy, size * SCALE_FACTORS[name], angle

    first = found(views.first)
    carried = views.carry(first[0])
    if hard:
        second = carry_points(first, carried, FrameNoise().turn, rng)
        inside = _inside(second, views.second)
        pairs = np.repeat(np.flatnonzero(inside)[:, None], 2, axis=1)
    else:
        second = found(views.second)
        pairs = pair_keypoints(first, second, carried, settings.tolerance)
    points = first, second
    if len(pairs) > settings.pairs_per_view:
        pairs = pairs[np.sort(rng.permutation(len(pairs))[: settings.pairs_per_view])]
    patches = np.empty((len(pairs), 2, settings.side, settings.side), np.uint8)
    noisy = hard or (bool(settings.noise) and rng.random() < settings.noise)
    for which, (view, arrays) in enumerate(zip(views[:2], points, strict=True)):
        xy, side, angle = (array[pairs[:, which]] for array in arrays)
        if settings.model:
            seen = _seen(settings.model, view, xy, side, angle, rng if noisy else None)
        else:
            scale = settings.support * settings.side / PATCH_SIDE
            seen, _ = extract_patches(view, xy, side, angle, scale=scale, side=settings.side)
        patches[:, which] = seen
    frames = [
        similarities(side[chosen], angle[chosen])
        for chosen, (_, side, angle) in zip(pairs.T, points, strict=True)
    ]
    linear = np.linalg.inv(frames[1]) @ carried.jacobian[pairs[:, 0]] @ frames[0]
    xy, side, _ = (array[pairs[:, 0]] for array in first)
    return Pairs(patches, xy, side.astype(np.float32), linear.astype(np.float32))


def _inside(points: Points, view: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which patches lie in the view, but for their corners, and are 8 pixels wide at least."""
    (x, y), side = points[0].T, points[1]
    height, width = view.shape
    reach = side / 2
    inside = (x >= reach) & (y >= reach) & (x <= width - 1 - reach) & (y <= height - 1 - reach)
    return inside & (side >= _LEAST_SIDE)


def _seen(
    model: str,
    view: NDArray[np.uint8],
    xy: NDArray[np.float32],
    side: NDArray[np.float32],
    angle: NDArray[np.float32],
    rng: np.random.Generator | None,
) -> NDArray[np.uint8]:
    """What a model's network sees of keypoints.

    ``rng`` draws errors of them; those of place are a share of the detector's patch, at support 1.
    """
    runtime = _runtime(model)
    if rng is not None:
        noise = FrameNoise()
        shift = rng.normal(0, noise.offset, xy.shape) * side[:, None]
        xy = (xy + shift).astype(np.float32)
        side = (side * np.exp(rng.normal(0, noise.scale, side.shape))).astype(np.float32)
    return runtime.cut(view, xy, side, angle, scale=runtime.support)[0]


_runtime = cache(Runtime)


class _Task(NamedTuple):
    """All groups of one photo."""

    number: int
    path: Path
    partners: Sequence[Partner]
    settings: PairSettings


class _Group(NamedTuple):
    pairs: Pairs
    partner: Path | None
    carried: bool


def _photo_groups(task: _Task) -> tuple[int, list[_Group], str]:
    """All groups of one photo; an unreadable photo gives none and its message."""
    number, path, partners, settings = task
    cv2.setNumThreads(1)
    groups = []
    try:
        photo = to_gray(read_image(path, oriented=False))
        for view in range(settings.views):
            rng = np.random.default_rng([settings.seed, number, view])
            hard = bool(settings.hard) and bool(rng.random() < settings.hard)
            views = made_views(photo, settings.sides, settings.warped, rng, hard=hard)
            groups.append(_Group(pairs_of_views(views, settings, rng, hard=hard), None, hard))
        for view, partner in enumerate(partners, settings.views):
            rng = np.random.default_rng([settings.seed, number, view])
            check_shape(path, photo, partner.shapes[0])
            try:
                other = to_gray(read_image(partner.path, oriented=False))
                check_shape(partner.path, other, partner.shapes[1])
            except ImageError:
                continue  # that photo has a task of its own, which says why
            views = taken_views(photo, other, partner, settings.sides, rng)
            groups.append(_Group(pairs_of_views(views, settings, rng), partner.path, False))
    except ImageError as error:
        return number, [], str(error)
    return number, [group for group in groups if len(group.pairs.xy) >= settings.min_pairs], ""


def build_pairs(
    folder: Path,
    output: Path,
    settings: PairSettings,
    *,
    photos: Sequence[Path] | None = None,
    models: Sequence[Path] = (),
    workers: int = 2,
) -> dict[str, Any]:
    """Make a set of pairs from all photos below a folder; the same seed gives the same bytes.

    The photos of one sub-folder are taken to show the same place (``scene``).

    Args:
        folder: where the photos are.
        output: the folder to make; it must not exist, and appears only when it is complete.
        settings: see :class:`PairSettings`.
        photos: which photos below it; by default all.
        models: COLMAP models of the photos, see :func:`find_partners`.
        workers: processes.

    Returns:
        What ``set.json`` holds: ``settings``, ``count`` pairs, ``groups`` as a list of
        ``{"photo", "partner", "carried", "scene", "start", "end"}``, and ``skipped`` photos with
        the reason.

    Raises:
        FolderError: see :func:`bindesc.folder.find_images`.
        ImageError: no photo gives enough pairs.
        FileExistsError: ``output`` exists.
        ValueError: the model of the settings is of another kind; WeightsError: or not there.
    """
    if settings.model and read_model(settings.model)[0].architecture != "compact":
        raise ValueError(f"model: {settings.model} is no compact network")
    photos = [folder / name for name in find_images(folder)] if photos is None else photos
    partners = find_partners(photos, models, settings.partners, settings.seed)
    groups: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    count = 0
    with atomic_folder(output) as partial:
        raw = [partial / f"raw.{name}" for name in Pairs._fields]
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("wb")) for path in raw]
            for index, found, message in _run(photos, partners, settings, workers):
                path = photos[index].relative_to(folder)
                if not found:
                    few = f"fewer than {settings.min_pairs} pairs in every view"
                    skipped[str(path)] = message or few
                for pairs, partner, carried in found:
                    for file, array in zip(files, pairs, strict=True):
                        file.write(array.tobytes())
                    end = count + len(pairs.xy)
                    source = {
                        "photo": str(path),
                        "partner": "" if partner is None else str(partner.relative_to(folder)),
                        "carried": carried,
                        "scene": str(path.parent),
                    }
                    groups.append({**source, "start": count, "end": end})
                    count = end
        if not count:
            raise ImageError(f"{folder}: none of {len(photos)} photos gave enough pairs: {skipped}")
        shape = (count, 2, settings.side, settings.side)
        raw_to_npy(raw[0], partial / "patches.npy", np.uint8, shape)
        raw_to_npy(raw[1], partial / "xy.npy", np.float32, (count, 2))
        raw_to_npy(raw[2], partial / "side.npy", np.float32, (count,))
        raw_to_npy(raw[3], partial / "linear.npy", np.float32, (count, 2, 2))
        summary = {
            "settings": asdict(settings),
            "count": count,
            "groups": groups,
            "skipped": skipped,
        }
        if settings.model:
            shutil.copy(model_path(settings.model), partial / SEEN_BY)
        (partial / "set.json").write_text(json.dumps(summary, indent=1))
    return summary


def _run(
    photos: Sequence[Path],
    partners: Mapping[Path, Sequence[Partner]],
    settings: PairSettings,
    workers: int,
) -> Iterator[Any]:
    tasks = [
        _Task(number, path, partners.get(path, ()), settings) for number, path in enumerate(photos)
    ]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from tqdm(pool.imap(_photo_groups, tasks), total=len(tasks), unit="photo")


def raw_to_npy(raw: Path, target: Path, dtype: Any, shape: tuple[int, ...]) -> None:
    """Put a .npy header before raw bytes that were written in pieces."""
    array = np.lib.format.open_memmap(target, mode="w+", dtype=dtype, shape=shape)
    array[:] = np.memmap(raw, dtype=dtype, shape=shape, mode="r")
    array.flush()
    raw.unlink()


def centre(wide: Any) -> Any:
    """The patches ``(..., 32, 32)`` in the middle of ``(..., S, S)`` ones: a view.

    Args:
        wide: an array or a tensor.
    """
    margin = (wide.shape[-1] - PATCH_SIDE) // 2
    inner = slice(margin, margin + PATCH_SIDE)
    return wide[..., inner, inner]


@dataclass(frozen=True, eq=False)
class PairSet:
    """A set on disk, opened for reading.

    Attributes:
        patches: ``(P, 2, S, S)`` uint8, memory-mapped; S is ``settings.side``.
        xy: ``(P, 2)`` float32, position in the first view, pixels.
        side: ``(P,)`` float32, side of the detector's patch there, pixels.
        linear: ``(P, 2, 2)`` float32, see :class:`Pairs`.
        start, end: ``(G,)`` int64, the span of pairs of each group.
        photo, partner, scene: ``(G,)`` str, where each group comes from; ``partner`` is "" if
            both views are of one photo.
        carried: ``(G,)`` bool, whether the second view's keypoints are the first's, carried over
            with errors, so that no detector gave them their angles.
        settings: the settings it was made with.
        seen_by: the file of the model whose network is given such patches; None where they are
            wide.
    """

    patches: NDArray[np.uint8]
    xy: NDArray[np.float32]
    side: NDArray[np.float32]
    linear: NDArray[np.float32]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    photo: NDArray[np.str_]
    partner: NDArray[np.str_]
    carried: NDArray[np.bool_]
    scene: NDArray[np.str_]
    settings: PairSettings
    seen_by: Path | None

    def rows(self, groups: NDArray[np.intp]) -> NDArray[np.int64]:
        """``(N,)`` int64, all pairs of some groups, one at least."""
        return np.concatenate([np.arange(self.start[g], self.end[g]) for g in groups])


def open_pairs(folder: Path) -> PairSet:
    """Open what :func:`build_pairs` made.

    Raises:
        FileNotFoundError: there is none, or it is of an older version.
        ValueError: it is damaged.
    """
    if not (folder / "set.json").is_file():
        raise FileNotFoundError(
            f"{folder}: no set of patch pairs (make one: bindesc patches build)"
        )
    if not (folder / "side.npy").is_file():
        raise FileNotFoundError(f"{folder}: a set of an older version; make it anew")
    with told_as_damaged(folder):
        return _open_pairs(folder)


@contextmanager
def told_as_damaged(folder: Path) -> Iterator[None]:
    """Turns what damaged files of a set raise into one line that names the folder."""
    try:
        yield
    except (KeyError, TypeError, ValueError, EOFError) as error:
        raise ValueError(f"{folder}: damaged, or not a set of patches ({error})") from None


def _open_pairs(folder: Path) -> PairSet:
    summary = json.loads((folder / "set.json").read_text())
    groups = summary["groups"]
    settings = summary["settings"] | {
        "detectors": tuple(summary["settings"]["detectors"]),
        "sides": tuple(summary["settings"]["sides"]),
        "tolerance": Tolerance(**summary["settings"]["tolerance"]),
    }
    return PairSet(
        patches=np.load(folder / "patches.npy", mmap_mode="r"),
        xy=np.load(folder / "xy.npy"),
        side=np.load(folder / "side.npy"),
        linear=np.load(folder / "linear.npy"),
        start=np.array([g["start"] for g in groups]),
        end=np.array([g["end"] for g in groups]),
        photo=np.array([g["photo"] for g in groups]),
        partner=np.array([g["partner"] for g in groups]),
        carried=np.array([g.get("carried", False) for g in groups]),  # not in older sets
        scene=np.array([g["scene"] for g in groups]),
        settings=PairSettings(**settings),
        seen_by=folder / SEEN_BY if settings.get("model") else None,
    )
