"""The first images, when few or none are labeled: typical ones of many clusters, or those that cover the most others.

Both read embeddings of pretraining, taken to unit length, and neither a classifier.

    TypiClust    typicality(x) = 1 / mean distance to the nearest k in its cluster, in turn from the clusters with the
                 fewest labels      Hacohen et al. 2022 (arXiv:2202.02794), equations 1 and 4
    ProbCover    greedily the image in whose ball of radius delta most images are not covered yet; delta the largest
                 with which the share of pure balls is at least 0.95      Yehuda et al. 2022 (arXiv:2205.11320), alg. 1

Deviations:
1. Typicality is that among the images of the cluster that are not labeled, and is not computed anew when one of them is
   picked. Distances are distances; the authors' code has squared ones.
2. Clusters of fewer than 5 images come after the others instead of never.
3. The purity of balls is computed exactly instead of on a grid: a ball is pure if delta is at most the distance to the
   nearest image of another cluster, so delta is a quantile of these distances (less 1e-4, since it is one of them). It
   is taken over 2,000 images, each compared with all.
4. More than 100,000 images are thinned to as many at random: the graph grows with the square. Images without a further
   image to cover, and those thinned out, come last, in random order.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from eke.acquire.clusters import k_means
from eke.acquire.diversity import wide
from eke.acquire.sampling import first_of_largest
from eke.errors import DataError

BLOCK = 1024
"""Rows that are compared with all others at once."""
MAX_CLUSTERS, SMALL_CLUSTER, NEIGHBORS = 500, 5, 20
"""Of TypiClust, as in the paper."""
PURITY, PURITY_ROWS, MAX_ROWS, MAX_EDGES = 0.95, 2000, 100_000, 400_000_000
"""Of ProbCover; the edges are 1.6 GB."""


def typiclust(features: Tensor, labeled: Tensor, k: int, order: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Choose typical images from the clusters with the fewest labels.

    Args:
        features: (N, D).
        labeled: (L, D); may be empty.
        k: 1 to N.
        order: (N,) permutation that decides between equals.
        seed: of the clusters.

    Returns:
        (k,) int64 rows, (k,) typicalities, and (k,) sizes of their clusters.
    """
    n = len(features)
    unit = F.normalize(torch.cat([wide(features), wide(labeled).to(features.device)]), dim=1)
    reading = torch.cat([order, torch.arange(n, len(unit))])
    cluster, _ = k_means(unit, min(len(unit), k + len(labeled), MAX_CLUSTERS), reading, seed)
    cluster = cluster.cpu()
    n_labels = torch.bincount(cluster[n:], minlength=int(cluster.max()) + 1)
    members: dict[int, list[int]] = {}
    for row in order.tolist():
        members.setdefault(int(cluster[row]), []).append(row)
    turns = sorted(  # of equals, the cluster that `order` meets first, as dictionaries keep their order
        members, key=lambda c: (len(members[c]) < SMALL_CLUSTER, int(n_labels[c]), -len(members[c]))
    )
    queues = {c: _by_typicality(unit, torch.tensor(members[c])) for c in turns}
    picked = [
        (*queues[c][turn], len(members[c]))
        for turn in range(max(len(queue) for queue in queues.values()))
        for c in turns
        if turn < len(queues[c])
    ][:k]
    rows, scores, sizes = zip(*picked, strict=True)
    return torch.tensor(rows), torch.tensor(scores), torch.tensor(sizes)


