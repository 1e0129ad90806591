"""Networks in integers, in torch: made from a trained one, and run on GPUs with the same bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from .compact import CompactNet
from .integer import INPUT_SCALE, INPUT_ZERO, IntegerLayer, normalise, quantise_layer
from .layers import CircularConvolution, go_round, normalise_patches
from .orientation import OrientationNet
from .rounding import ACTIVATION

# Activations above this share of all are cut off.
_KEPT = 0.9999
_MOST_WINDOWS = 2**14  # from which the rounding of weights is chosen


@torch.no_grad()
def quantise(
    model: CompactNet | OrientationNet, patches: NDArray[np.uint8], *, one_unit: bool = False
) -> list[IntegerLayer]:
    """A network in integers.

    Args:
        model: trained.
        patches: ``(N, S, S)`` uint8 patches from the training data, a few hundred, that show how
            large the activations get.
        one_unit: whether outputs are compared with each other, and not with zero alone.

    Returns:
        The layers.
    """
    training = model.training
    inference = model.for_inference()
    model.train(training)
    convolutions = [layer for layer in inference if isinstance(layer, nn.Conv2d)]
    maps = normalise_patches(torch.from_numpy(np.asarray(patches)).float()[:, None])
    unit, zero = 1 / INPUT_SCALE, INPUT_ZERO
    layers = []
    for convolution in convolutions:
        last = convolution is convolutions[-1]
        assert convolution.bias is not None
        windows = _windows(convolution, maps)
        if not last:
            maps = convolution(maps).relu()
        output_unit = None if last else max(_quantile(maps, _KEPT), 1e-6) / ACTIVATION
        layers.append(
            quantise_layer(
                convolution.weight.permute(0, 2, 3, 1).double().numpy(),
                convolution.bias.double().numpy(),
                convolution.stride[0],
                unit,
                output_unit,
                zero,
                windows,
                one_unit=last and one_unit,
                circular=isinstance(convolution, CircularConvolution),
            )
        )
        unit, zero = output_unit or 0.0, 0
    return layers


class IntegerNet(nn.Module):
    """``(N, S, S)`` uint8 patches to ``(N, outputs)`` float32 activations, all whole numbers.

    The sums are whole numbers below 2^24, which float32 adds up exactly in any order, so that a
    GPU gives the same bytes as the CPU. Windows are unfolded and multiplied: the algorithms that
    convolution libraries may choose (Winograd's) would round.
    """

    def __init__(self, layers: Sequence[IntegerLayer]):
        super().__init__()
        self.layers = nn.ModuleList(_Layer(layer) for layer in layers)

    @torch.inference_mode()
    def forward(self, patches: Tensor) -> Tensor:
        """Activations; bit = activation >= 0."""
        # The contrast is computed in NumPy: its division and root are correctly rounded there.
        maps = (
            torch.from_numpy(normalise(patches.cpu().numpy())).to(patches.device).float()[:, None]
        )
        border = float(INPUT_ZERO)
        for layer in self.layers:
            maps = layer(maps, border)
            border = 0.0
        return maps.flatten(1)


class _Layer(nn.Module):
    weights: Tensor
    bias: Tensor
    multiplier: Tensor | None

    def __init__(self, layer: IntegerLayer):
        super().__init__()
        self.stride, self.circular = layer.stride, layer.circular
        self.window = layer.weights.shape[1]
        by_channel = torch.from_numpy(layer.weights).permute(0, 3, 1, 2).flatten(1)
        self.register_buffer("weights", by_channel.float())
        self.register_buffer("bias", torch.from_numpy(layer.bias).float()[:, None])
        scale = None if layer.multiplier is None else torch.from_numpy(layer.multiplier)[:, None]
        self.register_buffer("multiplier", scale)

    def forward(self, maps: Tensor, border: float) -> Tensor:
        side = maps.shape[-1]
        if self.multiplier is not None:
            maps = go_round(maps) if self.circular else F.pad(maps, (1, 1, 0, 0), value=border)
            maps = F.pad(maps, (0, 0, 1, 1), value=border)
            side = -(-side // self.stride)
        else:
            side = 1
        windows = F.unfold(maps, self.window, stride=self.stride)
        sums = self.weights @ windows + self.bias
        if self.multiplier is not None:
            sums = (sums.clamp_min(0) * self.multiplier).round().clamp_max(ACTIVATION)
        return sums.unflatten(2, (side, side))


def _windows(layer: nn.Conv2d, maps: Tensor) -> NDArray[np.float64]:
    """``(N, H, W, I)``: of what a layer's weights are multiplied with, evenly spread."""
    circular = isinstance(layer, CircularConvolution)
    rows, columns = (int(side) for side in layer.padding)
    maps = go_round(maps) if circular else maps
    padding = rows, 0 if circular else columns
    found = F.unfold(maps, layer.kernel_size, padding=padding, stride=layer.stride)
    found = found[:: max(len(found) * found.shape[2] // _MOST_WINDOWS, 1)]
    shape = (layer.in_channels, *layer.kernel_size)
    windows = found.transpose(1, 2).flatten(0, 1).unflatten(1, shape)
    return windows.permute(0, 2, 3, 1).double().numpy()


def _quantile(values: Tensor, share: float) -> float:
    flat = values.flatten()
    return float(flat.kthvalue(max(int(share * flat.numel()), 1)).values)
