"""Graphs between a batch and a memory: who is near whom by embedding, and who shares a class.

Rows are this process's N images, columns all Q candidates. Embeddings have unit length. Under autocast products
have the network's precision; softmax and sums are in float32 or better.
"""

import torch
from torch import Tensor

from eke.losses.classification import cross_entropy, probabilities


def similarity_logits(embedding: Tensor, keys: Tensor, temperature: float, present: Tensor | None = None) -> Tensor:
    """Return z_b . k_j / t, whose softmax over j says how near each candidate is.

    Args:
        embedding: (N, D).
        keys: (Q, D).
        temperature: t, above 0.
        present: (Q,) bool; the softmax of a column that is not present is 0.

    Returns:
        (N, Q), with gradient to whichever of the two has one.
    """
    scaled = embedding / temperature  # the smaller one: N x Q is written only once
    if present is None:
        return scaled @ keys.T
    # finite, because in a loss the logarithm of an absent column meets a target of 0
    absent = torch.where(present, 0.0, -1e30).to(embedding.dtype)
    return torch.addmm(absent, scaled, keys.T)


@torch.no_grad()
def smoothed_probs(
    probs: Tensor,
    embedding: Tensor,
    memory_embedding: Tensor,
    memory_probs: Tensor,
    alpha: float | Tensor,
    temperature: float,
) -> Tensor:
    """Draw predictions towards those of their neighbors: q_b = alpha p_b + (1 - alpha) sum_k a_bk p_k.

    a_b is the softmax over the memory of z_b . z_k / t. q_b is where
    J(q) = (1 - alpha) sum_k a_bk |q - p_k|^2 + alpha |q - p_b|^2 is least.

    Source: CoMatch (Li et al. 2021, arXiv:2011.11183), memory-smoothed pseudo-labeling.

    Args:
        probs: (N, K), p_b.
        embedding: (N, D), z_b.
        memory_embedding: (Q, D), z_k.
        memory_probs: (Q, K), p_k.
        alpha: in [0, 1]; a tensor may decide on the device.
        temperature: t, above 0.

    Returns:
        (N, K) probabilities, without gradient.
    """
    nearness = probabilities(similarity_logits(embedding, memory_embedding, temperature))
    return alpha * probs + (1 - alpha) * (nearness @ memory_probs)


@torch.no_grad()
def pseudo_label_graph(probs: Tensor, key_probs: Tensor, own: Tensor, threshold: float) -> Tensor:
    """Connect images whose pseudo-labels agree: W_bj = q_b . q_j where that is at least T, else 0, and 1 to itself.

    Each row is then divided by its sum.

    Source: CoMatch (arXiv:2011.11183), pseudo-label graph.

    Args:
        probs: (N, K), q_b.
        key_probs: (Q, K), q_j; a column of zeros has no edge.
        own: (N,) int64, the column that is the row's own image.
        threshold: T in [0, 1].

    Returns:
        (N, Q), at least 0; rows sum to 1. Without gradient.
    """
    graph = (probs @ key_probs.T).to(probs.dtype)
    graph.scatter_(1, own[:, None], 1.0)
    graph.mul_(graph >= threshold)
    return graph.div_(graph.sum(1, keepdim=True))


def degrees(graph: Tensor) -> Tensor:
    """Count the edges of each row of a graph (N, Q) with self-loops, besides the self-loop: (N,) int64."""
    return graph.count_nonzero(1) - 1


def graph_contrast(
    embedding: Tensor, keys: Tensor, graph: Tensor, temperature: float, present: Tensor | None = None
) -> Tensor:
    """Mean over rows of -sum_j W_bj log S_bj with S_b = softmax_j(z_b . k_j / t): make one graph like another.

    Source: CoMatch (arXiv:2011.11183), contrastive loss between pseudo-label graph and embedding graph.

    Args:
        embedding: (N, D) with gradient.
        keys: (Q, D), with gradient or without.
        graph: (N, Q), rows sum to 1; 0 in absent columns.
        temperature: t, above 0.
        present: (Q,) bool; absent columns take no part.

    Returns:
        Scalar, at least 0.
    """
    return cross_entropy(similarity_logits(embedding, keys, temperature, present), graph)


@torch.no_grad()
def unfolded(similarity: Tensor, probs: Tensor, label: Tensor) -> Tensor:
    """Weigh the nearness of labeled images by what is believed of their classes: s_bi p_b(y_i), divided by its sum.

    Source: SimMatch (Zheng et al. 2022, arXiv:2203.06915), unfolding and calibration.

    Args:
        similarity: (N, M) nearness to each of M labeled images, rows sum to 1.
        probs: (N, K).
        label: (M,) int64 classes of the labeled images.

    Returns:
        (N, M), rows sum to 1. Without gradient.
    """
    weighted = similarity * probs[:, label]
    # a row whose believed classes have no labeled image near stays 0 instead of 0 / 0
    return weighted / weighted.sum(1, keepdim=True).clamp(min=torch.finfo(weighted.dtype).tiny)


@torch.no_grad()
def aggregated(similarity: Tensor, label: Tensor, n_classes: int) -> Tensor:
    """Add up the nearness of the labeled images of each class: sum_i s_bi [y_i = c].

    Source: SimMatch (arXiv:2203.06915), aggregation.

    Args:
        similarity: (N, M), rows sum to 1.
        label: (M,) int64.
        n_classes: K.

    Returns:
        (N, K) probabilities, without gradient.
    """
    return similarity.new_zeros(len(similarity), n_classes).index_add_(1, label, similarity)
