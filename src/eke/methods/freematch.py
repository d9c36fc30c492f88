"""FreeMatch (Wang et al. 2023, arXiv:2205.07246): thresholds that follow the network's own confidence.

    q_b    = softmax(f(weak u_b)), without gradient;  y^_b = argmax q_b
    tau_t  = m tau_{t-1} + (1 - m) mean_b max q_b,               tau_0  = 1/K    global threshold
    p_t(c) = m p_{t-1}(c) + (1 - m) mean_b q_b(c),               p_0(c) = 1/K
    h_t(c) = m h_{t-1}(c) + (1 - m) mean_b [y^_b = c],           h_0(c) = 1/K
    tau_t(c) = tau_t p_t(c) / max_c p_t                                          local thresholds
    loss_u = mean_b [max q_b >= tau_t(y^_b)] CE(y^_b, f(strong u_b))
    loss_f = sum_c a_c log b_c, a = norm(p_t / h_t), b = norm(p_s / h_s) of trusted strong views  fairness
    loss   = loss_x + lambda_u loss_u + lambda_f loss_f

| paper | here | | paper | here |
|---|---|---|---|---|
| C | K | | lambda (decay) | momentum m |
| w_u | lambda_u | | w_f | lambda_f |

State is updated before it is used, as in the paper's algorithm 1; batch statistics are of the global batch.

Deviations:
1. lambda_f is 0.01, the default of the authors' code, for every data set; the paper chooses it by data set.
2. The paper's clipping of tau to [0.9, 0.95] on SVHN is left out.
3. b_c = 0 for classes that no trusted strong view has, with log(b + 1e-12) (the authors' code).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from eke.collectives import global_mean
from eke.config import Options
from eke.data.stream import Batch, ViewPlan
from eke.losses.classification import cross_entropy, probabilities
from eke.losses.pseudo_labels import confident_pseudo_label, guess, one_hot
from eke.losses.thresholds import fairness, self_adaptive_thresholds
from eke.methods.contract import PseudoLabels, Setting, StepResult
from eke.methods.recipes import CIFAR_SGD
from eke.models.network import Network


class FreeMatchConfig(Options):
    """FreeMatch's own options (paper, section 5.1)."""

    momentum: float = Field(0.999, ge=0, lt=1)
    """Decay of the running threshold, mean prediction and class rates."""
    lambda_u: float = Field(1.0, ge=0)
    """Weight of the unlabeled loss."""
    lambda_f: float = Field(0.01, ge=0)
    """Weight of the self-adaptive fairness loss."""


class FreeMatch(nn.Module):
    """Hard pseudo-labels from weak views, self-adaptive thresholds and a fairness term."""

    Config: ClassVar[type[Options]] = FreeMatchConfig
    recipe: ClassVar[Mapping[str, Any]] = CIFAR_SGD
    views: ClassVar[ViewPlan] = ViewPlan(
        labeled={"weak": "weak"}, unlabeled={"weak": "weak", "strong": "randaugment/torchssl"}
    )
    tau: Tensor
    mean_probs: Tensor
    label_rates: Tensor

    def __init__(self, config: FreeMatchConfig, network: Network, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.attention = setting.attend(network)
        K = setting.n_classes
        self.register_buffer("tau", torch.tensor(1 / K))
        self.register_buffer("mean_probs", torch.full((K,), 1 / K))
        self.register_buffer("label_rates", torch.full((K,), 1 / K))

    def forward(self, batch: Batch) -> StepResult:
        x_weak, u_weak, u_strong = batch.x["weak"].pixels, batch.u["weak"].pixels, batch.u["strong"].pixels
        B, U = len(x_weak), len(u_weak)
        seen = self.attention.see(torch.cat([x_weak, u_weak, u_strong]))
        logits_x, logits_u_weak, logits_u_strong = seen.outputs.logits.split([B, U, U])

        self._observe(logits_u_weak.detach())
        loss_x = cross_entropy(logits_x, batch.y)
        thresholds = self_adaptive_thresholds(self.tau, self.mean_probs)
        pseudo_label, mask = confident_pseudo_label(logits_u_weak, thresholds)
        loss_u = cross_entropy(logits_u_strong, pseudo_label, mask)
        loss_f = fairness(logits_u_strong, mask, self.mean_probs, self.label_rates)

        views = batch.u["weak"], batch.u["strong"]
        attended = self.attention.compare(seen, slice(B, B + U), slice(B + U, None), views, batch.step)

        return StepResult(
            loss_x + self.config.lambda_u * loss_u + self.config.lambda_f * loss_f + attended.loss,
            {
                "loss_x": loss_x.detach(),
                "loss_u": loss_u.detach(),
                "loss_f": loss_f.detach(),
                "mask_rate": mask.mean(),
                "tau": self.tau.clone(),
                **attended.terms,
            },
            PseudoLabels(pseudo_label, mask),
        )

    def _observe(self, logits_u_weak: Tensor) -> None:
        probs = probabilities(logits_u_weak)
        label, confidence = guess(probs)
        rates = one_hot(label, probs.shape[1], probs.dtype)
        pace = 1 - self.config.momentum
        self.tau.lerp_(global_mean(confidence).to(self.tau.dtype), pace)
        self.mean_probs.lerp_(global_mean(probs, 0).to(self.mean_probs.dtype), pace)
        self.label_rates.lerp_(global_mean(rates, 0).to(self.label_rates.dtype), pace)
