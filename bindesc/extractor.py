"""The descriptor behind OpenCV's protocol: detect, compute, detectAndCompute, as in cv2.ORB."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from .detectors import (
    MOST_FEATURES,
    SCALE_FACTORS,
    KeyPoints,
    create_detector,
    detect,
    detector_name,
    to_arrays,
)
from .files import atomic_path
from .image import check_mask, to_gray
from .runtime import Runtime
from .threads import in_parallel
from .types import Features

DEFAULT_MODEL = "compact"

CUSTOM = "custom"  # in the place of a detector's name

_USUAL_FEATURES = 500

# The patches of keypoints whose size says nothing, pixels before the model's support: ORB's finest.
_LEAST_SIDE, _USUAL_SIDE = 8, 31


@dataclass(frozen=True)
class Settings:
    """The parameters of a :class:`BinDesc` that :meth:`BinDesc.write` stores.

    Attributes:
        detector: key of ``detectors.SCALE_FACTORS``, or ``CUSTOM`` for an OpenCV object.
        model: name of a shipped model, or path of a model file.
        nfeatures: most keypoints of an image.
        device: torch device of the network.
        scale_factor: side of the patch over ``KeyPoint.size``, before the model's own support.
        border: ``"pad"`` keeps keypoints at the border, ``"drop"`` leaves them out.
        even: spread the keypoints evenly (adaptive non-maximal suppression).
        subpixel: place corners to a fraction of a pixel.

    Raises:
        ValueError: a value is out of range.
    """

    detector: str
    model: str
    nfeatures: int
    device: str
    scale_factor: float
    border: Literal["pad", "drop"]
    even: bool
    subpixel: bool

    def __post_init__(self) -> None:
        if self.detector not in (*SCALE_FACTORS, CUSTOM):
            raise ValueError(f"detector: {self.detector!r} is none of {', '.join(SCALE_FACTORS)}")
        if not _is_integer(self.nfeatures) or not 1 <= self.nfeatures <= MOST_FEATURES:
            raise ValueError(
                f"nfeatures: expected an integer, 1 to {MOST_FEATURES}, got {self.nfeatures!r}"
            )
        if not isinstance(self.scale_factor, (int, float)) or not 0 < self.scale_factor < np.inf:
            raise ValueError(f"scale_factor: must be positive, got {self.scale_factor!r}")
        if self.border not in ("pad", "drop"):
            raise ValueError(f"border: {self.border!r} is neither 'pad' nor 'drop'")
        for name in ("even", "subpixel"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: expected true or false, got {getattr(self, name)!r}")


def create(
    detector: Any = "orb",
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    nfeatures: int | None = None,
    device: str = "cpu",
    *,
    scale_factor: float | None = None,
    border: Literal["pad", "drop"] = "pad",
    even: bool = False,
    subpixel: bool = True,
) -> BinDesc:
    """Make a detector and descriptor that takes the place of ``cv2.ORB_create()``.

    Args:
        detector: ``"orb"``, ``"fast"``, ``"sift"`` (also ``"agast"``, ``"akaze"``, ``"kaze"``,
            ``"brisk"``), or any ``cv2.Feature2D`` object that detects.
        model: name of a shipped model, or path of a ``.safetensors`` file.
        nfeatures: most keypoints of an image; the strongest are kept. By default 500, or all that a
            detector object finds, which may have a limit of its own.
        device: torch device of the network, such as ``"cpu"`` or ``"cuda"``.
        scale_factor: side of the patch over ``KeyPoint.size``; by default the detector's own.
        border: ``"pad"`` describes keypoints at the border too, from a mirrored image; ``"drop"``
            leaves out those whose patch reaches outside.
        even: spread the keypoints evenly over the image instead of taking the strongest. A
            detector object must find several times ``nfeatures`` to choose from.
        subpixel: place the corners of ORB, FAST and AGAST to a fraction of a pixel, see
            :func:`bindesc.corners.subpixel_offsets`. False leaves them on whole pixels (ORB: of the
            level of its pyramid) where they were found.

    Raises:
        ValueError: an option is out of range, the device cannot be used, a detector object of
            unknown kind comes without ``scale_factor``, or one comes with ``even`` but without
            ``nfeatures``.
        WeightsError: no such model, its file is damaged, or it describes whole images.

    Example:
        >>> import numpy as np
        >>> keypoints, descriptors = create().detectAndCompute(np.zeros((64, 64), np.uint8), None)
        >>> keypoints, descriptors
        ((), None)
    """
    name = detector if isinstance(detector, str) else detector_name(detector)
    if isinstance(detector, str):
        custom = None
    elif callable(getattr(detector, "detect", None)):
        custom = detector
    else:
        hint = "; the number of keypoints is nfeatures=..." if _is_integer(detector) else ""
        raise ValueError(f"detector: neither a name nor an OpenCV detector: {detector!r}{hint}")
    if scale_factor is None:
        if name not in SCALE_FACTORS:
            names = ", ".join(SCALE_FACTORS)
            raise ValueError(
                f"detector: {name or type(detector).__name__!r} is none of {names}; "
                "give scale_factor with an object of another kind"
            )
        scale_factor = SCALE_FACTORS[name]
    if nfeatures is None:
        if even and custom is not None:
            raise ValueError("even: with a detector object, say how many keypoints: nfeatures=...")
        nfeatures = _USUAL_FEATURES if custom is None else _own_limit(custom)
    settings = Settings(
        detector=CUSTOM if custom is not None else str(name),
        model=os.fspath(model),
        nfeatures=nfeatures,
        device=device,
        scale_factor=float(scale_factor),
        border=border,
        even=even,
        subpixel=subpixel,
    )
    return BinDesc(settings, custom)


class BinDesc:
    """A keypoint detector with a learned binary descriptor; made by :func:`create`.

    It has the methods of ``cv2.Feature2D`` but does not derive from it, because the base class
    cannot be subclassed from Python. Images are ``(H, W)``, ``(H, W, 3)`` BGR or ``(H, W, 4)``
    uint8, or ``cv2.UMat``; a mask is ``(H, W)`` and any nonzero value is valid. Detecting and
    describing change no state, so that one object can serve several threads, if its detector can:
    those that bindesc makes by name do, a ``cv2.MSER`` does not.

    Other than ``cv2.ORB``: results are NumPy arrays, for a ``cv2.UMat`` too; ``compute`` keeps the
    order of the keypoints, and those near the border; of ORB's own settings only the number of
    keypoints is here, the others belong to the ``cv2.ORB`` that :func:`create` may be given.
    """

    def __init__(self, settings: Settings, detector: Any = None):
        self._configure(settings, Runtime(settings.model, settings.device), detector)

    def _configure(self, settings: Settings, runtime: Runtime, detector: Any = None) -> None:
        if settings.detector != CUSTOM:
            detector = create_detector(settings.detector, settings.nfeatures, even=settings.even)
        elif detector is None:
            raise ValueError("detector: was an OpenCV object, which cannot be stored")
        self._scale = settings.scale_factor * runtime.support
        self.settings, self._runtime, self._detector = settings, runtime, detector

    # The array interface.

    def extract(self, image: Any, mask: Any = None) -> Features:
        """Detect and describe one image.

        Returns:
            The features; all arrays have length 0 when nothing was found.

        Raises:
            ImageError: ``image`` or ``mask`` cannot be used.
        """
        return self.extract_batch([image], None if mask is None else [mask])[0]

    def extract_batch(
        self, images: Sequence[Any], masks: Sequence[Any] | None = None
    ) -> list[Features]:
        """Detect and describe images of any sizes, several at a time if the detector can do that.

        Raises:
            ImageError: one of ``images`` or ``masks`` cannot be used; the text says which.
            ValueError: there are not as many masks as images.
        """
        if not len(images):
            return []
        all_masks = _as_many(masks, images, "masks")

        def features(i: int) -> Features:
            index = f"s[{i}]" if len(images) > 1 else ""  # errors speak of image, or of images[i]
            gray = to_gray(images[i], "image" + index)
            mask = check_mask(all_masks[i], gray, "mask" + index)
            arrays = to_arrays(self._detect(gray, mask))
            codes, kept = self._describe(gray, *arrays[:3])
            xy, size, angle, response = (array[kept] for array in arrays)
            return Features(xy, size, angle, response, codes, gray.shape[::-1])

        # Others crash in several threads, such as cv2.MSER.
        known = isinstance(self._detector, cv2.Feature2D) and detector_name(self._detector)
        return list((in_parallel if known else map)(features, range(len(images))))

    def describe(self, patches: ArrayLike) -> NDArray[np.uint8]:
        """Square grey patches to ``(N, descriptorSize())`` uint8 codes.

        They are described as upright keypoints are, and not turned first; see
        :meth:`bindesc.runtime.Runtime.describe` for their sizes.
        """
        return self._runtime.describe(patches)

    # The OpenCV interface.

    def detect(self, image: Any, mask: Any = None) -> Any:
        """Keypoints of an image, or a tuple of such tuples for a list of images and masks."""
        if isinstance(image, (list, tuple)):
            masks = _as_many(mask, image, "masks")
            return tuple(self.detect(*pair) for pair in zip(image, masks, strict=True))
        gray = to_gray(image)
        return self._detect(gray, check_mask(mask, gray))

    def compute(self, image: Any, keypoints: Any, descriptors: Any = None) -> Any:
        """Describe given keypoints.

        Args:
            image: an image, or a list of images.
            keypoints: a sequence of ``cv2.KeyPoint``, or a list of those. An angle of -1 means
                upright. A size whose patch would be less than 8 pixels by the detector's own scale
                factor, such as the 1 that ``cv2.KeyPoint.convert`` gives, means nothing: it is
                taken for that of ORB's finest level.
            descriptors: ignored; OpenCV's place for an output array.

        Returns:
            The keypoints that were described, a tuple, and ``(N, 32)`` uint8 or None when there
            are none; or a tuple of each for a list of images.
        """
        if isinstance(image, (list, tuple)):
            lists = _as_many(keypoints, image, "keypoints")
            each = [self.compute(*pair) for pair in zip(image, lists, strict=True)]
            return tuple(k for k, _ in each), tuple(d for _, d in each)
        keypoints = () if keypoints is None else tuple(keypoints)
        xy, size, angle, _ = to_arrays(keypoints)
        name = detector_name(self._detector)
        # The detector's own, as settings may ask for patches that are small on purpose.
        scale = SCALE_FACTORS[name] if name else self.settings.scale_factor
        size[size * scale < _LEAST_SIDE] = _USUAL_SIDE / scale
        codes, kept = self._describe(to_gray(image), xy, size, angle)
        if len(kept) < len(keypoints):
            keypoints = tuple(keypoints[i] for i in kept)
        return keypoints, codes if len(codes) else None

    def detectAndCompute(
        self,
        image: Any,
        mask: Any = None,
        descriptors: Any = None,
        useProvidedKeypoints: bool = False,
    ) -> tuple[KeyPoints, NDArray[np.uint8] | None]:
        """Keypoints, a tuple, and their ``(N, 32)`` uint8 descriptors, None if there are none.

        Raises:
            ImageError: ``image`` or ``mask`` cannot be used.
            ValueError: ``useProvidedKeypoints``, which is the work of :meth:`compute`.
        """
        if useProvidedKeypoints:
            raise ValueError("useProvidedKeypoints: call compute(image, keypoints) instead")
        return self.compute(image, self.detect(image, mask))

    def descriptorSize(self) -> int:
        """Bytes of one descriptor."""
        return self._runtime.descriptor_bytes

    def descriptorType(self) -> int:
        """``cv2.CV_8U``."""
        return int(cv2.CV_8U)

    def defaultNorm(self) -> int:
        """``cv2.NORM_HAMMING``."""
        return int(cv2.NORM_HAMMING)

    def getDefaultName(self) -> str:
        """The name under which OpenCV would file this object."""
        return "Feature2D.BinDesc"

    def empty(self) -> bool:
        """Always False: the model is loaded."""
        return False

    def getMaxFeatures(self) -> int:
        """Most keypoints of an image."""
        return self.settings.nfeatures

    def setMaxFeatures(self, maxFeatures: int) -> None:
        """Set the most keypoints of an image."""
        settings = replace(self.settings, nfeatures=maxFeatures)
        self._configure(settings, self._runtime, self._detector)

    def write(self, fileName: str | os.PathLike[str]) -> None:
        """Write the parameters (not the weights) as JSON.

        Raises:
            ValueError: the detector is an OpenCV object, which cannot be written.
        """
        with atomic_path(fileName) as path:
            path.write_text(json.dumps(self._portable(), indent=2, default=int) + "\n")

    def read(self, fileName: str | os.PathLike[str]) -> None:
        """Take over the parameters that :meth:`write` wrote.

        Raises:
            ValueError: the file holds anything else.
        """
        try:
            settings = Settings(**json.loads(Path(fileName).read_text()))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{fileName}: not the parameters of a BinDesc ({error})") from None
        self._configure(settings, Runtime(settings.model, settings.device))

    def __getstate__(self) -> dict[str, Any]:
        return self._portable()

    def __setstate__(self, state: dict[str, Any]) -> None:
        settings = Settings(**state)
        self._configure(settings, Runtime(settings.model, settings.device))

    # How it works.

    def _portable(self) -> dict[str, Any]:
        if self.settings.detector == CUSTOM:
            raise ValueError("detector: an OpenCV object cannot be stored; create with a name")
        return asdict(self.settings)

    def _detect(self, gray: NDArray[np.uint8], mask: NDArray[np.uint8] | None) -> KeyPoints:
        return detect(
            self._detector,
            gray,
            mask,
            self.settings.nfeatures,
            even=self.settings.even,
            subpixel=self.settings.subpixel,
        )

    def _describe(
        self,
        gray: NDArray[np.uint8],
        xy: NDArray[np.float32],
        size: NDArray[np.float32],
        angle: NDArray[np.float32],
    ) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
        return self._runtime.describe_keypoints(
            gray, xy, size, angle, scale=self._scale, border=self.settings.border
        )


def _own_limit(detector: Any) -> int:
    """The most keypoints that a detector object gives, where it has such a setting; 0 is none."""
    limit = detector.getMaxFeatures() if hasattr(detector, "getMaxFeatures") else 0
    return limit if limit > 0 else MOST_FEATURES


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _as_many(values: Any, images: Sequence[Any], name: str) -> Sequence[Any]:
    if values is None:
        return [None] * len(images)
    if len(values) != len(images):
        raise ValueError(f"{name}: {len(values)} for {len(images)} images")
    return values
