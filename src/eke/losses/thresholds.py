"""How much to trust a pseudo-label, from the predictions so far: pure functions of the running state."""

import torch
from torch import Tensor

from eke.collectives import all_reduce_sum
from eke.losses.classification import probabilities
from eke.losses.pseudo_labels import guess, one_hot


def flexible_thresholds(selected_label: Tensor, n_classes: int, tau: float, warmup: bool) -> Tensor:
    """Lower the threshold of classes that are learned slowly: tau * beta / (2 - beta).

    beta(c) = sigma(c) / max(max_c sigma, n_unselected), where sigma(c) counts the unlabeled images whose last
    confident prediction was c. Before any image is selected every threshold is 0.

    Source: FlexMatch (arXiv:2110.08263), curriculum pseudo labeling with warm-up and convex mapping.

    Args:
        selected_label: (n_unlabeled,) int64: each image's last confident prediction, -1 where there is none.
        n_classes: K.
        tau: the threshold of the class that is learned best, in [0, 1].
        warmup: count the unselected images in the denominator, which keeps thresholds low at first.

    Returns:
        (K,) in [0, tau].
    """
    ones = torch.ones_like(selected_label)  # integers, whose sum is exact in any order
    counts = ones.new_zeros(n_classes + 1).scatter_add_(0, selected_label + 1, ones)
    most = counts.amax() if warmup else counts[1:].amax()
    beta = counts[1:] / most.clamp(min=1)
    return tau * beta / (2 - beta)


def latest_labels(selected_label: Tensor, index: Tensor, label: Tensor, confident: Tensor) -> Tensor:
    """Write the confident labels of a batch into the memory; of one image seen twice, the later sight wins.

    Args:
        selected_label: (n_unlabeled,) int64 memory.
        index: (U,) int64 positions in it.
        label: (U,) int64.
        confident: (U,) bool; where false, the memory stays as it was.

    Returns:
        (n_unlabeled,) int64, the new memory.
    """
    # places in the batch, 1-based: the largest place that wrote to a position is the last one
    place = torch.arange(1, len(index) + 1, device=index.device) * confident
    last = torch.zeros_like(selected_label).scatter_reduce(0, index, place, "amax")
    return torch.where(last > 0, label[(last - 1).clamp(min=0)], selected_label)


def self_adaptive_thresholds(tau: Tensor, mean_probs: Tensor) -> Tensor:
    """Scale a global threshold by how often each class is predicted: tau * p(c) / max_c p.

    Source: FreeMatch (arXiv:2205.07246), self-adaptive local threshold.

    Args:
        tau: scalar, the running mean confidence.
        mean_probs: (K,) running mean prediction.

    Returns:
        (K,) in [0, tau].
    """
    return tau * mean_probs / mean_probs.amax()


def fairness(logits: Tensor, mask: Tensor, mean_probs: Tensor, label_rates: Tensor) -> Tensor:
    """Self-adaptive fairness: sum_c a_c log b_c with a = norm(p / h) of the past, b = norm(p_s / h_s) of now.

    p_s is the mean prediction over the trusted images of the GLOBAL batch and h_s the rates of their
    predicted classes; a class that none of them has counts 0 in b. Without a trusted image the loss is 0.

    Source: FreeMatch (arXiv:2205.07246), self-adaptive fairness.

    Args:
        logits: (U, K) of the strong views; the only input that gets a gradient.
        mask: (U,) of 0 and 1, the trusted images.
        mean_probs: (K,) running mean prediction p.
        label_rates: (K,) running rates h of the predicted classes.

    Returns:
        Scalar, the same on every process, at most 0.
    """
    probs = probabilities(logits)
    labels = one_hot(guess(probs).label, probs.shape[1], probs.dtype)
    n_kept = all_reduce_sum(mask.sum())
    share = mask[:, None] / n_kept.clamp(min=1)
    mean_now = all_reduce_sum((share * probs).sum(0))
    rates_now = all_reduce_sum((share * labels).sum(0))
    past = _normalized(_ratio(mean_probs, label_rates))
    now = _normalized(_ratio(mean_now, rates_now))
    # 1e-12 bounds the logarithm of an absent class; it has no gradient
    return torch.where(n_kept > 0, (past * torch.log(now + 1e-12)).sum(), 0.0)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide, with 0 where the denominator is 0 (and a finite gradient there)."""
    present = denominator > 0
    return torch.where(present, numerator / torch.where(present, denominator, 1.0), 0.0)


def _normalized(values: Tensor) -> Tensor:
    total = values.sum()
    return values / torch.where(total > 0, total, 1.0)


def truncated_gaussian(confidence: Tensor, mean: Tensor, variance: Tensor, n_sigma: float) -> Tensor:
    """Weight of an image by its confidence: exp(-min(confidence - mean, 0)^2 / (2 variance / n_sigma^2)).

    Source: SoftMatch (arXiv:2301.10921), truncated Gaussian weighting.

    Args:
        confidence: (U,).
        mean: scalar running mean of confidences; at and above it the weight is 1.
        variance: scalar running variance, above 0.
        n_sigma: narrows the Gaussian: its width is the running deviation / n_sigma.

    Returns:
        (U,) in (0, 1].
    """
    below = (confidence - mean).clamp(max=0)
    return torch.exp(-(below**2) * n_sigma**2 / (2 * variance))
