"""Sets of images that differ: core-set by greedy k-center, and BADGE.

    k-center   u = argmax_x min_{s in S} ||h(x) - h(s)||            Sener & Savarese 2018 (arXiv:1708.00489), alg. 1
    BADGE      k-means++ seeding on g = a (x) h,  a = p - onehot(argmax p)    Ash et al. 2020 (arXiv:1906.03671), alg. 1

The gradient embeddings g of BADGE are never built (K D numbers each; 819 GB for 500,000 images, 800 classes and 512
features), because <g_i, g_j> = <a_i, a_j> <h_i, h_j> and a = p - onehot(y) needs no copy of p either. Both keep one
number per image, the distance to the nearest chosen one, and read the pool once per pick.

Deviations:
1. Without labels, k-center starts at a random image and BADGE, as its authors' code, at the longest gradient.
2. Distances below the rounding of their own computation are 0, so that a copy of a chosen image is never chosen before
   an image that differs. Once every image left is such a copy, images are taken in random order.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from eke.acquire.sampling import draw_by_weight, first_of_largest

BLOCK = 8192
"""Rows that are compared with other rows at once."""
ROUNDING = 1e-6
"""Squared distances below this share of the squared lengths are rounding: float32 has 6e-8, times a long sum."""


def in_blocks(compute: Callable[[slice], Tensor], like: Tensor) -> Tensor:
    """Return (N,) numbers of the rows of a matrix, in float32 or wider, of which a block is computed at once.

    They are written to one vector that is there before the first block: small results that stay between large ones that
    go would keep the memory of each.
    """
    found = wide(like.new_empty(len(like)))
    for start in range(0, len(like), BLOCK):
        part = slice(start, start + BLOCK)
        found[part] = compute(part)
    return found


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Return (N,) matrix @ vector in float32 or wider, without a wide copy of the matrix."""
    if matrix.dtype == vector.dtype:
        return matrix @ vector
    return in_blocks(lambda part: matrix[part].to(vector) @ vector, matrix)


def squared_lengths(matrix: Tensor) -> Tensor:
    """Return (N,) squared row lengths in float32 or wider."""
    return in_blocks(lambda part: wide(matrix[part]).square().sum(1), matrix)


def wide(x: Tensor) -> Tensor:
    """Return x in float32 or wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def distances_to_nearest(features: Tensor, others: Tensor) -> Tensor:
    """Return the squared distance of each row to the nearest of others, in blocks of both.

    Args:
        features: (N, D).
        others: (L, D).

    Returns:
        (N,) at least 0, float32 or wider; infinite where L = 0.
    """
    lengths = squared_lengths(features)
    nearest = torch.full_like(lengths, torch.inf)
    for first in range(0, len(others), BLOCK // 4):
        other = others[first : first + BLOCK // 4].to(lengths)
        length = other.square().sum(1)
        for start in range(0, len(features), BLOCK):
            part = slice(start, start + BLOCK)
            found = length - 2 * wide(features[part]) @ other.T + lengths[part, None]
            found[found < ROUNDING * (lengths[part, None] + length)] = 0
            nearest[part] = torch.minimum(nearest[part], found.amin(1))
    return nearest


def k_center(features: Tensor, labeled: Tensor, k: int, order: Tensor) -> tuple[Tensor, Tensor]:
    """Choose, one after the other, the image that is farthest from all labeled and chosen ones.

    Args:
        features: (N, D).
        labeled: (L, D); may be empty.
        k: 1 to N.
        order: (N,) permutation that decides between equals.

    Returns:
        (k,) int64 rows, and (k,) distances to the nearest labeled or chosen image when each was chosen; that of a
        random first one is the distance of the second.
    """
    order = order.to(features.device)
    lengths = squared_lengths(features)
    nearest = distances_to_nearest(features, labeled)
    tolerance = ROUNDING * float(lengths.max())
    rows: list[int] = []
    found: list[float] = []
    while len(rows) < k:
        row = int(order[0]) if not rows and not len(labeled) else first_of_largest(nearest, order, tolerance)
        rows.append(row)
        found.append(float(nearest[row]))
        squared = lengths + lengths[row] - 2 * times(features, wide(features[row]))
        squared[squared < ROUNDING * (lengths + lengths[row])] = 0
        nearest = torch.minimum(nearest, squared)
        nearest[row] = -torch.inf  # chosen: not even by rounding chosen again
    if not len(labeled):
        found[0] = found[1] if k > 1 else max(0.0, float(nearest.max()))
    return torch.tensor(rows), torch.tensor(found).sqrt()


def badge(probs: Tensor, features: Tensor, k: int, order: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Draw images whose loss gradients are long and differ: k-means++ seeding.

    Args:
        probs: (N, K) probabilities.
        features: (N, D), what the last layer reads.
        k: 1 to N.
        order: (N,) permutation that decides between equals and turns draws into rows.
        seed: of the draws.

    Returns:
        (k,) int64 rows in the order of drawing, and (k,) gradient lengths.
    """
    order = order.to(features.device)
    predicted = probs.argmax(1)
    confidence = probs.gather(1, predicted[:, None])[:, 0]
    # ||p - onehot||^2 without the difference of large numbers: the other classes, and 1 - p of the predicted one
    rest = in_blocks(lambda part: wide(probs[part]).scatter(1, predicted[part, None], 0).square().sum(1), probs)
    lengths = (rest + (1 - wide(confidence)).square()) * squared_lengths(features)
    tolerance = ROUNDING * float(lengths.max())
    nearest = torch.full_like(lengths, torch.inf)
    rows: list[int] = []
    while len(rows) < k:
        if not rows:
            row = first_of_largest(lengths, order, tolerance)
        elif bool((nearest > 0).any()):
            row = draw_by_weight(nearest.clamp(min=0), order, seed, len(rows), "badge")
        else:
            row = first_of_largest(nearest, order)
        rows.append(row)
        error = wide(probs[row]).clone()
        error[predicted[row]] -= 1
        products = (times(probs, error) - error[predicted]) * times(features, wide(features[row]))
        squared = lengths + lengths[row] - 2 * products
        squared[squared < ROUNDING * (lengths + lengths[row])] = 0
        nearest = torch.minimum(nearest, squared)
        nearest[row] = -torch.inf
    return torch.tensor(rows), lengths[torch.tensor(rows, device=lengths.device)].sqrt().cpu()
