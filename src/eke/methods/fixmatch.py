"""FixMatch (Sohn et al. 2020, arXiv:2001.07685): confident predictions on weak views label the strong ones.

    q_b    = softmax(f(weak u_b)), without gradient;  y^_b = argmax q_b
    loss_x = mean_b CE(y_b, f(weak x_b))                                  eq. 3
    loss_u = mean_b [max q_b >= tau] CE(y^_b, f(strong u_b))              eq. 4, mean over ALL mu B images
    loss   = loss_x + lambda_u loss_u

Deviations:
1. Batch norm sees x, weak u and strong u in one forward. The authors interleave the three across devices,
   which gives each device the same mixture.
2. The strong view is RandAugment with Cutout (the paper's "RA"), not CTAugment.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from eke.config import Options
from eke.data.stream import Batch, ViewPlan
from eke.methods.contract import PseudoLabels, Setting, StepResult
from eke.methods.recipes import CIFAR_SGD
from eke.models.network import Network


class FixMatchConfig(Options):
    """FixMatch's own options (paper, section 4)."""

    tau: float = Field(0.95, ge=0, le=1)
    """Confidence from which a pseudo-label is trusted."""
    lambda_u: float = Field(1.0, ge=0)
    """Weight of the unlabeled loss."""


class FixMatch(nn.Module):
    """Hard pseudo-labels from weak views, one fixed threshold."""

    Config: ClassVar[type[Options]] = FixMatchConfig
    recipe: ClassVar[Mapping[str, Any]] = CIFAR_SGD
    several_labels: ClassVar[bool] = True
    views: ClassVar[ViewPlan] = ViewPlan(
        labeled={"weak": "weak"}, unlabeled={"weak": "weak", "strong": "randaugment/google"}
    )

    def __init__(self, config: FixMatchConfig, network: Network, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.attention = setting.attend(network)

    def forward(self, batch: Batch) -> StepResult:
        x_weak, u_weak, u_strong = batch.x["weak"].pixels, batch.u["weak"].pixels, batch.u["strong"].pixels
        B, U = len(x_weak), len(u_weak)
        seen = self.attention.see(torch.cat([x_weak, u_weak, u_strong]))
        logits_x, logits_u_weak, logits_u_strong = seen.outputs.logits.split([B, U, U])

        loss_x = self.network.kind.cross_entropy(logits_x, batch.y)
        pseudo_label, mask = self.network.kind.confident_pseudo_label(logits_u_weak, self.config.tau)
        loss_u = self.network.kind.cross_entropy(logits_u_strong, pseudo_label, mask)

        views = batch.u["weak"], batch.u["strong"]
        attended = self.attention.compare(seen, slice(B, B + U), slice(B + U, None), views, batch.step)

        return StepResult(
            loss_x + self.config.lambda_u * loss_u + attended.loss,
            {"loss_x": loss_x.detach(), "loss_u": loss_u.detach(), "mask_rate": mask.mean(), **attended.terms},
            PseudoLabels(pseudo_label, mask),
        )
