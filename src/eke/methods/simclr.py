"""SimCLR (Chen et al. 2020, arXiv:2002.05709): tell an image's second view from the views of all other images.

    h = f(view),  z = g(h) = W_2 relu(W_1 h)
    loss = mean over the 2N views i of -log( exp(cos(z_i, z_j(i)) / T) / sum_{k != i} exp(cos(z_i, z_k) / T) )

j(i) is the other view of i's image; k runs over both views of all images of the global batch. Both views go
through the network in one forward. h is the embedding that is kept; the head g is thrown away.
Recipe: the authors' for CIFAR-10 (README of google-research/simclr: ResNet-18, 1,000 epochs), whose rate of 1.0 per
256 images is 2.0 at 512.

| paper | here |
|---|---|
| tau | temperature T |

Deviations:
1. The head has biases and no batch norm, close to the paper's formula; the authors' code normalizes after each of
   its layers.
2. The rate rises over 100 steps (paper: 10 epochs, 977 steps on CIFAR-10), so that short runs reach it.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from eke.config import Options
from eke.data.stream import Batch, ViewPlan
from eke.losses.contrastive import nt_xent
from eke.losses.similarity import spread
from eke.methods.contract import Setting, StepResult
from eke.models.heads import perceptron
from eke.models.network import Network


class SimCLRConfig(Options):
    """SimCLR's own options (README of google-research/simclr, for CIFAR-10)."""

    temperature: float = Field(0.5, gt=0)
    """Divides cosines; the smaller, the more the most similar images are pushed apart."""


class SimCLR(nn.Module):
    """Contrast between the views of one image and all others."""

    Config: ClassVar[type[Options]] = SimCLRConfig
    recipe: ClassVar[Mapping[str, Any]] = {
        "batch": {"size": 512},
        "optim": {
            "name": "lars",
            "lr": 2.0,
            "momentum": 0.9,
            "nesterov": False,
            "weight_decay": 1e-6,
            "schedule": "half-cosine",
            "warmup_steps": 100,
            "ema_decay": 0.0,
        },
    }
    views: ClassVar[ViewPlan] = ViewPlan(labeled={}, unlabeled={"view_1": "simclr/cifar", "view_2": "simclr/cifar"})

    def __init__(self, config: SimCLRConfig, network: Network, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.network = network
        D = setting.embedding_width
        self.projector = perceptron((D, D, 128), batch_norm=False)

    def forward(self, batch: Batch) -> StepResult:
        views = torch.cat([batch.u["view_1"].pixels, batch.u["view_2"].pixels])
        z_1, z_2 = self.projector(self.network(views).embedding).chunk(2)
        return StepResult(nt_xent(z_1, z_2, self.config.temperature), {"z_std": spread(z_1)})
