"""Internal integrated gradients of four layers: `path_attention` against captum's InternalInfluence once per layer.

    python benchmarks/speed/internal_gradients.py                                     # 32 points, as in the aims
    python benchmarks/speed/internal_gradients.py --points 128 --at-once 8 --rounds 5

The LeNet of explanation-based attention at its four scales: both blocks (10 and 20 maps), the embedding (50) and the
logits (10), with random weights and images: speed does not depend on them. Every contestant averages the gradient of
cross entropy, with the class predicted at the image as target, over the same points k / K between zero and the image
(captum's riemann_right), and does not multiply by the features. Before anything is timed, all results are compared.

How many points share a pass matters to all, because the memory of a large pass goes back to the system and its pages
come anew with the next. So each is timed with several; captum's default is all points (`internal_batch_size` is the
number times the images). The ratio of the aim is between both at their fastest, for equal work: whole maps. All share
one process and what its allocator keeps; alone in a fresh process, large passes can be slower than here. Beside that:

- `path_attention` with pooled vectors, as the attention of the paper uses them: captum has no such form;
- a stronger competitor from captum's parts: LayerGradientXActivation, which takes a list of layers, without its
  multiplication, at points laid out and summed by hand. It makes the same single pass. captum's
  LayerIntegratedGradients cannot compete: its path lies between two values of the layer, not of the image.

Times are medians of rounds in which all take turns, CPU time with one thread, else wall time; ratios are medians of the
rounds' ratios. Aim: at least 3 times as fast as captum once per layer; goal: 4 times. Without overhead on either side
it is about (4 F + B) / (F + B), with F a forward pass and B the backward pass down to the first block, so below 4.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F
from captum.attr import InternalInfluence, LayerGradientXActivation
from torch import Tensor

from eke.engine.journal import describe_environment
from eke.explain.gradients import path_attention
from eke.models.backbones import build_network
from eke.models.network import ModelOptions, Network

MAPS, POOLED = "path_attention, maps", "path_attention, pooled vectors"
PER_LAYER, BY_HAND = "captum, once per layer", "captum's parts, path by hand"

Contestant = Callable[[int], dict[str, Tensor]]
"""Points that share a pass -> {layer: attention}."""


def contestants(network: Network, images: Tensor, n_points: int) -> dict[str, Contestant]:
    with torch.no_grad():
        classes = network(images).logits.argmax(1)
    body = network.body
    layers = {"block1": body.block1, "block2": body.block2, "embedding": body.dense, "logits": network.head}

    def forward(points: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits, embedding, features = network(points, taps=("block1", "block2"))
        return logits, {**features, "embedding": embedding, "logits": logits}

    def loss(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, classes, reduction="none")

    def score(points: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(network(points).logits, targets, reduction="none")

    def ours(at_once: int, pooled: bool) -> dict[str, Tensor]:
        return path_attention(forward, images, loss, n_steps=n_points, steps_at_once=at_once, pooled=pooled)

    influences = {name: InternalInfluence(score, layer) for name, layer in layers.items()}

    def once_per_layer(at_once: int) -> dict[str, Tensor]:
        return {
            name: influence.attribute(
                images,
                additional_forward_args=classes,
                n_steps=n_points,
                method="riemann_right",
                internal_batch_size=None if at_once == n_points else at_once * len(images),
            )
            for name, influence in influences.items()
        }

    gradient = LayerGradientXActivation(score, list(layers.values()), multiply_by_inputs=False)

    def by_hand(at_once: int) -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}
        for start in range(0, n_points, at_once):
            part = range(start + 1, min(start + at_once, n_points) + 1)
            points = torch.cat([k / n_points * images for k in part])
            gradients = gradient.attribute(points, additional_forward_args=classes.repeat(len(part)))
            for name, each in zip(layers, gradients, strict=True):
                total[name] = total.get(name, 0) + each.unflatten(0, (len(part), -1)).sum(0) / n_points
        return total

    return {
        MAPS: lambda at_once: ours(at_once, pooled=False),
        POOLED: lambda at_once: ours(at_once, pooled=True),
        PER_LAYER: once_per_layer,
        BY_HAND: by_hand,
    }


def compare(found: dict[str, dict[str, Tensor]]) -> None:
    """Fail unless all contestants give the same attention; pooled vectors are the means of the maps."""
    expected = {name: attention.detach() for name, attention in found[PER_LAYER].items()}
    pooled = {name: each.flatten(2).mean(2) if each.ndim > 2 else each for name, each in expected.items()}
    for contestant, attention in found.items():
        detached = {name: each.detach() for name, each in attention.items()}
        wanted = pooled if contestant == POOLED else expected
        torch.testing.assert_close(detached, wanted, rtol=1e-4, atol=1e-7)


def summarize(values: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "range": [min(values), max(values)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--points", type=int, default=32)
    parser.add_argument("--at-once", type=int, nargs="+", default=[4, 8, 16], help="points that share a pass")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clock = time.process_time if given.threads == 1 else time.perf_counter

    options = ModelOptions(name="lenet")
    network = build_network(options, n_classes=10, channels=1, size=(28, 28), mean=(0.0,), std=(1.0,), seed=0).eval()
    images = torch.randn(given.images, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    rivals = contestants(network, images, given.points)
    sizes = sorted({min(size, given.points) for size in [*given.at_once, given.points]})
    for size in sizes:
        compare({name: attend(size) for name, attend in rivals.items()})

    rounds: list[dict[tuple[str, int], float]] = []
    for _ in range(given.rounds):
        rounds.append({})
        for size in sizes:
            for name, attend in rivals.items():
                start = clock()
                attend(size)
                rounds[-1][name, size] = clock() - start

    def ratio(over: tuple[str, int], under: tuple[str, int]) -> dict[str, Any]:
        values = [each[over] / each[under] for each in rounds]
        title = " over ".join(f"{name} ({size} in a pass)" for name, size in (over, under))
        return {"what": title, **summarize(values)}

    seconds = {name: {size: summarize([each[name, size] for each in rounds]) for size in sizes} for name in rivals}
    best = {name: (name, min(sizes, key=lambda size: found[size]["median"])) for name, found in seconds.items()}
    result: dict[str, Any] = {
        "environment": {**describe_environment(torch.device("cpu")), "captum": version("captum")},
        "arguments": vars(given),
        "clock": "CPU time" if given.threads == 1 else "wall time",
        "seconds": seconds,
        "ratio": ratio(best[PER_LAYER], best[MAPS]),
        "further_ratios": [
            *(ratio(best[PER_LAYER], (MAPS, size)) for size in sizes if size != best[MAPS][1]),
            ratio((PER_LAYER, given.points), best[MAPS]),
            ratio(best[BY_HAND], best[MAPS]),
        ],
    }
    if given.json:
        print(json.dumps(result))
        return
    print(" ".join(f"{k}={v}" for k, v in result["environment"].items()))
    print(f"All results are equal. Seconds of {result['clock']}, by the number of points in a pass:")
    print(f"{'':<32}" + "".join(f"{size:>26}" for size in sizes))
    for name, found in seconds.items():
        cells = [f"{each['median']:.3f} ({each['range'][0]:.3f} to {each['range'][1]:.3f})" for each in found.values()]
        print(f"{name:<32}" + "".join(f"{cell:>26}" for cell in cells))
    print("Ratios; the first, of both at their fastest, is the one of the aim (at least 3, goal 4):")
    for each in (result["ratio"], *result["further_ratios"]):
        low, high = each["range"]
        print(f"{each['median']:5.2f} ({low:.2f} to {high:.2f})  {each['what']}")


if __name__ == "__main__":
    main()
