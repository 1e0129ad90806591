"""Image retrieval: whole small images to short codes, whose Hamming distance compares content.

The network is the retrieval discriminator of BinGAN (NeurIPS 2018), made for CIFAR-10. No weights
come with the package; ``bindesc train retrieval`` makes them.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .runtime import Runtime
from .weights import WeightsError

ARCHITECTURES = ("compact-retrieval", "bingan-retrieval")


def open_images_model(
    model: str | os.PathLike[str], bits: int | None = None, device: str = "cpu"
) -> Runtime:
    """A model for :func:`encode_images`, to be loaded once and used often.

    Args:
        model: path of a ``.safetensors`` file that ``bindesc train retrieval`` wrote.
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
        bits: length of the code that the model must have; None takes any.
        model: path of a model file, or what :func:`open_images_model` returned.

    Returns:
        ``(N, bits // 8)`` uint8, packed most significant bit first. On one processor the bytes of
        an image depend neither on the other images nor on the number of threads. Search them with
        :func:`bindesc.matching.nearest`.

    Raises:
        WeightsError: no model is given, or it cannot be used.
        ValueError: images of another shape or dtype.

    Example:
        >>> codes = encode_images(images, model="runs/r64/model.safetensors")  # doctest: +SKIP
    """
    if model is None:
        raise WeightsError(
            "model: no weights for images come with bindesc; train some with 'bindesc train "
            "retrieval --bits 64 --data FOLDER --out RUN --minutes M' and give "
            "model='RUN/model.safetensors'"
        )
    if not isinstance(model, Runtime):
        model = open_images_model(model, bits)
    else:
        _check_bits(model, bits)
    array = np.asarray(images)
    if array.dtype != np.uint8 or array.shape[1:] != (32, 32, 3):
        raise ValueError(
            f"images: expected (N, 32, 32, 3) uint8 RGB, got {array.shape} {array.dtype}"
        )
    return model.describe(array)


def _check_bits(model: Runtime, bits: int | None) -> None:
    own = 8 * model.descriptor_bytes
    if bits not in (None, own):
        raise WeightsError(f"bits: {model.manifest.name} has {own}, got {bits}")
