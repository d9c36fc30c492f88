"""Descriptors made small, and how far two sets of them are apart.

Source: Gudovskiy et al. 2020, "Explanation-based attention for semi-supervised deep active learning", section 3:
"descriptors can be compressed for storage efficiency reasons using PCA, quantization, etc."; Gretton et al. 2012, "A
kernel two-sample test", equation 5, for the discrepancy.

Deviation: 1. Components are those of the second moment, not of the covariance: similarity is a dot product, which
survives leaving out small components but not moving the origin.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from eke.errors import ConfigError

BLOCK = 16_384
"""Rows that are read at once."""


class Components(NamedTuple):
    """Orthonormal directions that hold most of the squared length of some descriptors."""

    directions: Tensor
    """(L, n), the one that holds most first."""
    kept_rate: float
    """Share of the squared length that they hold, in [0, 1]."""

    def shrink(self, descriptors: Tensor) -> Tensor:
        """Return (N, n) of (N, L). Dot products change by at most the product of the lengths that are left out."""
        return torch.cat([block.to(self.directions) @ self.directions for block in descriptors.split(BLOCK)])


def principal_components(descriptors: Tensor, n: int) -> Components:
    """Find the n directions that hold most of the squared length of descriptors.

    Args:
        descriptors: (N, L) floating-point, usually of unit length.
        n: 1 to L.

    Raises:
        ConfigError: n is out of range.
    """
    length = descriptors.shape[1]
    if not 1 <= n <= length:
        raise ConfigError(f"{n} components of descriptors of {length} numbers are not possible. Give 1 to {length}.")
    moment = torch.zeros(length, length, dtype=torch.float64, device=descriptors.device)
    for block in descriptors.split(BLOCK):
        moment += block.double().T @ block.double()
    values, directions = torch.linalg.eigh(moment)
    total = float(values.clamp(min=0).sum())
    kept = float(values[-n:].clamp(min=0).sum()) / total if total > 0 else 1.0
    return Components(directions[:, -n:].flip(1).float(), kept)


def quantize(descriptors: Tensor) -> tuple[Tensor, Tensor]:
    """Round each descriptor to 255 levels between its largest magnitude and minus it.

    Args:
        descriptors: (N, L) floating-point.

    Returns:
        (N, L) int8 codes and (N, 1) float32 steps; codes times steps are within half a step of the descriptors. The
        cosine of two descriptors needs no steps, so `eke.acquire.eba` takes the codes as they are.
    """
    steps = descriptors.float().abs().amax(1, keepdim=True) / 127
    codes = torch.cat(
        [
            (block.float() / step.clamp(min=1e-30)).round_().to(torch.int8)
            for block, step in zip(descriptors.split(BLOCK), steps.split(BLOCK), strict=True)
        ]
    )
    return codes, steps


def discrepancy(
    descriptors: Tensor, others: Tensor, attention: Tensor | None = None, others_attention: Tensor | None = None
) -> float:
    """Return the squared maximum mean discrepancy of two sets of images under the kernel R of `eke.acquire.eba`.

    The paper picks images to match the validation set; this is how far the picked ones are from it. The kernel is a dot
    product of a (x) d, so the mean of a x d^T says all, and no matrix of pairs is needed.

    Args:
        descriptors: (N, L), at least one.
        others: (M, L), at least one.
        attention: (N, L) or None, of the first.
        others_attention: (M, L) or None, of the second.

    Returns:
        At least 0 (the biased estimate); 0 for equal sets, at most 4.

    Raises:
        ConfigError: only one side has attention, or a side is empty.
    """
    if (attention is None) != (others_attention is None):
        raise ConfigError("Attention is needed on both sides, or on neither.")
    if not len(descriptors) or not len(others):
        raise ConfigError("The discrepancy of an empty set is not defined.")
    apart = _mean_embedding(descriptors, attention) - _mean_embedding(others, others_attention)
    return float(apart.square().sum())


def _mean_embedding(descriptors: Tensor, attention: Tensor | None) -> Tensor:
    """Return the mean of d, (L,), or of d a^T, (L, L), of unit length."""
    parts = []
    for start in range(0, len(descriptors), BLOCK):
        unit = F.normalize(descriptors[start : start + BLOCK].double(), dim=1)
        if attention is None:
            parts.append(unit.sum(0))
        else:
            parts.append(unit.T @ F.normalize(attention[start : start + BLOCK].double(), dim=1))
    return torch.stack(parts).sum(0) / len(descriptors)
