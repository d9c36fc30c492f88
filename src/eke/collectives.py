"""Sums and gathers over the processes of a run; with one process each of them is the identity.

Everything that looks across a batch (batch statistics, thresholds, masked means, queues) goes through these
functions, so that N processes compute what one process computes on the same global batch. All are
differentiable, to any order where the mathematics is: the backward of a sum over ranks is a sum over ranks.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from eke.errors import EkeError

T = TypeVar("T")


def world_size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return all_reduce_sum(grad)


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum `x` over the processes; each gets the total. Shape, dtype and gradient as `x`."""
    return x if world_size() == 1 else _AllReduceSum.apply(x)


def global_mean(x: Tensor, dim: int | None = None) -> Tensor:
    """Mean of `x` over the GLOBAL batch: over all elements, or over axis `dim` (the batch axis).

    Every rank must hold the same number of elements, as the stream's slices do.
    """
    local = x.mean() if dim is None else x.mean(dim)
    return all_reduce_sum(local) / world_size()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.n = len(x)
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        start = rank() * ctx.n
        return all_reduce_sum(grad)[start : start + ctx.n]


def gather(x: Tensor) -> Tensor:
    """Concatenate `x` (n, ...) of all processes in rank order: (world_size * n, ...), the global batch's order.

    The gradient is the sum over ranks of their gradients for this rank's rows. DDP then averages over ranks, so
    a loss that every rank computes on the gathered whole gets the one-process gradient.
    """
    return x if world_size() == 1 else _Gather.apply(x)


def from_first(make: Callable[[], T]) -> T:
    """Return what `make` gives on the first process, on every process: what depends on files is decided once.

    Raises:
        EkeError: `make` raised it on the first process; all processes raise it.
    """
    if world_size() == 1:
        return make()
    given: list[Any] = [None, None]
    if rank() == 0:
        try:
            given[0] = make()
        except EkeError as error:
            given[1] = error
    dist.broadcast_object_list(given)
    if given[1] is not None:
        raise given[1]
    decided: T = given[0]
    return decided


def local_slice(x: Tensor) -> Tensor:
    """Return this rank's contiguous slice of a global batch `x` (N, ...): N must divide by the world size."""
    n = len(x) // world_size()
    return x[rank() * n : (rank() + 1) * n]
