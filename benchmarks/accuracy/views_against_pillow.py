"""Does training on eke's batched views end where training on Pillow's views ends?

    python benchmarks/accuracy/views_against_pillow.py --data DATA --json pairs.json

Trains one small network from the same weights, on the same images in the same order, with the strong views of a
preset: once made by eke, once image by image with Pillow, which draws its own numbers. Reports the accuracy on test
images that no run has seen, and the paired differences with their t interval. DATA holds cifar10-train.parquet and
cifar10-test.parquet.
"""

import argparse
import io
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pyarrow import parquet
from torch import Tensor, nn

from eke.augment.presets import PRESETS
from eke.randomness import rng

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pillow_views import make_views, pillow_view

BATCH = 100
Maker = Callable[[Tensor, int, int], Tensor]


def load(path: Path, n: int) -> tuple[Tensor, Tensor]:
    """Give the first `n` images of a set, whose rows are shuffled, and their labels."""
    table = parquet.read_table(path, columns=["image", "label"]).slice(0, n)
    decoded = [np.array(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in table["image"].to_pylist()]
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous(), torch.tensor(
        table["label"].to_pylist()
    )


def network() -> nn.Module:
    """Build a small convolutional network."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]

    layers = [*block(3, 32), *block(32, 64), *block(64, 128), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)]
    return nn.Sequential(*layers)


def makers(preset: str) -> dict[str, Maker]:
    """Give the two ways to make views: functions of (images, seed, step)."""
    fast, slow = PRESETS[preset], pillow_view(preset, 32)

    def eke(images: Tensor, seed: int, step: int) -> Tensor:
        draws = fast.draw(len(images), 3, (32, 32), rng(seed, step, "views"))
        return fast.apply(images, draws).pixels

    def pillow(images: Tensor, seed: int, step: int) -> Tensor:
        random.seed(seed * 1_000_003 + step)
        torch.manual_seed(seed * 1_000_003 + step)
        return make_views([Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()) for image in images], slow)

    return {"eke": eke, "pillow": pillow}


def train(make: Maker, train_set: tuple[Tensor, Tensor], seed: int, epochs: int) -> nn.Module:
    images, labels = train_set
    torch.manual_seed(seed)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    total = epochs * (len(images) // BATCH)
    step = 0
    for epoch in range(epochs):
        for rows in torch.randperm(len(images), generator=rng(seed, epoch, "order")).split(BATCH):
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * (1 + math.cos(math.pi * step / total))
            loss = F.cross_entropy(model(make(images[rows], seed, step) * 2 - 1), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    return model.eval()


def accuracy(model: nn.Module, test_set: tuple[Tensor, Tensor]) -> float:
    images, labels = test_set
    with torch.no_grad():
        right = [
            (model(part.float() / 127.5 - 1).argmax(1) == truth).sum().item()
            for part, truth in zip(images.split(500), labels.split(500), strict=True)
        ]
    return 100 * sum(right) / len(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--preset", default="randaugment/google")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--labeled", type=int, default=2000)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train_set = load(options.data / "cifar10-train.parquet", options.labeled)
    test_set = load(options.data / "cifar10-test.parquet", options.test)
    pairs: list[dict[str, float]] = []
    print(f"{options.preset}, {options.labeled} images, {options.epochs} epochs, {options.test} test images")
    for seed in range(options.seeds):
        pair: dict[str, float] = {}
        for name, make in makers(options.preset).items():
            start = time.perf_counter()
            pair[name] = accuracy(train(make, train_set, seed, options.epochs), test_set)
            pair[f"{name}_s"] = time.perf_counter() - start
        pairs.append(pair)
        print(
            f"seed {seed}: eke {pair['eke']:.2f} % ({pair['eke_s']:.0f} s), Pillow {pair['pillow']:.2f} % "
            f"({pair['pillow_s']:.0f} s), difference {pair['eke'] - pair['pillow']:+.2f}"
        )
    differences = [pair["eke"] - pair["pillow"] for pair in pairs]
    report: dict[str, object] = {"preset": options.preset, "pairs": pairs, "difference": statistics.fmean(differences)}
    line = f"mean difference {statistics.fmean(differences):+.2f} points"
    if len(differences) > 1:
        from scipy.stats import t

        margin = t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
        report["margin_95"] = margin
        line += f", 95 % t interval +-{margin:.2f} (n = {len(differences)} seeds)"
    print(line)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
