"""A pool that is small enough for brute force, and whose size no block divides."""

import torch
from torch import Tensor

from eke.acquire.contract import Candidates, Labeled
from eke.acquire.passes import Passes

N, K, D, T = 203, 4, 6, 8


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ids_of(n: int, what: str = "image") -> list[str]:
    return [f"{what}-{row}" for row in range(n)]


def random_probs(n: int = N, k: int = K, seed: int = 0, sharp: float = 2.0) -> Tensor:
    return (sharp * torch.randn(n, k, generator=generator(seed))).softmax(1)


def random_features(n: int = N, d: int = D, seed: int = 1) -> Tensor:
    return torch.randn(n, d, generator=generator(seed))


def random_draws(n: int = N, t: int = T, k: int = K, seed: int = 2) -> Tensor:
    return (2 * torch.randn(n, t, k, generator=generator(seed))).softmax(2)


def passes_of(draws: Tensor) -> Passes:
    passes = Passes(draws.shape[0], draws.shape[2])
    for probs in draws.unbind(1):
        passes.add(probs)
    return passes


def full_pool(n: int = N) -> Candidates:
    """Candidates with all that any strategy needs."""
    draws = random_draws(n)
    return Candidates(
        ids_of(n),
        probs=random_probs(n),
        features=random_features(n),
        passes=passes_of(draws),
        draws=draws,
        descriptors=random_features(n, 5, seed=3).abs(),
        attention=random_features(n, 5, seed=4),
    )


def some_labeled(n: int = 7) -> Labeled:
    labels = torch.arange(n) % K
    return Labeled(ids_of(n, "labeled"), random_features(n, seed=5), labels)
