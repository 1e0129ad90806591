"""Run a descriptor network: patches in, codes out, the same bytes for any batch and threads."""

from __future__ import annotations

import os
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .packing import pack_bits
from .patches import PATCH_SIDE
from .weights import Manifest, golden_codes, load_model

# Every call of the network sees exactly this many patches (the last ones zero), because the order
# in which a convolution adds up may depend on the size of the batch.
CHUNK = 64


class Runtime:
    """A model on a device.

    Args:
        model: name of a shipped model, or path of a ``.safetensors`` file.
        device: a torch device, such as ``"cpu"`` or ``"cuda:0"``.

    Raises:
        WeightsError: see :func:`bindesc.weights.load_model`.
        RuntimeError: torch has no such device.
    """

    def __init__(self, model: str | os.PathLike[str], device: str = "cpu"):
        import torch

        network, manifest = load_model(model)
        self.manifest: Manifest = manifest
        self.device = torch.device(device)
        self._network: Any = cast("Any", network).for_inference().to(self.device)
        self._network.to(memory_format=torch.channels_last)

    @property
    def descriptor_bytes(self) -> int:
        """Bytes of one code."""
        return int(self.manifest.config["bits"]) // 8

    @property
    def support(self) -> float:
        """Side of the patch the model was trained on, over the detector's scale factor."""
        return float(self.manifest.config["support"])

    def describe(self, patches: ArrayLike) -> NDArray[np.uint8]:
        """The codes of grey patches.

        Args:
            patches: ``(N, 32, 32)`` uint8.

        Returns:
            ``(N, descriptor_bytes)`` uint8, packed most significant bit first.

        Raises:
            ValueError: another shape or dtype.

        Note:
            The bytes do not depend on N, on the order, or on the number of threads. Between two
            kinds of processor or GPU, a bit whose activation is almost zero can differ.
        """
        array = np.asarray(patches)
        if array.dtype != np.uint8 or array.shape[1:] != (PATCH_SIDE, PATCH_SIDE):
            raise ValueError(
                f"patches: expected (N, {PATCH_SIDE}, {PATCH_SIDE}) uint8, "
                f"got {array.shape} {array.dtype}"
            )
        codes = np.empty((len(array), self.descriptor_bytes), np.uint8)
        for start in range(0, len(array), CHUNK):
            part = array[start : start + CHUNK]
            codes[start : start + CHUNK] = self._chunk(part)[: len(part)]
        return codes

    def _chunk(self, part: NDArray[np.uint8]) -> NDArray[np.uint8]:
        import torch

        chunk = np.zeros((CHUNK, 1, PATCH_SIDE, PATCH_SIDE), np.uint8)
        chunk[: len(part), 0] = part
        with torch.inference_mode(), _exact_convolutions():
            images = torch.from_numpy(chunk).to(self.device).float()
            images = images.contiguous(memory_format=torch.channels_last)
            bits = (self._network(images) >= 0).cpu().numpy()
        return pack_bits(bits)

    def verify(self) -> bool:
        """Whether the golden patches of the manifest get the codes that it says."""
        patches, expected = golden_codes(self.manifest)
        return bool((self.describe(patches) == expected).all())


def _exact_convolutions() -> Any:
    """No TF32 and no algorithm that varies from run to run, on GPUs."""
    import torch

    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
