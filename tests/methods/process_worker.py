"""Trains every method for some steps and saves the outcome: alone, or as one of several gloo processes.

Usage: process_worker.py OUT, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set for several processes.
"""

import os
import sys
from typing import Any

import torch
import torch.distributed as dist
from tiny_problem import make_batch, make_method, make_sgd
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from eke.collectives import all_reduce_sum, rank, world_size
from eke.methods import METHODS
from eke.models.norm import sync_batch_norm

STEPS = 20


def mean_over_ranks(value: Tensor) -> float:
    return (all_reduce_sum(value.detach()) / world_size()).item()


def run(name: str, dtype: torch.dtype, steps: int) -> dict[str, Any]:
    """Return losses and terms of each step, the first gradient and the final state."""
    method = make_method(name, dtype=dtype)
    sync_batch_norm(method)
    trained = DistributedDataParallel(method) if world_size() > 1 else method
    optimizer = make_sgd(method, lr=0.05)
    losses, terms, gradient = [], [], {}
    for step in range(steps):
        result = trained(make_batch(name, step, dtype=dtype))
        optimizer.zero_grad()
        result.loss.backward()
        if step == 0:
            gradient = {k: p.grad.clone() for k, p in method.named_parameters() if p.grad is not None}
        optimizer.step()
        losses.append(mean_over_ranks(result.loss))
        terms.append({key: mean_over_ranks(value) for key, value in result.terms.items()})
    return {"losses": losses, "terms": terms, "gradient": gradient, "state": method.state_dict()}


def main(out: str) -> None:
    torch.set_num_threads(1)
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    results = {
        name: {"float64": run(name, torch.float64, STEPS), "float32": run(name, torch.float32, 1)}
        for name in sorted(METHODS)
    }
    if rank() == 0:
        torch.save(results, out)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
