"""Small networks in integers: the same bytes on every processor and for any batch.

A layer adds up products of uint8 activations and int8 weights in int32, exactly; a factor for each
channel then turns the sums into the next layer's uint8 activations. The only other floating-point
step is the scale of a patch's contrast. Both are single, correctly rounded operations, so that this
file, the C++ kernels and :class:`bindesc.models.integer_torch.IntegerNet` agree bit for bit.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", CVPR 2018, with factors in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from .rounding import ACTIVATION, round_weights

INPUT_ZERO = 128  # what a normalised value of 0 becomes in the first layer's input
INPUT_SCALE = 32.0  # what a deviation of 1 becomes there; values are cut at 127 / 32 = 3.97
ORIENTATION_SIDE = 16  # of what the orientation network sees: the code's patches at half their side
ORIENTATION_OUTPUTS = 4  # a direction, x and y, and a stretch, z and w
MOST_STRETCH = 0.5  # of a patch, whose axes then are as 1 + 0.5 to 1 - 0.5
CHANNEL_BLOCK = 16  # channels come in multiples of this

CODES, ORIENTATION = "codes", "orientation"
PARTS = {CODES: "int8.", ORIENTATION: "orientation.int8."}  # how tensors are named, by part


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """One layer.

    Attributes:
        weights: ``(O, H, W, I)`` int8; 3x3 with a border of one, or the whole map in the last
            layer.
        bias: ``(O,)`` int32.
        multiplier: ``(O,)`` float32, to the next layer's activations; None in the last layer.
        stride: 1 or 2.
        circular: whether rows go round, as those of log-polar patches do, instead of ending at a
            border.
    """

    weights: NDArray[np.int8]
    bias: NDArray[np.int32]
    multiplier: NDArray[np.float32] | None
    stride: int
    circular: bool = False


def to_tensors(layers: Sequence[IntegerLayer], part: str = CODES) -> dict[str, NDArray[Any]]:
    """The layers as named arrays for a model file.

    Args:
        layers: of the network.
        part: what the network is for, a key of :data:`PARTS`.
    """
    tensors: dict[str, NDArray[Any]] = {}
    for i, layer in enumerate(layers):
        prefix = f"{PARTS[part]}{i}."
        tensors[prefix + "weights"] = layer.weights
        tensors[prefix + "bias"] = layer.bias
        tensors[prefix + "stride"] = np.array(layer.stride, np.int32)
        if layer.circular:
            tensors[prefix + "circular"] = np.array(1, np.int32)
        if layer.multiplier is not None:
            tensors[prefix + "multiplier"] = layer.multiplier
    return tensors


def is_integer(name: str) -> bool:
    """Whether a tensor of a model file belongs to :func:`from_tensors`."""
    return name.startswith(tuple(PARTS.values()))


def from_tensors(tensors: Mapping[str, NDArray[Any]], part: str = CODES) -> list[IntegerLayer]:
    """The inverse of :func:`to_tensors`; an empty list where there are no such arrays.

    Raises:
        ValueError: an array is missing, or has another type.
    """
    layers: list[IntegerLayer] = []
    while f"{PARTS[part]}{len(layers)}.weights" in tensors:
        prefix = f"{PARTS[part]}{len(layers)}."
        try:
            layers.append(
                IntegerLayer(
                    tensors[prefix + "weights"],
                    tensors[prefix + "bias"],
                    tensors.get(prefix + "multiplier"),
                    int(tensors[prefix + "stride"]),
                    prefix + "circular" in tensors,
                )
            )
        except KeyError as error:
            raise ValueError(f"tensor {error} is missing") from None
    return layers


def normalise(patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Patches ``(N, S, S)`` uint8 to the first layer's input, the same shape, 1 to 255.

    Mean 0 and deviation 1, as in :func:`bindesc.models.layers.normalise_patches`, times
    ``INPUT_SCALE``, around ``INPUT_ZERO``.
    """
    values = patches.reshape(len(patches), patches.shape[1] * patches.shape[2]).astype(np.int64)
    pixels = values.shape[1]
    total, squares = values.sum(1), (values * values).sum(1)
    variance = (pixels * squares - total * total).astype(np.float64) / pixels**2
    factor = (INPUT_SCALE / (np.sqrt(variance) + 1e-3)).astype(np.float32)
    mean = (total / pixels).astype(np.float32)
    scaled = np.rint((values.astype(np.float32) - mean[:, None]) * factor[:, None])
    return (INPUT_ZERO + np.clip(scaled, -127, 127)).astype(np.uint8).reshape(patches.shape)


