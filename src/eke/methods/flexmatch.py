"""FlexMatch (Zhang et al. 2021, arXiv:2110.08263): FixMatch with lower thresholds for classes learned slowly.

    q_b      = softmax(f(weak u_b)), without gradient;  y^_b = argmax q_b
    sigma(c) = number of unlabeled images whose last prediction with max q >= tau was c
    beta(c)  = sigma(c) / max(max_c sigma, number of images never selected)          threshold warm-up
    tau(c)   = tau beta(c) / (2 - beta(c))                                           convex mapping
    loss_u   = mean_b [max q_b >= tau(y^_b)] CE(y^_b, f(strong u_b))
    loss     = loss_x + lambda_u loss_u

The memory of last confident predictions is written after the mask is computed, as in the authors' code: the
thresholds of a step come from the steps before it. In the first step all thresholds are 0.

Deviations:
1. An image that stands twice in a batch is remembered by its later place; in the authors' code the result
   depends on the device.
2. Thresholds are reached by "at least", not "more than" (the authors' code).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from eke.collectives import gather
from eke.config import Options
from eke.data.stream import Batch, ViewPlan
from eke.losses.classification import cross_entropy
from eke.losses.pseudo_labels import confident_pseudo_label
from eke.losses.thresholds import flexible_thresholds, latest_labels
from eke.methods.contract import PseudoLabels, Setting, StepResult
from eke.methods.recipes import CIFAR_SGD
from eke.models.network import Network


class FlexMatchConfig(Options):
    """FlexMatch's own options (paper, section 4.1)."""

    tau: float = Field(0.95, ge=0, le=1)
    """Threshold of the class that is learned best; from this confidence on a prediction is remembered."""
    lambda_u: float = Field(1.0, ge=0)
    """Weight of the unlabeled loss."""
    threshold_warmup: bool = True
    """Keep thresholds low while most images were never predicted with confidence."""


class FlexMatch(nn.Module):
    """Hard pseudo-labels from weak views, one threshold per class."""

    Config: ClassVar[type[Options]] = FlexMatchConfig
    recipe: ClassVar[Mapping[str, Any]] = CIFAR_SGD
    views: ClassVar[ViewPlan] = ViewPlan(
        labeled={"weak": "weak"}, unlabeled={"weak": "weak", "strong": "randaugment/torchssl"}
    )
    selected_label: Tensor

    def __init__(self, config: FlexMatchConfig, network: Network, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.attention = setting.attend(network)
        self.n_classes = setting.n_classes
        self.register_buffer("selected_label", torch.full((setting.n_unlabeled,), -1))

    def forward(self, batch: Batch) -> StepResult:
        x_weak, u_weak, u_strong = batch.x["weak"].pixels, batch.u["weak"].pixels, batch.u["strong"].pixels
        B, U = len(x_weak), len(u_weak)
        seen = self.attention.see(torch.cat([x_weak, u_weak, u_strong]))
        logits_x, logits_u_weak, logits_u_strong = seen.outputs.logits.split([B, U, U])

        loss_x = cross_entropy(logits_x, batch.y)
        config = self.config
        thresholds = flexible_thresholds(self.selected_label, self.n_classes, config.tau, config.threshold_warmup)
        pseudo_label, mask = confident_pseudo_label(logits_u_weak, thresholds)
        loss_u = cross_entropy(logits_u_strong, pseudo_label, mask)
        self._remember(batch.u_index, logits_u_weak)

        views = batch.u["weak"], batch.u["strong"]
        attended = self.attention.compare(seen, slice(B, B + U), slice(B + U, None), views, batch.step)

        return StepResult(
            loss_x + config.lambda_u * loss_u + attended.loss,
            {
                "loss_x": loss_x.detach(),
                "loss_u": loss_u.detach(),
                "mask_rate": mask.mean(),
                "tau_mean": thresholds.mean(),
                **attended.terms,
            },
            PseudoLabels(pseudo_label, mask),
        )

    def _remember(self, index: Tensor, logits_u_weak: Tensor) -> None:
        label, confident = confident_pseudo_label(logits_u_weak, self.config.tau)
        seen = gather(torch.stack([index, label, confident.long()], 1))  # (global U, 3)
        self.selected_label.copy_(latest_labels(self.selected_label, seen[:, 0], seen[:, 1], seen[:, 2] > 0))
