"""Wide residual networks as in the FixMatch recipe (Zagoruyko and Komodakis 2016; Sohn et al. 2020).

What that recipe has beside the original: LeakyReLU of slope 0.1, batch-norm decay 0.999 (torch: momentum
0.001) with epsilon 1e-3, convolutions drawn from N(0, 2 / (k * k * outputs)), and a first block whose
shortcut starts after its activation. Two of its details follow the later PyTorch ports: convolutions before a
batch norm have no bias, and those of stride 2 are padded on both sides.
"""

import torch.nn.functional as F
from torch import Tensor, nn


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=1e-3)


class _Block(nn.Module):
    """Pre-activation block (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int, activate_shortcut: bool) -> None:
        super().__init__()
        self.norm1 = _norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm2 = _norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None
        self.activate_shortcut = activate_shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.norm1(x), 0.1)
        x = y if self.activate_shortcut else x
        y = self.conv2(F.leaky_relu(self.norm2(self.conv1(y)), 0.1))
        return y + (x if self.shortcut is None else self.shortcut(x))


class WideResNet(nn.Module):
    """Images (N, C, H, W) -> (N, 64 * width), the mean over the last map, whose sides are a quarter of the
    images'.

    WRN-28-2 has 1.47 million parameters with a head for ten classes. Maps: `block1`, `block2`, `block3`
    (before the last batch norm) and `activation` (what is averaged).

    Args:
        channels: C.
        width: the factor k of WRN-d-k.
        depth: 6 * n + 4 convolutions.
    """

    def __init__(self, channels: int = 3, width: int = 2, depth: int = 28) -> None:
        super().__init__()
        n = (depth - 4) // 6
        widths = [16, 16 * width, 32 * width, 64 * width]
        self.stem = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.block1, self.block2, self.block3 = (
            nn.Sequential(
                _Block(widths[i], widths[i + 1], 2 if i else 1, activate_shortcut=i == 0),
                *[_Block(widths[i + 1], widths[i + 1], 1, activate_shortcut=False) for _ in range(n - 1)],
            )
            for i in range(3)
        )
        self.norm = _norm(widths[3])
        self.activation = nn.LeakyReLU(0.1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.stem(x))))
        return self.activation(self.norm(x)).mean((2, 3))
