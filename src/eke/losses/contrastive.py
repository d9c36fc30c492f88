"""Losses that tell an image's other view from the views of other images."""

import math

import torch
from torch import Tensor

from eke.collectives import gather, rank
from eke.losses.classification import cross_entropy
from eke.losses.similarity import unit_length


def nt_xent(z_1: Tensor, z_2: Tensor, temperature: float) -> Tensor:
    """Cross entropy of finding each view's partner among all other 2N - 1 views of the global batch.

        loss = mean_i -log( exp(cos(z_i, z_j(i)) / T) / sum_{k != i} exp(cos(z_i, z_k) / T) )

    where i runs over the 2N views and j(i) is the other view of the same image. The images of other processes
    are candidates too; each process compares its own 2n views with all 2N and returns their mean, so that the
    mean over processes is the global loss.

    Source: SimCLR (Chen et al. 2020, arXiv:2002.05709, eq. 1 and algorithm 1).

    Args:
        z_1: (n, D) outputs for the first views of this process's n images.
        z_2: (n, D) outputs for their second views, in the same order.
        temperature: T, above 0.

    Returns:
        Scalar, at least 0; log(2N - 1) where all outputs are equal.
    """
    own = torch.stack([unit_length(z_1), unit_length(z_2)], 1)  # (n, 2, D): partners are neighbors
    views = gather(own).flatten(0, 1)
    first, n_own = rank() * 2 * len(own), 2 * len(own)
    similarity = own.flatten(0, 1) @ views.T / temperature  # (2n, 2N)
    similarity.diagonal(first).fill_(-math.inf)  # no view is a candidate for itself
    partner = torch.arange(first, first + n_own, device=own.device) ^ 1
    return cross_entropy(similarity, partner)
