"""Pseudo-Label (Lee 2013, ICML workshop): the network's own confident predictions serve as labels.

    y'_b   = argmax_c f(u_b), without gradient
    loss_u = mean_b [max softmax(f(u_b)) >= tau] CE(y'_b, f(u_b)), mean over ALL images       eq. 15
    loss   = loss_x + alpha(t) lambda_u loss_u,  alpha(t) = min(1, t / (ramp_rate steps))     eq. 16

Defaults are those of the re-implementation that the later papers compare with (Oliver et al. 2018,
arXiv:1804.09170; google-research/mixmatch). tau = 0 counts every image, as Lee does.

Deviations:
1. Only predictions of at least tau count (Lee: all).
2. Softmax cross entropy in place of one logistic unit per class.
3. The ramp is linear from step 0 and lambda_u = 1 (Lee: 0 up to epoch 100, 3 from epoch 600 on).
4. No pretraining as a denoising autoencoder.
5. Batch norm: each of the two forwards normalizes with its own batch; running statistics follow the labeled
   images only (google-research/mixmatch).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from eke.config import Options
from eke.data.stream import Batch, ViewPlan
from eke.losses.classification import cross_entropy
from eke.losses.pseudo_labels import confident_pseudo_label
from eke.losses.ramps import linear_ramp
from eke.methods.contract import PseudoLabels, Setting, StepResult
from eke.methods.recipes import CIFAR_ADAM
from eke.models.network import Network
from eke.models.norm import frozen_statistics


class PseudoLabelConfig(Options):
    """Pseudo-Label's own options (google-research/mixmatch)."""

    tau: float = Field(0.95, ge=0, le=1)
    """Confidence from which a pseudo-label is trusted; 0 trusts all, as the paper does."""
    lambda_u: float = Field(1.0, ge=0)
    """Weight of the unlabeled loss at the end of the ramp."""
    ramp_rate: float = Field(0.4, ge=0, le=1)
    """Fraction of the run over which the weight grows from 0; 0 starts at full weight."""


class PseudoLabel(nn.Module):
    """Hard pseudo-labels on the very view they come from."""

    Config: ClassVar[type[Options]] = PseudoLabelConfig
    recipe: ClassVar[Mapping[str, Any]] = CIFAR_ADAM
    views: ClassVar[ViewPlan] = ViewPlan(labeled={"weak": "weak"}, unlabeled={"weak": "weak"})

    def __init__(self, config: PseudoLabelConfig, network: Network, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.ramp_steps = config.ramp_rate * setting.total_steps

    def forward(self, batch: Batch) -> StepResult:
        loss_x = cross_entropy(self.network(batch.x["weak"].pixels).logits, batch.y)
        with frozen_statistics(self.network):
            logits_u = self.network(batch.u["weak"].pixels).logits
        pseudo_label, mask = confident_pseudo_label(logits_u, self.config.tau)
        loss_u = cross_entropy(logits_u, pseudo_label, mask)

        return StepResult(
            loss_x + self.config.lambda_u * linear_ramp(batch.step, self.ramp_steps) * loss_u,
            {"loss_x": loss_x.detach(), "loss_u": loss_u.detach(), "mask_rate": mask.mean()},
            PseudoLabels(pseudo_label, mask),
        )
