"""Which images to label next: a score for each image of the pool, the highest first."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from eke.randomness import mixed_seed


def entropy(probs: Tensor) -> Tensor:
    """Return how undecided each prediction is: -sum_c p_c log p_c, in nats, with 0 log 0 = 0.

    Source: uncertainty sampling by Shannon entropy, Settles 2009, "Active learning literature survey",
    section 3.1.

    Args:
        probs: (N, K) probabilities.

    Returns:
        (N,) in [0, log K]; log K where all classes are equally probable.
    """
    return torch.special.entr(probs).sum(1)


def random_scores(ids: Sequence[str], seed: int) -> Tensor:
    """Return uniform numbers that depend on seed and image alone, not on the pool or on its order.

    Args:
        ids: N image ids.
        seed: another seed draws other numbers.

    Returns:
        (N,) float64 in [0, 1), on the CPU.
    """
    return torch.tensor([(mixed_seed(seed, 0, f"ask/{name}") >> 10) / 2**53 for name in ids], dtype=torch.float64)


class Strategy(NamedTuple):
    """A way to choose images."""

    sentence: str
    """What it chooses, and why."""
    score: Callable[[Tensor, Sequence[str], int], Tensor]
    """(N, K) probabilities, N ids, seed -> (N,) scores."""


STRATEGIES = {
    "entropy": Strategy(
        "the images that the network is least decided about (the entropy of its prediction, in nats)",
        lambda probs, ids, seed: entropy(probs),
    ),
    "random": Strategy(
        "images drawn at random, which every other strategy must beat (a number drawn from seed and image)",
        lambda probs, ids, seed: random_scores(ids, seed),
    ),
}
"""Names on the command line -> strategies."""
