"""Weight normalisation with data-dependent initialisation.

Salimans and Kingma, "Weight Normalization: A Simple Reparameterization to Accelerate Training of
Deep Neural Networks", NeurIPS 2016: ``w = gain * v / |v|`` for each output channel (equation 2),
with gain and bias set by one pass over data (section 3, equations 5 and 6).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WeightNormConv2d(nn.Conv2d):
    """A convolution with normalised weights; ``weight`` holds the directions v.

    Args:
        inputs: input channels.
        outputs: output channels.
        kernel: side of the kernel.
        stride: of the convolution.
        padding: zeros around the input.
        init_std: what :func:`initialise_from_data` makes the deviation of the output.
        train_gain: whether the gain is a parameter; otherwise it stays as initialised.
    """

    gain: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        init_std: float = 1.0,
        train_gain: bool = False,
    ):
        super().__init__(inputs, outputs, kernel, stride, padding)
        self.init_std = init_std
        _prepare(self, train_gain)

    def normalised_weight(self) -> Tensor:
        """The weights that the convolution uses, ``(outputs, inputs, kernel, kernel)``."""
        return _scale(self.weight, self.gain, output_axis=0)

    def forward(self, images: Tensor) -> Tensor:
        """``(N, inputs, H, W)`` to ``(N, outputs, H', W')``."""
        return F.conv2d(images, self.normalised_weight(), self.bias, self.stride, self.padding)


class WeightNormConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution of stride 2 with normalised weights: twice the height and width.

    Args: as of :class:`WeightNormConv2d`; ``kernel`` is odd.
    """

    gain: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        init_std: float = 1.0,
        train_gain: bool = False,
    ):
        super().__init__(inputs, outputs, kernel, 2, padding=kernel // 2, output_padding=1)
        self.init_std = init_std
        _prepare(self, train_gain)

    def forward(self, images: Tensor, output_size: list[int] | None = None) -> Tensor:
        """``(N, inputs, H, W)`` to ``(N, outputs, 2 H, 2 W)``; ``output_size`` is not used."""
        weight = _scale(self.weight, self.gain, output_axis=1)
        return F.conv_transpose2d(images, weight, self.bias, 2, weight.shape[2] // 2, 1)


def initialise_from_data(network: nn.Module, run: Callable[[], Any]) -> None:
    """Set gain and bias of each normalised layer from the data that passes through it.

    Every output channel gets mean 0 and the layer's ``init_std`` over batch and positions; the
    next layer sees the output so changed.

    Args:
        network: holds the layers.
        run: calls the network once, on data.
    """
    kinds = (WeightNormConv2d, WeightNormConvTranspose2d)
    hooks = [
        layer.register_forward_hook(_fit) for layer in network.modules() if isinstance(layer, kinds)
    ]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()


def _fit(layer: Any, _: Any, output: Tensor) -> Tensor:
    output = output.float()
    mean = output.mean((0, 2, 3))
    centred = output - mean[:, None, None]
    factor = layer.init_std / (centred.square().mean((0, 2, 3)) + 1e-6).sqrt()
    layer.gain.mul_(factor)
    layer.bias.sub_(mean).mul_(factor)
    return centred * factor[:, None, None]


def _prepare(layer: Any, train_gain: bool) -> None:
    nn.init.normal_(layer.weight, std=0.05)
    nn.init.zeros_(layer.bias)
    gain = torch.ones(layer.out_channels)
    if train_gain:
        layer.gain = nn.Parameter(gain)
    else:
        layer.register_buffer("gain", gain)


def _scale(direction: Tensor, gain: Tensor, output_axis: int) -> Tensor:
    axes = [axis for axis in range(4) if axis != output_axis]
    length = (direction.square().sum(axes, keepdim=True) + 1e-6).sqrt()
    return direction * (gain.view_as(length) / length)
