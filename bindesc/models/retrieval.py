"""BinGAN for images: a discriminator with a code of 16 to 64 bits inside, for retrieval.

Zieba, Semberecki, El-Gaaly and Trzcinski, "BinGAN: Learning Compact Binary Descriptors with a
Regularized GAN", NeurIPS 2018 (arXiv 1806.06778), the network for CIFAR-10. What the paper leaves
open follows its authors' program: f is a linear layer; its gain is trained, as that of the logits
is, and both start at a deviation of 0.1.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from .bingan import Layers, ToImages, average, block, build_trunk, plain_layers
from .weight_norm import WeightNormConv2d


@dataclass(frozen=True)
class RetrievalConfig:
    """The shape of a retrieval discriminator; the defaults are the published ones.

    Attributes:
        inputs: channels of an image, 3 (RGB) or 1.
        narrow: channels of the three convolutions at 32x32 pixels.
        wide: channels of the four convolutions after them, and of the two 1x1 convolutions.
        bits: length of the code: 16, 32 or 64 in the paper.
    """

    inputs: int = 3
    narrow: int = 96
    wide: int = 192
    bits: int = 64


class RetrievalDiscriminator(nn.Module):
    """Images ``(N, inputs, 32, 32)``, 0 to 255, to activations ``(N, bits)``; bit = f >= 0.

    A network with three inputs takes ``(N, 1, 32, 32)`` grey images too, as three equal channels.
    """

    def __init__(self, config: RetrievalConfig | None = None):
        super().__init__()
        self.config = config = config or RetrievalConfig()
        self.to_images = ToImages(config.inputs)
        self.trunk = build_trunk(config.inputs, config.narrow, config.wide)
        self.top = nn.Sequential(
            *block(config.wide, config.wide, kernel=1, padding=0),
            *block(config.wide, config.wide, kernel=1, padding=0),
        )
        # What depends on the length of the code; the rest serves every length.
        self.head = nn.ModuleDict(
            {"code": _linear(config.wide, config.bits), "classify": _linear(config.bits, 2)}
        )

    def layers(self, images: Tensor) -> Layers:
        """All layers that the losses need: h is the pooled map, features are matched at f.

        Args:
            images: ``(N, inputs, 32, 32)`` float, -1 to 1.

        Returns:
            h ``(N, wide)``, f and penultimate ``(N, bits)``, logits ``(N, 2)``.
        """
        h = average(self.top(self.trunk(images)))
        code = self.head["code"](h[:, :, None, None])
        logits = self.head["classify"](code).flatten(1).float()
        f = code.flatten(1).float()
        return Layers(h=h, f=f, penultimate=f, logits=logits)

    def forward(self, images: Tensor) -> Tensor:
        """Activations before the sign."""
        return self.layers(self.to_images(images)).f

    def for_inference(self) -> nn.Sequential:
        """The same function in evaluation mode, as plain convolutions."""
        maps = plain_layers(*self.trunk, *self.top)
        code = plain_layers(self.head["code"])
        return nn.Sequential(
            self.to_images, *maps, nn.AdaptiveAvgPool2d(1), *code, nn.Flatten()
        ).eval()


def _linear(inputs: int, outputs: int) -> WeightNormConv2d:
    return WeightNormConv2d(inputs, outputs, 1, init_std=0.1, train_gain=True)
