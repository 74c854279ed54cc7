"""The ResNet-18 of SIE's experiments (arXiv:2302.10283). It has the usual layers and not the usual geometry.

Strided layers of 3x3 pad on the right and at the bottom only, the stride of a block sits on its second convolution, and
the first block of every stage has a projection on its shortcut. The last BatchNorm of a block begins with gain 0: at
first only shortcuts pass anything. Features are what comes out of a ReLU, so none is negative.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from viewfold.errors import InvalidInput

WIDTHS = (64, 128, 256, 512)
"""Channels of each stage of two blocks; the last is the number of features."""
_STEPS = 32
"""Pixels of the image for one of the last stage, along each side."""


class SIEResNet18(nn.Module):
    """512 features from 11.2 M weights: SIE's own ResNet-18, for images whose sides are multiples of 32 pixels."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.ZeroPad2d((2, 3, 2, 3)),
            nn.Conv2d(in_channels, WIDTHS[0], 7, stride=2, bias=False),
            nn.BatchNorm2d(WIDTHS[0]),
            nn.ReLU(inplace=True),
        )
        self.pool = nn.Sequential(nn.ConstantPad2d((0, 1, 0, 1), -1e4), nn.MaxPool2d(3, stride=2))
        stages = []
        for number, width in enumerate(WIDTHS):
            first = BasicBlock(WIDTHS[max(number - 1, 0)], width, stride=1 if number == 0 else 2, project=True)
            stages.append(nn.Sequential(first, BasicBlock(width, width, stride=1, project=False)))
        self.stages = nn.Sequential(*stages)
        _initialise(self)

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch 512"]:
        """One pooled vector for each image.

        Raises:
            InvalidInput: a side of the images is no multiple of 32, and the two branches of a block would not meet.
        """
        height, width = images.shape[2:]
        if height % _STEPS or width % _STEPS:
            raise InvalidInput(
                f"backbone resnet18-sie takes images whose sides are multiples of {_STEPS} pixels, got "
                f"{height} x {width}; set encoder.preprocessing.image_size to such a number"
            )
        features: Tensor = self.stages(self.pool(self.stem(images)))
        return features.mean(dim=(2, 3))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is the identity or a 1x1 convolution with BatchNorm."""

    def __init__(self, in_width: int, width: int, *, stride: int, project: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            _conv3x3(in_width, width, stride=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            _conv3x3(width, width, stride=stride),
            nn.BatchNorm2d(width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if project:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_width, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Float[Tensor, "batch in_width height width"]) -> Float[Tensor, "batch out_width out_h out_w"]:
        """ReLU of the sum of both branches."""
        return F.relu(self.branch(x) + self.shortcut(x))


def _conv3x3(in_width: int, width: int, *, stride: int) -> nn.Module:
    if stride == 1:
        return nn.Conv2d(in_width, width, 3, padding=1, bias=False)
    return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(in_width, width, 3, stride=stride, bias=False))


@torch.no_grad()
def _initialise(model: nn.Module) -> None:
    """Convolutions by Kaiming's normal law over their outputs; the last gain of each block 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, BasicBlock):
            nn.init.zeros_(module.branch[-1].weight)  # type: ignore[arg-type]
