"""Refusals of tensors that a selector cannot use: each names the image and what is wrong with its numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from eke.errors import DataError

BLOCK = 16_384
"""Rows that are checked at once."""
SUM_TOLERANCE = 5e-3
"""How far from 1 a row of probabilities may sum: float16 stays within 1e-3, logits do not."""


def check_rows(name: str, ids: Sequence[str], values: Tensor | None, axes: int = 2) -> None:
    """Refuse a tensor that does not have one finite row per image.

    Raises:
        DataError: it is missing, of another shape or type, or not finite; the image is named.
    """
    if values is None or values.ndim != axes or len(values) != len(ids):
        seen = "none" if values is None else f"{tuple(values.shape)}"
        raise DataError(f"{name} of {len(ids)} images are needed as a tensor of {axes} axes, not {seen}.")
    codes = name in ("descriptors", "attention") and values.dtype == torch.int8
    if not values.is_floating_point() and not codes:
        raise DataError(f"{name} are {values.dtype}, and floating-point numbers are needed.")
    check_finite(name, ids, values)


def check_finite(name: str, ids: Sequence[str], values: Tensor) -> None:
    """Refuse numbers that are not finite, (N, ...); the image is named."""
    for start in range(0, len(values), BLOCK):
        bad = ~values[start : start + BLOCK].flatten(1).isfinite().all(1)
        if bad.any():
            row = start + int(bad.nonzero()[0])
            raise DataError(f"Of image {ids[row]}, {name} are not finite. Set it aside, or compute them again.")


def check_probabilities(ids: Sequence[str], probs: Tensor, several: bool) -> None:
    """Refuse numbers that are not probabilities, (N, ..., K); their rows sum to 1 unless `several`."""
    for start in range(0, len(probs), BLOCK):
        block = probs[start : start + BLOCK].float()
        bad = ((block < -SUM_TOLERANCE) | (block > 1 + SUM_TOLERANCE)).flatten(1).any(1)
        if not several:
            bad |= ((block.sum(-1) - 1).abs() > SUM_TOLERANCE).reshape(len(block), -1).any(1)
        if bad.any():
            row = start + int(bad.nonzero()[0])
            raise DataError(
                f"The numbers of image {ids[row]} are not probabilities. Are they logits? Take the softmax."
            )
