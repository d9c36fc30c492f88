"""Supervised training on the labeled images alone: the baseline that every other method is compared with.

    loss = mean_b CE(y_b, f(x_b))

Presets: `pascal` and `clips` train as Harmonizing Attention (section 4.2) trains on PASCAL VOC and on video clips,
before it harmonizes: Adam with rate 0.001, 4 images or 12 clips a step; of `pascal` its views, too.

Deviations: none. Views, optimizer, batch and steps are FixMatch's, so that the two differ in nothing else.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from eke.config import Options, merge
from eke.data.stream import Batch, ViewPlan
from eke.methods.contract import Setting, StepResult
from eke.methods.recipes import CIFAR_SGD, PASCAL_ADAM
from eke.models.network import Network


class SupervisedConfig(Options):
    """Supervised training has no options of its own."""


class Supervised(nn.Module):
    """Cross entropy on weak views of the labeled images."""

    Config: ClassVar[type[Options]] = SupervisedConfig
    recipe: ClassVar[Mapping[str, Any]] = CIFAR_SGD
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pascal": {**PASCAL_ADAM, "views": {"weak": "pascal"}},
        "clips": merge(PASCAL_ADAM, {"batch": {"labeled": 12}}),
    }
    several_labels: ClassVar[bool] = True
    views: ClassVar[ViewPlan] = ViewPlan(labeled={"weak": "weak"}, unlabeled={})

    def __init__(self, config: SupervisedConfig, network: Network, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.network = network

    def forward(self, batch: Batch) -> StepResult:
        loss = self.network.kind.cross_entropy(self.network(batch.x["weak"].pixels).logits, batch.y)
        return StepResult(loss, {"loss_x": loss.detach()})
