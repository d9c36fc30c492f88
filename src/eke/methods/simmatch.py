"""SimMatch (Zheng et al. 2022, arXiv:2203.06915): views of an image agree on classes and on the nearest labels.

    p_b     = norm(softmax(f(weak u_b)) / mean of the last da_window batches' means)       distribution alignment
    s^w_bi  = softmax over labeled images i of z(weak u_b) . z_i / t;  s^s_bi likewise of the strong view
    s_bi    = s^w_bi p_b(y_i) / sum_i s^w_bi p_b(y_i)                                            unfolding
    q_b(c)  = alpha p_b(c) + (1 - alpha) sum_i s^w_bi [y_i = c]                                  aggregation
    loss_x  = mean_b CE(y_b, f(weak x_b))
    loss_u  = mean_b [max q_b >= tau] CE(q_b, f(strong u_b))
    loss_in = mean_b -sum_i s_bi log s^s_bi
    loss    = loss_x + lambda_u loss_u + lambda_in loss_in

z is a small head on f's embedding, scaled to unit length; z_i is the bank's embedding of labeled image i, one slot
for each, which every sight of the image renews. Targets (p, s, q) and the bank carry no gradient.

Two forms are published, and both are here:
- cifar (teacher_decay = None): one network; the bank averages over sights, z_i <- norm(m z_i + (1 - m) z).
- imagenet (teacher_decay = 0.999): a moving average of the weights sees x and the weak view; m = 0.

| paper | here | | paper | here |
|---|---|---|---|---|
| q^w, q^s (instances) | s^w, s^s | | p^ (semantic target) | q |
| m (temporal ensemble) | bank_momentum | | m (EMA) | teacher_decay |

Deviations:
1. The bank takes in this step's labeled images before it is read (authors' code: after), and labeled images that
   were not seen yet take no part (authors' code: random embeddings of class 0, or what is left of the first epoch).
2. An image that stands twice in a batch is remembered by its later place; in the authors' code the result depends on
   the device.
3. Alignment averages the batches there are and adds 1e-6 (authors' code: the window is full of zeros at first).
4. The imagenet form has no blur in its strong view, and batch norm sees the global batch (authors' code: shuffled
   parts of it).
5. The teacher's decay rises to its value as in `Ema`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from eke.collectives import gather, global_mean
from eke.config import Options
from eke.data.stream import Batch, ViewPlan
from eke.losses.classification import cross_entropy, probabilities
from eke.losses.graph import aggregated, graph_contrast, similarity_logits, unfolded
from eke.losses.pseudo_labels import align_distribution, guess
from eke.losses.similarity import unit_length
from eke.methods.contract import PseudoLabels, Setting, StepResult
from eke.methods.recipes import CIFAR_SGD
from eke.methods.terms import Attended
from eke.models.ema import Ema
from eke.models.heads import perceptron
from eke.models.network import Network
from eke.models.norm import frozen_statistics
from eke.models.queue import Queue


class SimMatchConfig(Options):
    """SimMatch's own options (paper, section 4, for CIFAR-10)."""

    tau: float = Field(0.95, ge=0, le=1)
    """Confidence from which a pseudo-label is trusted."""
    alpha: float = Field(0.9, ge=0, le=1)
    """Weight of the network's own prediction against the classes of the nearest labeled images."""
    temperature: float = Field(0.1, gt=0)
    """t: divides the similarities of embeddings; the smaller, the more the nearest count."""
    lambda_u: float = Field(1.0, ge=0)
    """Weight of the unlabeled classification loss."""
    lambda_in: float = Field(1.0, ge=0)
    """Weight of the loss between the similarities to labeled images."""
    start_rate: float = Field(0.0, ge=0, le=1)
    """Fraction of the run before similarities count, in pseudo-labels and in the loss."""
    da_window: int = Field(32, ge=1)
    """Batches whose mean predictions are averaged for distribution alignment."""
    bank_momentum: float = Field(0.7, ge=0, lt=1)
    """How much of a labeled image's embedding stays when it is seen again."""
    teacher_decay: float | None = Field(None, ge=0, lt=1)
    """Decay of the averaged weights that make pseudo-labels and the bank; None uses the live weights."""
    projection_width: int = Field(128, ge=1)
    """Dimensions of the embeddings that are compared."""


