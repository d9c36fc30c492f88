"""The experiment of the Grad-CAM consistency paper (Lee and Cho, section IV), whose cells its tables share.

So many labels, and unlabeled images in a ratio to them: L_S with labeled images plain or augmented, L_S + L_P, and
these with L_G at each of four layers. Ratio and layer are all that changes from cell to cell; seeds are paired: the
cells of a seed share labels, unlabeled images as far as they reach, initial weights and batches.

What the paper leaves open, and what is smaller here:
1. The ratio changes which unlabeled images there are, not how many are seen: a step has B labeled and B unlabeled ones
   (algorithm 1, "same number of samples"), and every cell has equally many steps.
2. L_S alone sees B images a step, as in the paper, where the other rows put 3 B through the network. Rows with 3 B
   labeled images a step stand beside it: equal budget instead of equal labels per step.
3. Validation images are apart from the pool, as in the paper (one fifth of CIFAR-10's training images).
4. At the scale `cpu` a network of four blocks stands for ResNet-50's four layers and starts from random weights, on a
   fifth of the labels. At the scale `paper` it is ResNet-50 with the ImageNet weights that the authors' code loads,
   where they can be downloaded, else from SimCLR on the pool; optimizer and rate are those of their code, the rate in
   proportion to a larger batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eke.config import merge
from eke.progress import Progress
from eke.tables.benches import FIT_OPTIM, Scale
from eke.tasks.grid_cells import Cell, Train
from eke.tasks.grid_data import PoolPlan, TableData, build_data
from eke.tasks.grid_table import Series

RATIOS = (0.5, 1.0, 2.0)
"""Unlabeled images for each labeled one (section IV-A)."""
PLANS: Mapping[Scale, PoolPlan] = {
    "smoke": PoolPlan("digits", 300, 300, labels_per_class=8, n_val=200),
    "cpu": PoolPlan("cifar10", 3_000, 2_000, labels_per_class=100, n_val=2_000),
    "paper": PoolPlan("cifar10", 15_000, 10_000, labels_per_class=500, n_val=10_000),
}
"""Images: the pool has as many as the labels and the largest ratio need."""
PLAIN, AUGMENTED = "flip", "crop-rotate-jitter"
"""Views."""


@dataclass(frozen=True)
class GradCAMBench:
    """The experiment on one set of images. Figures of its series are validation accuracies unless `tested`."""

    data: TableData
    seeds: Sequence[int]
    n_labels: int
    size: int
    """B: labeled images per step, and unlabeled ones beside them."""
    steps: int
    layers: tuple[str, ...]
    """The paper's layers 1 to 4."""
    flags: Mapping[str, Any]
    """Network, optimizer and working size."""
    text: str
    """What the rows share, for the page."""
    flips: bool = True
    """Whether views may be mirrored; a digit's mirror image is another sign."""
    pretraining: Train | None = None
    """What every cell starts from; None: random or published weights."""

    def supervised(self, *, augmented: bool, times: int = 1) -> Series:
        """L_S: labeled images mirrored at most, or augmented like unlabeled ones; `times` B of them per step."""
        view = self._view(AUGMENTED if augmented else PLAIN)
        return self._series("supervised", {"batch": {"labeled": times * self.size, "mu": 1}, "views": {"weak": view}})

    def consistent(
        self, ratio: float, layer: str | None = None, *, pseudo: str | None = "soft", map_: str = "gradcam"
    ) -> Series:
        """L_S with L_P, in one of its forms or without, and with L_G at a layer or, for saliency, of the image."""
        looks = layer is not None or map_ == "saliency"
        own = {"beta": float(pseudo is not None), "gamma": float(looks), "layer": [layer] if layer else []}
        plain, augmented = self._view(PLAIN), self._view(AUGMENTED)
        flags = {
            "batch": {"labeled": self.size, "mu": 1},
            "views": {"weak": plain, "original": plain, "augmented": augmented},
            "data": {"n_unlabeled": round(ratio * self.n_labels), "unlabeled_with_labeled": False},
            "method": own if pseudo is None else {**own, "pseudo_label": pseudo},
            "attention": {"map": map_},
        }
        return self._series("gradcam_consistency", flags)

    def _series(self, method: str, flags: Mapping[str, Any]) -> Series:
        # validation is looked at once, at the end: the last weights are those that count
        shared = {"data": {"val_rate": 0.0}, "steps": self.steps, "evaluate": {"every_steps": self.steps}}
        work = Train(method, merge(merge(shared, self.flags), flags))
        first = self.pretraining
        starts = [None if first is None else Cell(first, self.data, seed) for seed in self.seeds]
        cells = [Cell(work, self.data, seed, start) for seed, start in zip(self.seeds, starts, strict=True)]
        return Series(cells, figure="validation")

    def _view(self, preset: str) -> str:
        return preset if self.flips else f"{preset}-noflip"


