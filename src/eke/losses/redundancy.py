"""Losses that keep the dimensions of an output from saying the same thing.

Means, variances and covariances are of the GLOBAL batch: every process computes the whole loss on the gathered
outputs. They are computed in float32 or better, under autocast too, where products would be rounded to half precision.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from eke.collectives import gather


class BarlowTwinsTerms(NamedTuple):
    """The two sums over the cross-correlation C of two views; scalars, the same on every process."""

    invariance: Tensor
    """sum_i (1 - C_ii)^2, in [0, 4 D]."""
    redundancy: Tensor
    """sum_i sum_{j != i} C_ij^2, in [0, D (D - 1)]."""


def barlow_twins_terms(z_1: Tensor, z_2: Tensor) -> BarlowTwinsTerms:
    """Compare the cross-correlation of two views, C_ij = corr_b(z_1[b, i], z_2[b, j]), with the identity.

    1e-5 is added to variances, as the batch norm of the authors' code does: a dimension that is constant has
    correlation 0.

    Source: Barlow Twins (Zbontar et al. 2021, arXiv:2103.03230, eq. 1 and 2).

    Args:
        z_1: (n, D) outputs for the first views of this process's n images.
        z_2: (n, D) outputs for their second views, in the same order.
    """
    with _full_precision(z_1):
        z_1, z_2 = _global_batch(z_1, z_2)
        correlation = _standardized(z_1).T @ _standardized(z_2) / len(z_1)  # (D, D)
        return BarlowTwinsTerms((1 - correlation.diagonal()).square().sum(), _off_diagonal(correlation).square().sum())


class VICRegTerms(NamedTuple):
    """The three parts of VICReg; scalars of at least 0, the same on every process."""

    invariance: Tensor
    """mean_{b,i} (z_1[b, i] - z_2[b, i])^2."""
    variance: Tensor
    """sum over both views of mean_i max(0, 1 - sqrt(var_i + 1e-4)), in [0, 1.98]."""
    covariance: Tensor
    """sum over both views of (1/D) sum_i sum_{j != i} cov_ij^2."""


def vicreg_terms(z_1: Tensor, z_2: Tensor) -> VICRegTerms:
    """Ask that views be equal, that each dimension vary at least as much as gamma = 1, and that no two go together.

    Variances and covariances are unbiased (their denominator is N - 1).

    Source: VICReg (Bardes et al. 2022, arXiv:2105.04906, eq. 1 to 5 and algorithm 1).

    Args:
        z_1: (n, D) outputs for the first views of this process's n images.
        z_2: (n, D) outputs for their second views, in the same order.
    """
    with _full_precision(z_1):
        z_1, z_2 = _global_batch(z_1, z_2)
        covariance_1, covariance_2 = _covariance(z_1), _covariance(z_2)
        return VICRegTerms(
            (z_1 - z_2).square().mean(),
            _low_variance(covariance_1) + _low_variance(covariance_2),
            (_off_diagonal(covariance_1).square().sum() + _off_diagonal(covariance_2).square().sum()) / z_1.shape[1],
        )


def _full_precision(z: Tensor) -> AbstractContextManager[object]:
    kind = z.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def _global_batch(z_1: Tensor, z_2: Tensor) -> tuple[Tensor, Tensor]:
    both = torch.stack([z_1, z_2], 1)  # (n, 2, D): one collective for both
    both = gather(both.to(torch.promote_types(both.dtype, torch.float32)))
    return both[:, 0], both[:, 1]


def _standardized(z: Tensor) -> Tensor:
    variance, mean = torch.var_mean(z, 0, correction=0)
    return (z - mean) * (variance + 1e-5).rsqrt()


def _covariance(z: Tensor) -> Tensor:
    centered = z - z.mean(0)
    return centered.T @ centered / (len(z) - 1)


def _low_variance(covariance: Tensor) -> Tensor:
    # 1e-4 bounds the gradient of the root where a dimension has collapsed
    return (1 - (covariance.diagonal() + 1e-4).sqrt()).clamp(min=0).mean()


def _off_diagonal(square: Tensor) -> Tensor:
    return square - torch.diag(square.diagonal())
