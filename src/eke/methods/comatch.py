"""CoMatch (Li, Xiong and Hoi 2021, arXiv:2011.11183): pseudo-labels and embeddings shape each other over a graph.

    p_b    = norm(softmax(f(weak u_b)) / mean of the last da_window batches' means)        distribution alignment
    a_bk   = softmax over the memory of z(weak u_b) . z_k / t
    q_b    = alpha p_b + (1 - alpha) sum_k a_bk p_k                                 memory-smoothed pseudo-label
    W^q_bj = 1 where j is b itself, else q_b . q_j where that is >= T, else 0;  rows divided by their sums
    W^z_bj = softmax over j of z(strong u_b) . z(strong_2 u_j) / t                                embedding graph
    loss_x   = mean_b CE(y_b, f(weak x_b))
    loss_u   = mean_b [max q_b >= tau] CE(q_b, f(strong u_b))
    loss_ctr = mean_b -sum_j W^q_bj log W^z_bj
    loss     = loss_x + lambda_cls loss_u + w(s) lambda_ctr loss_ctr,  w(s) = min(1, s / (ramp_rate steps))

z is a small head on f's embedding, scaled to unit length. The memory holds the last labeled images with their
classes and unlabeled ones with their p. Targets (p, q, W^q) carry no gradient.

Two forms are published, and both are here:
- cifar (teacher_decay = None): one network sees all views; the columns j of the graphs are the batch; z(strong_2)
  has a gradient.
- imagenet (teacher_decay = 0.996): a moving average of the weights sees the weak views and strong_2, without
  gradient; the columns are the last memory_size images, the batch among them. The report that trained 800
  classes at 96 pixels (He, Jin and Wan, Semi-Supervised Image Classification, table 1) has this form.

| paper | here | | paper | here |
|---|---|---|---|---|
| tau | tau | | T | graph_tau T |
| K (queue) | memory_size | | m (EMA) | teacher_decay |
| h (classifier), g (head) | network, projection | | lambda_cls, lambda_ctr | the same |

Deviations:
1. Smoothing waits until the memory is full (authors' code: cifar the same, one step later; imagenet from the second
   epoch on, then with random entries of probability 0 where it is not full).
2. Entries that a queue does not yet have are no columns of the graph (authors' imagenet code: random negatives).
3. The memory_size columns of the imagenet form contain the batch (authors' code: they are added to it), and a queue
   that is written over its end goes on at its start (authors' code: it drops the rest of the batch).
4. The logarithm of W^z is computed as such (authors' code: log(W^z + 1e-7)); aligning adds 1e-6 to the mean.
5. lambda_ctr grows linearly (authors' imagenet code: min(epoch + 1, lambda_ctr) in 400 epochs), and the teacher's
   decay rises to its value as in `Ema` (authors' code: 0.99 in the first epoch).
6. Batch norm sees the global batch of each forward (authors' imagenet code: shuffled parts of it).
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from eke.collectives import gather, global_mean, local_slice
from eke.config import Options
from eke.data.stream import Batch, ViewPlan
from eke.losses.classification import cross_entropy, probabilities
from eke.losses.graph import degrees, graph_contrast, pseudo_label_graph, smoothed_probs
from eke.losses.pseudo_labels import align_distribution, guess, one_hot
from eke.losses.ramps import linear_ramp
from eke.losses.similarity import unit_length
from eke.methods.contract import PseudoLabels, Setting, StepResult
from eke.methods.recipes import CIFAR_SGD
from eke.methods.terms import Attended
from eke.models.ema import Ema
from eke.models.heads import perceptron
from eke.models.network import Network
from eke.models.norm import frozen_statistics
from eke.models.queue import Queue


class CoMatchConfig(Options):
    """CoMatch's own options (paper, section 4, for CIFAR-10)."""

    tau: float = Field(0.95, ge=0, le=1)
    """Confidence from which a pseudo-label is trusted."""
    graph_tau: float = Field(0.8, ge=0, le=1)
    """T: agreement of two pseudo-labels from which their images are drawn together."""
    alpha: float = Field(0.9, ge=0, le=1)
    """Weight of the network's own prediction against those of its neighbors; 1 does not smooth."""
    temperature: float = Field(0.2, gt=0)
    """t: divides the similarities of embeddings; the smaller, the more the nearest count."""
    lambda_cls: float = Field(1.0, ge=0)
    """Weight of the unlabeled classification loss."""
    lambda_ctr: float = Field(1.0, ge=0)
    """Weight of the contrastive loss at the end of its ramp."""
    ramp_rate: float = Field(0.0, ge=0, le=1)
    """Fraction of the run over which the contrastive weight grows from 0; 0 starts at full weight."""
    smoothing_start_rate: float = Field(0.0, ge=0, le=1)
    """Fraction of the run before pseudo-labels are smoothed; they never are before the memory is full."""
    da_window: int = Field(32, ge=1)
    """Batches whose mean predictions are averaged for distribution alignment."""
    memory_size: int = Field(2560, ge=1)
    """Images that the memory holds; with a teacher also the images that the graph compares with."""
    teacher_decay: float | None = Field(None, ge=0, lt=1)
    """Decay of the averaged weights that make pseudo-labels and keys; None uses the live weights."""
    projection_width: int = Field(64, ge=1)
    """Dimensions of the embeddings that are compared."""
    projection_slope: float = Field(0.1, ge=0, lt=1)
    """Slope of the head's activation below 0; 0 is ReLU."""