def tested(series: Series) -> Series:
    """Return the same cells' accuracy on test images."""
    return replace(series, figure="accuracy")


def make_bench(scale: Scale, seeds: Sequence[int], data: Path | None, out: Path, progress: Progress) -> GradCAMBench:
    """Build the experiment's images and say how it is trained.

    Raises:
        DataError: images are missing.
    """
    plan = PLANS[scale]
    found = build_data(plan, out / "data", data, seeds, progress)
    n_labels = 10 * plan.labels_per_class
    images = (
        f"{plan.name}: {n_labels:,} labels and 0.5, 1 or 2 unlabeled images for each, {plan.n_val:,} validation and "
        f"{plan.n_test:,} test images. "
    )
    if scale == "paper":
        return _paper_bench(found, seeds, n_labels, images)
    steps, size = (20, 16) if scale == "smoke" else (250, 32)
    return GradCAMBench(
        found,
        seeds,
        n_labels,
        size,
        steps,
        layers=("block1", "block2", "block3", "block4"),
        flags={"model": {"name": "small"}, "optim": FIT_OPTIM},
        text=images
        + f"Network small (0.17 M parameters, random weights), FixMatch's optimizer, {steps} steps of B = {size} "
        f"labeled images and as many unlabeled ones; alpha = beta = gamma = 1. {VIEWS}",
        flips=scale != "smoke",
    )


def make_pair(
    name: str,
    classes: tuple[str, ...],
    scale: Scale,
    seeds: Sequence[int],
    data: Path | None,
    out: Path,
    progress: Progress,
) -> GradCAMBench:
    """Build the experiment on two classes of a set, with few labels, mirrored where that leaves a class what it is.

    Raises:
        DataError: images are missing.
    """
    n, steps, size = (8, 20, 16) if scale == "smoke" else (20, 120, 32)
    pool, tests = (90, 60) if scale == "smoke" else (1_000, 1_600)
    plan = PoolPlan(name, pool, tests, labels_per_class=n, classes=classes)
    return GradCAMBench(
        build_data(plan, out / "data", data, seeds, progress),
        seeds,
        2 * n,
        size,
        steps,
        layers=("block1", "block2", "block3", "block4"),
        flags={"model": {"name": "small"}, "optim": FIT_OPTIM},
        text=f"{n} labels per class and two unlabeled images for each label, {tests:,} test images. Network small "
        f"(0.17 M parameters, random weights), FixMatch's optimizer, {steps} steps of B = {size} labeled images and "
        "as many unlabeled ones; alpha = beta = gamma = 1. Digits are not mirrored.",
        flips=name == "cifar10",
    )


VIEWS = (
    "Plain: mirrored or not. Augmented: a crop, a flip, a quarter turn and a color jitter. Figures are accuracies on "
    "validation images, as in the paper."
)


def _paper_bench(data: TableData, seeds: Sequence[int], n_labels: int, images: str) -> GradCAMBench:
    size, epochs, published = 32, 30, _downloadable()
    optim = {
        "name": "sgd",
        "lr": 0.001 * size / 4,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 1e-5,
        "schedule": "constant",
        "warmup_steps": 0,
        "ema_decay": 0.0,
    }
    model = PUBLISHED if published else {"name": "resnet50"}
    flags = {"model": model, "data": {"size": 128}, "optim": optim}
    start = (
        "ImageNet weights" if published else "SimCLR on the pool, 200 passes (ImageNet weights cannot be downloaded)"
    )
    alone = {"model": model, "data": {"size": 128, "val_rate": 0.0}, "batch": {"size": 256}}
    pretraining = Train("simclr", {**alone, "steps": 200 * 15_000 // 256})
    return GradCAMBench(
        data,
        seeds,
        n_labels,
        size,
        steps=epochs * n_labels // size,
        layers=("layer1", "layer2", "layer3", "layer4"),
        flags=flags,
        text=f"{images}ResNet-50 at 128 pixels from {start}, SGD with a constant rate of {optim['lr']:g}, {epochs} "
        f"passes over the labels with B = {size} labeled images and as many unlabeled ones; alpha = beta = gamma = 1. "
        f"{VIEWS}",
        pretraining=None if published else pretraining,
    )


PUBLISHED = {"name": "torchvision/resnet50", "pretrained": True}


def _downloadable() -> bool:
    """Tell whether the published weights are here or can be downloaded; if so they are."""
    from torchvision.models import get_model

    try:
        get_model("resnet50", weights="DEFAULT")
    except (OSError, RuntimeError):
        return False
    return True
