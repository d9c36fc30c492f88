"""Feature maps made visible: which channels of a layer to show for an image, and in which shades.

Maps are (C, h, w) floats of one image, finite; see `eke.models.network.Network` for how they are taken.
"""

import torch
from torch import Tensor


def liveliest_channels(maps: Tensor, n: int) -> Tensor:
    """Return the channels whose maps vary most over the image: those of the highest spatial standard deviation.

    A channel that is high everywhere says nothing about where; one that is flat, nothing at all. Channels of one
    layer are compared as they are: the next layer reads them on this common scale too.

    Args:
        maps: (C, h, w).
        n: how many at most; where there are fewer channels, all are returned.

    Returns:
        (min(n, C),) int64, the liveliest first; of equals the lower number first.
    """
    deviation = maps.double().flatten(1).std(1, correction=0)
    return deviation.argsort(descending=True, stable=True)[:n]


def scaled_to_unit(maps: Tensor) -> Tensor:
    """Scale each map to [0, 1], its lowest value to 0 and its highest to 1; a flat map becomes 0.

    Differentiable; the gradient is finite where a map is flat, too.

    Args:
        maps: (..., h, w).

    Returns:
        Likewise, float32 or, of float64, float64.
    """
    values = maps.double()  # the span of float32 may be infinite in float32
    low, high = values.amin((-2, -1), keepdim=True), values.amax((-2, -1), keepdim=True)
    span = high - low
    scaled = (values - low) / torch.where(span > 0, span, 1.0)  # never 0 / 0, whose gradient would be NaN
    return scaled.to(torch.promote_types(maps.dtype, torch.float32))
