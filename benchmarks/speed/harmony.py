"""What a harmonizing step costs: attention consistency of Grad-CAM and guided backpropagation against a plain step.

    python benchmarks/speed/harmony.py                                   # ResNet-18 at 64, ResNet-50 at 128 pixels
    python benchmarks/speed/harmony.py --models resnet50:224 --images 32 --device cuda --rounds 20

The plain step: one forward of --images images, cross entropy and backward. The others, with loss and backward on the
same images, batch norms in eval mode: `eke.explain.harmony.harmony` at layer 4 with a mask by guided backpropagation
and Pearson's correlation, with and without the gradient through the mask; and the scheme of the paper's authors done in
batches: a forward each for Grad-CAM, for guided backpropagation and for the masked images, with all gradients.

FLOPs are counted by torch (convolutions and products); times are medians of rounds in which all variants take turns,
and ratios are medians of the rounds' ratios. Aims in FLOPs: at most 3.2 with gradient through the mask, 2.5 without;
the authors' scheme takes 4.1.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from eke.engine.journal import describe_environment
from eke.engine.processes import choose_device
from eke.explain.cam import grad_cam
from eke.explain.guided import guided_relus
from eke.explain.harmony import harmony, soft_mask
from eke.losses.correlation import pearson
from eke.models.backbones import build_network
from eke.models.network import ModelOptions

LAYER = "layer4"
PLAIN = "plain"


class Counted:
    """A network that reads views: torch's counter fails where a module reads a leaf that is differentiated."""

    def __init__(self, network):
        self.network, self.mean, self.std = network, network.mean, network.std

    def __call__(self, images, taps=()):
        return self.network(images.view_as(images), taps=taps)

    def modules(self):
        return self.network.modules()


def plain_loss(network, images, labels):
    return F.cross_entropy(network(images).logits, labels)


def harmonizing_loss(network, images, mask_gradient):
    return -harmony(network, images, LAYER, correlation=pearson, mask_gradient=mask_gradient).similarity.mean()


def authors_loss(network, images):
    """Return the same loss from three forwards."""
    outputs = network(images, taps=(LAYER,))
    classes = outputs.logits.detach().argmax(1, keepdim=True)
    first = grad_cam(outputs.logits.gather(1, classes)[:, 0], outputs.features[LAYER], create_graph=True)
    x = images.detach().requires_grad_()
    with guided_relus() as guided:
        score = network(x).logits.gather(1, classes)[:, 0]
    mask = soft_mask(guided.gradient(score, x, create_graph=True))
    mean = network.mean.view(1, -1, 1, 1)
    outputs = network(mean + mask[:, None] * (images - mean), taps=(LAYER,))
    second = grad_cam(outputs.logits.gather(1, classes)[:, 0], outputs.features[LAYER], create_graph=True)
    return -pearson(first, second).mean()


def measure(name, side, given, device):
    """Return ratios of FLOPs and times to the plain step, and its seconds."""
    colors = {"channels": 3, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    network = build_network(ModelOptions(name=name), n_classes=given.classes, size=(side, side), seed=0, **colors)
    network.to(device).eval()
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(given.images, 3, side, side, generator=draw).to(device)
    labels = torch.randint(given.classes, (given.images,), generator=draw).to(device)
    counted = Counted(network)
    losses = {
        PLAIN: lambda: plain_loss(counted, images, labels),
        "harmony": lambda: harmonizing_loss(counted, images, mask_gradient=True),
        "harmony, mask constant": lambda: harmonizing_loss(counted, images, mask_gradient=False),
        "authors' scheme": lambda: authors_loss(counted, images),
    }

    def step(loss):
        loss().backward()
        network.zero_grad()

    flops = {}
    for variant, loss in losses.items():
        with FlopCounterMode(display=False) as counter:
            step(loss)
        flops[variant] = counter.get_total_flops()
    rounds = []
    for _ in range(given.rounds):
        seconds = {}
        for variant, loss in losses.items():
            start = time.perf_counter()
            step(loss)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[variant] = time.perf_counter() - start
        rounds.append(seconds)
    ratios = {variant: [each[variant] / each[PLAIN] for each in rounds] for variant in losses}
    return {
        "flops": {variant: value / flops[PLAIN] for variant, value in flops.items()},
        "time": {variant: statistics.median(values) for variant, values in ratios.items()},
        "range": {variant: [min(values), max(values)] for variant, values in ratios.items()},
        "plain_seconds": statistics.median(each[PLAIN] for each in rounds),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet18:64", "resnet50:128"], metavar="NAME:SIDE")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()

    device = choose_device(given.device)
    measured = {}
    for model in given.models:
        name, side = model.split(":")
        measured[model] = measure(name, int(side), given, device)
    result = {"environment": describe_environment(device), "arguments": vars(given), "models": measured}
    if given.json:
        print(json.dumps(result))
        return
    print(" ".join(f"{k}={v}" for k, v in result["environment"].items()))
    for model, found in measured.items():
        print(f"{model}, {given.images} images; plain step: {found['plain_seconds']:.3f} s; all else against it")
        for variant, flop in found["flops"].items():
            low, high = found["range"][variant]
            print(f"  {variant:<24} FLOPs {flop:5.2f}   time {found['time'][variant]:5.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
