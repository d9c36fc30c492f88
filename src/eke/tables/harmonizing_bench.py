"""What the tables of the harmonizing paper are run on: images, start, network, lengths, and the series they share.

A network is trained on so many labeled images of each class, plain or augmented, and then harmonized without labels on
the same images (section 4.2). Of both stages the weights of the best mAP on validation images count, as in the paper.
Seeds are paired: the cells of a seed share labels, validation images, batches and, harmonized or not, the network.

The paper starts from ImageNet weights. Their stand-in at the scale `cpu` is a ResNet-18 of our own, trained once on
CIFAR-10 and shared by all tables as their first cell. Of the five classes of the photographs, cat and car (automobile)
are classes of CIFAR-10, where truck is near to bus; person and train are not in it.

What the paper leaves open, or what is otherwise here:
1. Several labels an image: cross entropy of each class (paper: "categorical"; authors' code: as here).
2. n images for each class that is the rarest of theirs; frequent classes come along and have more.
3. Thresholds of F1 are chosen on validation, for all rows alike.
4. At the scale `cpu` the harmonizing rate is 1e-5, near the authors' scripts; at the scale `paper` the paper's 1e-3.
5. The paper does not say how long it trains; at its scale it is 100 passes over the labels (section 5), then 25.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eke.config import fingerprint, merge
from eke.errors import ConfigError, DataError
from eke.files import write_text
from eke.tables.benches import SEEDS, Scale
from eke.tables.squares import squares
from eke.tasks.grid_cells import Cell, Train
from eke.tasks.grid_data import TableData, hash_file
from eke.tasks.grid_table import Series

MODEL = "torchvision/resnet18"
START_SIZE = 64
"""Pixels to which CIFAR-10 is enlarged, so that the stride of 32 leaves a map."""
MIDDLE = 8
"""Labels per class at which all else is compared."""
F1, MAP = "macro_f1", "mean_average_precision"
PAIRED_SEEDS: Mapping[Scale, int] = {**SEEDS, "cpu": 5}
"""Of tables whose differences are small."""


@dataclass(frozen=True)
class HarmonizingBench:
    """The experiment on one set of images."""

    data: TableData
    seeds: Sequence[int]
    counts: Sequence[int]
    """Training images per class."""
    plain_counts: Sequence[int]
    """Those that are trained on without augmentation, too."""
    flags: Mapping[str, Any]
    """Network, size and validation, of both stages."""
    fitting: Mapping[str, Any]
    """Batch and optimizer of the supervised stage."""
    fitting_steps: Mapping[int, int]
    """Training images per class -> steps of the supervised stage."""
    harmonizing: Mapping[str, Any]
    """Batch, optimizer and steps of the second stage."""
    augmented: str
    """The view of augmented images."""
    text: str
    """What the rows share, for the page."""
    start: Cell | None = None
    """What the supervised stage starts from; None: published or random weights."""

    def supervised(self, n: int, *, augmented: bool = True, start: Cell | None = None) -> Series:
        """Train on n images of each class; from `start` instead of the bench's."""
        flags = self.stage(n, self.fitting_steps[n], self.fitting)
        work = Train("supervised", merge(flags, {"views": {"weak": self.view(augmented)}}))
        return Series([Cell(work, self.data, seed, start or self.start) for seed in self.seeds], F1)

    def harmonized(
        self,
        n: int,
        start: Series,
        *,
        augmented: bool = True,
        pool: Mapping[str, Any] | None = None,
        data: TableData | None = None,
    ) -> Series:
        """Harmonize trained networks on the n images of each class that they were trained on.

        Args:
            n: images per class.
            start: the trained networks.
            augmented: whether views are.
            pool: options of data that choose other images.
            data: instead of the bench's, where the images are from elsewhere.
        """
        view = self.view(augmented)
        chosen = {"views": {"weak": view, "original": view}, "data": pool or {}}
        work = Train("harmonize", merge(self.stage(n, self.harmonizing["steps"], self.harmonizing), chosen))
        return Series([Cell(work, data or self.data, cell.seed, start=cell) for cell in start.cells], F1)

    def stage(self, n: int, steps: int, flags: Mapping[str, Any]) -> dict[str, Any]:
        """Return the flags of a stage that is looked at four times, of which the best evaluation counts."""
        looks = {"every_steps": max(1, steps // 4), "keep": "labels"}
        images = {"labels_per_class": n, "n_unlabeled": 0}  # the unlabeled images are the labeled ones
        return merge(merge(self.flags, {"data": images, "evaluate": looks, "steps": steps}), flags)

    def view(self, augmented: bool) -> str:
        """Return the preset of a view."""
        return self.augmented if augmented else "none"


def make_bench(scale: Scale, seeds: Sequence[int], data: Path | None, out: Path) -> HarmonizingBench:
    """Say what is trained on what.

    Raises:
        ConfigError: no folder of images was named.
        DataError: images are missing.
    """
    if scale == "smoke":
        return _smoke_bench(seeds, out)
    if data is None:
        raise ConfigError("This table reads photographs with boxes: name their folder by --data FOLDER.")
    return _cpu_bench(seeds, data) if scale == "cpu" else _paper_bench(seeds, data, out)


def _smoke_bench(seeds: Sequence[int], out: Path) -> HarmonizingBench:
    found = in_place("squares", squares(out / "data" / "squares.zip", 120, 60))
    optim = {"name": "adamw", "lr": 3e-3, "weight_decay": 0.0, "schedule": "constant", "warmup_steps": 0}
    return HarmonizingBench(
        found,
        seeds,
        counts=(4, MIDDLE),
        plain_counts=(MIDDLE,),
        flags={"data": {"size": 32, "val_rate": 0.0, "val_per_class": 8}, "model": {"name": "small"}},
        fitting={"batch": {"labeled": 8, "mu": 1}, "optim": {**optim, "ema_decay": 0.0}},
        fitting_steps=dict.fromkeys((4, MIDDLE), 40),
        harmonizing={"batch": {"labeled": 4, "mu": 1}, "steps": 4},
        augmented="weak-noflip",
        text="Colored squares on noise, drawn here, to show that everything works; network small, random weights.",
    )


def _cpu_bench(seeds: Sequence[int], data: Path) -> HarmonizingBench:
    photos = data / "voc5.zip"
    if not photos.is_file():
        raise DataError(f"{data} has no {photos.name}, photographs of five classes with boxes.")
    optim = {
        "name": "adamw",
        "lr": 3e-4,
        "weight_decay": 1e-4,
        "schedule": "half-cosine",
        "warmup_steps": 0,
        "ema_decay": 0.0,
    }
    counts, steps, harmonizing_steps = (4, MIDDLE, 16), 100, 60
    return HarmonizingBench(
        in_place("voc5", photos),
        seeds,
        counts=counts,
        plain_counts=(MIDDLE,),
        flags={"data": {"size": 128, "val_rate": 0.0, "val_per_class": 12}, "model": {"name": MODEL}},
        fitting={"batch": {"labeled": 8, "mu": 1}, "optim": optim},
        fitting_steps=dict.fromkeys(counts, steps),
        harmonizing={"batch": {"labeled": 4, "mu": 1}, "steps": harmonizing_steps},
        augmented="pascal",
        text="Five classes, VOC-style (1,000 training, 400 test photographs), 128 pixels. ResNet-18 from CIFAR-10 "
        f"(1,500 steps at {START_SIZE} pixels), {steps} supervised steps of 8 images, then {harmonizing_steps} "
        "harmonizing steps of 4 at a rate of 1e-5, on the training images. Up to 12 validation images per class: the "
        "best of four evaluations of each stage by mAP counts.",
        start=cifar_start(data),
    )


def _paper_bench(seeds: Sequence[int], data: Path, out: Path) -> HarmonizingBench:
    counts, batch = (2, 4, 8, 12, 16, 135), 4
    optim = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.0, "schedule": "constant", "warmup_steps": 0}
    stage = {"batch": {"labeled": batch, "mu": 1}, "optim": {**optim, "ema_decay": 0.0}}
    steps = {n: 100 * 20 * n // batch for n in counts}
    return HarmonizingBench(
        _voc(data, out / "data" / "voc"),
        seeds,
        counts=counts,
        plain_counts=counts,
        flags={
            "data": {"size": 256, "val_rate": 0.0, "val_per_class": 25},
            "model": {"name": "torchvision/resnet50", "pretrained": True},
        },
        fitting=stage,
        fitting_steps=steps,
        harmonizing={**stage, "steps": steps[MIDDLE] // 4},
        augmented="pascal",
        text="PASCAL VOC: trained on its list train, of which 25 images per class validate, tested on its list val. "
        "ResNet-50 from ImageNet weights at 256 pixels, batches of 4, Adam with a rate of 1e-3 in both stages.",
    )


def in_place(name: str, source: Path) -> TableData:
    """Use images that declare their own test images where they lie."""
    return TableData(name, str(source.absolute()), None, fingerprint({"file": hash_file(source)}), labels={})


def _voc(data: Path, folder: Path) -> TableData:
    """Give a VOC folder the paper's parts, by lists of our own beside links to its images: val tests."""
    lists = data / "ImageSets" / "Main"
    parts = {"trainval": lists / "train.txt", "test": lists / "val.txt"}
    for file in parts.values():
        if not file.is_file():
            raise DataError(f"{data} has no {file.relative_to(data)}: name a VOC folder, such as VOCdevkit/VOC2012.")
    for part, file in parts.items():
        write_text(folder / "ImageSets" / "Main" / f"{part}.txt", file.read_text(encoding="utf-8"))
    for name in ("JPEGImages", "Annotations"):
        if not (folder / name).exists():
            (folder / name).symlink_to((data / name).absolute(), target_is_directory=True)
    identity = fingerprint({part: hash_file(file) for part, file in parts.items()})
    return TableData(data.name, str(folder.absolute()), None, identity, labels={})


def cifar_start(data: Path) -> Cell:
    """Return the stand-in for ImageNet: 1,500 supervised steps of 64 of the 50,000 labeled images of CIFAR-10.

    Raises:
        DataError: the images are missing.
    """
    files = {part: data / f"cifar10-{part}.parquet" for part in ("train", "test")}
    for file in files.values():
        if not file.is_file():
            raise DataError(f"{data} has no {file.name}, from which the stand-in for ImageNet is trained.")
    found = TableData(
        name="cifar10",
        source=str(files["train"].absolute()),
        test=str(files["test"].absolute()),
        identity=fingerprint({part: hash_file(file) for part, file in files.items()}),
        labels={},
    )
    flags = {
        "data": {"size": START_SIZE, "val_rate": 0.0},
        "model": {"name": MODEL},
        "batch": {"labeled": 64, "mu": 1},
        "optim": {
            "name": "adamw",
            "lr": 1e-3,
            "weight_decay": 1e-4,
            "schedule": "half-cosine",
            "warmup_steps": 0,
            "ema_decay": 0.0,
        },
        "steps": 1_500,
    }
    return Cell(Train("supervised", flags), found, seed=0)
