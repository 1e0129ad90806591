"""The networks that :mod:`benchmarks.pareto` compares: read, checked and timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import bindesc
from bindesc.detectors import SCALE_FACTORS, to_arrays
from bindesc.extractor import DEFAULT_MODEL
from bindesc.models.compact import CompactConfig
from bindesc.models.integer import is_integer
from bindesc.runtime import Runtime
from bindesc.training.metric import WEIGHTS
from bindesc.weights import load_model, model_path, read_model

from .common import Contender, Timing, measure
from .descriptors import KEYPOINTS, detect

ORB = "ORB"


@dataclass(frozen=True)
class Network:
    """A model file of a compact network.

    Attributes:
        label: how the tables call it.
        path: of the file.
        config: its shape.
        command: the command that trained it.
    """

    label: str
    path: Path
    config: CompactConfig
    command: str

    @property
    def shape(self) -> str:
        """Channels and strides, and channels of the orientation network, as one text."""
        parts = [self.config.channels, self.config.strides]
        if self.config.orientation:
            parts.append(self.config.orientation)
        return " / ".join(",".join(map(str, part)) for part in parts)


@dataclass(frozen=True)
class Times:
    """How long a network, or ORB, takes on one number of threads.

    Attributes:
        network: of describing the patches of all keypoints, without turning them; None for ORB,
            which has none.
        whole: of ``detectAndCompute``.
    """

    network: Timing | None
    whole: Timing


def read_network(model: str | Path, label: str | None = None) -> Network:
    """Read and check a model: a shipped name, a file, or the folder of a run.

    Raises:
        ValueError: it is no compact network in integers, or its golden output differs.
    """
    path = model_path(Path(model) / WEIGHTS if Path(model).is_dir() else model)
    manifest, tensors = read_model(path)
    if manifest.architecture != "compact" or not any(map(is_integer, tensors)):
        raise ValueError(f"{path}: not a compact network that is stored in integers")
    if not Runtime(path).verify():
        raise ValueError(f"{path}: does not give the codes that its manifest says")
    network: Any = load_model(path)[0]
    named = path.parent.name if path.name == WEIGHTS else path.stem
    return Network(label or named, path, network.config, manifest.command)


def read_networks(models: Iterable[str | Path]) -> list[Network]:
    """The shipped network, then the given ones.

    Raises:
        ValueError: see :func:`read_network`; or two have the same label.
    """
    networks = [read_network(DEFAULT_MODEL, DEFAULT_MODEL), *map(read_network, models)]
    labels = [network.label for network in networks]
    if twice := {label for label in labels if labels.count(label) > 1}:
        raise ValueError(f"models: several are called {', '.join(sorted(twice))}; rename them")
    return networks


def time_networks(
    networks: Sequence[Network], gray: NDArray[np.uint8], threads: int, repeats: int
) -> dict[str, Times]:
    """Time every network on a photo, in turns with each other and with ORB.

    Every timed way must give the codes that it gives on one thread; :func:`read_network` has
    checked those of the networks against their golden output.

    Args:
        networks: what to time.
        gray: ``(H, W)`` uint8.
        threads: of OpenCV and of the network.
        repeats: turns of each.

    Returns:
        Times by label, ORB's under ``ORB``.

    Raises:
        AssertionError: a way gives other codes.
    """
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        contenders = _contenders(networks, gray)
        cv2.setNumThreads(threads)
        times = measure(contenders, repeats=repeats)
    finally:
        cv2.setNumThreads(before)
    return {
        label: Times(times.get(f"{label} network"), times[label])
        for label in (ORB, *(network.label for network in networks))
    }


def _contenders(networks: Sequence[Network], gray: NDArray[np.uint8]) -> dict[str, Contender]:
    """ORB, and of each network the network alone and the whole."""
    orb = cv2.ORB.create(KEYPOINTS)
    xy, size, angle, _ = to_arrays(detect(gray))
    contenders = {ORB: _contender(partial(orb.detectAndCompute, gray, None))}
    for network in networks:
        extractor = bindesc.create(model=network.path, nfeatures=KEYPOINTS)
        runtime = Runtime(network.path)
        scale = SCALE_FACTORS["orb"] * runtime.support
        patches, _ = runtime.cut(gray, xy, size, angle, scale=scale)
        contenders[f"{network.label} network"] = _contender(partial(runtime.codes, patches))
        contenders[network.label] = _contender(partial(extractor.detectAndCompute, gray, None))
    return contenders


def _contender(run: Callable[[], Any]) -> Contender:
    """Something that must go on giving the codes that it gives now."""
    expected = _codes(run())

    def check(result: Any) -> None:
        if not np.array_equal(_codes(result), expected):
            raise AssertionError("the codes differ from those of one thread")

    return Contender(run, check)


def _codes(result: Any) -> NDArray[np.uint8]:
    return result[1] if isinstance(result, tuple) else result
