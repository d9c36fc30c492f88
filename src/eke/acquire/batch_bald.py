"""BatchBALD: images that tell, together, the most about the network.

    a(x_1..b) = H(y_1..b) - sum_i mean_t H(y_i | w_t)              Kirsch et al. 2019 (arXiv:1906.08158), equation 8

Greedily, the next image is the one with the largest gain, I(y_i; w | y_1..n) = mean_s H(y_i | s) - mean_t H(y_i | w_t),
where s runs over the joint labels of the n chosen images with their probabilities. A state s is kept as the posterior
r_t(s) = P(w_t | s) of the passes, so that P(y_i | s) = sum_t r_t(s) p_t,i and no product of many probabilities is ever
formed, which would underflow. While K^n is small the states are all joint labels, and the gain is exact; after that
they are a sample of them, extended by one drawn label per pick.

The passes must be consistent: pass t is one network, the same dropout mask, for all images. The cost of a pick is
N x T x K x states, so this is for a shortlist.
"""

import torch
from torch import Tensor

from eke.acquire.sampling import first_of_largest
from eke.randomness import rng

MAX_STATES = 10_000
"""Joint labels that are followed exactly."""
N_SAMPLES = 1000
"""Joint labels that are drawn once there are more."""
ENTRIES = 2**24
"""Numbers of a block: 128 MB of float64."""


def batch_bald(
    draws: Tensor,
    k: int,
    order: Tensor,
    seed: int,
    max_states: int = MAX_STATES,
    n_samples: int = N_SAMPLES,
) -> tuple[Tensor, Tensor]:
    """Choose images by what they tell about the network beyond what the chosen ones tell.

    Args:
        draws: (N, T, K) probabilities of T consistent passes.
        k: 1 to N.
        order: (N,) permutation that decides between equals.
        seed: of sampled states.
        max_states: joint labels up to which the gain is exact.
        n_samples: joint labels drawn beyond that.

    Returns:
        (k,) int64 rows, and (k,) gains in nats, at least 0.
    """
    draws = draws.double()
    draws = draws / draws.sum(2, keepdim=True)  # half precision is off by 1e-3, which entropies would show
    expected = torch.special.entr(draws).sum(2).mean(1)
    n, n_passes, n_classes = draws.shape
    posterior = draws.new_full((1, n_passes), 1 / n_passes)
    weights = draws.new_ones(1)
    order = order.to(draws.device)
    rows: list[int] = []
    gains: list[float] = []
    left = torch.ones(n, dtype=torch.bool, device=draws.device)
    while len(rows) < k:
        gain = (_conditional_entropy(draws, posterior, weights) - expected).clamp(min=0)
        # gains below this are rounding of sums of order one
        row = first_of_largest(torch.where(left, gain, -torch.inf), order, tolerance=1e-12)
        rows.append(row)
        gains.append(float(gain[row]))
        left[row] = False
        joint = posterior[:, :, None] * draws[row]  # (S, T, K): P(w_t, y | s)
        label = joint.sum(1)  # (S, K)
        if len(weights) * n_classes <= max_states:
            weights = (weights[:, None] * label).flatten()
            posterior = joint.transpose(1, 2).flatten(0, 1)
            possible = weights > 0
            weights, posterior = weights[possible], posterior[possible]
        else:
            random = rng(seed, len(rows), "batch_bald")
            states = torch.multinomial(weights.cpu(), n_samples, replacement=True, generator=random)
            drawn = torch.multinomial(label.cpu()[states], 1, generator=random)[:, 0]
            posterior = joint[states.to(joint.device), :, drawn.to(joint.device)]
            weights = draws.new_full((n_samples,), 1 / n_samples)
        posterior = posterior / posterior.sum(1, keepdim=True)
    return torch.tensor(rows), torch.tensor(gains, dtype=torch.float64)


def _conditional_entropy(draws: Tensor, posterior: Tensor, weights: Tensor) -> Tensor:
    """Return (N,) sum_s P(s) H(y_i | s), in blocks of images."""
    _, n_passes, n_classes = draws.shape
    block = max(1, ENTRIES // (len(weights) * n_classes))
    parts = []
    for part in draws.split(block):
        predicted = posterior @ part.transpose(0, 1).reshape(n_passes, -1)  # (S, n K)
        entropies = torch.special.entr(predicted).view(len(weights), len(part), n_classes).sum(2)
        parts.append(weights @ entropies)
    return torch.cat(parts)
