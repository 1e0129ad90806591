"""Binary codes of small images to compare with: random projections, and PCA with ITQ."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from bindesc.models.retrieval import RetrievalConfig
from bindesc.packing import pack_bits
from bindesc.retrieval import encode_images, open_images_model
from bindesc.training.gan import INITIAL_SAMPLES, spread
from bindesc.training.gan_step import Gan, GanConfig
from bindesc.weights import save_model

Encoder = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""Images ``(N, 32, 32, 3)`` uint8 to codes ``(N, bits // 8)`` uint8."""

Features = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Images to ``(N, D)`` float32."""

_ITERATIONS = 50  # of ITQ, as in its authors' program
_BLOCK = 5000


def pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The values, 0 to 1, ``(N, 3072)``."""
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)


def hog(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Histograms of oriented gradients (Dalal and Triggs 2005), ``(N, 324)``.

    9 orientations, cells of 8x8 pixels, blocks of 2x2 cells, of the colour channel with the
    strongest gradient.
    """
    from skimage import feature

    rows = [
        feature.hog(
            image, orientations=9, pixels_per_cell=(8, 8), cells_per_block=(2, 2), channel_axis=-1
        )
        for image in images
    ]
    return np.array(rows, np.float32)


def random_projections(features: Features, training: NDArray[np.uint8], bits: int) -> Encoder:
    """Signs of Gaussian projections of centred features (LSH; Charikar 2002)."""
    mean = _mean(features, training)
    directions = np.random.default_rng(0).standard_normal((len(mean), bits), np.float32)
    return _signs(features, mean, directions)


def pca_itq(features: Features, training: NDArray[np.uint8], bits: int) -> Encoder:
    """Signs of principal components after the rotation of least quantisation error.

    Gong and Lazebnik, "Iterative Quantization: A Procrustean Approach to Learning Binary Codes",
    CVPR 2011, without labels.

    Args:
        features: of an image.
        training: ``(N, 32, 32, 3)`` uint8.
        bits: length of the code, at most the number of features.
    """
    mean = _mean(features, training)
    covariance = np.zeros((len(mean), len(mean)))
    for part in _blocks(training):
        centred = features(part) - mean
        covariance += centred.T @ centred
    last = len(mean) - 1
    components = scipy.linalg.eigh(covariance, subset_by_index=(last - bits + 1, last))[1]
    directions = components.astype(np.float32)
    projected = np.concatenate([(features(p) - mean) @ directions for p in _blocks(training)])
    return _signs(features, mean, directions @ itq_rotation(projected))


def itq_rotation(projected: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """The rotation R that brings data near to the corners of a cube: least ``|sign(V R) - V R|``.

    Args:
        projected: V, ``(N, K)``, centred.
        seed: of the rotation to start from.

    Returns:
        ``(K, K)``, orthogonal.
    """
    count = projected.shape[1]
    start = np.random.default_rng(seed).standard_normal((count, count))
    rotation = np.linalg.qr(start)[0].astype(np.float32)
    for _ in range(_ITERATIONS):
        corners = np.where(projected @ rotation >= 0, np.float32(1), np.float32(-1))
        left, _, right = np.linalg.svd(projected.T @ corners)
        rotation = left @ right
    return rotation


def untrained(training: NDArray[np.uint8], config: RetrievalConfig) -> Encoder:
    """BinGAN's network before its first step: random weights, initialised from data."""
    gan = Gan(GanConfig(model=config))
    gan.initialise(spread(training, INITIAL_SAMPLES), discriminator=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "untrained.safetensors"
        save_model(path, gan.discriminator)
        return model_encoder(path)


def model_encoder(path: str | Path) -> Encoder:
    """A model of image codes, by name or path.

    Raises:
        WeightsError: there is no such model, it is damaged, or it is one for patches.
    """
    model = open_images_model(path)
    return lambda images: encode_images(images, model=model)


def _mean(features: Features, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    total: Any = sum(features(part).sum(0, dtype=np.float64) for part in _blocks(images))
    return (total / len(images)).astype(np.float32)


def _signs(
    features: Features, mean: NDArray[np.float32], directions: NDArray[np.float32]
) -> Encoder:
    def encode(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        parts = [(features(p) - mean) @ directions >= 0 for p in _blocks(images)]
        return pack_bits(np.concatenate(parts))

    return encode


def _blocks(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(images), _BLOCK):
        yield images[start : start + _BLOCK]
