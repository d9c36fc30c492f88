"""What attention consistency costs: a training step with the term against the same step without it.

    python benchmarks/speed/attention.py                                   # ResNet-50 at 128 pixels, as in the aims
    python benchmarks/speed/attention.py --device cuda --images 64 --rounds 20

The step: one forward of both views of --images images, cross entropy on one and soft cross entropy on the other, and
backward. Beside it the same with `eke.methods.terms.AttentionTerm` at each layer, first and second order, both views
with gradient; and the scheme of the paper's authors at layer 4, done in batches: a forward of its own for each view in
evaluation mode, a backward through the whole network for the maps' weights, which are constants.

FLOPs are counted by torch (convolutions and products); times are medians of rounds in which all variants take turns,
and ratios are medians of the rounds' ratios. Aims: second order at most 1.05, 1.25, 1.65, 1.95 in FLOPs for layer 4, 3,
2, 1, and 1.05, 1.7, 2.3, 2.6 in time on a CPU; first order 1.05, 1.10, 1.30, 1.35.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from eke.augment.geometry import View, identity
from eke.engine.journal import describe_environment
from eke.engine.processes import choose_device
from eke.methods.terms import AttentionOptions, AttentionTerm
from eke.models.backbones import build_network
from eke.models.network import ModelOptions

LAYERS = ("layer4", "layer3", "layer2", "layer1")


def losses_of(logits, labels, n):
    """Return cross entropy of the first n rows and soft cross entropy of the others with them as targets."""
    target = logits[:n].detach().softmax(1)
    return F.cross_entropy(logits[:n], labels) - (target * logits[n:].log_softmax(1)).sum(1).mean()


def step_with(network, views, labels, layer, second_order):
    """Return one training step with the term, as a function; without a layer the plain one."""
    n, side = len(labels), views[0].pixels.shape[-1]
    options = AttentionOptions(weight=1.0 if layer else 0.0, layer=layer or (), second_order=second_order)
    term = AttentionTerm(options, network, (side, side), 1)
    images = torch.cat([view.pixels for view in views])

    def step():
        seen = term.see(images)
        attended = term.compare(seen, slice(0, n), slice(n, None), views, 0)
        (losses_of(seen.outputs.logits, labels, n) + attended.loss).backward()
        network.zero_grad()

    return step


def authors_step(network, views, labels, layer):
    """Return their scheme, with batches in place of single images."""
    n, images = len(labels), torch.cat([view.pixels for view in views])

    def step():
        loss = losses_of(network(images).logits, labels, n)
        network.eval()
        maps = []
        for view in views:
            outputs = network(view.pixels, taps=(layer,))
            features = outputs.features[layer]
            features.retain_grad()
            outputs.logits.amax(1).sum().backward(retain_graph=True)
            maps.append((features.grad.mean((2, 3), keepdim=True) * features).sum(1))
        network.train()
        (loss + F.mse_loss(*maps)).backward()
        network.zero_grad()

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()

    device, size = choose_device(given.device), (given.side, given.side)
    colors = {"channels": 3, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    network = build_network(ModelOptions(name=given.model), n_classes=given.classes, size=size, seed=0, **colors)
    network.to(device).train()
    draw = torch.Generator().manual_seed(0)
    pixels = [torch.rand(given.images, 3, *size, generator=draw).to(device) for _ in range(2)]
    valid = torch.ones(given.images, *size, dtype=torch.bool, device=device)
    views = tuple(View(each, identity(given.images, size, device), valid) for each in pixels)
    labels = torch.randint(given.classes, (given.images,), generator=draw).to(device)

    steps = {"plain": step_with(network, views, labels, None, False)}
    for order, second in (("second order", True), ("first order", False)):
        for layer in LAYERS:
            steps[f"{layer}, {order}"] = step_with(network, views, labels, layer, second)
    steps["authors' scheme, layer4"] = authors_step(network, views, labels, "layer4")

    flops = {}
    for name, step in steps.items():
        with FlopCounterMode(display=False) as counter:
            step()
        flops[name] = counter.get_total_flops()
    rounds = []
    for _ in range(given.rounds):
        seconds = {}
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[name] = time.perf_counter() - start
        rounds.append(seconds)
    result = {
        "environment": describe_environment(device),
        "arguments": vars(given),
        "flops": {name: value / flops["plain"] for name, value in flops.items()},
        "time": {name: statistics.median(each[name] / each["plain"] for each in rounds) for name in steps},
        "range": {name: [f(each[name] / each["plain"] for each in rounds) for f in (min, max)] for name in steps},
        "plain_seconds": statistics.median(each["plain"] for each in rounds),
    }
    if given.json:
        print(json.dumps(result))
        return
    print(" ".join(f"{k}={v}" for k, v in result["environment"].items()))
    print(f"plain step: {result['plain_seconds']:.3f} s; all else against it")
    for name in steps:
        low, high = result["range"][name]
        flop, seconds = result["flops"][name], result["time"][name]
        print(f"{name:<26} FLOPs {flop:5.2f}   time {seconds:5.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
