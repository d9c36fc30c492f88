"""Convex combinations of images and targets."""

from torch import Tensor


def mixup(x: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Mix each row with its partner: share * x + (1 - share) * partner.

    Source: mixup (arXiv:1710.09412, section 2); MixMatch (arXiv:1905.02249, eq. 8 to 11).

    Args:
        x: (N, ...) images or target probabilities.
        partner: as `x`.
        share: (N,) in [0, 1], the share of `x`.
    """
    share = share.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
    return share * x + (1 - share) * partner
