"""Image retrieval: whole small images to short codes, whose Hamming distance compares content.

The models ``images-16``, ``images-32`` and ``images-64`` come with the package; ``bindesc train
images`` makes others, and ``bindesc train retrieval`` those of BinGAN (NeurIPS 2018).
"""

from __future__ import annotations

import os
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .runtime import Runtime
from .weights import WeightsError

ARCHITECTURES = ("compact-retrieval", "bingan-retrieval")


LENGTHS = (16, 32, 64)
"""Code lengths of the models that come with the package, bits."""

DEFAULT_BITS = 64


def shipped_model(bits: int) -> str:
    """The name of the model of a length that comes with the package.

    Raises:
        WeightsError: there is none of that length.
    """
    if bits not in LENGTHS:
        lengths = ", ".join(map(str, LENGTHS))
        raise WeightsError(f"bits: models of {lengths} bits come with bindesc, got {bits}")
    return f"images-{bits}"


def open_images_model(
    model: str | os.PathLike[str], bits: int | None = None, device: str = "cpu"
) -> Runtime:
    """A model for :func:`encode_images`, to be loaded once and used often.

    Args:
        model: name of a shipped model, or path of a ``.safetensors`` file that ``bindesc train
            images`` or ``bindesc train retrieval`` wrote.
        bits: length of the code that the model must have; None takes any.
        device: a torch device.

    Raises:
        WeightsError: see :func:`bindesc.weights.read_model`; or the model is for patches, or has
            another code length.
    """
    runtime = Runtime(model, device)
    architecture = runtime.manifest.architecture
    if architecture not in ARCHITECTURES:
        raise WeightsError(
            f"{model}: is a {architecture} model for patches, wanted one for images "
            f"({' or '.join(ARCHITECTURES)})"
        )
    _check_bits(runtime, bits)
    return runtime


def encode_images(
    images: ArrayLike,
    bits: int | None = None,
    model: str | os.PathLike[str] | Runtime | None = None,
) -> NDArray[np.uint8]:
    """The codes of images.

    Args:
        images: ``(N, 32, 32, 3)`` uint8, RGB; larger photos must be reduced first.
        bits: length of the code: of the shipped model, 64 if not given; or that a given model
            must have, None taking any.
        model: name or path of a model, or what :func:`open_images_model` returned; by default the
            one that comes with the package.

    Returns:
        ``(N, bits // 8)`` uint8, packed most significant bit first. On one processor the bytes of
        an image depend neither on the other images nor on the number of threads. Search them with
        :func:`bindesc.matching.nearest`.

    Raises:
        WeightsError: the model cannot be used, or there is none of that length.
        ValueError: images of another shape or dtype.

    Example:
        >>> images = np.zeros((2, 32, 32, 3), np.uint8)
        >>> encode_images(images).shape, encode_images(images, bits=16).shape
        ((2, 8), (2, 2))
    """
    if model is None:
        model = _open_shipped(DEFAULT_BITS if bits is None else bits)
    elif not isinstance(model, Runtime):
        model = open_images_model(model, bits)
    else:
        _check_bits(model, bits)
    array = np.asarray(images)
    if array.dtype != np.uint8 or array.shape[1:] != (32, 32, 3):
        raise ValueError(
            f"images: expected (N, 32, 32, 3) uint8 RGB, got {array.shape} {array.dtype}"
        )
    return model.describe(array)


@cache
def _open_shipped(bits: int) -> Runtime:
    return open_images_model(shipped_model(bits))


def _check_bits(model: Runtime, bits: int | None) -> None:
    own = 8 * model.descriptor_bytes
    if bits not in (None, own):
        raise WeightsError(f"bits: {model.manifest.name} has {own}, got {bits}")
