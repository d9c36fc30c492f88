"""How far two attention maps of the same places are from each other.

Maps are (N, ...) floats on one grid, (N, h, w) or (N, t, h, w); `valid` says which places count. All are means over the
images given; an image without a valid place counts as equal.
"""

import torch
from torch import Tensor

from eke.collectives import gather, rank
from eke.losses.classification import cross_entropy
from eke.losses.similarity import unit_length


def map_squared_error(maps: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean over images of the mean over valid places of (maps - target)^2.

    Source: Semi-supervised Image Classification with Grad-CAM Consistency (Lee and Cho), section III.

    Args:
        maps: (N, ...) with gradient.
        target: (N, ...), with gradient or without.
        valid: (N, ...) bool.

    Returns:
        Scalar, at least 0.
    """
    counts = valid.flatten(1).to(maps.dtype)
    squared = (maps - target).square().flatten(1) * counts
    return (squared.sum(1) / counts.sum(1).clamp(min=1)).mean()


def map_cosine(maps: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean over images of 1 - cos between the maps, each as one vector of its valid places.

    A flat map at 0 has no direction: it counts as at cosine 0 to everything, unless no place is valid.

    Args:
        maps: (N, ...) with gradient.
        target: (N, ...), with gradient or without.
        valid: (N, ...) bool.

    Returns:
        Scalar in [0, 2].
    """
    a, b = _directions(maps, valid), _directions(target, valid)
    return ((1 - (a * b).sum(1)) * valid.flatten(1).any(1)).mean()


def map_contrast(maps: Tensor, target: Tensor, valid: Tensor, temperature: float = 0.5) -> Tensor:
    """Cross entropy of finding each image's own target among those of the global batch.

        loss = mean_b -log( exp(cos(m_b, t_b) / T) / sum_j exp(cos(m_b, t_j) / T) )

    A network whose maps are the same for all images cannot win: they are then equally near to every target.

    Source: Consistent Explanations by Contrastive Learning (Pillai et al. 2022, arXiv:2110.00527, eq. 3), with
    T = 0.5 as there.

    Args:
        maps: (n, ...) with gradient, this process's images.
        target: (n, ...), with gradient or without, in the same order.
        valid: (n, ...) bool: maps and targets are 0 elsewhere.
        temperature: T, above 0.

    Returns:
        Scalar, at least 0; the mean over processes is the global batch's.
    """
    queries, keys = _directions(maps, valid), gather(_directions(target, valid))
    own = rank() * len(queries) + torch.arange(len(queries), device=queries.device)
    return cross_entropy(queries @ keys.T / temperature, own)


MAP_LOSSES = {"mse": map_squared_error, "cosine": map_cosine, "contrastive": map_contrast}
"""Name in options -> loss(maps, target, valid)."""


def _directions(maps: Tensor, valid: Tensor) -> Tensor:
    return unit_length((maps * valid).flatten(1))
