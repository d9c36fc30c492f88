"""SwAV (Caron et al. 2020, arXiv:2006.09882): predict the cluster of one view from the other.

    z_v  = norm(g(f(view v))),  v = 1, 2;   c_k = prototypes of unit length
    q_v  = codes of the images' scores z_v c_k, shared evenly among the prototypes (Sinkhorn-Knopp), without gradient
    p_v  = softmax_k(z_v c_k / T)
    loss = (CE(q_2, p_1) + CE(q_1, p_2)) / 2

Codes are found over the global batch and, once the queue is in use, over the outputs of the steps before it too, which
small batches need to fill all prototypes; each view has a queue of its own. Prototypes are brought to unit length at
the beginning of each step. Both views go through the network in one forward. f(view) is the embedding that is kept;
head and prototypes are thrown away.
Recipe: the authors' for ImageNet with small batches (scripts/swav_200ep_bs256_pretrain.sh): a rate of 0.6 at 256
images, 15 of 200 epochs without the queue, prototypes held still for the first epoch. solo-learn's published results on
CIFAR-10 have the same batch, head, number of prototypes and queue.

| paper | here |
|---|---|
| tau | temperature T |

Deviations:
1. Two views of the images' size; no further smaller crops (paper: multi-crop, 6 more of 96 pixels).
2. Prototypes that are held still get a gradient of 0 (authors' code: none); weight decay then changes nothing but
   their length, which is set anyway.
3. Outputs enter the queue from the first step on, so that it is full when its use begins (authors' code: it is
   filled from then on, and used when full).
4. LARS does not adapt the rate of biases and batch norm, and weight decay leaves them alone, as everywhere here
   (authors' code: both take all). The rate falls to 0 (authors: to a thousandth).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from eke.collectives import gather, local_slice
from eke.config import Options
from eke.data.stream import Batch, ViewPlan
from eke.losses.clustering import sinkhorn_codes, swapped_prediction
from eke.losses.similarity import spread, unit_length
from eke.methods.contract import Setting, StepResult
from eke.models.heads import perceptron
from eke.models.network import Network
from eke.models.queue import Queue


class SwAVConfig(Options):
    """SwAV's own options (authors' code, small batches)."""

    n_prototypes: int = Field(3000, ge=2)
    """Clusters; more than there are classes (paper: 3,000 for ImageNet's 1,000)."""
    temperature: float = Field(0.1, gt=0)
    """Divides scores before predictions; the smaller, the surer they are."""
    epsilon: float = Field(0.05, gt=0)
    """Smoothness of codes; the smaller, the more each image belongs to one prototype."""
    sinkhorn_iterations: int = Field(3, ge=1)
    """Rounds of scaling that share the images evenly."""
    queue_size: int = Field(3840, ge=0)
    """Past images that share the prototypes with the batch, at least as many as a batch; 0 (none) for large batches."""
    queue_start_rate: float = Field(0.075, ge=0, le=1)
    """Fraction of the run after which the queue is used."""
    freeze_rate: float = Field(0.005, ge=0, le=1)
    """Fraction of the run for which prototypes are held still."""
    hidden_width: int = Field(2048, ge=1)
    """Width of the head's hidden layer."""
    output_width: int = Field(128, ge=1)
    """Width of outputs and prototypes."""


class SwAV(nn.Module):
    """Online clustering with equal shares; each view predicts the other's cluster."""

    Config: ClassVar[type[Options]] = SwAVConfig
    recipe: ClassVar[Mapping[str, Any]] = {
        "batch": {"size": 256},
        "optim": {
            "name": "lars",
            "lr": 0.6,
            "momentum": 0.9,
            "nesterov": False,
            "weight_decay": 1e-6,
            "schedule": "half-cosine",
            "warmup_steps": 0,
            "ema_decay": 0.0,
        },
    }
    views: ClassVar[ViewPlan] = ViewPlan(labeled={}, unlabeled={"view_1": "swav", "view_2": "swav"})

    def __init__(self, config: SwAVConfig, network: Network, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.network = network
        size, width = config.queue_size, config.output_width
        self.projector = perceptron((setting.embedding_width, config.hidden_width, width))
        self.prototypes = nn.Parameter(torch.randn(config.n_prototypes, width))
        self.queue = Queue(size, "method.queue_size", view_1=width, view_2=width) if size else None
        self.queue_start = config.queue_start_rate * setting.total_steps
        self.frozen_steps = config.freeze_rate * setting.total_steps

    def forward(self, batch: Batch) -> StepResult:
        views = torch.cat([batch.u["view_1"].pixels, batch.u["view_2"].pixels])
        z_1, z_2 = unit_length(self.projector(self.network(views).embedding)).chunk(2)
        prototypes = self._unit_prototypes(batch.step)
        codes_1, codes_2 = self._codes(z_1, z_2, batch.step)
        scores_1, scores_2 = F.linear(z_1, prototypes), F.linear(z_2, prototypes)  # (U, K)
        loss = swapped_prediction(scores_1, scores_2, codes_1, codes_2, self.config.temperature)
        return StepResult(loss, {"code_entropy": _entropy(torch.cat([codes_1, codes_2])), "z_std": spread(z_1)})

    def _unit_prototypes(self, step: int) -> Tensor:
        """Bring the prototypes to unit length, all processes alike, and return them with their share of gradient."""
        with torch.no_grad():
            self.prototypes.copy_(unit_length(self.prototypes))
        moving = float(step >= self.frozen_steps)
        return torch.lerp(self.prototypes.detach(), self.prototypes, moving)  # the same values; gradient * moving

    @torch.no_grad()
    def _codes(self, z_1: Tensor, z_2: Tensor, step: int) -> list[Tensor]:
        """Return both views' codes of this process's images, (U, K) each; all processes' outputs enter the queue."""
        seen = dict(zip(("view_1", "view_2"), gather(torch.stack([z_1, z_2], 1)).unbind(1), strict=True))
        N, shared = len(seen["view_1"]), seen
        if self.queue is not None:
            if step >= self.queue_start and step * N >= self.queue.size:  # it is full: each step has added N
                shared = {view: torch.cat([z, self.queue[view]]) for view, z in seen.items()}
            self.queue.push(**seen)
        epsilon, n_iterations = self.config.epsilon, self.config.sinkhorn_iterations
        scores = [F.linear(z, self.prototypes) for z in shared.values()]
        return [local_slice(sinkhorn_codes(each, epsilon, n_iterations)[:N]) for each in scores]


def _entropy(codes: Tensor) -> Tensor:
    """Mean entropy of the rows: what the loss cannot fall below."""
    return -torch.xlogy(codes, codes).sum(1).mean()