def run_layer(layer: IntegerLayer, maps: NDArray[np.uint8], border: int) -> NDArray[np.int32]:
    """The sums of a layer before its factor.

    Args:
        layer: the layer.
        maps: ``(N, S, S, I)`` uint8.
        border: the value around the maps.

    Returns:
        ``(N, T, T, O)`` int32.
    """
    outputs, height = layer.weights.shape[:2]
    if height == 3 and maps.shape[1] != 3:
        if layer.circular:
            maps = np.pad(maps, ((0, 0), (0, 0), (1, 1), (0, 0)), mode="wrap")
        else:
            maps = np.pad(maps, ((0, 0), (0, 0), (1, 1), (0, 0)), constant_values=border)
        maps = np.pad(maps, ((0, 0), (1, 1), (0, 0), (0, 0)), constant_values=border)
    windows = sliding_window_view(maps, layer.weights.shape[1:3], axis=(1, 2))
    windows = windows[:, :: layer.stride, :: layer.stride]  # (N, T, T, I, H, W)
    flat = windows.transpose(0, 1, 2, 4, 5, 3).reshape(*windows.shape[:3], -1)
    # In float64 a matrix product of integers is exact up to 2^53, and fast.
    sums = flat.astype(np.float64) @ layer.weights.reshape(outputs, -1).T.astype(np.float64)
    return sums.astype(np.int32) + layer.bias


def activations(layers: Sequence[IntegerLayer], patches: NDArray[np.uint8]) -> NDArray[np.int32]:
    """The network in NumPy, the oracle of every other implementation.

    Args:
        layers: of the network.
        patches: ``(N, S, S)`` uint8.

    Returns:
        ``(N, outputs)`` int32; for a code, bit = activation >= 0.
    """
    maps = normalise(patches)[..., None]
    border = INPUT_ZERO
    for layer in layers[:-1]:
        assert layer.multiplier is not None
        positive = np.maximum(run_layer(layer, maps, border), 0).astype(np.float32)
        maps = np.minimum(np.rint(positive * layer.multiplier), ACTIVATION).astype(np.uint8)
        border = 0
    return run_layer(layers[-1], maps, border).reshape(len(patches), -1)


def quantise_layer(
    weights: NDArray[np.float64],
    bias: NDArray[np.float64],
    stride: int,
    input_unit: float,
    output_unit: float | None,
    input_zero: int,
    windows: NDArray[np.float64],
    *,
    one_unit: bool = False,
    circular: bool = False,
) -> IntegerLayer:
    """A layer of real numbers in integers.

    Args:
        weights: ``(O, H, W, I)``.
        bias: ``(O,)``.
        stride: 1 or 2.
        input_unit: what 1 in the input's integers is worth.
        output_unit: the same of the output; None for the last layer.
        input_zero: the integer of an input of 0.
        windows: ``(N, H, W, I)`` examples of the layer's inputs, of training data.
        one_unit: all channels' sums are worth the same, so that they can be compared.
        circular: see :class:`IntegerLayer`.

    Returns:
        The layer, with O and I filled up to multiples of 16 by zeros (I = 1 stays), and weights
        that :func:`bindesc.models.rounding.round_weights` chose.
    """
    outputs, height, _, inputs = weights.shape
    more_outputs = -outputs % CHANNEL_BLOCK
    more_inputs = -inputs % CHANNEL_BLOCK if inputs > 1 else 0
    weights = np.pad(weights, ((0, more_outputs), (0, 0), (0, 0), (0, more_inputs)))
    windows = np.pad(windows, ((0, 0), (0, 0), (0, 0), (0, more_inputs)))
    bias = np.pad(bias, (0, more_outputs)) / input_unit

    rows, examples = (a.reshape(len(a), height, -1) for a in (weights, windows))
    rounded, unit = round_weights(rows, bias, examples, one_unit=one_unit)
    offset = np.rint(bias / unit) - input_zero * rounded.astype(np.int64).sum((1, 2))
    multiplier = None
    if output_unit is not None:
        multiplier = (unit * input_unit / output_unit).astype(np.float32)
        multiplier[outputs:] = 0
    whole = rounded.reshape(weights.shape)
    return IntegerLayer(whole, offset.astype(np.int32), multiplier, stride, circular)