def _large_scale(
    labeled: int, mu: int, tau: float, graph_tau: float, lambda_ctr: float, **views: str
) -> dict[str, Any]:
    """Return what the imagenet form lays over the recipe; its published runs take 400 epochs."""
    return {
        "batch": {"labeled": labeled, "mu": mu},
        "optim": {"lr": 0.1, "weight_decay": 1e-4, "schedule": "half-cosine", "ema_decay": 0.0},
        "method": {
            "tau": tau,
            "graph_tau": graph_tau,
            "temperature": 0.1,
            "lambda_cls": 10.0,
            "lambda_ctr": lambda_ctr,
            "ramp_rate": lambda_ctr / 400,
            "smoothing_start_rate": 1 / 400,
            "da_window": 128,
            "memory_size": 30_000,
            "teacher_decay": 0.996,
            "projection_width": 128,
            "projection_slope": 0.0,
        },
        "views": views,
    }


class _Seen(NamedTuple):
    """What the networks make of a step's views; every z is of unit length, (B, D) or (U, D)."""

    logits_x: Tensor
    """(B, K)."""
    logits_u_strong: Tensor
    """(U, K)."""
    z_u_strong: Tensor
    z_u_strong_2: Tensor
    """With gradient in the cifar form."""
    logits_u_weak: Tensor
    """(U, K); this and what follows without gradient."""
    z_x_weak: Tensor
    z_u_weak: Tensor
    attended: Attended
    """Of weak and strong view; nothing where another network sees the weak one."""


