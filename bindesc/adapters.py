"""bindesc inside kornia (pip install kornia); torch is imported with this module.

Other libraries need no adapter: scikit-image takes ``np.unpackbits(codes, axis=1).astype(bool)``,
faiss ``IndexBinaryFlat`` and OpenCV's matchers take the codes as they are, and what knows floats
only (RTAB-Map) takes :func:`bindesc.packing.unit_vectors`.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from numpy.typing import NDArray

from .extractor import DEFAULT_MODEL
from .orientation import turned
from .packing import unit_vectors
from .patches import similarities
from .runtime import Runtime
from .types import Features


class PatchDescriptor(torch.nn.Module):
    """A bindesc model as the descriptor of ``kornia.feature.LAFDescriptor`` or ``LocalFeature``.

    Args:
        model: name of a shipped model, or path of a ``.safetensors`` file.
        device: torch device of the network.
        packed: return packed bytes instead of unit vectors.

    Raises:
        WeightsError: see :class:`bindesc.runtime.Runtime`.

    Shape:
        Input ``(B, 1, S, S)`` float, grey in [0, 1]; S is 32, or 16 to 128 for a log-polar model:
        give it 64 (``LAFDescriptor(..., patch_size=64)``). It samples the square anew, and 5 % of
        the bits differ from those that :class:`bindesc.BinDesc` reads from the image.

        Output ``(B, bits)`` of the input's dtype, each value +-1 / sqrt(bits): vectors of length 1,
        whose squared distance is 4 / bits times the Hamming distance; or ``(B, bits / 8)`` uint8 if
        ``packed``. There is no gradient.

    Example:
        >>> PatchDescriptor()(torch.rand(2, 1, 64, 64)).shape
        torch.Size([2, 256])
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = DEFAULT_MODEL,
        device: str = "cpu",
        *,
        packed: bool = False,
    ):
        super().__init__()
        self._runtime = Runtime(model, device)
        self.packed = packed

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Describe patches; see the class for the shapes."""
        if patches.ndim != 4 or patches.shape[1] != 1:
            raise ValueError(f"patches: expected (B, 1, S, S), got {tuple(patches.shape)}")
        grey = (patches.detach()[:, 0].float() * 255).round().clamp(0, 255).to(torch.uint8)
        codes = self._runtime.describe(grey.cpu().numpy())
        if self.packed:
            return torch.from_numpy(codes).to(patches.device)
        return torch.from_numpy(unit_vectors(codes)).to(patches)

    def lafs(
        self,
        features: Features,
        scale_factor: float = 1.0,
        *,
        gray: NDArray[np.uint8] | None = None,
    ) -> torch.Tensor:
        """The local affine frames from which kornia cuts the patches that this model expects.

        Args:
            features: keypoints of one image; an angle below 0 is upright. OpenCV's angle runs
                clockwise, and kornia's the other way; the frames hold the right one.
            scale_factor: side of the patch over the size, see ``detectors.SCALE_FACTORS``.
            gray: ``(H, W)`` uint8, the image, for a model with an orientation network, which turns
                the frames as :class:`bindesc.BinDesc` does; without it they stay.

        Returns:
            ``(1, N, 2, 3)`` float32.
        """
        xy, size, angle = features.xy, features.size, features.angle
        scale = scale_factor * self._runtime.support
        if gray is not None:
            patches, _ = self._runtime.cut(gray, xy, size, angle, scale=scale)
            angle = turned(angle, self._runtime.adapt(patches)[1])
        frames = similarities(size * (scale / 2), angle)
        frames = np.concatenate([frames, xy[:, :, None]], 2)
        return torch.from_numpy(frames.astype(np.float32))[None]


def hamming_matrix(descriptors1: torch.Tensor, descriptors2: torch.Tensor) -> torch.Tensor:
    """All Hamming distances, for the argument ``dm`` of ``kornia.feature.match_*``.

    Args:
        descriptors1: ``(N, bits / 8)`` uint8 packed, or ``(N, bits)`` float as
            :class:`PatchDescriptor` returns them.
        descriptors2: ``(M, ...)`` of the same kind.

    Returns:
        ``(N, M)`` float32, bits.

    Raises:
        ValueError: the two differ in width or kind.
    """
    if descriptors1.dtype != descriptors2.dtype or descriptors1.shape[1] != descriptors2.shape[1]:
        raise ValueError(
            f"descriptors2: expected {descriptors1.dtype} (M, {descriptors1.shape[1]}) as "
            f"descriptors1, got {descriptors2.dtype} {tuple(descriptors2.shape)}"
        )
    first, second = _signs(descriptors1), _signs(descriptors2)
    return (first.shape[1] - first @ second.T) / 2  # exact: whole numbers far below 2**24


def _signs(descriptors: torch.Tensor) -> torch.Tensor:
    if descriptors.dtype != torch.uint8:
        return descriptors.sign().float()
    shifts = torch.arange(7, -1, -1, device=descriptors.device)
    bits = (descriptors[:, :, None].int() >> shifts) & 1
    return (2 * bits - 1).flatten(1).float()
