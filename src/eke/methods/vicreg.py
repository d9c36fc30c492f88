"""VICReg (Bardes et al. 2022, arXiv:2105.04906): views are equal, dimensions vary, and no two go together.

    z_v  = g(f(view v)),  v = 1, 2
    s    = mean_{b,i} (z_1[b, i] - z_2[b, i])^2                            invariance
    v(z) = mean_i max(0, 1 - sqrt(var_b z[b, i] + 1e-4))                   variance
    c(z) = (1/D) sum_i sum_{j != i} cov_b(z[b, i], z[b, j])^2              covariance
    loss = lambda s + mu (v(z_1) + v(z_2)) + nu (c(z_1) + c(z_2))

Statistics are of the global batch. Each view is a forward of its own, with batch statistics of its own. f(view) is the
embedding that is kept; the head g, which the paper calls expander, is thrown away.
Recipe: the paper's for ImageNet (section 4.2: 1,000 epochs of 2,048 images), whose rate of 0.2 per 256 images is 0.2
at 256, the batch of solo-learn's published results on CIFAR-10. (solo-learn's own rate belongs to a LARS that
clips, which ours does not.)

| paper | here |
|---|---|
| lambda, mu, nu | lambda_invariance, lambda_variance, lambda_covariance |

Deviations:
1. The head is 2,048 wide, as in solo-learn on CIFAR-10 (paper: 8,192).
2. The invariance is a mean over dimensions, as in the paper's algorithm 1 and the authors' code (the paper's equation
   sums them); variance and covariance are summed over the two views (the authors' code halves the variance only).
3. Views are those of Barlow Twins: blur with rates 1 and 0.1, solarize with 0 and 0.2 (paper: 0.5 and 0.1 for both
   views).
4. The rate rises over 100 steps (paper: 10 epochs) and falls to 0 (paper: to a thousandth), so that short runs
   reach it.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from eke.config import Options
from eke.data.stream import Batch, ViewPlan
from eke.losses.redundancy import vicreg_terms
from eke.losses.similarity import spread
from eke.methods.contract import Setting, StepResult
from eke.models.heads import perceptron
from eke.models.network import Network


class VICRegConfig(Options):
    """VICReg's own options (paper, section 4.2)."""

    lambda_invariance: float = Field(25.0, ge=0)
    """Weight of the distance between views."""
    lambda_variance: float = Field(25.0, ge=0)
    """Weight of what dimensions vary less than they should."""
    lambda_covariance: float = Field(1.0, ge=0)
    """Weight of the covariances between different dimensions."""
    projector_width: int = Field(2048, ge=1)
    """Width of the three layers of the head; the paper's 8192 needs 16 times the memory for covariances."""


class VICReg(nn.Module):
    """Variance, invariance and covariance of two views' outputs."""

    Config: ClassVar[type[Options]] = VICRegConfig
    recipe: ClassVar[Mapping[str, Any]] = {
        "batch": {"size": 256},
        "optim": {
            "name": "lars",
            "lr": 0.2,
            "momentum": 0.9,
            "nesterov": False,
            "weight_decay": 1e-6,
            "schedule": "half-cosine",
            "warmup_steps": 100,
            "ema_decay": 0.0,
        },
    }
    views: ClassVar[ViewPlan] = ViewPlan(labeled={}, unlabeled={"view_1": "barlow_twins/1", "view_2": "barlow_twins/2"})

    def __init__(self, config: VICRegConfig, network: Network, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.network = network
        D, width = setting.embedding_width, config.projector_width
        # no bias at the end: neither differences nor covariances see it
        self.projector = nn.Sequential(
            perceptron((D, width, width), last_batch_norm=True), nn.ReLU(), nn.Linear(width, width, bias=False)
        )

    def forward(self, batch: Batch) -> StepResult:
        z_1 = self.projector(self.network(batch.u["view_1"].pixels).embedding)
        z_2 = self.projector(self.network(batch.u["view_2"].pixels).embedding)
        terms, config = vicreg_terms(z_1, z_2), self.config
        loss = (
            config.lambda_invariance * terms.invariance
            + config.lambda_variance * terms.variance
            + config.lambda_covariance * terms.covariance
        )
        return StepResult(
            loss,
            {
                "invariance": terms.invariance.detach(),
                "variance": terms.variance.detach(),
                "covariance": terms.covariance.detach(),
                "z_std": spread(z_1),
            },
        )
