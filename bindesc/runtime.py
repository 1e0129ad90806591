"""Run a descriptor network: patches in, codes out, the same bytes for any batch and threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _cpu
from .models.integer import INPUT_SCALE, ORIENTATION, IntegerLayer, from_tensors
from .orientation import adapt_patches, adaptation_steps, halve
from .packing import pack_bits
from .patches import PATCH_SIDE, PatchCutter, squares_to_log_polar
from .threads import default_threads
from .weights import (
    Manifest,
    WeightsError,
    golden_codes,
    read_model,
    restore_network,
)

# Every call of a network in floating point sees exactly this many patches (the last ones zero),
# because the order in which a convolution adds up may depend on the size of the batch.
CHUNK = 64

# Torch runs one network at a time: it has one set of flags for all threads, and uses all cores.
_torch_runs = Lock()

_Describe = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
# Patches and which of them are upright, to adapted patches and how they were.
_Adapt = Callable[
    [NDArray[np.uint8], NDArray[np.bool_]], tuple[NDArray[np.uint8], NDArray[np.int32]]
]
# Levels of a pyramid, circles in them, and which are upright.
_InOnePass = Callable[
    [list[NDArray[np.uint8]], NDArray[np.float32], NDArray[np.bool_]], NDArray[np.uint8]
]


class Runtime:
    """A model on a device.

    A model that is stored in integers runs in the C++ core on the CPU, and in torch with the same
    bytes elsewhere. Others run in torch in floating point.

    Args:
        model: name of a shipped model, or path of a ``.safetensors`` file.
        device: a torch device, such as ``"cpu"`` or ``"cuda:0"``.

    Attributes:
        manifest: of the model.

    Raises:
        WeightsError: see :func:`bindesc.weights.load_model`; or the model adapts patches as an
            older version did.
        ValueError: the device is not there, or cannot run the model.
    """

    def __init__(self, model: str | os.PathLike[str], device: str = "cpu"):
        self._arguments = model, device
        self.manifest: Manifest
        self.manifest, tensors = read_model(model)
        try:
            self._prepare(model, tensors, device)
            if device != "cpu":  # some can be named, but not used
                self.describe(np.zeros((1, PATCH_SIDE, PATCH_SIDE), np.uint8))
        except (RuntimeError, AssertionError) as error:  # torch raises either
            raise ValueError(f"device: {device!r} cannot be used ({error})") from None

    def __reduce__(self) -> tuple[type[Runtime], tuple[str | os.PathLike[str], str]]:
        return Runtime, self._arguments

    def _prepare(
        self, model: str | os.PathLike[str], tensors: dict[str, NDArray[Any]], device: str
    ) -> None:
        layers, orientation = from_tensors(tensors), from_tensors(tensors, ORIENTATION)
        if orientation and not orientation[0].circular:
            raise WeightsError(f"{model}: its orientation is that of an older version; train anew")
        self._adapt: _Adapt | None = None
        self._in_one_pass: _InOnePass | None = None
        if not layers:
            self._describe = _in_floats(restore_network(model, self.manifest, tensors), device)
        elif device == "cpu":
            core = _core_network(layers)
            orienter = _core_network(orientation) if orientation else None
            self._describe = _in_the_core(core)
            self._adapt = _adapting_in_the_core(orienter) if orienter else None
            self._in_one_pass = _in_one_pass(core, orienter) if self.log_polar else None
        else:
            network = _on_device(layers, device)
            self._describe = lambda patches: pack_bits(network(patches) >= 0)
            self._adapt = _adapting_on_device(orientation, device) if orientation else None

    @property
    def descriptor_bytes(self) -> int:
        """Bytes of one code."""
        return int(self.manifest.config["bits"]) // 8

    @property
    def log_polar(self) -> bool:
        """Whether the network sees log-polar patches, see :mod:`bindesc.log_polar`."""
        return self.manifest.log_polar

    @property
    def adapts(self) -> bool:
        """Whether the model has an orientation network, see :mod:`bindesc.orientation`."""
        return self._adapt is not None

    @property
    def support(self) -> float:
        """Side of the patch that is described, over the detector's scale factor.

        Of a log-polar one it is the diameter of the last ring.

        Raises:
            WeightsError: the model describes whole images, see :mod:`bindesc.retrieval`.
        """
        if "support" not in self.manifest.config:
            raise WeightsError(
                f"{self.manifest.name}: is a {self.manifest.architecture} model, "
                "which describes whole images and not keypoints"
            )
        return float(self.manifest.config["support"]) * self.manifest.reach

    def describe_keypoints(
        self,
        gray: NDArray[np.uint8],
        xy: NDArray[np.float32],
        size: NDArray[np.float32],
        angle: NDArray[np.float32],
        *,
        scale: float,
        border: Literal["pad", "drop"] = "pad",
    ) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
        """The codes of keypoints: what :meth:`cut` and then :meth:`codes` make of them.

        The core does it in one pass, a few keypoints at a time, and holds no array of patches.

        Returns:
            ``(K, descriptor_bytes)`` uint8, and ``(K,)`` the indices of the keypoints.
        """
        if self._in_one_pass is None:
            patches, kept = self.cut(gray, xy, size, angle, scale=scale, border=border)
            return self.codes(patches, angle[kept] < 0), kept
        cutter = PatchCutter(gray)
        levels, circles, kept = cutter.circles(xy, size, angle, scale=scale, border=border)
        return self._in_one_pass(levels, circles, angle[kept] < 0), kept

    def cut(
        self,
        gray: NDArray[np.uint8],
        xy: NDArray[np.float32],
        size: NDArray[np.float32],
        angle: NDArray[np.float32],
        *,
        scale: float,
        border: Literal["pad", "drop"] = "pad",
    ) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
        """Cut the patches of keypoints.

        Args:
            gray: ``(H, W)`` uint8.
            xy: ``(N, 2)`` float32, pixels.
            size: ``(N,)`` float32, the detector's diameter in pixels, positive.
            angle: ``(N,)`` float32, degrees; negative means upright.
            scale: side of what is described over ``size``: ``support`` times the detector's, see
                ``detectors.SCALE_FACTORS``.
            border: see :func:`bindesc.patches.extract_patches`.

        Returns:
            ``(K, 32, 32)`` uint8 for :meth:`codes`, and ``(K,)`` the indices of the keypoints they
            belong to.
        """
        cutter = PatchCutter(gray)
        cut = cutter.cut_log_polar if self.log_polar else cutter.cut
        return cut(xy, size, angle, scale=scale, border=border)

    def adapt(
        self, patches: NDArray[np.uint8], upright: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Turn and stretch patches as the orientation network says, if the model has one.

        Args:
            patches: ``(K, 32, 32)`` uint8 from :meth:`cut`.
            upright: ``(K,)`` bool, which are stretched only; by default none.

        Returns:
            The adapted patches, and ``(K, 3)`` int32: how, see
            :func:`bindesc.orientation.adaptation_steps`.
        """
        if upright is None:
            upright = np.zeros(len(patches), bool)
        if self._adapt is None:
            return patches, np.zeros((len(patches), 3), np.int32)
        return self._adapt(patches, upright)

    def encode(self, patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The codes, ``(K, descriptor_bytes)`` uint8, of patches from :meth:`adapt`."""
        return self._describe(patches)

    def codes(
        self, patches: NDArray[np.uint8], upright: NDArray[np.bool_] | None = None
    ) -> NDArray[np.uint8]:
        """The codes, ``(K, descriptor_bytes)`` uint8, of patches, which are adapted first.

        The arguments are those of :meth:`adapt`.
        """
        return self.encode(self.adapt(patches, upright)[0])

    def describe(self, patches: ArrayLike) -> NDArray[np.uint8]:
        """The codes of square patches, which are not turned.

        Args:
            patches: ``(N, 32, 32)`` uint8, grey; a model with three input channels takes
                ``(N, 32, 32, 3)`` too. A log-polar model takes any ``(N, S, S)`` with S from 16 to
                128, of which it describes the largest circle; it needs 64 to see the centre as
                sharply as in an image.

        Returns:
            ``(N, descriptor_bytes)`` uint8, packed most significant bit first.

        Raises:
            ValueError: another shape or dtype.

        Note:
            The bytes do not depend on N, on the order, or on the number of threads; those of a
            model in integers do not depend on the processor or device either.
        """
        array = np.asarray(patches)
        if self.log_polar:
            patches = squares_to_log_polar(array)
            return self.codes(patches, np.ones(len(patches), bool))
        shapes: list[tuple[int, ...]] = [(PATCH_SIDE, PATCH_SIDE)]
        if self.manifest.config.get("inputs") == 3:
            shapes.append((PATCH_SIDE, PATCH_SIDE, 3))
        if array.dtype != np.uint8 or array.shape[1:] not in shapes:
            expected = " or ".join(f"(N, {', '.join(map(str, shape))})" for shape in shapes)
            raise ValueError(f"patches: expected {expected} uint8, got {array.shape} {array.dtype}")
        return self._describe(np.ascontiguousarray(array))

    def verify(self) -> bool:
        """Whether the golden patches of the manifest get the codes that it says."""
        patches, expected = golden_codes(self.manifest)
        return bool((self.codes(patches) == expected).all())


def _core_network(layers: list[IntegerLayer]) -> _cpu.Network:
    return _cpu.Network(
        [(layer.weights, layer.bias, layer.multiplier, layer.stride) for layer in layers],
        INPUT_SCALE,
        layers[0].circular,
    )


def _in_the_core(network: _cpu.Network) -> _Describe:
    return lambda patches: network.describe(patches, default_threads())


def _adapting_in_the_core(network: _cpu.Network) -> _Adapt:
    return lambda patches, upright: network.adapt(patches, upright, default_threads())


def _in_one_pass(network: _cpu.Network, orientation: _cpu.Network | None) -> _InOnePass:
    return lambda levels, circles, upright: _cpu.describe_log_polar(
        network, orientation, levels, circles, upright, default_threads()
    )


def _adapting_on_device(layers: list[IntegerLayer], device: str) -> _Adapt:
    network = _on_device(layers, device)

    def adapt(
        patches: NDArray[np.uint8], upright: NDArray[np.bool_]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        steps = adaptation_steps(network(halve(patches)))
        steps[upright, 0] = 0
        return adapt_patches(patches, steps), steps

    return adapt


def _on_device(
    layers: list[IntegerLayer], device: str
) -> Callable[[NDArray[np.uint8]], NDArray[np.int32]]:
    import torch

    from .models.integer_torch import IntegerNet

    network = IntegerNet(layers).to(device)

    def run(patches: NDArray[np.uint8]) -> NDArray[np.int32]:
        with _exact_products():
            parts = [
                network(part.to(device)).int().cpu().numpy()
                for part in torch.from_numpy(patches).split(1024)
            ]
        return np.concatenate(parts)

    return run


def _in_floats(loaded: Any, device: str) -> _Describe:
    import torch

    network = loaded.for_inference().to(device, memory_format=torch.channels_last)

    def chunk(part: NDArray[np.uint8]) -> NDArray[np.uint8]:
        full = np.zeros((CHUNK, *part.shape[1:]), np.uint8)
        full[: len(part)] = part
        with torch.inference_mode(), _exact_products():
            channels = full.reshape(*full.shape[:3], -1)
            images = torch.from_numpy(channels).to(device).permute(0, 3, 1, 2).float()
            images = images.contiguous(memory_format=torch.channels_last)
            bits = (network(images) >= 0).cpu().numpy()
        return pack_bits(bits[: len(part)])

    def describe(patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
        starts = range(0, max(len(patches), 1), CHUNK)
        return np.concatenate([chunk(patches[start : start + CHUNK]) for start in starts])

    return describe


@contextmanager
def _exact_products() -> Iterator[None]:
    """Inside, no TF32 and no algorithm that varies from run to run, on GPUs."""
    import torch

    products = torch.backends.cuda.matmul
    with _torch_runs:
        before, products.allow_tf32 = products.allow_tf32, False
        try:
            with torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            ):
                yield
        finally:
            products.allow_tf32 = before
