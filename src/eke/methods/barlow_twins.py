"""Barlow Twins (Zbontar et al. 2021, arXiv:2103.03230): two views agree in each dimension, and no two dimensions do.

    z_v  = g(f(view v)),  v = 1, 2
    C_ij = corr_b(z_1[b, i], z_2[b, j])                    over the images b of the global batch
    loss = sum_i (1 - C_ii)^2 + lambda sum_i sum_{j != i} C_ij^2

The first term is the invariance, the second the redundancy. Each view is a forward of its own, with batch statistics
of its own. f(view) is the embedding that is kept; the head g is thrown away.
Recipe: the paper's for ImageNet (section 2.2: 1,000 epochs of 2,048 images), whose rate of 0.2 per 256 images is 0.2
at 256, the batch of solo-learn's published results on CIFAR-10. (solo-learn's own rate belongs to a LARS that
clips, which ours does not.)

| paper | here |
|---|---|
| lambda | lambda_redundancy |

Deviations:
1. The head is 2,048 wide, as in solo-learn on CIFAR-10 (paper: 8,192).
2. The loss is multiplied by `loss_scale`. LARS gives kernels the same step at any scale; biases and batch norm, which
   it does not adapt, get the step of the paper's separate rate for them: 0.0048 = 0.024 * 0.2.
3. The rate rises over 100 steps (paper: 10 epochs) and falls to 0 (paper: to a thousandth), so that short runs
   reach it.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from eke.config import Options
from eke.data.stream import Batch, ViewPlan
from eke.losses.redundancy import barlow_twins_terms
from eke.losses.similarity import spread
from eke.methods.contract import Setting, StepResult
from eke.models.heads import perceptron
from eke.models.network import Network


class BarlowTwinsConfig(Options):
    """Barlow Twins' own options (paper, section 2.2)."""

    lambda_redundancy: float = Field(0.0051, ge=0)
    """Weight of the correlations between different dimensions."""
    projector_width: int = Field(2048, ge=1)
    """Width of the three layers of the head; the paper's 8192 needs 16 times the memory for correlations."""
    loss_scale: float = Field(0.024, gt=0)
    """Multiplies the whole loss."""


class BarlowTwins(nn.Module):
    """Cross-correlation of two views, pulled toward the identity."""

    Config: ClassVar[type[Options]] = BarlowTwinsConfig
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

    def __init__(self, config: BarlowTwinsConfig, network: Network, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.network = network
        D, width = setting.embedding_width, config.projector_width
        # no bias at the end: correlations do not see it
        self.projector = nn.Sequential(
            perceptron((D, width, width), last_batch_norm=True), nn.ReLU(), nn.Linear(width, width, bias=False)
        )

    def forward(self, batch: Batch) -> StepResult:
        z_1 = self.projector(self.network(batch.u["view_1"].pixels).embedding)
        z_2 = self.projector(self.network(batch.u["view_2"].pixels).embedding)
        terms = barlow_twins_terms(z_1, z_2)
        loss = self.config.loss_scale * (terms.invariance + self.config.lambda_redundancy * terms.redundancy)
        return StepResult(
            loss,
            {
                "invariance": terms.invariance.detach(),
                "redundancy": terms.redundancy.detach(),
                "z_std": spread(z_1),
            },
        )
