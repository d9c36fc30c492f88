"""What a simulation replays: a pool whose labels are hidden, validation and test images, and a first random batch.

All are taken from labeled images and written once, at the working size, beside the truth that only the annotator reads.
The validation images lie in the pool's file with their labels, so that all classes are known, also those of which the
first batch has none; they are nobody's to ask for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eke.config import fingerprint
from eke.data.dividing import by_class, order_of, share_labels
from eke.data.images import ImageSet, content_id, with_classes
from eke.data.sources import open_images
from eke.data.splits import DataOptions, make_split
from eke.errors import ConfigError, DataError
from eke.files import locked, write_atomic, write_json
from eke.progress import Progress
from eke.tasks.distortions import Distortion, kept_rows, perturb
from eke.tasks.grid_data import Known, TableData, hash_file, mistaken, read_known, write_known
from eke.tasks.prepare import open_cache, working_form

HOLDOUT_RATE = 0.2
"""Of the images, where none are test images."""
FORM = 2
"""Raised whenever a plan gives other files than before, so that old ones are not taken for them."""
VAL_RATE, MAX_VAL = 0.1, 1000
"""Of the other images, where no number is named."""


@dataclass(frozen=True)
class SimulationPlan:
    """What is taken from labeled images, and what is done to the pool."""

    source: str
    test: str | None
    """Another source of test images; None: the source's own, else a hold-out."""
    batch: int
    """Images of the first batch."""
    imbalance: float = 1.0
    """Of frequent to rare, 1 or more: see `eke.tasks.distortions`."""
    distortion: Distortion = "none"
    noise: float = 0.0
    """Share of the pool that the annotator gets wrong."""
    n_val: int | None = None
    n_pool: int | None = None
    """Before anything is made rare; None: all that do not validate or test."""
    n_test: int | None = None
    """None: all test images."""
    size: int | None = None
    """Pixels a side; None: as the images suggest."""

    @property
    def name(self) -> str:
        """What the page calls it."""
        distorted = "" if self.distortion == "none" else f", {self.distortion}"
        return f"{Path(self.source).name.split('.')[0]}, imbalance {self.imbalance:g}{distorted}"

    def at(self, imbalance: float) -> "SimulationPlan":
        """Return the same at another imbalance."""
        return replace(self, imbalance=imbalance)


def build_simulation(plan: SimulationPlan, folder: Path, seeds: Iterable[int], progress: Progress) -> TableData:
    """Build, or find, the files of a plan; choices follow the images' bytes, so that every machine makes the same.

    Args:
        plan: what to take.
        folder: where they are kept, one folder for each plan.
        seeds: whose first batches are needed.
        progress: shows the decoding.

    Raises:
        ConfigError: the images have several labels each, or a number cannot be had.
        DataError: images or labels cannot be used.
    """
    named = {**asdict(plan), "form": FORM, "source": _located(plan.source), "test": plan.test and _located(plan.test)}
    home = folder / f"{Path(plan.source).name.split('.')[0]}-{fingerprint(named)[:8]}"
    files = {name: home / name for name in ("pool.npz", "test.npz", "truth.csv")}
    with locked(home.with_suffix(".lock")):
        if not (home / "data.json").exists():
            write_json(home / "data.json", {**named, **_build(plan, files, progress)})  # last: all is there
        truth = read_known(files["truth.csv"])
        labels = {seed: home / f"labels-{seed}.csv" for seed in seeds}
        for seed, file in labels.items():
            if not file.exists():
                order = np.argsort(_ranks("first", [known.key for known in truth], seed))
                said = mistaken(truth, plan.noise, seed)
                write_known(file, [said[row] for row in order[: plan.batch]])
    return TableData(
        name=plan.name,
        source=str(files["pool.npz"].absolute()),
        test=str(files["test.npz"].absolute()),
        identity=fingerprint({name: hash_file(file) for name, file in files.items()}),
        labels=labels,
        truth=files["truth.csv"],
    )


def _located(source: str) -> str:
    return str(Path(source).absolute()) if Path(source).exists() else source


