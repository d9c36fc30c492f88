"""From a time budget to a number of steps; from then on the run is a function of steps."""

import math
import time

import torch

from eke import collectives
from eke.errors import ConfigError
from eke.progress import Progress
from eke.tasks.assemble import assemble, training_steps
from eke.tasks.baseline import baseline_options, wants_baseline
from eke.tasks.options import FitOptions, TrainingOptions, budget_seconds
from eke.tasks.prepare import Material

RESERVE_RATE = 0.1
"""Part of a time budget that is kept for evaluating and reporting."""


def calibrate(options: TrainingOptions, material: Material, started: float, progress: Progress) -> int:
    """Turn the time budget into steps: time a few steps of the method, and of its baseline, on throwaway copies.

    Raises:
        ConfigError: not even one step fits.
    """
    assert options.budget is not None
    alone = options.model_copy(update={"steps": 10**6})
    timed: list[TrainingOptions] = [alone]
    if isinstance(alone, FitOptions) and wants_baseline(alone):
        timed.append(baseline_options(alone))
    with progress("timing a few steps", len(timed)) as advance:
        seconds_per_step = 0.0
        for each in timed:
            seconds_per_step += _seconds_per_step(each, material)
            advance(1)
    left = budget_seconds(options.budget) * (1 - RESERVE_RATE) - (time.perf_counter() - started)
    steps = collectives.from_first(lambda: int(left / seconds_per_step))
    if steps < 1:
        raise ConfigError(
            f"budget = {options.budget} is too short: {seconds_per_step:.2f} s per step and {max(0.0, left):.0f} s "
            "left after preparing. Give more time, a smaller batch.labeled, data.size or model."
        )
    return steps


def _seconds_per_step(options: TrainingOptions, material: Material) -> float:
    assembly = assemble(options, material.pools)
    # whole rounds of the stream, which makes the views of several steps at once on an accelerator
    n_warm, n_timed = (math.ceil(n / assembly.stream.n_at_once) * assembly.stream.n_at_once for n in (2, 5))
    reports = training_steps(assembly, options)
    for _ in range(n_warm):
        next(reports)
    _wait(material.pools.device)
    started = time.perf_counter()
    for _ in range(n_timed):
        next(reports)
    _wait(material.pools.device)
    return (time.perf_counter() - started) / n_timed


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
