"""A map laid over its image as heat, for people to look at."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from eke.errors import ConfigError
from eke.explain.differentiate import widened
from eke.explain.scale import is_flat

# The image must stay readable below the hottest place.
_STRONGEST_OPACITY = 0.7


def overlay(image: Tensor, heat: Tensor, *, signed: bool = False) -> Tensor:
    """Lay a map over an image: the larger its value, the hotter the color and the less of the image shows through.

    Where the map is 0, or all of it is flat, the image is seen as it is. Each map is scaled by its own largest value:
    two overlays can be compared in where they are hot, not in how hot.

    Args:
        image: (3, H, W) or, gray, (1, H, W) uint8.
        heat: (h, w), drawn to (H, W) bilinearly.
        signed: show what speaks for the class in red and against it in blue; else only what speaks for it is
            shown, in the colors of inferno.

    Returns:
        (3, H, W) uint8 on the device of `image`.

    Raises:
        ConfigError: the image is not uint8 of one or three channels, or the map is not (h, w).
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] not in {1, 3} or heat.ndim != 2:
        raise ConfigError(
            f"The image is {tuple(image.shape)} {image.dtype} and the map {tuple(heat.shape)}; needed are (1, H, W) or "
            "(3, H, W) in uint8 and (h, w)."
        )
    values = widened(heat).to(image.device)
    if not signed:
        values = values.relu()
    values = torch.where(is_flat(values[None]), 0.0, values)
    # scaled before drawing, so that neither tiny nor huge values leave the range of numbers on the way
    values = values / torch.where(values.any(), values.abs().amax(), 1.0)
    drawn = F.interpolate(values[None, None], image.shape[1:], mode="bilinear")[0, 0]

    place = (drawn + 1) / 2 if signed else drawn
    colors = _colors("RdBu_r" if signed else "inferno").to(drawn)[(place * 255).round().long()].movedim(-1, 0)
    opacity = _STRONGEST_OPACITY * drawn.abs()
    return (image * (1 - opacity) + 255 * colors * opacity).round().to(torch.uint8)


@cache
def _colors(name: str) -> Tensor:
    """Return 256 colors of a perceptually even map, (256, 3) in [0, 1]."""
    from matplotlib import colormaps

    return torch.tensor(colormaps[name].resampled(256)(range(256)))[:, :3]