class _Seen(NamedTuple):
    """What the networks make of a step's views; every z is of unit length, (B, D) or (U, D)."""

    logits_x: Tensor
    """(B, K)."""
    logits_u_strong: Tensor
    """(U, K)."""
    z_u_strong: Tensor
    logits_u_weak: Tensor
    """(U, K); this and what follows without gradient."""
    z_x_weak: Tensor
    z_u_weak: Tensor
    attended: Attended
    """Of weak and strong view; nothing where another network sees the weak one."""


class SimMatch(nn.Module):
    """Soft pseudo-labels that agree with the classes of the nearest labeled images."""

    Config: ClassVar[type[Options]] = SimMatchConfig
    recipe: ClassVar[Mapping[str, Any]] = CIFAR_SGD
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cifar": {},
        "imagenet": {
            "batch": {"labeled": 64, "mu": 5},
            "optim": {"weight_decay": 1e-4, "schedule": "half-cosine", "ema_decay": 0.0},
            "method": {
                "tau": 0.7,
                "lambda_u": 10.0,
                "lambda_in": 5.0,
                "start_rate": 1 / 400,
                "da_window": 256,
                "bank_momentum": 0.0,
                "teacher_decay": 0.999,
            },
            "views": {"weak": "resized-flip", "strong": "simclr"},
        },
    }
    views: ClassVar[ViewPlan] = ViewPlan(
        labeled={"weak": "weak"}, unlabeled={"weak": "weak", "strong": "randaugment/torchssl"}
    )
    bank: Tensor
    bank_label: Tensor

    def __init__(self, config: SimMatchConfig, network: Network, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.attention = setting.attend(network)
        D = setting.embedding_width
        self.n_classes = setting.n_classes
        self.projection = perceptron((D, D, config.projection_width), batch_norm=False)
        self.start = config.start_rate * setting.total_steps
        self.window = Queue(config.da_window, "method.da_window", mean=setting.n_classes)
        self.register_buffer("bank", torch.zeros(setting.n_labeled, config.projection_width))
        self.register_buffer("bank_label", torch.full((setting.n_labeled,), -1))
        self.teacher: Ema[Network] | None = None
        if config.teacher_decay is not None:
            self.teacher = Ema(network, config.teacher_decay)
            self.teacher_projection = Ema(self.projection, config.teacher_decay)

    def forward(self, batch: Batch) -> StepResult:
        config = self.config
        seen = self._see_live(batch) if self.teacher is None else self._see_with_teacher(batch, self.teacher)
        loss_x = cross_entropy(seen.logits_x, batch.y)

        # Written before it is read: nothing changes until the backward is over.
        self._remember(batch.x_index, batch.y, seen.z_x_weak)
        present, bank_label = self.bank_label >= 0, self.bank_label.clamp(min=0)
        started = float(batch.step >= self.start)
        p = self._align(probabilities(seen.logits_u_weak))
        similarity = probabilities(similarity_logits(seen.z_u_weak, self.bank, config.temperature, present))

        weight = started * (1 - config.alpha)
        q = (1 - weight) * p + weight * aggregated(similarity, bank_label, self.n_classes)
        label, confidence = guess(q)
        mask = (confidence >= config.tau).to(q.dtype)
        loss_u = cross_entropy(seen.logits_u_strong, q, mask)

        target = unfolded(similarity, p, bank_label)
        loss_in = graph_contrast(seen.z_u_strong, self.bank, target, config.temperature, present)

        return StepResult(
            loss_x + config.lambda_u * loss_u + started * config.lambda_in * loss_in + seen.attended.loss,
            {
                "loss_x": loss_x.detach(),
                "loss_u": loss_u.detach(),
                "loss_in": loss_in.detach(),
                "mask_rate": mask.mean(),
                **seen.attended.terms,
            },
            PseudoLabels(label, mask),
        )

    def _see_live(self, batch: Batch) -> _Seen:
        """Show all views to the network, in one forward."""
        x, u_weak, u_strong = batch.x["weak"].pixels, batch.u["weak"].pixels, batch.u["strong"].pixels
        sizes = B, U, _ = [len(x), len(u_weak), len(u_strong)]
        seen = self.attention.see(torch.cat([x, u_weak, u_strong]))
        views = batch.u["weak"], batch.u["strong"]
        attended = self.attention.compare(seen, slice(B, B + U), slice(B + U, None), views, batch.step)
        outputs = seen.outputs
        logits_x, logits_u_weak, logits_u_strong = outputs.logits.split(sizes)
        z_x, z_u_weak, z_u_strong = unit_length(self.projection(outputs.embedding)).split(sizes)
        targets = logits_u_weak.detach(), z_x.detach(), z_u_weak.detach()
        return _Seen(logits_x, logits_u_strong, z_u_strong, *targets, attended)

    def _see_with_teacher(self, batch: Batch, teacher: Ema[Network]) -> _Seen:
        """Show x and the strong view to the network, x and the weak view to its average."""
        teacher.update(self.network, batch.step)
        self.teacher_projection.update(self.projection, batch.step)
        x, u_weak, u_strong = batch.x["weak"].pixels, batch.u["weak"].pixels, batch.u["strong"].pixels
        sizes = B, _ = [len(x), len(u_weak)]
        seen = self.attention.see(torch.cat([x, u_strong]))
        logits_x, logits_u_strong = seen.outputs.logits.split(sizes)
        z_u_strong = unit_length(self.projection(seen.outputs.embedding[B:]))

        average = teacher.module.train(self.training)  # batch statistics, which Ema alone would not use
        with torch.no_grad(), frozen_statistics(average):
            taught = self.attention.teach(average, torch.cat([x, u_weak]))
            z_x, z_u_weak = unit_length(self.teacher_projection.module(taught.outputs.embedding)).split(sizes)
        views = batch.u["weak"], batch.u["strong"]
        attended = self.attention.compare(seen, slice(B, None), slice(B, None), views, batch.step, taught)
        return _Seen(logits_x, logits_u_strong, z_u_strong, taught.outputs.logits[B:], z_x, z_u_weak, attended)

    def _align(self, probs: Tensor) -> Tensor:
        """Divide by what the last batches predicted on average, this one included."""
        self.window.push(mean=global_mean(probs, 0)[None])
        return align_distribution(probs, self.window["mean"].sum(0) / self.window.n_filled, 1.0)

    def _remember(self, x_index: Tensor, y: Tensor, z_x_weak: Tensor) -> None:
        """Renew the slots of the global batch's labeled images."""
        index, label, z = gather(x_index), gather(y), gather(z_x_weak).to(self.bank.dtype)
        last = last_places(index, len(self.bank))
        known = (self.bank_label[index] >= 0)[:, None]
        m = self.config.bank_momentum
        self.bank.index_copy_(
            0, index, torch.where(known, unit_length(m * self.bank[index] + (1 - m) * z[last]), z[last])
        )
        self.bank_label.index_copy_(0, index, label)


def last_places(index: Tensor, n_slots: int) -> Tensor:
    """Find the last place in a batch at which each image stands, so that all its places write the same.

    Args:
        index: (B,) int64 slots, in which one may stand several times.
        n_slots: all of `index` are below it.

    Returns:
        (B,) int64 places in `index`: for [7, 4, 7] they are [2, 1, 2].
    """
    place = torch.arange(len(index), device=index.device)
    return index.new_zeros(n_slots).scatter_reduce(0, index, place, "amax")[index]
