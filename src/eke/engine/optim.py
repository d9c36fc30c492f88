"""Optimizers and learning rates. The learning rate is a pure function of the step, so it has no state to save."""

import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from eke.config import Options


class OptimOptions(Options):
    """How weights are updated. Each method's recipe sets its paper's values; these are FixMatch's."""

    name: Literal["sgd", "adamw", "lars"] = "sgd"
    """Optimizer."""
    lr: float = Field(0.03, gt=0)
    """Peak learning rate."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of sgd and lars; the first beta of adamw."""
    nesterov: bool = True
    """Nesterov's form of momentum (sgd, lars)."""
    weight_decay: float = Field(5e-4, ge=0)
    """Decay of kernels; biases and batch norm are never decayed."""
    schedule: Literal["cosine-7/16", "half-cosine", "constant", "tenths-3/10", "tenths-3/7"] = "cosine-7/16"
    """cosine-7/16: lr cos(7 pi t / 16 T), FixMatch; half-cosine: lr (1 + cos(pi t / T)) / 2; tenths-3/10, tenths-3/7: a
    tenth of it after each three tenths, or sevenths, of the steps (explanation-based attention)."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the rate first rises linearly from lr / warmup_steps; at most a tenth of the run."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    """Decay of the averaged weights that are evaluated and saved; 0 evaluates the live weights."""


def learning_rate(step: int, options: OptimOptions, total_steps: int) -> float:
    """Return the rate of step `step` (0-based) of `total_steps`.

    Source: FixMatch (arXiv:2001.07685, section 2.4) for 7/16; SGDR (arXiv:1608.03983, eq. 5) for half-cosine.
    """
    warmup_steps = min(options.warmup_steps, total_steps // 10)
    if step < warmup_steps:
        return options.lr * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    factors: dict[str, Callable[[], float]] = {
        "cosine-7/16": lambda: math.cos(7 * math.pi * progress / 16),
        "half-cosine": lambda: (1 + math.cos(math.pi * progress)) / 2,
        "constant": lambda: 1.0,
        "tenths-3/10": lambda: 0.1 ** int(progress * 10 / 3 + 1e-9),
        "tenths-3/7": lambda: 0.1 ** int(progress * 7 / 3 + 1e-9),
    }
    return options.lr * factors[options.schedule]()


def make_optimizer(module: nn.Module, options: OptimOptions) -> torch.optim.Optimizer:
    """Return the optimizer of all trainable parameters of `module`; only kernels (2 or more axes) are decayed."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups: list[dict[str, object]] = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if options.name == "adamw":
        return torch.optim.AdamW(groups, lr=options.lr, betas=(options.momentum, 0.999), fused=True)
    nesterov = options.nesterov and options.momentum > 0
    if options.name == "lars":
        from timm.optim.lars import Lars

        return Lars(groups, lr=options.lr, momentum=options.momentum, nesterov=nesterov)
    return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum, nesterov=nesterov, fused=True)


def set_learning_rate(groups: Iterable[dict[str, object]], rate: float) -> None:
    """Set the rate of every parameter group."""
    for group in groups:
        group["lr"] = rate
