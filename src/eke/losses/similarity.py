"""How near two views of the same images are on the sphere, and how far a batch spreads over it.

Outputs may come in half precision, from autocast: lengths are always computed in float32 or better. A row of
zeros has no direction; it counts as at distance 1 from, and at cosine 0 to, everything.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from eke.collectives import global_mean


def unit_length(outputs: Tensor) -> Tensor:
    """Divide each row by its length, in float32 or better. Shape as `outputs` (N, D)."""
    return F.normalize(outputs.to(torch.promote_types(outputs.dtype, torch.float32)), dim=-1)


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Mean over images of -cos(p_b, z_b).

    Source: SimSiam (Chen and He 2021, arXiv:2011.10566, eq. 1).

    Args:
        p: (N, D) predictions.
        z: (N, D) targets; whether a gradient flows into them is the caller's to say.

    Returns:
        Scalar in [-1, 1].
    """
    return -(unit_length(p) * unit_length(z)).sum(-1).mean()


def squared_distance(p: Tensor, z: Tensor) -> Tensor:
    """Mean over images of |p_b / |p_b| - z_b / |z_b||^2, which is 2 - 2 cos(p_b, z_b).

    Source: BYOL (Grill et al. 2020, arXiv:2006.07733, eq. 2).

    Args:
        p: (N, D) predictions.
        z: (N, D) targets; whether a gradient flows into them is the caller's to say.

    Returns:
        Scalar in [0, 4].
    """
    return (unit_length(p) - unit_length(z)).square().sum(-1).mean()


@torch.no_grad()
def spread(outputs: Tensor) -> Tensor:
    """Measure how far outputs of unit length spread: 0 where all are equal, 1 as on a uniform sphere.

    The standard deviation of each dimension over the images of all processes, averaged over the D dimensions,
    times sqrt(D). It sees a collapse to one point, not one to few dimensions.

    Source: SimSiam (Chen and He 2021, arXiv:2011.10566, section 4.1), times sqrt(D).

    Args:
        outputs: (N, D), this process's images.

    Returns:
        Scalar in [0, 1], without gradient.
    """
    unit = unit_length(outputs)
    variance = global_mean((unit - global_mean(unit, 0)).square(), 0)
    return variance.sqrt().mean() * unit.shape[1] ** 0.5