def _by_typicality(unit: Tensor, rows: Tensor) -> list[tuple[int, float]]:
    """Return the rows of one cluster with their typicality, the most typical first."""
    within = unit[rows.to(unit.device)]
    n = min(NEIGHBORS, max(1, len(rows) // 2), len(rows) - 1)
    means = torch.zeros(len(rows), device=unit.device)
    for start in range(0, len(rows) if n else 0, BLOCK):
        # the nearest of all is the image itself
        near = torch.cdist(within[start : start + BLOCK], within, compute_mode="donot_use_mm_for_euclid_dist")
        means[start : start + BLOCK] = near.topk(n + 1, 1, largest=False).values.sum(1) / n
    typicality = 1 / (means + 1e-5)
    ranked = typicality.argsort(descending=True, stable=True).cpu()
    return list(zip(rows[ranked].tolist(), typicality.cpu()[ranked].tolist(), strict=True))


def ball_radius(features: Tensor, n_clusters: int, order: Tensor, seed: int) -> float:
    """Return the largest radius whose balls hold images of one cluster in 95 % of cases (deviation 3).

    Args:
        features: (N, D).
        n_clusters: at least 2: the number of classes.
        order: (N,) permutation whose first rows are looked at.
        seed: of the clusters.

    Returns:
        A distance between vectors of unit length, in [0, 2]; 2 where all images fall into one cluster.
    """
    unit = F.normalize(wide(features), dim=1)
    cluster, _ = k_means(unit, n_clusters, order, seed)
    rows = order[:PURITY_ROWS].to(unit.device)
    to_other = []
    for part in rows.split(BLOCK // 4):
        cosine = unit[part] @ unit.T
        cosine.masked_fill_(cluster[part, None] == cluster, -1)
        to_other.append((2 - 2 * cosine.amax(1)).clamp(min=0).sqrt())
    descending = torch.cat(to_other).sort(descending=True).values
    return float(descending[math.ceil(PURITY * len(rows)) - 1]) * (1 - 1e-4)


class _Graph(NamedTuple):
    """Which rows of the pool are in the ball of each row, itself among them, in compressed rows."""

    starts: Tensor
    columns: Tensor

    def ball(self, row: int) -> Tensor:
        return self.columns[int(self.starts[row]) : int(self.starts[row + 1])].long()


def prob_cover(features: Tensor, labeled: Tensor, k: int, radius: float, order: Tensor) -> tuple[Tensor, Tensor]:
    """Choose, one after the other, the image in whose ball the most images are not covered yet.

    Args:
        features: (N, D).
        labeled: (L, D), which cover already; may be empty.
        k: 1 to N.
        radius: of the balls, between vectors of unit length.
        order: (N,) permutation that decides between equals.

    Returns:
        (k,) int64 rows, and (k,) int64 images that each covered anew.

    Raises:
        DataError: the balls hold so many images that the graph does not fit into memory.
    """
    rows = order[:MAX_ROWS]
    unit = F.normalize(wide(features[rows.to(features.device)]), dim=1)
    graph = _graph(unit, radius)
    degrees = graph.starts.diff()
    covered = torch.zeros(len(unit), dtype=torch.bool)

    def cover(ball: Tensor) -> None:
        new = ball[~covered[ball]]
        covered[new] = True
        for row in new.tolist():  # the graph is symmetric: those that reach a covered image are those in its ball
            degrees[graph.ball(row)] -= 1

    near = torch.zeros(len(unit), dtype=torch.bool)
    for block in F.normalize(wide(labeled).to(unit), dim=1).split(BLOCK):
        near |= torch.cat([inside.any(1).cpu() for inside in _inside(unit, block, radius)])
    cover(near.nonzero()[:, 0])
    places: list[int] = []
    gains: list[int] = []
    plain = torch.arange(len(unit))
    while len(places) < min(k, len(unit)) and int(degrees.max()) > 0:
        place = first_of_largest(degrees, plain)
        places.append(place)
        gains.append(int(degrees[place]))
        cover(graph.ball(place))
    chosen = rows[torch.tensor(places, dtype=torch.int64)].tolist()
    taken = set(chosen)
    chosen += [row for row in order.tolist() if row not in taken]
    return torch.tensor(chosen[:k]), torch.tensor((gains + [0] * k)[:k])


def _inside(unit: Tensor, others: Tensor, radius: float) -> Iterator[Tensor]:
    """Yield blocks of (n, L) bool: which of others are nearer than the radius."""
    for block in unit.split(BLOCK):
        yield 2 - 2 * (block @ others.T) < radius**2


def _graph(unit: Tensor, radius: float) -> _Graph:
    degrees, columns, n_edges = [], [], 0
    for number, inside in enumerate(_inside(unit, unit, radius)):
        inside = inside.cpu()
        own = torch.arange(len(inside))
        inside[own, own + number * BLOCK] = True  # by rounding or a radius of 0, an image may miss itself
        degrees.append(inside.sum(1))
        columns.append(inside.nonzero()[:, 1].int())
        n_edges += len(columns[-1])
        if n_edges > MAX_EDGES:
            raise DataError(
                f"Balls of radius {radius:.3g} hold too many images: over {MAX_EDGES:,} pairs among {len(unit):,}. "
                "Give a smaller radius or fewer images."
            )
    return _Graph(torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(degrees).cumsum(0)]), torch.cat(columns))
