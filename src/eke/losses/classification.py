"""Losses between logits and class targets. All are means over ALL images given, masked ones included.

Logits may come in half precision, from autocast: probabilities are always computed in float32 or better.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from eke.collectives import all_reduce_sum, world_size


def probabilities(logits: Tensor) -> Tensor:
    """Softmax over the last axis, in float32 or better. Shape as `logits`."""
    return F.softmax(logits, -1, dtype=torch.promote_types(logits.dtype, torch.float32))


def log_probabilities(logits: Tensor) -> Tensor:
    """Logarithm of the softmax over the last axis, in float32 or better. Shape as `logits`."""
    return F.log_softmax(logits, -1, dtype=torch.promote_types(logits.dtype, torch.float32))


def cross_entropies(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of each image: -sum_c q_c log p_c with p = softmax(logits).

    Args:
        logits: (N, K).
        target: (N,) int64 classes (q is one-hot), or (N, K) probabilities q.

    Returns:
        (N,), at least 0.
    """
    log_probs = log_probabilities(logits)
    if target.ndim == 1:
        return F.nll_loss(log_probs, target, reduction="none")
    return -(target * log_probs).sum(-1)


def cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over all N images of weight * cross entropy (FixMatch, arXiv:2001.07685, eq. 3 and 4).

    The denominator is N, not the sum of weights: where few images are trusted, they count little.

    Args:
        logits: (N, K).
        target: (N,) int64 classes, or (N, K) probabilities.
        weight: (N,) in [0, 1]; without it every image counts fully.
    """
    losses = cross_entropies(logits, target)
    return losses.mean() if weight is None else (weight * losses).mean()


def cross_entropy_of_kept(logits: Tensor, target: Tensor, keep: Tensor) -> Tensor:
    """Cross entropy averaged over the kept images only: sum(keep * CE) / max(1, sum(keep)).

    Both sums run over the global batch. Each process returns its share times the number of processes, so that
    the mean over processes is the global loss.

    Source: UDA (arXiv:1904.12848), training signal annealing.

    Args:
        logits: (N, K).
        target: (N,) int64 classes.
        keep: (N,) of 0 and 1.
    """
    n_kept = all_reduce_sum(keep.sum()).clamp(min=1)
    return (keep * cross_entropies(logits, target)).sum() * world_size() / n_kept


def squared_error(logits: Tensor, target_probs: Tensor) -> Tensor:
    """Mean over images and classes of (softmax(logits) - target)^2, the Brier score of a guess.

    It is bounded, so a wrong guess does less harm than under cross entropy.

    Source: MixMatch (arXiv:1905.02249, eq. 4); Mean Teacher (arXiv:1703.01780), consistency cost.

    Args:
        logits: (N, K).
        target_probs: (N, K) probabilities.
    """
    return (probabilities(logits) - target_probs).square().mean()


def kl_divergence(logits: Tensor, target_probs: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over all N images of weight * KL(q || p) = weight * sum_c q_c (log q_c - log p_c).

    Source: UDA (arXiv:1904.12848), consistency loss.

    Args:
        logits: (N, K), p = softmax(logits).
        target_probs: (N, K) probabilities q; 0 log 0 = 0.
        weight: (N,) in [0, 1]; without it every image counts fully.
    """
    losses = (torch.xlogy(target_probs, target_probs) - target_probs * log_probabilities(logits)).sum(-1)
    return losses.mean() if weight is None else (weight * losses).mean()
