"""Uncertainty by several passes: of a network with dropout on, or of the members of an ensemble.

    predictive entropy  H(mean_t p_t)                           what is unknown in all
    expected entropy    mean_t H(p_t)                           what no further label can settle
    BALD                H(mean_t p_t) - mean_t H(p_t) >= 0      what the passes disagree on
    variation ratio     1 - f / T                               f of T passes vote for the most frequent class
    mean STD            mean_c sqrt(mean_t (p_t(c) - mean_t p_t(c))^2)

Source: Gal, Islam & Ghahramani 2017, "Deep Bayesian active learning with image data" (arXiv:1703.02910), section 4;
Houlsby et al. 2011 (arXiv:1112.5745) for BALD; Kampffmeyer et al. 2016 for mean STD.

Deviations:
1. Gal et al. write the variation ratio as 1 - max_c mean_t p_t(c), which is `least_confidence` of the mean. Here it is
   that of votes (Beluch et al. 2018, "The power of ensembles", equation 3), as in explanation-based attention.
2. The spread is kept as Welford's sum of squared distances to the running mean instead of the sum of p^2, whose
   difference to the squared mean is 3e-4 in float32 where passes do not differ at all.
"""

import torch
from torch import Tensor

from eke.acquire.scores import entropy
from eke.errors import DataError


class Passes:
    """Running statistics of T passes over N images: memory of 3 N K numbers, however many passes.

    Args:
        n: images, N.
        n_classes: K.
        device: where the statistics live.
    """

    def __init__(self, n: int, n_classes: int, device: torch.device | str = "cpu") -> None:
        self.n_passes = 0
        self.mean = torch.zeros(n, n_classes, device=device)
        self.squares = torch.zeros(n, n_classes, device=device)
        self.votes = torch.zeros(n, n_classes, dtype=torch.int32, device=device)
        self.entropies = torch.zeros(n, device=device)

    def __len__(self) -> int:
        return len(self.mean)

    def add(self, probs: Tensor) -> None:
        """Count one pass over all images: (N, K) probabilities of any floating type.

        Raises:
            DataError: the shape is another one.
        """
        if probs.shape != self.mean.shape:
            raise DataError(f"A pass over {tuple(self.mean.shape)} images and classes gave {tuple(probs.shape)}.")
        probs = probs.detach().to(self.mean)
        self.n_passes += 1
        distance = probs - self.mean
        self.mean += distance / self.n_passes
        self.squares += distance * (probs - self.mean)
        self.entropies += entropy(probs)
        self.votes.scatter_add_(1, probs.argmax(1, keepdim=True), torch.ones_like(self.votes[:, :1]))

    def rows(self, rows: Tensor) -> "Passes":
        """Return the statistics of some images, (n,) int64."""
        part = Passes(0, self.mean.shape[1], self.mean.device)
        rows = rows.to(self.mean.device)
        part.n_passes = self.n_passes
        part.mean, part.squares, part.votes = self.mean[rows], self.squares[rows], self.votes[rows]
        part.entropies = self.entropies[rows]
        return part

    def predictive_entropy(self) -> Tensor:
        """Return (N,) in [0, log K]."""
        return entropy(self.mean)

    def expected_entropy(self) -> Tensor:
        """Return (N,) in [0, log K]."""
        return self.entropies / self.n_passes

    def bald(self) -> Tensor:
        """Return (N,) in [0, log K]; rounding below 0 is cut."""
        return (self.predictive_entropy() - self.expected_entropy()).clamp_(min=0)

    def varratio_mc(self) -> Tensor:
        """Return (N,) in [0, 1 - 1/T], of T values only: break its ties by `predictive_entropy`."""
        return 1 - self.votes.amax(1) / self.n_passes

    def mean_std(self) -> Tensor:
        """Return (N,) in [0, 0.5]."""
        return (self.squares.clamp(min=0) / self.n_passes).sqrt().mean(1)
