"""SoftMatch (Chen et al. 2023, arXiv:2301.10921): every pseudo-label counts, by a Gaussian of its confidence.

    q_b   = softmax(f(weak u_b)), without gradient;  y^_b = argmax q_b
    mu    <- m mu + (1 - m) mean_b max q_b,            mu_0  = 1/K
    var   <- m var + (1 - m) unbiased var_b max q_b,   var_0 = 1
    p(c)  <- m p(c) + (1 - m) mean_b q_b(c),           p_0   = 1/K
    w_b   = exp(-min(max UA(q_b) - mu, 0)^2 / (2 var / n_sigma^2)),  UA(q) = norm(q (1/K) / p)
    loss_u = mean_b w_b CE(y^_b, f(strong u_b))
    loss   = loss_x + lambda_u loss_u

mu and var are of the confidences before alignment; alignment serves the weight only, never the label.
Batch statistics are of the global batch; state is updated before it is used.

Deviations:
1. n_sigma = 2, as in the authors' code; the paper's equation reads n_sigma = 1.
2. The running mean prediction p starts uniform, like the other running values; the authors' code starts it at
   the first batch's mean.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from eke.collectives import all_reduce_sum, global_mean, world_size
from eke.config import Options
from eke.data.stream import Batch, ViewPlan
from eke.losses.classification import cross_entropy, probabilities
from eke.losses.pseudo_labels import align_distribution, guess
from eke.losses.thresholds import truncated_gaussian
from eke.methods.contract import PseudoLabels, Setting, StepResult
from eke.methods.recipes import CIFAR_SGD
from eke.models.network import Network


class SoftMatchConfig(Options):
    """SoftMatch's own options (paper, section 4.1)."""

    momentum: float = Field(0.999, ge=0, lt=1)
    """Decay of the running mean and variance of confidences and of the running mean prediction."""
    n_sigma: float = Field(2.0, gt=0)
    """How much narrower the Gaussian is than the confidences' deviation."""
    align: bool = True
    """Weigh by confidences that are aligned to equally frequent classes."""
    lambda_u: float = Field(1.0, ge=0)
    """Weight of the unlabeled loss."""


class SoftMatch(nn.Module):
    """Hard pseudo-labels from weak views, soft weights."""

    Config: ClassVar[type[Options]] = SoftMatchConfig
    recipe: ClassVar[Mapping[str, Any]] = CIFAR_SGD
    views: ClassVar[ViewPlan] = ViewPlan(
        labeled={"weak": "weak"}, unlabeled={"weak": "weak", "strong": "randaugment/torchssl"}
    )
    mean: Tensor
    variance: Tensor
    mean_probs: Tensor

    def __init__(self, config: SoftMatchConfig, network: Network, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.attention = setting.attend(network)
        K = setting.n_classes
        self.register_buffer("mean", torch.tensor(1 / K))
        self.register_buffer("variance", torch.tensor(1.0))
        self.register_buffer("mean_probs", torch.full((K,), 1 / K))

    def forward(self, batch: Batch) -> StepResult:
        x_weak, u_weak, u_strong = batch.x["weak"].pixels, batch.u["weak"].pixels, batch.u["strong"].pixels
        B, U = len(x_weak), len(u_weak)
        seen = self.attention.see(torch.cat([x_weak, u_weak, u_strong]))
        logits_x, logits_u_weak, logits_u_strong = seen.outputs.logits.split([B, U, U])

        loss_x = cross_entropy(logits_x, batch.y)
        probs = probabilities(logits_u_weak.detach())
        pseudo_label, confidence = guess(probs)
        self._observe(probs, confidence)
        if self.config.align:
            confidence = align_distribution(probs, self.mean_probs, 1 / probs.shape[1]).amax(1)
        weight = truncated_gaussian(confidence, self.mean, self.variance, self.config.n_sigma)
        loss_u = cross_entropy(logits_u_strong, pseudo_label, weight)

        views = batch.u["weak"], batch.u["strong"]
        attended = self.attention.compare(seen, slice(B, B + U), slice(B + U, None), views, batch.step)

        return StepResult(
            loss_x + self.config.lambda_u * loss_u + attended.loss,
            {
                "loss_x": loss_x.detach(),
                "loss_u": loss_u.detach(),
                "mask_rate": weight.mean(),
                "mu": self.mean.clone(),
                "var": self.variance.clone(),
                **attended.terms,
            },
            PseudoLabels(pseudo_label, weight),
        )

    def _observe(self, probs: Tensor, confidence: Tensor) -> None:
        mean = global_mean(confidence)
        n = len(confidence) * world_size()
        variance = all_reduce_sum((confidence - mean).square().sum()) / max(1, n - 1)
        pace = 1 - self.config.momentum
        self.mean.lerp_(mean.to(self.mean.dtype), pace)
        self.variance.lerp_(variance.to(self.variance.dtype), pace)
        self.mean_probs.lerp_(global_mean(probs, 0).to(self.mean_probs.dtype), pace)
