"""What a label is, and what follows for probabilities, losses and pseudo-labels: one class an image, or several.

    one          p = softmax(z)     -log p_y                                             y one class
    yes_or_no    p_c = sigmoid(z_c) -mean_c [y_c log p_c + (1 - y_c) log(1 - p_c)]       y_c 0 or 1, or a probability
    in_shares    p = softmax(z)     -sum_c q_c log p_c,  q = y / sum_c y_c               without a class it costs 0

A method that speaks of its labels through `Network.kind` learns from all three. Logits may come in half precision.

Source of `in_shares`: Harmonizing Attention, section 3.2, which trains on PASCAL VOC with a categorical cross entropy
and does not say how several labels enter; its authors' code is `yes_or_no`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from eke.losses.classification import cross_entropy, log_probabilities, probabilities
from eke.losses.pseudo_labels import Guess, guess


class LabelKind(NamedTuple):
    """How logits (N, K) and labels belong together. Labels are (N,) int64, with `several` (N, K)."""

    name: str
    several: bool
    probabilities: Callable[[Tensor], Tensor]
    """Logits -> (N, K) in float32 or better."""
    guess: Callable[[Tensor], Guess]
    """Probabilities -> hard pseudo-labels as labels are, and a confidence for each entry; no gradient."""
    cross_entropy: Callable[..., Tensor]
    """(logits, target, weight=None) -> mean over ALL images, masked ones included.

    target: labels, or probabilities (N, K). weight: in [0, 1], shaped as `guess` has its confidence.
    """

    def confident_pseudo_label(self, logits: Tensor, tau: float) -> tuple[Tensor, Tensor]:
        """Trust what is as sure as `tau`: pseudo-labels, and a mask of 0.0 and 1.0 in the shape of the confidence.

        Source: FixMatch (arXiv:2001.07685, eq. 4). Of several labels each class is trusted by itself, for being there
        as for being absent.
        """
        label, confidence = self.guess(self.probabilities(logits))
        return label, (confidence >= tau).to(confidence.dtype)

    def squared_error(self, logits: Tensor, target_probs: Tensor) -> Tensor:
        """Mean over images and classes of (p - target)^2; target (N, K)."""
        return (self.probabilities(logits) - target_probs).square().mean()


def _sigmoid(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()


def _each_guess(probs: Tensor) -> Guess:
    p = probs.detach()
    return Guess((p >= 0.5).long(), torch.maximum(p, 1 - p))


def _binary_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.binary_cross_entropy_with_logits(z, target.to(z.dtype), reduction="none")
    return losses.mean() if weight is None else (weight * losses).mean()


def _top_guess(probs: Tensor) -> Guess:
    label, confidence = guess(probs)
    chosen = torch.arange(probs.shape[1], device=probs.device) == label[:, None]
    return Guess(chosen.long(), confidence[:, None].expand_as(probs))


def _shared_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    log_probs = log_probabilities(logits)
    given = target.to(log_probs.dtype)
    n_classes = given.sum(1, keepdim=True)
    losses = -log_probs * given / torch.where(n_classes > 0, n_classes, 1.0)
    return (losses if weight is None else weight * losses).sum(1).mean()


ONE = LabelKind("one", False, probabilities, guess, cross_entropy)
YES_OR_NO = LabelKind("yes_or_no", True, _sigmoid, _each_guess, _binary_cross_entropy)
IN_SHARES = LabelKind("in_shares", True, probabilities, _top_guess, _shared_cross_entropy)
