"""MixMatch (Berthelot et al. 2019, arXiv:1905.02249): sharpened guesses, mixed with labeled images.

    q_b     = sharpen(mean of softmax(f(u_b)) over 2 weak views, T), without gradient          eq. 6, 7
    lambda  ~ Beta(alpha, alpha) for each image, lambda' = max(lambda, 1 - lambda)             eq. 8, 9
    X', U'  = mixup of (X, U, U) with a random order of all of them, shares lambda'            eq. 10, 11
    loss_x  = mean over X' of CE(p, f(x))                                                      eq. 3
    loss_u  = mean over U' and classes of (q - softmax(f(u)))^2                                eq. 4
    loss    = loss_x + w(t) lambda_u loss_u,  w(t) = min(1, t / (ramp_rate steps))

Batch norm follows the authors' code: the mixed images are dealt out to 1 + 2 mu groups of B that each hold
the same share of X' and U'; each group is normalized with its own statistics, and running statistics follow
the first group only. Order and shares are drawn for the global batch; partners come from all processes.

Deviations:
1. Images are dealt out to the groups one by one, not in blocks (the shares of X' and U' are the same).
2. The ramp is 1/64 of the run, which is the authors' 1,024 x 1,024 images of their 65,536 x 1,024.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from eke.collectives import gather, local_slice, rank, world_size
from eke.config import Options
from eke.data.stream import Batch, ViewPlan
from eke.losses.classification import cross_entropy, probabilities, squared_error
from eke.losses.mixing import mixup
from eke.losses.pseudo_labels import guess, one_hot, sharpen
from eke.losses.ramps import linear_ramp
from eke.methods.contract import PseudoLabels, Setting, StepResult
from eke.methods.recipes import CIFAR_ADAM
from eke.models.network import Network
from eke.models.norm import frozen_statistics
from eke.randomness import mixed_seed, rng


class MixMatchConfig(Options):
    """MixMatch's own options (paper, section 4.2.1 for CIFAR-10)."""

    temperature: float = Field(0.5, gt=0, le=1)
    """Sharpens the guessed labels; 1 leaves them as they are."""
    alpha: float = Field(0.75, gt=0)
    """Parameter of the Beta distribution of the mixing shares; small values mix little."""
    lambda_u: float = Field(75.0, ge=0)
    """Weight of the unlabeled loss at the end of the ramp."""
    ramp_rate: float = Field(1 / 64, ge=0, le=1)
    """Fraction of the run over which the weight grows from 0; 0 starts at full weight."""


class MixMatch(nn.Module):
    """Averaged and sharpened guesses, mixup across labeled and unlabeled images."""

    Config: ClassVar[type[Options]] = MixMatchConfig
    recipe: ClassVar[Mapping[str, Any]] = CIFAR_ADAM
    views: ClassVar[ViewPlan] = ViewPlan(labeled={"weak": "weak"}, unlabeled={"weak": "weak", "weak_2": "weak"})

    def __init__(self, config: MixMatchConfig, network: Network, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.setting = setting
        self.ramp_steps = config.ramp_rate * setting.total_steps

    def forward(self, batch: Batch) -> StepResult:
        u_views = [batch.u["weak"].pixels, batch.u["weak_2"].pixels]
        q = self._guess_labels(u_views)  # (U, K)
        p = one_hot(batch.y, self.setting.n_classes, q.dtype)  # (B, K)
        (x, *u), (p, *q_mixed) = self._mix([batch.x["weak"].pixels, *u_views], [p, q, q], batch.step)

        logits_x, logits_u = self._classify(x, u)
        loss_x = cross_entropy(logits_x, p)
        loss_u = squared_error(logits_u, torch.cat(q_mixed))

        label = guess(q).label
        return StepResult(
            loss_x + self.config.lambda_u * linear_ramp(batch.step, self.ramp_steps) * loss_u,
            {"loss_x": loss_x.detach(), "loss_u": loss_u.detach()},
            PseudoLabels(label, torch.ones_like(label, dtype=q.dtype)),
        )

    @torch.no_grad()
    def _guess_labels(self, views: list[Tensor]) -> Tensor:
        with frozen_statistics(self.network):
            probs = torch.stack([probabilities(self.network(view).logits) for view in views]).mean(0)
        return sharpen(probs, self.config.temperature)

    def _mix(self, images: list[Tensor], targets: list[Tensor], step: int) -> tuple[list[Tensor], list[Tensor]]:
        """Mix this process's part of X, U, U with partners from the global batch."""
        all_images = torch.cat([gather(part) for part in images])  # the order of one process: X, U, U
        all_targets = torch.cat([gather(part) for part in targets])
        seed, n, device = self.setting.seed, len(all_images), all_images.device
        order = torch.randperm(n, generator=rng(seed, step, "mixmatch"))
        # torch's Beta takes no generator
        draw = np.random.default_rng(mixed_seed(seed, step, "mixmatch shares"))
        share = torch.from_numpy(draw.beta(self.config.alpha, self.config.alpha, n))
        share = torch.maximum(share, 1 - share)
        order, share = order.to(device, non_blocking=True), share.to(device, non_blocking=True)

        sizes = [len(part) * world_size() for part in images]
        mixed_images, mixed_targets = [], []
        for part, target, partners, shares in zip(images, targets, order.split(sizes), share.split(sizes), strict=True):
            mine, my_share = local_slice(partners), local_slice(shares)
            mixed_images.append(mixup(part, all_images[mine], my_share))
            mixed_targets.append(mixup(target, all_targets[mine], my_share))
        return mixed_images, mixed_targets

    def _classify(self, x: Tensor, u: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits of x (B, K) and of the unlabeled views (2U, K), computed in groups of one mixture."""
        B, n_groups = len(x), 1 + sum(len(view) for view in u) // len(x)
        # row i holds one labeled image and its share of the unlabeled ones: (B, n_groups, C, H, W)
        rows = torch.cat([x[:, None], *(view.unflatten(0, (B, -1)) for view in u)], 1)
        row = torch.arange(B, device=x.device)[:, None]
        group = torch.arange(n_groups, device=x.device)
        # group g takes one image of each row; rows are counted over the global batch
        dealt = rows[row, (group + row + rank() * B) % n_groups]
        logits = [self.network(dealt[:, 0]).logits]
        with frozen_statistics(self.network):
            logits += [self.network(dealt[:, g]).logits for g in range(1, n_groups)]
        ordered = torch.stack(logits, 1)[row, (group - row - rank() * B) % n_groups]  # (B, n_groups, K)
        logits_u = ordered[:, 1:].unflatten(1, (len(u), -1)).movedim(1, 0)  # (views, B, mu, K)
        return ordered[:, 0], logits_u.flatten(0, 2)
