"""How good an embedding is before a classifier is trained on it: its neighbors, its spread, its rank.

Everywhere: embeddings are (N, D) floats, on any device, as the network gives them: not of unit length. Half
precision is computed in float32. Nothing here has a gradient worth following.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from eke.errors import ConfigError, DataError

BLOCK_ELEMENTS = 1 << 24
"""Similarities held at once: 64 MB of float32, whatever the numbers of queries and of images in the bank."""

ROUNDING = 10
"""Singular values below so many machine epsilons of the embeddings' size are rounding, not a direction."""


@torch.no_grad()
def knn_probs(
    queries: Tensor, bank: Tensor, labels: Tensor, n_classes: int, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """Classify by a weighted vote of the k nearest labeled images, near by the cosine.

    Each of them votes for its class with the weight exp(cosine / temperature); the votes are divided by
    their sum. Where the bank holds fewer than k images, all of them vote.

    Source: Wu et al. 2018 (arXiv:1805.01978), section 3.4, whose temperature this is.

    Args:
        queries: (M, D) embeddings to classify.
        bank: (N, D) embeddings of labeled images, N >= 1.
        labels: (N,) int64 classes of the bank, 0 to K-1.
        n_classes: K.
        k: images that vote, at least 1.
        temperature: above 0; the smaller, the more the nearest image decides.

    Returns:
        (M, K) in the embeddings' dtype, float32 at least; rows sum to 1.

    Raises:
        ConfigError: `k` or `temperature` is out of range.
        DataError: the bank is empty, or has not one label for each embedding.
    """
    if k < 1 or temperature <= 0:
        raise ConfigError(f"k = {k} neighbors at temperature {temperature}: k must be 1 or more, temperature above 0.")
    if not len(bank) or len(labels) != len(bank):
        raise DataError(
            f"{len(labels)} labels for {len(bank)} images to compare with: give at least one image, one label each."
        )
    bank, queries = _unit_length(bank), _unit_length(queries)
    blocks = queries.split(max(1, BLOCK_ELEMENTS // len(bank)))
    return torch.cat([_vote(block @ bank.T, labels, n_classes, min(k, len(bank)), temperature) for block in blocks])


def _vote(cosines: Tensor, labels: Tensor, n_classes: int, k: int, temperature: float) -> Tensor:
    """Return the shares (M, K) of the votes of each row's k largest cosines (M, N)."""
    nearest, places = cosines.topk(k, 1)
    shares = (nearest / temperature).softmax(1)  # exp(cosine / temperature) over its sum, without overflow
    return shares.new_zeros(len(cosines), n_classes).scatter_add_(1, labels[places], shares)


@torch.no_grad()
def embedding_std(embeddings: Tensor) -> Tensor:
    """Return how far embeddings of unit length spread: 1 as on a uniform sphere, 0 where all are equal.

    The standard deviation of each dimension over the images, averaged over the D dimensions, times sqrt(D):
    on a sphere without a preferred direction each dimension has the standard deviation 1 / sqrt(D). It sees
    a collapse to one point, not one to few dimensions; see `effective_rank`.

    Source: Chen and He 2021 (SimSiam, arXiv:2011.10566), section 4.1.

    Args:
        embeddings: (N, D), N >= 1.

    Returns:
        Scalar in [0, 1].
    """
    unit = _unit_length(embeddings)
    return unit.std(0, correction=0).mean() * unit.shape[1] ** 0.5


@torch.no_grad()
def effective_rank(embeddings: Tensor) -> Tensor:
    """Return how many dimensions centered embeddings fill: exp of the entropy of their singular values.

    With s_i the singular values, p_i = s_i / sum_j s_j and the rank is exp(-sum_i p_i log p_i): D where all
    dimensions count alike, 1 for a line, and 1 for a single point.

    Source: Roy and Vetterli 2007, "The effective rank", definition 1; RankMe (arXiv:2210.02885) relates it to
    accuracy after training. Both leave the mean in; here it is taken out first, since a common offset separates
    no images.

    Args:
        embeddings: (N, D), N >= 1.

    Returns:
        Scalar in [1, min(N, D)].
    """
    values = _at_least_float32(embeddings)
    singular = torch.linalg.svdvals(values - values.mean(0))
    # entries are known to a relative epsilon, which moves no singular value further than their norm times it
    noise = ROUNDING * torch.finfo(values.dtype).eps * torch.linalg.matrix_norm(values)
    kept = torch.where(singular > noise, singular, 0)
    shares = kept / kept.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return torch.special.entr(shares).sum().exp()


def _unit_length(embeddings: Tensor) -> Tensor:
    """Divide each row by its length; a row of zeros stays one."""
    return F.normalize(_at_least_float32(embeddings), dim=1)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
