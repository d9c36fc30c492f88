"""Residual networks: ResNet-20 for small images (He et al. 2016, section 4.2), ResNet-18 and ResNet-50."""

import torch.nn.functional as F
from torch import Tensor, nn

SMALL_IMAGE = 64
"""Up to this side ResNet-18 and ResNet-50 start with a 3x3 convolution of stride 1 and no max pooling."""


class _Block(nn.Module):
    """Two convolutions and a shortcut without weights; the sides are divided by the stride."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.activation = nn.ReLU()
        self.stride = stride
        self.added = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        if self.added:  # option A of the paper: every second pixel, new channels are zero
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        return self.activation(self.norm2(self.conv2(y)) + x)


class ResNet20(nn.Module):
    """Images (N, C, H, W) -> (N, 64), the mean over the last map, whose sides are a quarter of the images'.

    0.27 million parameters with a head for ten classes. Maps: `layer1`, `layer2`, `layer3`.

    Args:
        channels: C.
    """

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(_Block(inputs, outputs, stride), *[_Block(outputs, outputs, 1) for _ in range(2)])
            for inputs, outputs, stride in [(16, 16, 1), (16, 32, 2), (32, 64, 2)]
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.layer3(self.layer2(self.layer1(self.stem(x)))).mean((2, 3))


def resnet(name: str, channels: int, size: tuple[int, int]) -> nn.Module:
    """Make torchvision's `resnet18` or `resnet50` without its head and without in-place ReLU.

    Args:
        name: its name in torchvision, whose keys the weights have.
        channels: C of the images (N, C, H, W); it gives (N, 512) or (N, 2048).
        size: (H, W). Where both are at most `SMALL_IMAGE`, the stem keeps the images' size, so that the last
            map has an eighth of their sides, not a thirty-second. Maps: `layer1` to `layer4`.
    """
    from torchvision.models import get_model

    body: nn.Module = get_model(name, weights=None)
    small = max(size) <= SMALL_IMAGE
    kernel, stride, padding = (3, 1, 1) if small else (7, 2, 3)
    body.conv1 = nn.Conv2d(channels, 64, kernel, stride, padding, bias=False)
    nn.init.kaiming_normal_(body.conv1.weight, mode="fan_out", nonlinearity="relu")
    if small:
        body.maxpool = nn.Identity()
    body.fc = nn.Identity()
    for module in body.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return body
