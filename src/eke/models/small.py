"""Small networks: a light one for digits and processors, and the two of explanation-based attention."""

from itertools import pairwise

from torch import Tensor, nn

from eke.errors import ConfigError


def _stage(inputs: int, outputs: int, pool: bool) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
    unit = [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*([nn.MaxPool2d(2)] if pool else []), *unit)


class Small(nn.Module):
    """Images (N, C, H, W) -> (N, 128): four convolutions with batch norm, then the mean over the last map.

    Halves the maps before the later convolutions while they keep at least four pixels a side, so that
    attention on 8x8 digits still has a 4x4 map. 9 million multiplications at 32x32. Maps: `block1` to
    `block4`.

    Args:
        channels: C.
        size: (H, W).
    """

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        n_pools = (min(size) // 4).bit_length() - 1
        self.block1, self.block2, self.block3, self.block4 = (
            _stage(inputs, outputs, pool=1 <= i <= n_pools)
            for i, (inputs, outputs) in enumerate(pairwise((channels, 32, 48, 96, 128)))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block4(self.block3(self.block2(self.block1(x)))).mean((2, 3))


class LeNet(nn.Module):
    """Images (N, C, H, W) -> (N, 50): the network for digits of explanation-based attention.

    Two unpadded 5x5 convolutions, each followed by 2x2 max pooling and ReLU, and a layer of 50 units
    (Gudovskiy et al. 2020). With `block1` (10), `block2` (20), the embedding (50) and ten logits it gives the
    90 numbers of the "all layers" descriptor. Dropout stands after each block; that of the embedding belongs
    to `Network`.

    Args:
        channels: C.
        size: (H, W); at least 16.
        dropout: rate after each block.

    Raises:
        ConfigError: the images are too small.
    """

    def __init__(self, channels: int, size: tuple[int, int], dropout: float = 0.25) -> None:
        super().__init__()
        h, w = (((side - 4) // 2 - 4) // 2 for side in size)
        if min(h, w) < 1:
            raise ConfigError(f"lenet needs images of 16 or more pixels a side, not {size}: choose model.name=small.")
        self.block1 = nn.Sequential(nn.Conv2d(channels, 10, 5), nn.MaxPool2d(2), nn.ReLU())
        self.block2 = nn.Sequential(nn.Conv2d(10, 20, 5), nn.MaxPool2d(2), nn.ReLU())
        self.drop = nn.Dropout(dropout)
        self.dense = nn.Sequential(nn.Linear(20 * h * w, 50), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.drop(self.block2(self.drop(self.block1(x)))).flatten(1))


class Cnn8(nn.Module):
    """Images (N, C, H, W) -> (N, 256): the eight-layer network of explanation-based attention on house
    numbers.

    Pairs of 3x3 convolutions with 32, 64 and 128 outputs, each pair followed by 2x2 max pooling, an unpadded
    one with 256, and the maximum over the map; each convolution is followed by batch norm without weights,
    ReLU and dropout. At 32x32 the 256 numbers after pooling and the 128 maps of `block3` are its descriptors
    (256, 384). The paper does not print its network; this one is the common public one whose lengths fit.
    Maps: `block1` to `block4`.

    Args:
        channels: C.
        size: (H, W); at least 24.
        dropout: rate after each convolution.

    Raises:
        ConfigError: the images are too small.
    """

    def __init__(self, channels: int, size: tuple[int, int], dropout: float = 0.3) -> None:
        super().__init__()
        if min(size) < 24:
            raise ConfigError(f"cnn8 needs images of 24 or more pixels a side, not {size}: choose model.name=small.")

        def unit(inputs: int, outputs: int, padding: int = 1) -> list[nn.Module]:
            convolution = nn.Conv2d(inputs, outputs, 3, 1, padding)
            return [convolution, nn.BatchNorm2d(outputs, affine=False), nn.ReLU(), nn.Dropout(dropout)]

        self.block1, self.block2, self.block3 = (
            nn.Sequential(*unit(inputs, outputs), *unit(outputs, outputs), nn.MaxPool2d(2))
            for inputs, outputs in pairwise((channels, 32, 64, 128))
        )
        self.block4 = nn.Sequential(*unit(128, 256, padding=0))

    def forward(self, x: Tensor) -> Tensor:
        return self.block4(self.block3(self.block2(self.block1(x)))).amax((2, 3))
