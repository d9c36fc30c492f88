"""What the rows of a table are run on, at each scale: images, network, batch, optimizers and lengths.

Everything here was fixed before any test figure of MNIST or CIFAR-10 was seen. Nothing is chosen on validation
(`val_rate` is 0): the last weights are evaluated. At the small scales every row of a section puts the same number of
images through the network, pretraining and fine-tuning together, all views counted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from eke.augment.presets import PRESETS
from eke.config import merge
from eke.errors import ConfigError
from eke.methods import METHODS
from eke.progress import Progress
from eke.tasks.grid_cells import Train
from eke.tasks.grid_data import PoolPlan, TableData, build_data, user_data

Scale = Literal["smoke", "cpu", "paper"]

SEEDS: Mapping[Scale, int] = {"smoke": 2, "cpu": 3, "paper": 1}
"""Paired seeds where the user names no number."""


# ------------------------------------------------------------------ smoke and cpu

FIT_OPTIM: Mapping[str, Any] = {
    "name": "sgd",
    "lr": 0.03,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 5e-4,
    "schedule": "cosine-7/16",
    "warmup_steps": 0,
    "ema_decay": 0.999,
}
"""Whatever is trained with labels: FixMatch's recipe, which CoMatch's CIFAR-10 runs share."""

PRETRAIN_OPTIM: Mapping[str, Any] = {
    "name": "adamw",
    "lr": 1e-3,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "half-cosine",
    "warmup_steps": 0,
    "ema_decay": 0.0,
}
"""Whatever is trained without labels. The papers' optimizers (SGD, LARS) and rates hang on the scale of each loss and
on hundreds of epochs of warm-up and decay; Adam's step does not depend on the scale of a loss, so one rate serves all
in some hundred steps."""

SMOOTHED_TAU = 0.9 * 0.95 + 0.1 * 0.1
"""Confidence threshold of CoMatch and SimMatch: 0.865. Both threshold a smoothed prediction, q = 0.9 p + 0.1 of what
similar images are. The papers' 0.95 presupposes embeddings that are clustered by class, which some hundred steps do not
bring: as long as the memory says nothing (0.1 for each of ten classes) not even p = 1 gets there. This is what a p of
0.95, FixMatch's threshold, becomes with such a memory. (At 0.95 a trial run used 7 % of its pseudo-labels in the end;
its test images were not looked at.)"""

GRAPH_TAU = round(0.8 * SMOOTHED_TAU**2 / 0.95**2, 2)
"""CoMatch's T, 0.66: the published 0.8 in proportion to the agreement of two images at the threshold."""

FINE_TUNING_RATE = 0.25
"""Part of a row's images that goes into fine-tuning, the rest into pretraining."""


@dataclass(frozen=True)
class SmallBench:
    """A problem for one processor core."""

    data: TableData
    images: int
    """Through the network, per row."""
    labeled: int
    """B: labeled images per step beside unlabeled ones."""
    mu: int
    size: int
    """Images per step of pretraining; and labeled images per step where there are no others."""
    n_extra: int
    """Labels that are requested: half as many as the first ones."""
    text: str
    """What the rows share, for the page."""
    flips: bool = False
    """Whether views may be mirrored; a digit's mirror image is another sign."""
    compute: Mapping[str, Any] = field(default_factory=dict)

    def supervised(self) -> Train:
        """Train on the labels alone."""
        return self._train("supervised", self.images, {"labeled": self.size, "mu": 1}, FIT_OPTIM)

    def pretraining(self, method: str, rate: float | None = None) -> Train:
        """Train without labels, for `rate` of a row's images; None: for all but those of the fine-tuning."""
        images = round(self.images * (1 - FINE_TUNING_RATE if rate is None else rate))
        return self._train(method, images, {"size": self.size}, PRETRAIN_OPTIM)

    def fine_tuning(self) -> Train:
        """Train all weights on the labels, from a pretrained network."""
        images = round(self.images * FINE_TUNING_RATE)
        return self._train("supervised", images, {"labeled": self.size, "mu": 1}, FIT_OPTIM)

    def semi_supervised(self, method: str, rate: float = 1.0, *, extra: bool = False) -> Train:
        """Train on labels and unlabeled images, for `rate` of a row's images; `extra` labels change no option here."""
        images = round(self.images * rate)
        return self._train(method, images, {"labeled": self.labeled, "mu": self.mu}, FIT_OPTIM)

    def _train(self, method: str, images: int, batch: Mapping[str, int], optim: Mapping[str, Any]) -> Train:
        flags = {
            "data": {"val_rate": 0.0},
            "model": {"name": "small"},
            "batch": batch,
            "optim": optim,
            "compute": self.compute,
            "views": {} if self.flips else without_flips(method),
            "method": self._own_options(method),
        }
        return Train(method, flags, images)

    def _own_options(self, method: str) -> dict[str, Any]:
        """Return what a small batch, a short run and a small network make necessary; all else is the paper's.

        CoMatch's memory holds five batches, labeled images included, as for CIFAR-10: more would be filled late in so
        short a run and hold outdated predictions. Its window of distribution alignment, and SimMatch's, is 16 batches:
        about a thousand images and a tenth of the run, where 32 would remember a much worse network. For the
        thresholds see `SMOOTHED_TAU` and `GRAPH_TAU`. Projectors are 512 wide instead of 2048 and more: the network's
        own embedding has 128 dimensions, and at full width the projector would take most of the time.
        """
        own: dict[str, dict[str, Any]] = {
            "comatch": {
                "memory_size": 5 * self.labeled * (1 + self.mu),
                "da_window": 16,
                "tau": SMOOTHED_TAU,
                "graph_tau": GRAPH_TAU,
            },
            "simmatch": {"da_window": 16, "tau": SMOOTHED_TAU},
            "simsiam": {"projector_width": 512, "predictor_width": 128},
            "barlow_twins": {"projector_width": 512},
        }
        return own.get(method, {})


