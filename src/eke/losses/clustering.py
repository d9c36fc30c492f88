"""Losses that learn from clusters of images, found while learning."""

import torch
from torch import Tensor

from eke.losses.classification import cross_entropy


@torch.no_grad()
def sinkhorn_codes(scores: Tensor, epsilon: float, n_iterations: int) -> Tensor:
    """Share N images among K prototypes by their scores, such that all prototypes get about equally much.

    Starting from exp(scores / epsilon), each iteration scales the columns to equal sums, then the rows to 1. The
    limit maximizes sum_{b,k} q_bk scores_bk + epsilon entropy(q) over all q whose columns sum to N / K. Computed with
    logarithms, so that no epsilon is too small.

    Source: SwAV (Caron et al. 2020, arXiv:2006.09882, eq. 3 to 5), after Cuturi (2013, arXiv:1306.0895).

    Args:
        scores: (N, K) of the GLOBAL batch and of what else shall be shared evenly with it.
        epsilon: above 0; toward 0 each image goes to one prototype, with a large one to all alike.
        n_iterations: at least 1. With few, rows sum to 1 exactly and columns to N / K roughly.

    Returns:
        (N, K) codes q in float32 or better, without gradient; each row sums to 1.
    """
    logs = scores.to(torch.promote_types(scores.dtype, torch.float32)) / epsilon
    for _ in range(n_iterations):
        logs = logs - logs.logsumexp(0, keepdim=True)
        logs = logs - logs.logsumexp(1, keepdim=True)
    return logs.exp()


def swapped_prediction(
    scores_1: Tensor, scores_2: Tensor, codes_1: Tensor, codes_2: Tensor, temperature: float
) -> Tensor:
    """Predict each view's code from the scores of the other view: mean of the two cross entropies.

    Source: SwAV (Caron et al. 2020, arXiv:2006.09882, eq. 1 and 2), halved as in the authors' code.

    Args:
        scores_1: (N, K) of the first views, with gradient.
        scores_2: (N, K) of the second views, with gradient.
        codes_1: (N, K) probabilities, the codes of the first views.
        codes_2: (N, K) likewise of the second views.
        temperature: divides scores before the softmax; above 0.

    Returns:
        Scalar, at least 0: the mean over this process's images.
    """
    return (cross_entropy(scores_1 / temperature, codes_2) + cross_entropy(scores_2 / temperature, codes_1)) / 2
