"""The one training loop. What happens between steps (evaluate, log, save) stands in the task that consumes it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import nn

from eke.collectives import rank
from eke.data.stream import Batch, Stream
from eke.engine.optim import set_learning_rate
from eke.methods.contract import StepResult
from eke.models.ema import Ema
from eke.models.network import Network
from eke.randomness import mixed_seed


class StepReport(NamedTuple):
    """What one step did."""

    step: int
    """Steps done so far, this one included."""
    result: StepResult
    batch: Batch
    learning_rate: float


def run_steps(
    method: nn.Module,
    network: nn.Module,
    stream: Stream,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[int], float],
    average: Ema[Network],
    precision: Callable[[], AbstractContextManager[object]],
    *,
    first: int,
    last: int,
    seed: int,
) -> Iterator[StepReport]:
    """Train from step `first` (0-based) up to `last`, yielding after each step.

    Args:
        method: the method, or DistributedDataParallel around it; its forward takes a batch.
        network: the part of it that is averaged and evaluated.
        stream: batches as a pure function of the step.
        optimizer: updates the method's parameters.
        schedule: learning rate of a step.
        average: the averaged network, updated after each step.
        precision: makes the autocast context of the forward pass.
        first: first step to run; with the state saved after `first` steps, the run goes on exactly.
        last: total number of steps.
        seed: the run's seed: networks' own dropout is a function of (seed, step, rank).
    """
    for step in range(first, last):
        batch = stream.batch(step)
        torch.manual_seed(mixed_seed(seed, step, f"network/{rank()}"))
        set_learning_rate(optimizer.param_groups, schedule(step))
        with precision():
            result: StepResult = method(batch)
        optimizer.zero_grad(set_to_none=True)
        result.loss.backward()
        optimizer.step()
        average.update(network, step)
        yield StepReport(step + 1, result, batch, schedule(step))