def without_flips(method: str) -> dict[str, str]:
    """Return the method's own views, each without its mirroring."""
    views = METHODS[method].views
    presets = {**views.unlabeled, **views.labeled}
    return {name: f"{preset}-noflip" for name, preset in presets.items() if f"{preset}-noflip" in PRESETS}


_SHARED = (
    "Nothing is chosen on validation: there is none, and the last weights are tested once. All rows of a seed have the "
    "same first labels, the same network (small, 0.17 M parameters) and the same number of images through it, "
    "pretraining (three quarters) and fine-tuning (one quarter) together. With labels: SGD, rate 0.03, FixMatch's "
    "recipe, B = {labeled}, mu = {mu}; without unlabeled images B = {size}. Without labels: AdamW, rate 0.001, {size} "
    "images a step, projectors 512 wide. CoMatch: memory of five batches, alignment over 16, thresholds 0.865 and "
    "0.66; SimMatch 0.865; FixMatch 0.95. "
)


def digits_bench(
    folder: Path, seeds: Iterable[int], progress: Progress, n_unseen: int = 0, keep_unseen: bool = True
) -> SmallBench:
    """Return scikit-learn's digits with 20 labels and a few dozen steps: to see that everything works, no more."""
    plan = PoolPlan("digits", 900, 300, labels_per_class=2, n_unseen=n_unseen, keep_unseen=keep_unseen)
    text = "Handwritten digits of 8 x 8 pixels, 2 labels per class, a few dozen steps: a test of the machinery. "
    return SmallBench(
        build_data(plan, folder, None, seeds, progress),
        images=4_000,
        labeled=8,
        mu=4,
        size=32,
        n_extra=10,
        text=text + _SHARED.format(labeled=8, mu=4, size=32),
    )


def mnist_bench(
    folder: Path,
    data: Path | None,
    seeds: Iterable[int],
    progress: Progress,
    n_unseen: int = 0,
    keep_unseen: bool = True,
) -> SmallBench:
    """Return MNIST with 4 labels per class.

    One core makes 1,010, 1,080 and 1,010 images/s of FixMatch steps at B = 8, 16 and 32 (mu = 4, float32), and 760 to
    880 in bfloat16, whose conversions cost more than its products save: so float32 and B = 16. 36,000 images are some
    35 seconds, 250 steps of FixMatch and 173 of CoMatch.
    """
    plan = PoolPlan("mnist", 4_000, 2_000, labels_per_class=4, n_unseen=n_unseen, keep_unseen=keep_unseen)
    text = "MNIST, 28 x 28: 4 labels per class, a pool of 4,000 images, 2,000 test images, views without mirroring. "
    return SmallBench(
        build_data(plan, folder, data, seeds, progress),
        images=36_000,
        labeled=16,
        mu=4,
        size=64,
        n_extra=20,
        text=text + _SHARED.format(labeled=16, mu=4, size=64),
    )


def cifar_bench(folder: Path, data: Path | None, seeds: Iterable[int], progress: Progress) -> SmallBench:
    """Return CIFAR-10 with 25 labels per class and 48,000 images a row: 333 steps of FixMatch, 230 of CoMatch."""
    plan = PoolPlan("cifar10", 10_000, 2_000, labels_per_class=25)
    text = "CIFAR-10: 25 labels per class, a pool of 10,000 images, 2,000 test images. "
    return SmallBench(
        build_data(plan, folder, data, seeds, progress),
        images=48_000,
        labeled=16,
        mu=4,
        size=64,
        n_extra=125,
        text=text + _SHARED.format(labeled=16, mu=4, size=64),
        flips=True,
    )


# ------------------------------------------------------------------ paper

