"""Maps made comparable: each image's map on a scale of its own, and the signs that a map says nothing.

Maps are (N, h, w), or (N, t, h, w) of clips, signed; everything is per image, over all positions. A map is flat where
its values differ by rounding only: it has no "where", becomes 0 on every scale, and has a gradient of 0, not NaN.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from eke.errors import ConfigError, did_you_mean
from eke.explain.activations import scaled_to_unit
from eke.explain.differentiate import widened

Scale = Literal["minmax", "l2", "sum", "none"]

# Values that differ by less than this share of the largest magnitude differ by rounding.
_ROUNDING_RATE = 1e-6


def normalize(maps: Tensor, scale: Scale) -> Tensor:
    """Bring each map to a common scale, differentiably. Scales other than "none" do not depend on the map's size.

    Args:
        maps: (N, h, w) or (N, t, h, w).
        scale: "minmax": lowest value to 0, highest to 1. "l2": m / sqrt(sum m^2). "sum": m / sum |m|, so that maps
            that are at least 0 sum to 1. "none": as they are, flat ones too.

    Returns:
        Likewise, in float32 or better.

    Raises:
        ConfigError: the scale is unknown.
    """
    if scale not in get_args(Scale):
        raise ConfigError(f"There is no scale {scale!r}. {did_you_mean(scale, get_args(Scale))}")
    maps = widened(maps)
    if scale == "none":
        return maps
    flat = is_flat(maps)[:, None]
    values = maps.flatten(1)
    # Dividing by a constant first changes neither the result nor its gradient, and keeps squares in range.
    peak = torch.where(flat, 1.0, values.detach().abs().amax(1, keepdim=True))
    values = torch.where(flat, 0.0, values) / peak
    if scale == "minmax":
        values = scaled_to_unit(values[:, None])[:, 0]
    elif scale == "l2":
        values = values / (values.square().sum(1, keepdim=True) + flat).sqrt()
    else:
        values = values / (values.abs().sum(1, keepdim=True) + flat)
    return values.view_as(maps)


@torch.no_grad()
def is_flat(maps: Tensor) -> Tensor:
    """Say which maps differ from a constant by rounding only (a millionth of their largest magnitude): (N,) bool."""
    values = widened(maps).flatten(1)
    return values.amax(1) - values.amin(1) <= _ROUNDING_RATE * values.abs().amax(1)


def map_entropy(maps: Tensor) -> Tensor:
    """Measure how far each map is spread: -sum p log p with p = |m| / sum |m|.

    Args:
        maps: (N, h, w) or (N, t, h, w).

    Returns:
        (N,) in nats, between 0 (all in one position) and log(h w) (even, which flat maps are said to be).
    """
    share = normalize(maps, "sum").flatten(1).abs()
    # clamped, because the slope of p log p is infinite at 0
    entropy = -(share * share.clamp(min=torch.finfo(share.dtype).tiny).log()).sum(1)
    return torch.where(is_flat(maps), math.log(share.shape[1]), entropy)


def center_box(h: int, w: int, area_rate: float) -> Tensor:
    """Draw a map of a box in the center, of the image's aspect: photographers center objects, so that a map that
    locates them no better than this has found nothing.

    Args:
        h: rows.
        w: columns.
        area_rate: the box's share of the area, in (0, 1].

    Returns:
        (h, w) float32 on the CPU: the share of each pixel that the box covers, so that the mean is `area_rate`.

    Raises:
        ConfigError: `area_rate` is not in (0, 1].
    """
    if not 0 < area_rate <= 1:
        raise ConfigError(f"area_rate is {area_rate}, and a share above 0 and up to 1 is needed.")
    side = math.sqrt(area_rate)
    return torch.outer(_covered(h, side), _covered(w, side))


def _covered(n: int, side: float) -> Tensor:
    """Return the share of each of n pixels in a row that is covered by the interval of `side` * n in its middle."""
    start = torch.arange(n)
    low, high = n * (1 - side) / 2, n * (1 + side) / 2
    return ((start + 1).clamp(max=high) - start.clamp(min=low)).clamp(min=0)
