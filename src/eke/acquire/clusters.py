"""Sets of images from many clusters: the middle of each, or the least decided of each.

K-means here, and not scikit-learn's: rows are read in an order of seed and image, so that clusters do not depend on the
order of files, large pools are fitted on a part, and it runs where the features are.

Source: Lloyd 1982, seeded as in Arthur & Vassilvitskii 2007 (k-means++); Citovsky et al. 2021, "Batch active learning
at scale" (arXiv:2107.14263), algorithm 2, for cluster-margin.

Deviation: 1. Cluster-margin clusters the shortlist of smallest margins by k-means into as many clusters as picks;
Citovsky et al. cut a hierarchical clustering of the whole pool, whose cost grows with the square of the pool.
"""

import torch
from torch import Tensor

from eke.acquire.diversity import BLOCK, ROUNDING, squared_lengths, wide
from eke.acquire.sampling import draw_by_weight, top_k

FIT_ROWS, FIT_ROWS_PER_CLUSTER = 50_000, 50
"""Clusters are fitted on this many rows, or this many per cluster where that is more; then all rows are assigned."""
MAX_ROUNDS = 100
"""Lloyd's rounds; large pools change little after a few dozen."""
SHORTLIST = 10
"""Cluster-margin looks at so many of the smallest margins per pick: 10 in the paper."""


def nearest_center(features: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Return (N,) int64 numbers of the nearest of (k, D) centers, and (N,) squared distances, in blocks."""
    lengths = centers.square().sum(1)
    parts = []
    for block in features.split(BLOCK):
        squared = wide(block).square().sum(1, keepdim=True) + lengths - 2 * wide(block) @ centers.T
        parts.append(squared.clamp_(min=0).min(1))
    return torch.cat([part.indices for part in parts]), torch.cat([part.values for part in parts])


def k_means(features: Tensor, k: int, order: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Cluster images.

    Args:
        features: (N, D), N at least 1.
        k: clusters, at least 1; fewer are made where fewer rows differ.
        order: (N,) permutation in which rows are read.
        seed: of the first centers.

    Returns:
        (N,) int64 cluster of each row, and (at most k, D) centers in float32 or wider.
    """
    fitted = wide(features[order[: max(FIT_ROWS, FIT_ROWS_PER_CLUSTER * k)].to(features.device)])
    centers = fitted[_seeding(fitted, min(k, len(fitted)), seed)]
    before = None
    for _ in range(MAX_ROUNDS):
        now, _ = nearest_center(fitted, centers)
        if before is not None and torch.equal(now, before):
            break
        before = now
        sums = torch.zeros_like(centers).index_add_(0, now, fitted)
        sizes = torch.bincount(now, minlength=len(centers))[:, None]
        centers = torch.where(sizes > 0, sums / sizes.clamp(min=1), centers)  # an empty cluster stays where it is
    return nearest_center(features, centers)[0], centers


def _seeding(rows: Tensor, k: int, seed: int) -> Tensor:
    """Return (at most k,) places of the first centers, no two of them copies."""
    n = len(rows)
    plain, lengths = torch.arange(n, device=rows.device), squared_lengths(rows)
    nearest = torch.ones_like(lengths)
    chosen: list[int] = []
    for step in range(k):
        if not bool((nearest > 0).any()):
            break
        row = draw_by_weight(nearest, plain, seed, step, "k-means")
        chosen.append(row)
        squared = lengths + lengths[row] - 2 * rows @ rows[row]
        squared[squared < ROUNDING * (lengths + lengths[row])] = 0
        nearest = squared if step == 0 else torch.minimum(nearest, squared)
    return torch.tensor(chosen, device=rows.device)


def medoids(features: Tensor, k: int, order: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Choose of each of k clusters the image nearest to its center, the largest cluster first.

    Args:
        features: (N, D).
        k: 1 to N.
        order: (N,) permutation that decides between equals and fills up where clusters are empty.
        seed: of the clusters.

    Returns:
        (k,) int64 rows, and (k,) sizes of their clusters; 0 for those that fill up.
    """
    cluster, centers = k_means(features, k, order, seed)
    # the distance to the row's own center, subtracted, so that copies of a center are exactly as near
    away = torch.cat(
        [
            (wide(b) - centers[c]).square().sum(1)
            for b, c in zip(features.split(BLOCK), cluster.split(BLOCK), strict=True)
        ]
    )
    sizes = torch.bincount(cluster, minlength=k).cpu()
    middle: dict[int, int] = {}
    for row in top_k(-away, len(away), order).tolist():
        middle.setdefault(int(cluster[row]), row)
    first = {int(row): place for place, row in enumerate(order.tolist())}
    ranked = sorted(middle, key=lambda c: (-int(sizes[c]), first[middle[c]]))
    rows = [middle[c] for c in ranked]
    taken = set(rows)
    rows += [row for row in order.tolist() if row not in taken]
    scores = [int(sizes[c]) for c in ranked] + [0] * k
    return torch.tensor(rows[:k]), torch.tensor(scores[:k])


def cluster_margin(margins: Tensor, features: Tensor, k: int, order: Tensor, seed: int) -> Tensor:
    """Choose from the least decided images in turn of each cluster, the smallest cluster first.

    Args:
        margins: (N,) scores, high where undecided.
        features: (N, D).
        k: 1 to N.
        order: (N,) permutation that decides between equals and draws within a cluster.
        seed: of the clusters.

    Returns:
        (k,) int64 rows.
    """
    short = top_k(margins, min(len(margins), SHORTLIST * k), order)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    drawn = place[short].argsort()  # rows of the shortlist as `order` has them
    cluster, _ = k_means(features[short.to(features.device)], k, drawn, seed)
    queues: dict[int, list[int]] = {}
    for at in drawn.tolist():
        queues.setdefault(int(cluster[at]), []).append(int(short[at]))
    turns = sorted(queues.values(), key=lambda rows: (len(rows), int(place[rows[0]])))
    deep = max(len(rows) for rows in turns)
    rows = [rows[turn] for turn in range(deep) for rows in turns if turn < len(rows)]
    return torch.tensor(rows[:k])
