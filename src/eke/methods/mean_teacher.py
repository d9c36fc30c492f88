"""Mean Teacher (Tarvainen and Valpola 2017, arXiv:1703.01780): follow the average of one's own past weights.

    theta'_t = m theta'_{t-1} + (1 - m) theta_t
    loss_u   = mean_{b,c} (softmax(f(u_b, view 1; theta'))_c - softmax(f(u_b, view 2; theta))_c)^2
    loss     = loss_x + w(t) lambda_u loss_u,  w(t) = min(1, t / (ramp_rate steps))

The gradient flows through the student (theta, second view) only. The teacher is updated at the beginning of a
step with the student that the step before left behind. Defaults are those of google-research/mixmatch.

| paper | here |
|---|---|
| alpha (decay) | teacher_decay m |

Deviations:
1. lambda_u = 50 with a linear ramp (paper: 100, sigmoid-shaped ramp).
2. The decay rises from 0.1 to `teacher_decay` as in `Ema` (paper: 0.99 during the ramp, 0.999 after it).
3. The labeled images are not among the images of the consistency loss.
4. Batch norm: student and teacher normalize each batch with its own statistics, and running statistics follow
   the student's labeled pass only (google-research/mixmatch).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from eke.config import Options
from eke.data.stream import Batch, ViewPlan
from eke.losses.ramps import linear_ramp
from eke.methods.contract import PseudoLabels, Setting, StepResult
from eke.methods.recipes import CIFAR_ADAM
from eke.methods.terms import Seen
from eke.models.ema import Ema
from eke.models.network import Network
from eke.models.norm import frozen_statistics


class MeanTeacherConfig(Options):
    """Mean Teacher's own options (google-research/mixmatch)."""

    teacher_decay: float = Field(0.999, ge=0, lt=1)
    """Decay of the teacher's weights."""
    lambda_u: float = Field(50.0, ge=0)
    """Weight of the consistency loss at the end of the ramp."""
    ramp_rate: float = Field(0.4, ge=0, le=1)
    """Fraction of the run over which the weight grows from 0; 0 starts at full weight."""


class MeanTeacher(nn.Module):
    """Squared error between the student's and the averaged teacher's probabilities."""

    Config: ClassVar[type[Options]] = MeanTeacherConfig
    recipe: ClassVar[Mapping[str, Any]] = CIFAR_ADAM
    several_labels: ClassVar[bool] = True
    views: ClassVar[ViewPlan] = ViewPlan(labeled={"weak": "weak"}, unlabeled={"weak": "weak", "weak_2": "weak"})

    def __init__(self, config: MeanTeacherConfig, network: Network, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.attention = setting.attend(network)
        self.teacher = Ema(network, config.teacher_decay)
        self.ramp_steps = config.ramp_rate * setting.total_steps

    def forward(self, batch: Batch) -> StepResult:
        self.teacher.update(self.network, batch.step)
        loss_x = self.network.kind.cross_entropy(self.network(batch.x["weak"].pixels).logits, batch.y)
        taught = self._teach(batch.u["weak"].pixels)
        target_probs = self.network.kind.probabilities(taught.outputs.logits)
        with frozen_statistics(self.network):
            seen = self.attention.see(batch.u["weak_2"].pixels)
        loss_u = self.network.kind.squared_error(seen.outputs.logits, target_probs)
        views = batch.u["weak"], batch.u["weak_2"]
        attended = self.attention.compare(seen, slice(None), slice(None), views, batch.step, taught)

        label = self.network.kind.guess(target_probs).label
        return StepResult(
            loss_x + self.config.lambda_u * linear_ramp(batch.step, self.ramp_steps) * loss_u + attended.loss,
            {"loss_x": loss_x.detach(), "loss_u": loss_u.detach(), **attended.terms},
            PseudoLabels(label, torch.ones_like(label, dtype=target_probs.dtype)),
        )

    def _teach(self, images: Tensor) -> Seen:
        teacher = self.teacher.module.train(self.training)  # batch statistics, which Ema alone would not use
        with frozen_statistics(teacher):
            return self.attention.teach(teacher, images)