def _build(plan: SimulationPlan, files: dict[str, Path], progress: Progress) -> dict[str, Any]:
    images = open_images(plan.source, progress=progress)
    if images.several or images.frames is not None:
        raise ConfigError(f"{plan.source} has several labels an image, or clips: a simulation replays one label each.")
    tests = open_images(plan.test, progress=progress) if plan.test else None
    if tests is not None:
        tests = with_classes(tests, images.classes)
    pool, validation, test = _divide(images, tests, plan)
    measured = images if tests is None else tests
    size, channels = working_form(images, DataOptions(size=plan.size))

    def pixels(from_: ImageSet, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        cache = open_cache(from_.select(rows), size, channels, "crop", progress)
        if cache.problems:
            raise DataError(f"{cache.problems[0].path} is {cache.problems[0].reason}. Repair or remove it.")
        return cache.load().permute(0, 2, 3, 1).contiguous().numpy()

    joined = np.concatenate([pool, validation])  # one cache for every imbalance
    decoded = pixels(images, joined)
    pooled, validating, testing = decoded[: len(pool)], decoded[len(pool) :], pixels(measured, test)
    ranks = _ranks("rare", [images.ids[row] for row in pool])
    kept = kept_rows(images.labels[pool], ranks, pooled.mean((1, 2, 3)), plan.imbalance, plan.distortion)
    pooled = pooled[kept]
    if plan.distortion == "perturbed":
        pooled = perturb(pooled, _ranks("perturbed", [images.ids[row] for row in pool[kept]]))
    words = np.array(images.classes)
    seen = {content_id(image) for image in (*validating, *testing)}  # equal at this size, though not as files
    fresh = []
    for row, name in enumerate(map(content_id, pooled)):
        if name not in seen:
            fresh.append(row)
        seen.add(name)
    rows = pool[kept][fresh]
    _save(files["pool.npz"], x_train=pooled[fresh], x_val=validating, y_val=words[images.labels[validation]])
    _save(files["test.npz"], images=testing, labels=words[measured.labels[test]])
    known = [Known(f"pool/train#{i}", words[images.labels[row]], images.ids[row]) for i, row in enumerate(rows)]
    write_known(files["truth.csv"], known)
    counts = np.bincount(images.labels[rows], minlength=len(words)).tolist()
    return {"pool": dict(zip(images.classes, counts, strict=True)), "n_val": len(validation), "n_test": len(test)}


def _divide(
    images: ImageSet, tests: ImageSet | None, plan: SimulationPlan
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of pool and validation, and those of test in `tests`, or in `images` where that is None."""
    own = images.split is not None and "test" in images.split
    n = int(images.labeled.sum())
    n_val = min(MAX_VAL, int(VAL_RATE * n)) if plan.n_val is None else plan.n_val
    if not len(images.classes) <= n_val <= n // 2:
        raise ConfigError(
            f"--val {n_val}: give a number from {len(images.classes)}, one for each class, to {n // 2:,}, half of the "
            "labeled images."
        )
    n_classes = len(images.classes)
    holdout = 0.0 if own or tests is not None else HOLDOUT_RATE
    rate = min(0.8, (n_val + n_classes) / (n * (1 - holdout)))  # each class is rounded down, and cut below
    options = DataOptions(val_rate=rate, holdout_rate=holdout)
    split = make_split(images, tests, options, 0)

    def some(from_: ImageSet, ids: tuple[str, ...], wanted: int | None) -> NDArray[np.int64]:
        """Take so many, in proportion to the classes."""
        rows = from_.positions(ids)
        parts = by_class(rows, from_.labels, _ranks("part", from_.ids), n_classes)
        sizes = np.array([len(part) for part in parts])
        if wanted is None or wanted >= len(rows):
            return np.sort(rows)
        shares = share_labels(sizes, wanted)
        return np.sort(np.concatenate([part[:n] for part, n in zip(parts, shares, strict=True)]))

    measured = images if tests is None else tests
    validation = some(images, split.validation, n_val)
    surplus = set() if images.groups else {*split.validation} - {images.ids[row] for row in validation}
    pool = some(images, (*split.labeled, *surplus), plan.n_pool)
    if len(pool) < (plan.n_pool or 0):
        raise DataError(f"{plan.source} has {len(pool):,} images for a pool; {plan.n_pool:,} are wanted.")
    if missing := set(range(n_classes)) - set(images.labels[validation].tolist()):
        raise DataError(f"No validation image of {images.classes[min(missing)]!r}: give more by --val.")
    return pool, validation, some(measured, split.test, plan.n_test)


def _ranks(purpose: str, ids: Sequence[str], seed: int = 0) -> NDArray[np.int64]:
    """Draw an order that says nothing of the orders drawn for other purposes.

    In one order for all, the images that are kept of a rare class would be those that come first, and so the first
    batch would hold them all.
    """
    return order_of([f"{purpose}/{name}" for name in ids], seed)


def _save(path: Path, **arrays: Any) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)

    write_atomic(path, write)


def pool_size(data: TableData) -> int:
    """Return the number of images that can be asked for."""
    assert data.truth is not None
    return len(read_known(data.truth))
