"""Batch norm over all processes, with statistics that are left alone, and with images that can be told apart."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

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
    """Let gradients that are taken inside see batch statistics as constants.

    The images of a batch are then independent, as attention maps want it, although the forward was shared. Only
    backward passes look at it. It acts on synced batch norm, and on `torch.nn`'s own where the forward ran inside
    `SeparableBatchNorm`.
    """
    global _constant
    before, _constant = _constant, True
    try:
        yield
    finally:
        _constant = before


class _Separable(torch.autograd.Function):
    """Batch norm in train mode as `torch.nn` has it, whose backward looks at `constant_statistics`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *state: Any) -> Tensor:
        weight, bias, running_mean, running_var, momentum, eps = state
        y, mean, inverse_std = torch.native_batch_norm(x, weight, bias, running_mean, running_var, True, momentum, eps)
        ctx.save_for_backward(x, weight, mean, inverse_std)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse_std = ctx.saved_tensors
        if not _constant:
            asked = [True, weight is not None, weight is not None]
            grads = torch.ops.aten.native_batch_norm_backward(
                grad, x, weight, None, None, mean, inverse_std, True, ctx.eps, asked
            )
            return (*grads, None, None, None, None)
        if torch.is_grad_enabled():  # a second derivative sees the statistics as the functions of x that they are
            wide = x.to(inverse_std.dtype)
            inverse_std = (wide.var([0, *range(2, x.ndim)], correction=0) + ctx.eps).rsqrt()
        scale = inverse_std if weight is None else weight * inverse_std
        return ((grad * scale.view(-1, *[1] * (x.ndim - 2))).to(x.dtype), *[None] * 6)


class SeparableBatchNorm(TorchFunctionMode):
    """Run forwards inside, and their gradients under `constant_statistics` are those of each image by itself.

    Catches batch norm in train mode wherever a network calls it, without touching the network: what comes out, running
    statistics and ordinary gradients are `torch.nn`'s. Inside such a gradient only images and feature maps have one;
    the network's own parameters have theirs in its second derivative.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.batch_norm:
            return func(*args, **kwargs)
        call = _SIGNATURE.bind(*args, **kwargs)
        call.apply_defaults()
        given = call.arguments
        if not given["training"]:
            return func(*args, **kwargs)
        names = ("input", "weight", "bias", "running_mean", "running_var", "momentum", "eps")
        return _Separable.apply(*(given[name] for name in names))


_SIGNATURE = inspect.signature(F.batch_norm)


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


@contextmanager
def running_statistics(module: nn.Module) -> Iterator[None]:
    """Normalize with running statistics inside, in train mode too, and leave them as they are.

    The images of a batch are then independent of each other; weights of batch norms are trained all the same.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.training]
    for norm in norms:
        norm.training = False
    try:
        yield
    finally:
        for norm in norms:
            norm.training = True


def has_batch_norm(module: nn.Module) -> bool:
    """Say whether the images of a training batch depend on each other through batch norm."""
    return any(isinstance(layer, _BatchNorm) for layer in module.modules())
