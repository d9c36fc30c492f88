"""UDA (Xie et al. 2020, arXiv:1904.12848): strong views match the sharpened prediction on weak views.

    q_b    = softmax(f(weak u_b)), without gradient;  s_b = softmax(f(weak u_b) / temperature)
    loss_u = mean_b [max q_b >= tau] KL(s_b || softmax(f(strong u_b)))           masking and sharpening
    eta_t  = 1/K + alpha_t (1 - 1/K)                                             training signal annealing
    loss_x = sum_b [p(y_b) <= eta_t] CE(y_b, f(x_b)) / number kept               (with annealing; else mean)
    loss   = loss_x + lambda_u loss_u

alpha_t of the annealing, with r = step / steps: linear r, exp e^(5 (r - 1)), log 1 - e^(-5 r).

| paper | here | | paper | here |
|---|---|---|---|---|
| beta (confidence) | tau | | tau (softmax temperature) | temperature |
| lambda | lambda_u | | | |

The mask looks at the unsharpened q; annealing looks at the probability of the true class and divides by the
number kept in the global batch, as the authors' code does.

Deviations:
1. Optimizer and batch follow FixMatch's re-run of UDA: no warm-up over 20,000 steps (set optim.warmup_steps),
   cosine to 7/16 of a period, averaged weights.
2. The mask asks for "at least tau"; the authors' code for "more than".
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from eke.config import Options
from eke.data.stream import Batch, ViewPlan
from eke.losses.classification import cross_entropy, cross_entropy_of_kept, kl_divergence, probabilities
from eke.losses.pseudo_labels import confident_pseudo_label, sharpen
from eke.methods.contract import PseudoLabels, Setting, StepResult
from eke.methods.recipes import CIFAR_SGD
from eke.models.network import Network

ANNEALING: Mapping[str, Callable[[float], float]] = {
    "linear": lambda progress: progress,
    "exp": lambda progress: math.exp(5 * (progress - 1)),
    "log": lambda progress: 1 - math.exp(-5 * progress),
}


class UDAConfig(Options):
    """UDA's own options (paper, appendix on CIFAR-10)."""

    tau: float = Field(0.8, ge=0, le=1)
    """Confidence from which an unlabeled image counts."""
    temperature: float = Field(0.4, gt=0, le=1)
    """Sharpens the target; 1 leaves it as it is."""
    lambda_u: float = Field(1.0, ge=0)
    """Weight of the unlabeled loss."""
    annealing: Literal["none", "linear", "exp", "log"] = "none"
    """Hold back labeled images that are already well known: log releases them early, exp late."""


class UDA(nn.Module):
    """Soft sharpened targets from weak views, one fixed threshold."""

    Config: ClassVar[type[Options]] = UDAConfig
    recipe: ClassVar[Mapping[str, Any]] = CIFAR_SGD
    views: ClassVar[ViewPlan] = ViewPlan(
        labeled={"weak": "weak"}, unlabeled={"weak": "weak", "strong": "randaugment/google"}
    )

    def __init__(self, config: UDAConfig, network: Network, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.attention = setting.attend(network)
        self.n_classes = setting.n_classes
        self.total_steps = setting.total_steps

    def forward(self, batch: Batch) -> StepResult:
        x_weak, u_weak, u_strong = batch.x["weak"].pixels, batch.u["weak"].pixels, batch.u["strong"].pixels
        B, U = len(x_weak), len(u_weak)
        seen = self.attention.see(torch.cat([x_weak, u_weak, u_strong]))
        logits_x, logits_u_weak, logits_u_strong = seen.outputs.logits.split([B, U, U])

        loss_x = self._labeled_loss(logits_x, batch.y, batch.step)
        pseudo_label, mask = confident_pseudo_label(logits_u_weak, self.config.tau)
        target_probs = sharpen(probabilities(logits_u_weak), self.config.temperature)
        loss_u = kl_divergence(logits_u_strong, target_probs, mask)

        views = batch.u["weak"], batch.u["strong"]
        attended = self.attention.compare(seen, slice(B, B + U), slice(B + U, None), views, batch.step)

        return StepResult(
            loss_x + self.config.lambda_u * loss_u + attended.loss,
            {"loss_x": loss_x.detach(), "loss_u": loss_u.detach(), "mask_rate": mask.mean(), **attended.terms},
            PseudoLabels(pseudo_label, mask),
        )

    def _labeled_loss(self, logits: Tensor, y: Tensor, step: int) -> Tensor:
        if self.config.annealing == "none":
            return cross_entropy(logits, y)
        alpha = ANNEALING[self.config.annealing](step / self.total_steps)
        eta = 1 / self.n_classes + alpha * (1 - 1 / self.n_classes)
        true_prob = probabilities(logits.detach()).gather(1, y[:, None]).squeeze(1)
        return cross_entropy_of_kept(logits, y, (true_prob <= eta).to(true_prob.dtype))
