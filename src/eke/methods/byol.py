"""BYOL (Grill et al. 2020, arXiv:2006.07733): predict what the average of past weights sees in the other view.

    p_v   = q(g(f(view v))),       with the online weights theta
    z'_v  = g'(f'(view v)),        with the target weights xi, without gradient
    L(p, z) = mean_b |p_b / |p_b| - z_b / |z_b||^2
    loss  = L(p_1, z'_2) + L(p_2, z'_1)
    xi   <- tau xi + (1 - tau) theta,  tau(k) = 1 - (1 - tau_base) (cos(pi k / K) + 1) / 2 at step k of K

The target is updated at the beginning of a step with the weights that the step before left behind. Online and
target networks normalize each view with its own batch statistics. f(view) is the embedding that is kept.
Recipe: the paper's for ImageNet (section 3.3: 1,000 epochs of 4,096 images), there is none for CIFAR-10; its rate of
0.2 per 256 images is 0.4 at 512.

| paper | here |
|---|---|
| target network xi | teacher, teacher_projector |

Deviations:
1. The target starts as a copy of the online weights (authors' code: from a start of its own), and tau rises to its
   value as in `Ema`: it is at most (1 + k) / (10 + k).
2. The last layer of both heads has a bias (authors' code: none).
3. The rate rises over 100 steps (paper: 10 epochs), so that short runs reach it.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from eke.config import Options
from eke.data.stream import Batch, ViewPlan
from eke.losses.similarity import spread, squared_distance
from eke.methods.contract import Setting, StepResult
from eke.models.ema import Ema
from eke.models.heads import perceptron
from eke.models.network import Network


class BYOLConfig(Options):
    """BYOL's own options (paper, section 3.3)."""

    tau_base: float = Field(0.996, ge=0, lt=1)
    """Decay of the target's weights at the start; it rises to 1 over the run. Runs of 300 epochs take 0.99."""
    hidden_width: int = Field(4096, ge=1)
    """Width of the hidden layer of projector and predictor."""
    output_width: int = Field(256, ge=1)
    """Width of what both give."""


class BYOL(nn.Module):
    """A network that predicts its own slow average."""

    Config: ClassVar[type[Options]] = BYOLConfig
    recipe: ClassVar[Mapping[str, Any]] = {
        "batch": {"size": 512},
        "optim": {
            "name": "lars",
            "lr": 0.4,
            "momentum": 0.9,
            "nesterov": False,
            "weight_decay": 1.5e-6,
            "schedule": "half-cosine",
            "warmup_steps": 100,
            "ema_decay": 0.0,
        },
    }
    views: ClassVar[ViewPlan] = ViewPlan(labeled={}, unlabeled={"view_1": "barlow_twins/1", "view_2": "barlow_twins/2"})

    def __init__(self, config: BYOLConfig, network: Network, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.total_steps = setting.total_steps
        self.projector = perceptron((setting.embedding_width, config.hidden_width, config.output_width))
        self.predictor = perceptron((config.output_width, config.hidden_width, config.output_width))
        self.teacher = Ema(network, config.tau_base)
        self.teacher_projector = Ema(self.projector, config.tau_base)

    def forward(self, batch: Batch) -> StepResult:
        tau = rising_decay(batch.step, self.total_steps, self.config.tau_base)
        self.teacher.update(self.network, batch.step, tau)
        self.teacher_projector.update(self.projector, batch.step, tau)

        view_1, view_2 = batch.u["view_1"].pixels, batch.u["view_2"].pixels
        z_1 = self.projector(self.network(view_1).embedding)
        z_2 = self.projector(self.network(view_2).embedding)
        target_1, target_2 = self._project_by_teacher(view_1), self._project_by_teacher(view_2)
        loss = squared_distance(self.predictor(z_1), target_2) + squared_distance(self.predictor(z_2), target_1)
        return StepResult(loss, {"z_std": spread(z_1)})

    @torch.no_grad()
    def _project_by_teacher(self, images: Tensor) -> Tensor:
        network = self.teacher.module.train(self.training)  # batch statistics, which Ema alone would not use
        projector = self.teacher_projector.module.train(self.training)
        target: Tensor = projector(network(images).embedding)
        return target


def rising_decay(step: int, total_steps: int, start: float) -> float:
    """Return the target's decay at `step` (0-based): from `start` to 1 along half a cosine (BYOL, section 3.3)."""
    return 1 - (1 - start) * (math.cos(math.pi * step / total_steps) + 1) / 2
