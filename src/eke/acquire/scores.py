"""How undecided one prediction is: a score for each image of the pool, the highest is the most wanted.

Source: Settles 2009, "Active learning literature survey", section 3.1. All scores are at least 0, and 0 where the
network is sure, so that they can be drawn from by power (`eke.acquire.sampling`).

Deviation: 1. The margin of the literature is low where the network is undecided. `margin` here is 1 minus it, so that
no user has to remember to reverse it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from eke.randomness import mixed_seed

BLOCK = 16_384
"""Rows that are scored at once."""


def least_confidence(probs: Tensor) -> Tensor:
    """Return 1 - max_c p_c of (N, K) probabilities: (N,) in [0, 1 - 1/K], float32 or wider."""
    return _by_blocks(probs, lambda p: 1 - p.amax(1))


def margin(probs: Tensor) -> Tensor:
    """Return 1 - (p_first - p_second), of the two most probable classes.

    Args:
        probs: (N, K) probabilities; with K = 1 the second is 0.

    Returns:
        (N,) in [0, 1], float32 or wider; 1 where the two are equally probable.
    """

    def score(p: Tensor) -> Tensor:
        best = p.topk(min(2, p.shape[1]), 1).values
        return 1 - best[:, 0] + (best[:, 1] if best.shape[1] > 1 else 0)

    return _by_blocks(probs, score)


def entropy(probs: Tensor) -> Tensor:
    """Return -sum_c p_c log p_c, in nats, with 0 log 0 = 0.

    Args:
        probs: (N, K) probabilities.

    Returns:
        (N,) in [0, log K], float32 or wider; log K where all classes are equally probable.
    """
    return _by_blocks(probs, lambda p: torch.special.entr(p).sum(1))


def of_several(score: Callable[[Tensor], Tensor], probs: Tensor) -> Tensor:
    """Return the mean over classes of a score of each class's yes or no.

    Args:
        score: one of this file.
        probs: (N, K) independent probabilities of yes.

    Returns:
        (N,).
    """
    return torch.stack([score(torch.stack([p, 1 - p], 1)) for p in probs.unbind(1)]).mean(0)


def random_scores(ids: Sequence[str], seed: int) -> Tensor:
    """Return uniform numbers that depend on seed and image alone, not on the pool or on its order.

    Args:
        ids: N image ids.
        seed: another seed draws other numbers.

    Returns:
        (N,) float64 in [0, 1), on the CPU.
    """
    return torch.tensor([(mixed_seed(seed, 0, f"ask/{name}") >> 10) / 2**53 for name in ids], dtype=torch.float64)


def _by_blocks(probs: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Score in float32 or wider, without a second copy of all probabilities."""
    wide = torch.promote_types(probs.dtype, torch.float32)
    return torch.cat([score(block.to(wide)) for block in probs.split(BLOCK)]) if len(probs) else probs.new_zeros(0)
