"""SimSiam (Chen and He 2021, arXiv:2011.10566): predict one view's projection from the other's.

    z_v  = g(f(view v)),  p_v = h(z_v),  v = 1, 2
    D(p, z) = -mean_b cos(p_b, stopgrad(z_b))
    loss = D(p_1, z_2) / 2 + D(p_2, z_1) / 2

The stopped gradient and the predictor h are what keeps all images from the same output; `z_std` near 0 shows that
they failed. Each view is a forward of its own, with batch statistics of its own. f(view) is the embedding that is
kept.
Recipe: the paper's for CIFAR-10 (appendix D: ResNet-18, 800 epochs), whose rate of 0.03 per 256 images is 0.06 at
512.

Deviations:
1. The projector has the 3 layers of the paper's ImageNet models (paper's CIFAR-10 models: 2); the width of its hidden
   layers is that of its output (authors' code: of the embedding, which is 2048 there, too).
2. The predictor's rate falls like all others (paper: it may stay constant, for 68.1 instead of 67.7 % on ImageNet).
3. Weight decay leaves biases and batch norm alone, as everywhere here (authors' code: it takes all).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from eke.config import Options
from eke.data.stream import Batch, ViewPlan
from eke.losses.similarity import negative_cosine, spread
from eke.methods.contract import Setting, StepResult
from eke.models.heads import perceptron
from eke.models.network import Network


class SimSiamConfig(Options):
    """SimSiam's own options (paper, section 3)."""

    projector_layers: int = Field(3, ge=1)
    """Linear layers of the projector."""
    projector_width: int = Field(2048, ge=1)
    """Width of the projector's layers, and of the predictor's output."""
    predictor_width: int = Field(512, ge=1)
    """Width of the predictor's hidden layer, a bottleneck."""


class SimSiam(nn.Module):
    """Two views that predict each other, each without moving its target."""

    Config: ClassVar[type[Options]] = SimSiamConfig
    recipe: ClassVar[Mapping[str, Any]] = {
        "batch": {"size": 512},
        "optim": {
            "name": "sgd",
            "lr": 0.06,
            "momentum": 0.9,
            "nesterov": False,
            "weight_decay": 5e-4,
            "schedule": "half-cosine",
            "warmup_steps": 0,
            "ema_decay": 0.0,
        },
    }
    views: ClassVar[ViewPlan] = ViewPlan(labeled={}, unlabeled={"view_1": "simclr/cifar", "view_2": "simclr/cifar"})

    def __init__(self, config: SimSiamConfig, network: Network, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.network = network
        projector = [setting.embedding_width] + [config.projector_width] * config.projector_layers
        self.projector = perceptron(projector, last_batch_norm=True, last_affine=False)
        self.predictor = perceptron((config.projector_width, config.predictor_width, config.projector_width))

    def forward(self, batch: Batch) -> StepResult:
        z_1 = self.projector(self.network(batch.u["view_1"].pixels).embedding)
        z_2 = self.projector(self.network(batch.u["view_2"].pixels).embedding)
        p_1, p_2 = self.predictor(z_1), self.predictor(z_2)
        loss = (negative_cosine(p_1, z_2.detach()) + negative_cosine(p_2, z_1.detach())) / 2
        return StepResult(loss, {"z_std": spread(z_1)})
