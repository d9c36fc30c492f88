"""Batch norm over all processes, and batch norm that leaves its running statistics alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from eke.collectives import gather, world_size
from eke.errors import ConfigError

_constant = False  # a plain global: autograd runs backward passes in threads of its own


class _Statistic(torch.autograd.Function):
    """Identity whose backward passes nothing on while `constant_statistics` is open."""

    @staticmethod
    def forward(ctx: Any, statistic: Tensor) -> Tensor:
        return statistic.view_as(statistic)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.zeros_like(grad) if _constant else grad


@contextmanager
def constant_statistics() -> Iterator[None]:
    """Let gradients that are taken inside see the batch statistics of synced batch norm as constants.

    The images of a batch are then independent, as attention maps want it, although the forward was shared.
    Only backward passes look at it; it has no effect on `torch.nn`'s own batch norm.
    """
    global _constant
    before, _constant = _constant, True
    try:
        yield
    finally:
        _constant = before


class BatchNorm(_BatchNorm):
    """Batch norm of (N, C, ...) over the images of all processes; what `torch.nn`'s is with one process.

    Each process holds the same number of elements. Differentiable to any order, on gloo and NCCL, which
    `torch.nn.SyncBatchNorm` is not. Mean and variance of each process are gathered in one collective and
    joined by the formula of Chan et al. (1983): unlike E[x^2] - E[x]^2 it loses no digits where the mean is
    large.
    Submodules, such as the activation of timm's fused layers, follow in their order.
    """

    def forward(self, x: Tensor) -> Tensor:
        synced = self.training and world_size() > 1
        y = self._normalize_globally(x) if synced else super().forward(x)
        for module in self.children():
            y = module(y)
        return y

    def _normalize_globally(self, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        axes = [0, *range(2, x.ndim)]
        shape = (-1,) + (1,) * (x.ndim - 2)
        parts = gather(torch.stack(torch.var_mean(wide, axes, correction=0))[None])  # (ranks, 2, C)
        mean = parts[:, 1].mean(0)
        var = (parts[:, 0] + (parts[:, 1] - mean).square()).mean(0)
        if self.track_running_stats:
            self._track(mean.detach(), var.detach(), x.numel() // x.shape[1] * world_size())
        mean, var = _Statistic.apply(torch.stack([mean, var]))
        scale = (var + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        bias = cast("Tensor | None", self.bias)
        shift = torch.zeros_like(scale) if bias is None else bias
        return torch.addcmul(shift.view(shape), wide - mean.view(shape), scale.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, n: int) -> None:
        running_mean, running_var, count = cast("list[Tensor]", list(self.buffers(recurse=False)))
        count.add_(1)
        rate = 1 / int(count) if self.momentum is None else self.momentum
        running_mean.lerp_(mean.to(running_mean.dtype), rate)
        running_var.lerp_((var * (n / (n - 1))).to(running_var.dtype), rate)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 (torch's name)
        if input.ndim < 2:
            raise ConfigError(f"Batch norm needs (N, C, ...), not a tensor of shape {tuple(input.shape)}.")


def sync_batch_norm(module: nn.Module) -> nn.Module:
    """Put `BatchNorm` in the place of each batch norm inside `module`, and return it.

    Parameters and buffers are the same objects under the same names, so optimizers, averages and saved states
    still fit. A `module` that is a batch norm itself is not changed; its substitute is returned.

    Raises:
        ConfigError: a batch norm is of a kind of its own, whose forward is not known.
    """
    if isinstance(module, _BatchNorm) and not isinstance(module, BatchNorm):
        return _substitute(module)
    for name, child in module.named_children():
        setattr(module, name, sync_batch_norm(child))
    return module


def _substitute(old: _BatchNorm) -> BatchNorm:
    plain = type(old) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    if not plain and [name for name, _ in old.named_children()] != ["drop", "act"]:
        raise ConfigError(
            f"Batch norm of the kind {type(old).__name__} cannot be synced over processes: "
            "set compute.sync_norm=false or choose another model."
        )
    new = BatchNorm(old.num_features, old.eps, old.momentum, affine=False, track_running_stats=False)
    new.affine, new.track_running_stats, new.training = old.affine, old.track_running_stats, old.training
    for name, parameter in old.named_parameters(recurse=False):
        setattr(new, name, parameter)
    for name, buffer in old.named_buffers(recurse=False):
        setattr(new, name, buffer)
    for name, child in old.named_children():
        new.add_module(name, child)
    return new


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of every batch norm inside `module` as they are.

    In train mode it still normalizes with the statistics of the batch, in eval mode with the running ones.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def has_batch_norm(module: nn.Module) -> bool:
    """Say whether the images of a training batch depend on each other through batch norm."""
    return any(isinstance(layer, _BatchNorm) for layer in module.modules())