POOL, LABELS, LABELED, MU, PRETRAIN_SIZE = 512_000, 25_600, 64, 4, 512
"""The report: unlabeled and labeled images, B and mu of its Table 1, SimCLR's batch."""
EPOCHS = {
    "simclr": 300,
    "simsiam": 200,
    "barlow_twins": 100,
    "autoencoder": 200,
    "fixmatch": 300,
    "simmatch": 400,
    "comatch": 400,
}
"""The report's Table 2, an epoch being a pass over the unlabeled images, as in CoMatch's ImageNet code. SimMatch is not
in the report and gets CoMatch's."""
FINE_TUNING_EPOCHS = 100
"""Passes over the labels; the report does not say."""

REPORT_OPTIM: Mapping[str, Any] = {
    "name": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 1e-4,
    "schedule": "half-cosine",
    "warmup_steps": 0,
    "ema_decay": 0.0,
}
"""Section 4.1."""


@dataclass(frozen=True)
class PaperBench:
    """The report's own setting, on the user's images: 96 pixels, ResNet-50. Written down and never run here."""

    data: TableData
    equal_budget: bool
    """Every row gets as many images as CoMatch, instead of the report's epochs."""
    n_extra: int = LABELS // 2
    text: str = ""

    @property
    def images(self) -> int:
        """Images of CoMatch's 400 epochs: one labeled and three unlabeled views."""
        return EPOCHS["comatch"] * POOL // (MU * LABELED) * (LABELED + 3 * MU * LABELED)

    def supervised(self) -> Train:
        """Train on the labels alone, for FixMatch's number of passes over them."""
        steps = EPOCHS["fixmatch"] * LABELS // LABELED
        return self._train("supervised", {"batch": {"labeled": LABELED, "mu": 1}, "optim": REPORT_OPTIM}, steps)

    def pretraining(self, method: str, rate: float | None = None) -> Train:
        """Train without labels with the method's own recipe; `rate` as for `SmallBench`."""
        steps = round((rate or 1.0) * EPOCHS[method] * POOL / PRETRAIN_SIZE)
        images = self.images - FINE_TUNING_EPOCHS * LABELS if rate is None else round(rate * self.images)
        return self._train(method, {"batch": {"size": PRETRAIN_SIZE}}, steps, images)

    def fine_tuning(self) -> Train:
        """Train all weights on the labels, from a pretrained network."""
        steps = FINE_TUNING_EPOCHS * LABELS // LABELED
        flags = {"batch": {"labeled": LABELED, "mu": 1}, "optim": {**REPORT_OPTIM, "lr": 0.01}}
        return self._train("supervised", flags, steps, FINE_TUNING_EPOCHS * LABELS)

    def semi_supervised(self, method: str, rate: float = 1.0, *, extra: bool = False) -> Train:
        """Train on labels and unlabeled images; with `extra` labels CoMatch has the second line of Table 1."""
        steps = round(rate * EPOCHS[method] * POOL / (MU * LABELED))
        if method == "comatch":
            preset = "report-96px-7.5" if extra else "report-96px"
            return self._train(f"comatch/{preset}", {}, steps, round(rate * self.images))
        flags = {"batch": {"labeled": LABELED, "mu": MU}, "optim": REPORT_OPTIM}
        return self._train(method, flags, steps, round(rate * self.images))

    def _train(self, method: str, flags: Mapping[str, Any], steps: int, images: int | None = None) -> Train:
        shared = {"data": {"size": 96, "channels": 3, "val_rate": 0.0}, "model": {"name": "resnet50"}}
        if self.equal_budget:
            return Train(method, merge(shared, flags), self.images if images is None else images)
        return Train(method, merge(shared, {**flags, "steps": steps}))


Bench: TypeAlias = SmallBench | PaperBench
"""Images, and how each kind of row is trained on them."""


def paper_benches(data: Path | None) -> tuple[PaperBench, PaperBench]:
    """Return the report's setting with its own epochs, and at equal budget.

    Raises:
        ConfigError: no folder was named.
        DataError: the folder has no train or no test.
    """
    if data is None:
        raise ConfigError(
            "The paper's scale needs its images: --data FOLDER with train (25,600 labeled and 512,000 unlabeled "
            "images) and test. Try --scale cpu, which needs none."
        )
    found = user_data(data)
    text = (
        "The report's setting: 96 x 96 pixels, ResNet-50, SGD with momentum 0.9, weight decay 0.0001 and rate 0.1 with "
        "half a cosine; CoMatch with the report's Table 1. An epoch is a pass over the unlabeled images. The report "
        "does not say how networks were fine-tuned: 100 passes over the labels at rate 0.01 here. "
    )
    return (
        PaperBench(found, equal_budget=False, text=text + "Epochs as in the report: budgets differ."),
        PaperBench(found, equal_budget=True, text=text + "Every row has the images of CoMatch's 400 epochs."),
    )
