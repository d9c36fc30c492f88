"""Targets made from a network's own predictions. None of them carries a gradient."""

from typing import NamedTuple

import torch
from torch import Tensor

from eke.losses.classification import probabilities


class Guess(NamedTuple):
    """Hard pseudo-labels of N images."""

    label: Tensor
    """(N,) int64, the most probable class."""
    confidence: Tensor
    """(N,) its probability."""


def guess(probs: Tensor) -> Guess:
    """Return the most probable class of each row of `probs` (N, K) and its probability, without gradient."""
    confidence, label = probs.detach().max(-1)
    return Guess(label, confidence)


def confident_pseudo_label(logits: Tensor, tau: float | Tensor) -> tuple[Tensor, Tensor]:
    """Trust the most probable class where its probability reaches a threshold: mask = [max p >= tau].

    Source: FixMatch (arXiv:2001.07685, eq. 4).

    Args:
        logits: (N, K).
        tau: one threshold, or (K,) thresholds of which the predicted class's counts.

    Returns:
        pseudo_label (N,) int64 and mask (N,) of 0.0 and 1.0, both without gradient.
    """
    label, confidence = guess(probabilities(logits))
    threshold = tau[label] if isinstance(tau, Tensor) and tau.ndim else tau
    return label, (confidence >= threshold).to(confidence.dtype)


def sharpen(probs: Tensor, temperature: float) -> Tensor:
    """Lower the entropy of a distribution: p_c^(1/T) / sum_j p_j^(1/T), without gradient.

    The softmax of logits / T is the same as sharpening the softmax of logits.

    Source: MixMatch (arXiv:1905.02249, eq. 7).

    Args:
        probs: (N, K) probabilities.
        temperature: T > 0; 1 changes nothing, toward 0 the result becomes one-hot.
    """
    probs = probs.detach()
    powers = (probs / probs.amax(-1, keepdim=True)).pow(1 / temperature)  # the largest is 1: never 0 / 0
    return powers / powers.sum(-1, keepdim=True)


def align_distribution(probs: Tensor, mean: Tensor, target: Tensor | float) -> Tensor:
    """Move predictions toward a wanted class distribution: norm(p * target / mean), without gradient.

    Source: ReMixMatch (arXiv:1911.09785), distribution alignment; SoftMatch (arXiv:2301.10921), uniform
    alignment.

    Args:
        probs: (N, K) probabilities.
        mean: (K,) what the network has predicted on average.
        target: (K,) what it should predict on average, up to a factor; 1.0 for uniform.
    """
    tiny = 1e-6  # a class that is never predicted is raised by a finite factor
    scaled = probs.detach() * (target + tiny) / (mean + tiny)
    return scaled / scaled.sum(-1, keepdim=True)


def one_hot(label: Tensor, n_classes: int, dtype: torch.dtype) -> Tensor:
    """Return (N, K) of 0 and 1 for `label` (N,).

    Unlike `torch.nn.functional.one_hot` it checks no range, and so never waits for the device.
    """
    zeros = torch.zeros(len(label), n_classes, dtype=dtype, device=label.device)
    return zeros.scatter(1, label[:, None], 1.0)