class CoMatch(nn.Module):
    """Soft pseudo-labels, smoothed over similar images; images of like pseudo-labels get like embeddings."""

    Config: ClassVar[type[Options]] = CoMatchConfig
    recipe: ClassVar[Mapping[str, Any]] = CIFAR_SGD
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cifar": {},
        "imagenet": _large_scale(160, 4, 0.5, 0.2, 2.0, weak="resized-flip", strong="simclr", strong_2="simclr"),
        "report-96px": _large_scale(64, 4, 0.55, 0.25, 5.0, weak="flip", strong="jitter-grey", strong_2="jitter-grey"),
        "report-96px-7.5": _large_scale(
            64, 4, 0.52, 0.22, 3.0, weak="flip", strong="jitter-grey", strong_2="jitter-grey"
        ),
    }
    views: ClassVar[ViewPlan] = ViewPlan(
        labeled={"weak": "weak"},
        unlabeled={"weak": "weak", "strong": "randaugment/comatch", "strong_2": "simclr"},
    )

    def __init__(self, config: CoMatchConfig, network: Network, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.attention = setting.attend(network)
        D, K = setting.embedding_width, setting.n_classes
        self.projection = perceptron(
            (D, D, config.projection_width), batch_norm=False, negative_slope=config.projection_slope
        )
        self.ramp_steps = config.ramp_rate * setting.total_steps
        self.smoothing_start = config.smoothing_start_rate * setting.total_steps
        columns = {"embedding": config.projection_width, "probs": K}
        self.window = Queue(config.da_window, "method.da_window", mean=K)
        self.memory = Queue(config.memory_size, "method.memory_size", **columns)
        self.teacher: Ema[Network] | None = None
        if config.teacher_decay is not None:
            self.teacher = Ema(network, config.teacher_decay)
            self.teacher_projection = Ema(self.projection, config.teacher_decay)
            self.keys = Queue(config.memory_size, "method.memory_size", **columns)

    def forward(self, batch: Batch) -> StepResult:
        config = self.config
        seen = self._see_live(batch) if self.teacher is None else self._see_with_teacher(batch, self.teacher)
        loss_x = cross_entropy(seen.logits_x, batch.y)

        p = self._align(probabilities(seen.logits_u_weak))
        q = self._smooth(p, seen.z_u_weak, batch.step)
        self._remember(seen, batch.y, p)

        label, confidence = guess(q)
        mask = (confidence >= config.tau).to(q.dtype)
        loss_u = cross_entropy(seen.logits_u_strong, q, mask)

        keys, key_probs, own, present = self._columns(seen.z_u_strong_2, q)
        graph = pseudo_label_graph(q, key_probs, own, config.graph_tau)
        loss_ctr = graph_contrast(seen.z_u_strong, keys, graph, config.temperature, present)

        lambda_ctr = config.lambda_ctr * linear_ramp(batch.step, self.ramp_steps)
        return StepResult(
            loss_x + config.lambda_cls * loss_u + lambda_ctr * loss_ctr + seen.attended.loss,
            {
                "loss_x": loss_x.detach(),
                "loss_u": loss_u.detach(),
                "loss_ctr": loss_ctr.detach(),
                "mask_rate": mask.mean(),
                "graph_degree": degrees(graph).to(q.dtype).mean(),
                **seen.attended.terms,
            },
            PseudoLabels(label, mask),
        )

    def _see_live(self, batch: Batch) -> _Seen:
        """Show all views to the network, in one forward."""
        x, u_weak = batch.x["weak"].pixels, batch.u["weak"].pixels
        u_strong, u_strong_2 = batch.u["strong"].pixels, batch.u["strong_2"].pixels
        B, U = len(x), len(u_weak)
        seen = self.attention.see(torch.cat([x, u_weak, u_strong, u_strong_2]))  # (B + 3U, ...)
        views = batch.u["weak"], batch.u["strong"]
        attended = self.attention.compare(seen, slice(B, B + U), slice(B + U, B + 2 * U), views, batch.step)
        outputs = seen.outputs
        sizes = [B, U, U, U]
        logits_x, logits_u_weak, logits_u_strong, _ = outputs.logits.split(sizes)
        z_x, z_u_weak, z_u_strong, z_u_strong_2 = unit_length(self.projection(outputs.embedding)).split(sizes)
        targets = logits_u_weak.detach(), z_x.detach(), z_u_weak.detach()
        return _Seen(logits_x, logits_u_strong, z_u_strong, z_u_strong_2, *targets, attended)

    def _see_with_teacher(self, batch: Batch, teacher: Ema[Network]) -> _Seen:
        """Show x and the strong view to the network, x, the weak view and the other strong one to its average."""
        teacher.update(self.network, batch.step)
        self.teacher_projection.update(self.projection, batch.step)
        x, u_weak = batch.x["weak"].pixels, batch.u["weak"].pixels
        u_strong, u_strong_2 = batch.u["strong"].pixels, batch.u["strong_2"].pixels
        B, U = len(x), len(u_weak)
        seen = self.attention.see(torch.cat([x, u_strong]))
        logits_x, logits_u_strong = seen.outputs.logits.split([B, U])
        z_u_strong = unit_length(self.projection(seen.outputs.embedding[B:]))

        average = teacher.module.train(self.training)  # batch statistics, which Ema alone would not use
        with torch.no_grad(), frozen_statistics(average):
            taught = self.attention.teach(average, torch.cat([x, u_weak, u_strong_2]))
            z = unit_length(self.teacher_projection.module(taught.outputs.embedding))
        z_x, z_u_weak, z_u_strong_2 = z.split([B, U, U])
        weak = taught.outputs.logits[B : B + U], z_x, z_u_weak
        views = batch.u["weak"], batch.u["strong"]
        attended = self.attention.compare(seen, slice(B, B + U), slice(B, None), views, batch.step, taught)
        return _Seen(logits_x, logits_u_strong, z_u_strong, z_u_strong_2, *weak, attended)

    def _align(self, probs: Tensor) -> Tensor:
        """Divide by what the last batches predicted on average, this one included."""
        self.window.push(mean=global_mean(probs, 0)[None])
        return align_distribution(probs, self.window["mean"].sum(0) / self.window.n_filled, 1.0)

    def _smooth(self, p: Tensor, z_u_weak: Tensor, step: int) -> Tensor:
        memory, config = self.memory, self.config
        ready = (memory.full & (step >= self.smoothing_start)).to(p.dtype)
        alpha = 1 - ready * (1 - config.alpha)
        return smoothed_probs(p, z_u_weak, memory["embedding"], memory["probs"], alpha, config.temperature)

    def _remember(self, seen: _Seen, y: Tensor, p: Tensor) -> None:
        """Put labeled and unlabeled images into the memory; only after smoothing, so that no batch smooths itself."""
        p_x = one_hot(y, p.shape[1], p.dtype)
        self.memory.push(
            embedding=torch.cat([gather(seen.z_x_weak), gather(seen.z_u_weak)]),
            probs=torch.cat([gather(p_x), gather(p)]),
        )

    def _columns(self, z_u_strong_2: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return the graph's columns: embeddings, pseudo-labels, which are this process's own rows, which exist."""
        z, q = gather(z_u_strong_2), gather(q)
        if self.teacher is None:
            return z, q, local_slice(torch.arange(len(q), device=q.device)), None
        # Written before it is read: the batch is among the columns, and nothing changes until the backward is over.
        places = self.keys.push(embedding=z, probs=q)
        return self.keys["embedding"], self.keys["probs"], local_slice(places), self.keys.filled
