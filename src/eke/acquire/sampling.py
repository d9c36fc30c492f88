"""From scores to picks: the highest, a draw that favors the high, or the highest of each class in turn.

The highest scores of a large pool are often near-duplicates of one another. A draw spreads them at no cost:

    power      argtop_b (beta log s_i + g_i)        softmax      argtop_b (beta s_i + g_i)        g_i ~ Gumbel(0, 1)

which are draws of b images without replacement with probabilities proportional to s^beta and exp(beta s).

Source: Kirsch et al. 2021, "Stochastic batch acquisition" (arXiv:2106.12059), table 1; Kool et al. 2019
(arXiv:1903.06059) for the Gumbel top-k trick. Every number is drawn for (seed, image), so a pick depends neither on the
order of the pool nor on how many shards scored it.
"""

import heapq
from collections.abc import Sequence

import torch
from torch import Tensor

from eke.errors import ConfigError
from eke.randomness import mixed_seed, rng


def seeded_order(ids: Sequence[str], seed: int) -> Tensor:
    """Return (N,) int64: rows in an order that depends on seed and images alone. Of equals, the first wins."""
    keys = torch.tensor([mixed_seed(seed, 0, f"ask/tie/{name}") for name in ids], dtype=torch.int64)
    return keys.argsort(stable=True)


def top_k(scores: Tensor, k: int, order: Tensor, then: Tensor | None = None) -> Tensor:
    """Return (k,) int64: the rows of the highest scores, the highest first.

    Args:
        scores: (N,), not NaN.
        k: 0 to N.
        order: (N,) permutation that decides between equals.
        then: (N,) scores that decide between equals before `order` does.
    """
    ranked = order.to(scores.device)
    for key in (then, scores):
        if key is not None:
            ranked = ranked[key[ranked].argsort(descending=True, stable=True)]
    return ranked[:k].cpu()


def first_of_largest(values: Tensor, order: Tensor, tolerance: float = 0.0) -> int:
    """Return the row of the largest of (N,) values; of those within `tolerance` of it, the first in `order`.

    A matrix product rounds a row differently by where in the matrix it stands, so equal images differ in the last bit
    and would otherwise be chosen by their place in the file.
    """
    return int(order[(values >= values.max() - tolerance)[order].to(torch.uint8).argmax()])


def draw_by_weight(weights: Tensor, order: Tensor, seed: int, step: int, stream: str) -> int:
    """Return one row, drawn with probability proportional to (N,) weights >= 0 that are not all 0."""
    total = weights.double()[order].cumsum(0)
    u = torch.rand((), dtype=torch.float64, generator=rng(seed, step, stream)).to(total.device)
    place = torch.searchsorted(total, u * total[-1], right=True)
    # u * total can round up to total itself, past the last row that has a weight
    return int(order[min(int(place), int(weights[order].nonzero()[-1]))])


def gumbels(ids: Sequence[str], seed: int) -> Tensor:
    """Return (N,) float64 draws of Gumbel(0, 1), one for each (seed, image)."""
    draws = [((mixed_seed(seed, 0, f"ask/gumbel/{name}") >> 10) + 0.5) / 2**53 for name in ids]
    return -(-torch.tensor(draws, dtype=torch.float64).log()).log()


def power_scores(scores: Tensor, ids: Sequence[str], seed: int, beta: float = 1.0) -> Tensor:
    """Return keys whose top b are a draw with probabilities proportional to scores ** beta.

    Args:
        scores: (N,) at least 0; an image with 0 comes after all others.
        ids: N image ids.
        seed: of the draw.
        beta: 0 is a uniform draw, infinity the top b; 1 in the paper.

    Returns:
        (N,) float64 on the CPU; -inf where the score is 0.

    Raises:
        ConfigError: a score is negative, so that it has no power: reverse or shift it.
    """
    if bool((scores < 0).any()):
        raise ConfigError("Scores below 0 cannot be drawn by power. Draw by softmax, or shift the scores.")
    return beta * scores.double().cpu().log() + gumbels(ids, seed)


def softmax_scores(scores: Tensor, ids: Sequence[str], seed: int, beta: float = 1.0) -> Tensor:
    """Return (N,) float64 keys whose top b are a draw with probabilities proportional to exp(beta * scores)."""
    return beta * scores.double().cpu() + gumbels(ids, seed)


def class_balanced(scores: Tensor, classes: Tensor, counts: Tensor, k: int, order: Tensor) -> Tensor:
    """Return (k,) int64 rows: each the best left of the class with the fewest labels and picks so far.

    Args:
        scores: (N,).
        classes: (N,) int64 in [0, K), the predicted classes.
        counts: (K,) int64, labels that each class has already.
        k: 0 to N.
        order: (N,) permutation that decides between equals.
    """
    ranked = top_k(scores, len(scores), order)
    queues: dict[int, list[int]] = {}
    for place, c in enumerate(classes.cpu()[ranked].tolist()):
        queues.setdefault(c, []).append(place)
    # of classes with as few labels, the one whose best image scores highest comes first
    heap = [(int(counts[c]), places[0], c, 0) for c, places in queues.items()]
    heapq.heapify(heap)
    chosen: list[int] = []
    while len(chosen) < k:
        n, place, c, taken = heapq.heappop(heap)
        chosen.append(place)
        if taken + 1 < len(queues[c]):
            heapq.heappush(heap, (n + 1, queues[c][taken + 1], c, taken + 1))
    return ranked[torch.tensor(chosen, dtype=torch.int64)]
