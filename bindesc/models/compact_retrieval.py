"""The compact network of image codes: a small convolutional net whose signs are the code."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from .bingan import ToImages
from .layers import convolutions, fold_batch_norm


@dataclass(frozen=True)
class CompactRetrievalConfig:
    """The shape of a compact network of image codes.

    Attributes:
        inputs: channels of an image, 3 (RGB) or 1.
        channels: output channels of each 3x3 convolution.
        strides: its stride, 1 or 2.
        bits: length of the code.
    """

    inputs: int = 3
    channels: tuple[int, ...] = (32, 64, 128, 128, 256)
    strides: tuple[int, ...] = (1, 2, 2, 1, 2)
    bits: int = 64


class CompactRetrievalNet(nn.Module):
    """Images ``(N, inputs, 32, 32)``, 0 to 255, to activations ``(N, bits)``; bit = ... >= 0.

    A network with three inputs takes ``(N, 1, 32, 32)`` grey images too, as three equal channels.
    The last batch normalisation has no affine part: each bit's threshold is the mean of its
    activation over the training data, so that every bit is set about half of the time.

    Args:
        config: the shape.
        trunk: the convolutions of another network of the same channels, to share them.
    """

    def __init__(
        self, config: CompactRetrievalConfig | None = None, trunk: nn.Sequential | None = None
    ):
        super().__init__()
        self.config = config = config or CompactRetrievalConfig()
        self.to_images = ToImages(config.inputs)
        self.trunk = trunk or nn.Sequential(
            *convolutions(config.inputs, config.channels, config.strides),
            nn.AdaptiveAvgPool2d(1),
        )
        # What depends on the length of the code; the rest serves every length.
        self.head = nn.Sequential(
            nn.Conv2d(config.channels[-1], config.bits, 1, bias=False),
            nn.BatchNorm2d(config.bits, affine=False),
            nn.Flatten(),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Activations before the sign."""
        return self.head(self.trunk(self.to_images(images)))

    def for_inference(self) -> nn.Sequential:
        """The same function in evaluation mode, without batch normalisation."""
        return nn.Sequential(self.to_images, *fold_batch_norm([*self.trunk, *self.head])).eval()
