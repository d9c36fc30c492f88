"""The places of an image as a map orders them: maps enlarged to images, and a rank for every pixel.

Maps are (N, h, w), signed. Their cells tile the image, so that they are enlarged bilinearly without aligned corners.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from eke.errors import DataError
from eke.explain.scale import is_flat
from eke.randomness import rng


@torch.no_grad()
def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge maps to the image. Equal neighbors stay exactly equal, and a flat map becomes 0.

    Args:
        maps: (N, h, w) floats.
        size: (H, W) of the images.

    Returns:
        (N, H, W) float32.

    Raises:
        DataError: a map is not finite.
    """
    if not maps.isfinite().all():
        first = int((~maps.isfinite()).flatten(1).any(1).nonzero()[0])
        raise DataError(f"Map {first} is not finite; the model's weights are probably damaged.")
    # The weights of float32 do not sum to 1 exactly. Those of float64 do to more digits than the result keeps.
    values = torch.where(is_flat(maps)[:, None, None], 0.0, maps.double())
    return F.interpolate(values[:, None], size, mode="bilinear", align_corners=False)[:, 0].float()


def ranks(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Rank the pixels of each image from the hottest, 0, to the coldest.

    Equal places come in the order of one random map of the same size as the maps, the same on every call: a flat map
    says nothing, and is ranked like a random one. The order of reading would wipe the image from its top.

    Args:
        maps: (N, h, w) floats.
        size: (H, W) of the images.

    Returns:
        (N, H, W) int64: each row is a permutation of 0 ... H W - 1.

    Raises:
        DataError: a map is not finite.
    """
    heat = enlarged(maps, size).flatten(1)
    chance = enlarged(random_maps(1, (maps.shape[1], maps.shape[2]), seed=0), size).flatten()
    shuffled = chance.argsort(descending=True, stable=True).to(heat.device)
    order = shuffled[heat[:, shuffled].argsort(dim=1, descending=True, stable=True)]
    places = torch.arange(heat.shape[1], device=heat.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view(-1, *size)


def random_maps(n: int, size: tuple[int, int], seed: int) -> Tensor:
    """Draw maps that know nothing of the image, as the measure of those that should.

    Args:
        n: how many.
        size: (h, w) of the maps that they stand beside: a coarse map errs in larger pieces than a fine one.
        seed: the same seed gives the same maps.

    Returns:
        (n, h, w) float32 on the CPU, uniform in [0, 1).
    """
    return torch.rand((n, *size), generator=rng(seed, 0, "random maps"))
