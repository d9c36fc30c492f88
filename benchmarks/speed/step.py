"""Where the time of a training step goes: making the batch, the network, the optimizer, everything else.

    python benchmarks/speed/step.py --model wrn-28-2 --labeled 16 --mu 7
    python benchmarks/speed/step.py --device cuda --labeled 64 --mu 7 --steps 64 --warmup 16 --precision bfloat16 \\
        --channels-last

Runs `eke.engine.loop.run_steps` itself on resident random pixels (32 x 32, 50,000 images: speed does not depend on
what they show) and times the phases by wrapping the objects that the loop calls. On an accelerator each phase ends
with a synchronization, and the steps per second are measured in a second pass without any.

"Overhead" is everything but forward, backward and optimizer: making views, averaging weights, learning rate,
reseeding and the method's own bookkeeping. Compare only figures of one run.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict

import torch

from eke.data.cache import ResidentPixels
from eke.data.stream import Stream
from eke.engine.journal import describe_environment
from eke.engine.loop import run_steps
from eke.engine.optim import OptimOptions, learning_rate, make_optimizer
from eke.engine.processes import ComputeOptions, autocast, choose_device, place_method
from eke.methods import METHODS
from eke.methods.contract import Setting
from eke.models.backbones import build_network
from eke.models.ema import Ema
from eke.models.network import ModelOptions


class Clock:
    """Adds up the seconds of named phases per step."""

    def __init__(self, device):
        self.device, self.seconds, self.on = device, defaultdict(list), True

    def wrap(self, name, function):
        def timed(*args, **kwargs):
            if not self.on:
                return function(*args, **kwargs)
            self.wait()
            start = time.perf_counter()
            value = function(*args, **kwargs)
            self.wait()
            self.seconds[name].append(time.perf_counter() - start)
            return value

        return timed

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="fixmatch")
    parser.add_argument("--model", default="wrn-28-2")
    parser.add_argument("--labeled", type=int, default=16)
    parser.add_argument("--mu", type=int, default=7)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()

    device = choose_device(given.device)
    compute = ComputeOptions(precision=given.precision, channels_last=given.channels_last, compile=given.compile)
    pool = torch.randint(0, 256, (50_000, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    network = build_network(
        ModelOptions(name=given.model),
        n_classes=10,
        channels=3,
        size=(32, 32),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        seed=0,
    )
    kind = METHODS[given.method]
    method = kind(kind.Config(), network, Setting(10, 250, 50_000, 2**20, 0, (3, 32, 32), network.width)).train()
    place_method(method, network, compute, device, (), (32, 32))
    stream = Stream(
        ResidentPixels(pool.to(device)),
        list(range(250)),
        [i % 10 for i in range(250)],
        list(range(50_000)),
        kind.views,
        n_labeled=given.labeled,
        n_unlabeled=given.mu * given.labeled,
        seed=0,
        device=device,
    )
    images_per_step = given.labeled * (len(kind.views.labeled) + given.mu * len(kind.views.unlabeled))
    options = OptimOptions()
    optimizer, average = make_optimizer(method, options), Ema(network, options.ema_decay).to(device)

    clock = Clock(device)
    network.forward = clock.wrap("network forward", network.forward)
    optimizer.step = clock.wrap("optimizer", optimizer.step)
    torch.Tensor.backward = clock.wrap("backward", torch.Tensor.backward)
    stream.batch = clock.wrap("batch and views", stream.batch)
    average.update = clock.wrap("average", average.update)

    def run(first, n):
        return run_steps(
            method, network, stream, optimizer, lambda step: learning_rate(step, options, 2**20), average,
            autocast(compute, device), first=first, last=first + n, seed=0,
        )  # fmt: skip

    for _ in run(0, given.warmup):
        pass
    clock.seconds.clear()
    totals = []
    clock.wait()
    last = time.perf_counter()
    for _ in run(given.warmup, given.steps):
        clock.wait()
        totals.append(time.perf_counter() - last)
        last = time.perf_counter()
    clock.on = False
    clock.wait()
    start = time.perf_counter()
    for _ in run(given.warmup + given.steps, given.steps):
        pass
    clock.wait()
    free_running = given.steps / (time.perf_counter() - start)

    per_step = {name: sum(seconds) / given.steps for name, seconds in clock.seconds.items()}
    total = statistics.mean(totals)
    core = sum(per_step.get(name, 0) for name in ("network forward", "backward", "optimizer"))
    result = {
        "environment": describe_environment(device),
        "arguments": vars(given),
        "n_steps": given.steps,
        "ms_per_step": {**{k: 1e3 * v for k, v in per_step.items()}, "everything": 1e3 * total},
        "overhead_rate": 1 - core / total,
        "steps_per_second": free_running,
        "images_per_second": free_running * images_per_step,
    }
    if given.json:
        print(json.dumps(result))
        return
    print(" ".join(f"{k}={v}" for k, v in result["environment"].items()))
    for name, milliseconds in result["ms_per_step"].items():
        print(f"{name:<18} {milliseconds:9.2f} ms per step")
    print(f"overhead           {100 * result['overhead_rate']:9.1f} % of a step (aim: at most 10)")
    print(f"free running       {free_running:9.2f} steps/s, {result['images_per_second']:.0f} images/s")


if __name__ == "__main__":
    main()
