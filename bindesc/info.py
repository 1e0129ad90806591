"""What is installed here and what of it works."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator
from typing import Any

import cv2

from . import __version__, _cpu, cuda, weights
from .opencv_descriptors import OPENCV_DESCRIPTORS, OpenCVFeatures

_PACKAGES = ("numpy", "scipy", "torch", "safetensors", "h5py", "pycolmap", "scikit-image")


def collect() -> dict[str, Any]:
    """Versions, models, OpenCV's descriptors and matcher backends, as JSON types.

    A value of ``"ok"`` or a version means usable; any other text says why not.
    """
    return {
        "versions": {
            "bindesc": __version__,
            "python": platform.python_version(),
            "opencv": cv2.__version__,
            **{name: _version(name) for name in _PACKAGES},
        },
        "models": {name: _model(name) for name in weights.list_models()},
        "matcher": _matcher(),
        "opencv descriptors": {name: _descriptor(name) for name in OPENCV_DESCRIPTORS},
    }


def to_lines(facts: dict[str, dict[str, str]]) -> Iterator[str]:
    """The facts of :func:`collect` as text, a line each."""
    for heading, entries in facts.items():
        yield f"{heading}:"
        width = max(map(len, entries), default=0)
        yield from (f"  {name:{width}}  {value}" for name, value in entries.items())


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _model(name: str) -> str:
    try:
        manifest, _ = weights.read_model(name)
    except weights.WeightsError as error:
        return str(error)
    kibibytes = weights.model_path(name).stat().st_size / 1024
    return f"sha256 {manifest.sha256} (checked), {kibibytes:.0f} KiB"


def _matcher() -> dict[str, str]:
    entries = {"cuda": cuda.status().text.removeprefix("CUDA: ")}
    for name, runs in _cpu.isas().items():
        unused = "usable" if runs else "compiled, but this processor lacks it"
        entries[name] = "in use" if name == _cpu.isa() else unused
    return entries


def _descriptor(name: str) -> str:
    try:
        OpenCVFeatures(name)
    except ValueError as error:
        return str(error)
    return "ok"
