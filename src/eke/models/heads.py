"""The small networks that methods put on an embedding: projection heads, prediction heads, decoders."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


def perceptron(
    widths: Sequence[int],
    *,
    batch_norm: bool = True,
    last_batch_norm: bool = False,
    last_affine: bool = True,
    negative_slope: float = 0.0,
) -> nn.Sequential:
    """Make linear layers with an activation between them: (N, widths[0]) -> (N, widths[-1]).

    A linear layer before batch norm has no bias, which the norm would take away again.

    Args:
        widths: D of the input, of each hidden layer, of the output.
        batch_norm: after each hidden layer.
        last_batch_norm: after the last layer.
        last_affine: whether the last batch norm scales and shifts.
        negative_slope: 0 for ReLU, else of LeakyReLU.
    """
    layers: list[nn.Module] = []
    n_layers = len(widths) - 1
    for place, (inputs, outputs) in enumerate(pairwise(widths), 1):
        last = place == n_layers
        normed = last_batch_norm if last else batch_norm
        layers.append(nn.Linear(inputs, outputs, bias=not normed))
        if normed:
            layers.append(nn.BatchNorm1d(outputs, affine=last_affine if last else True))
        if not last:
            layers.append(nn.LeakyReLU(negative_slope) if negative_slope else nn.ReLU())
    return nn.Sequential(*layers)


class Decoder(nn.Module):
    """Embedding (N, D) -> images (N, C, H, W) in [0, 1]: a small map that transposed convolutions double in size.

    Args:
        width: D.
        image_shape: (C, H, W). The first map has at most 4 pixels on its shorter side; where the doubled map is
            larger than the image, it is cropped. The last map has 32 channels, each one before twice as many, up to
            512.
    """

    def __init__(self, width: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.size = image_shape[1:]
        n_doublings = max(1, math.ceil(math.log2(min(self.size) / 4)))
        h, w = (math.ceil(side / 2**n_doublings) for side in self.size)
        maps = [min(32 * 2**power, 512) for power in reversed(range(n_doublings))]
        self.start = nn.Sequential(nn.Linear(width, maps[0] * h * w), nn.Unflatten(1, (maps[0], h, w)), nn.ReLU())
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([maps[0], *maps]):
            layers += [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.grow = nn.Sequential(*layers)
        self.paint = nn.Conv2d(maps[-1], image_shape[0], 3, padding=1)

    def forward(self, embedding: Tensor) -> Tensor:
        H, W = self.size
        painted: Tensor = self.paint(self.grow(self.start(embedding)))[..., :H, :W]
        return painted.sigmoid()
