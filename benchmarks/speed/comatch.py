"""What CoMatch costs: a step against a FixMatch step, and the share of memory and graph at 30,000 entries.

    python benchmarks/speed/comatch.py --model wrn-28-2 --labeled 8 --mu 7 --rounds 5
    python benchmarks/speed/comatch.py --device cuda --preset report-96px --model resnet50 --side 96 --classes 800

Two ratios, both aims of the project:
1. a CoMatch step over a FixMatch step with as many images through the network, so with more unlabeled ones
   (aim: at most 1.25);
2. the share of a step that a memory of --memory entries adds to one that just holds a batch (aim: at most 15 %). It is
   always measured in the form with a teacher, whose graph has as many columns.

Runs `eke.engine.loop.run_steps` itself on resident random pixels (speed does not depend on what they show). All
variants take turns step by step, so that whatever else the machine does meets each of them; a ratio is the median
of the rounds' ratios. Compare only figures of one run.
"""

import argparse
import json
import statistics
import time

import torch

from eke.config import merge, parse
from eke.data.cache import ResidentPixels
from eke.data.stream import Stream, ViewPlan
from eke.engine.journal import describe_environment
from eke.engine.loop import run_steps
from eke.engine.optim import OptimOptions, learning_rate, make_optimizer
from eke.engine.processes import ComputeOptions, autocast, choose_device, place_method
from eke.methods import METHODS
from eke.methods.comatch import CoMatch
from eke.methods.contract import Setting
from eke.models.backbones import build_network
from eke.models.ema import Ema
from eke.models.network import ModelOptions


def start(given, device, pixels, name, own, views, n_unlabeled):
    """Return endless steps of a method; each `next` is one whole training step."""
    size = (given.side, given.side)
    compute = ComputeOptions(
        device=str(device), precision=given.precision, channels_last=given.channels_last, compile=given.compile
    )
    network = build_network(
        ModelOptions(name=given.model),
        n_classes=given.classes,
        channels=3,
        size=size,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        seed=0,
    )
    n, kind = len(pixels), METHODS[name]
    setting = Setting(given.classes, n // 10, n, 2**20, 0, (3, *size), network.width)
    method = kind(parse(kind.Config, own), network, setting).train()
    place_method(method, network, compute, device, (), size)
    plan = kind.views
    plan = ViewPlan(*({view: views.get(view, preset) for view, preset in side.items()} for side in plan))
    labels = [i % given.classes for i in range(n // 10)]
    stream = Stream(
        ResidentPixels(pixels), range(n // 10), labels, range(n), plan,
        n_labeled=given.labeled, n_unlabeled=n_unlabeled, seed=0, device=device,
    )  # fmt: skip
    options = OptimOptions()
    optimizer, average = make_optimizer(method, options), Ema(network, options.ema_decay).to(device)
    return run_steps(
        method, network, stream, optimizer, lambda step: learning_rate(step, options, 2**20), average,
        autocast(compute, device), first=0, last=2**20, seed=0,
    )  # fmt: skip


def seconds_of(steps, n, device):
    """Run `n` steps and return the seconds that each took."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    for _ in range(n):
        next(steps)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - begin) / n


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="cifar", choices=sorted(CoMatch.presets))
    parser.add_argument("--model", default="wrn-28-2")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--memory", type=int, default=30_000)
    parser.add_argument("--labeled", type=int, default=64)
    parser.add_argument("--mu", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=1, help="steps of each variant in a round")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()

    device = choose_device(given.device)
    shape = (given.images, 3, given.side, given.side)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(device)
    preset = CoMatch.presets[given.preset]
    own, views, U = preset.get("method", {}), preset.get("views", {}), given.mu * given.labeled
    taught = merge(CoMatch.presets["report-96px"]["method"], {"smoothing_start_rate": 0.0})
    n_images = (1 + 3 * given.mu + (own.get("teacher_decay") is not None)) * given.labeled
    variants = {
        "comatch": ("comatch", own, views, U),
        "fixmatch, as many images": ("fixmatch", {}, {}, (n_images - given.labeled) // 2),
        "teacher, small memory": ("comatch", merge(taught, {"memory_size": given.labeled + U}), views, U),
        "teacher, large memory": ("comatch", merge(taught, {"memory_size": given.memory}), views, U),
    }
    running = {label: start(given, device, pixels, *variant) for label, variant in variants.items()}
    for steps in running.values():
        seconds_of(steps, given.warmup, device)
    rounds = [{label: seconds_of(s, given.steps, device) for label, s in running.items()} for _ in range(given.rounds)]

    ratios = [r["comatch"] / r["fixmatch, as many images"] for r in rounds]
    shares = [1 - r["teacher, small memory"] / r["teacher, large memory"] for r in rounds]
    result = {
        "environment": describe_environment(device),
        "arguments": vars(given),
        "n_rounds": given.rounds,
        "images_per_step": n_images,
        "ms_per_step": {label: 1e3 * statistics.median(r[label] for r in rounds) for label in running},
        "comatch_over_fixmatch": {"median": statistics.median(ratios), "range": [min(ratios), max(ratios)]},
        "memory_share": {"median": statistics.median(shares), "range": [min(shares), max(shares)]},
    }
    if given.json:
        print(json.dumps(result))
        return
    print(" ".join(f"{k}={v}" for k, v in result["environment"].items()))
    for label, milliseconds in result["ms_per_step"].items():
        print(f"{label:<26} {milliseconds:10.2f} ms per step (median of {given.rounds})")
    for name, aim, percent in (("comatch_over_fixmatch", "1.25", 1), ("memory_share", "15 %", 100)):
        low, high = (percent * value for value in result[name]["range"])
        unit = " %" if percent == 100 else ""
        middle = percent * result[name]["median"]
        print(f"{name:<26} {middle:10.2f}{unit} ({low:.2f} to {high:.2f}; aim: at most {aim})")


if __name__ == "__main__":
    main()
