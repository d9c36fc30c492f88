"""The images of a table: a pool without labels, first labels for each seed, the truth aside, and what is measured on.

Built once under the table's folder. What a table trains on must not know more than its rows may: the pool holds no
labels, and `truth.csv` is read by the simulated annotator and by diagnostics only.
"""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eke.config import fingerprint
from eke.data.decode import decode
from eke.data.dividing import by_class, order_of
from eke.data.images import ImageSet, frames_of, with_classes
from eke.data.sources import open_images
from eke.errors import ConfigError, DataError, did_you_mean
from eke.files import locked, write_atomic, write_json
from eke.progress import Progress, silent
from eke.randomness import mixed_seed


class Known(NamedTuple):
    """An image whose class is known."""

    path: str
    label: str
    key: str
    """What choices follow: its id in the published set, equal in every pool that holds the image."""


@dataclass(frozen=True)
class TableData:
    """What the cells of a table are trained and measured on."""

    name: str
    """As the page calls it."""
    source: str
    test: str | None
    identity: str
    """Changes whenever an image or its true class does, not with the folder it lies in."""
    labels: Mapping[int, Path]
    """Seed -> label file; empty where the source's own labels count."""
    truth: Path | None = None
    """Label file of all images, for the simulated annotator; None: a person answers."""
    validation: str | None = None
    """Labeled images on which a table chooses; None: it chooses nothing."""
    unlabeled: str | None = None
    """Unlabeled images from elsewhere; None: the source's own."""

    def labels_of(self, seed: int) -> tuple[Path, ...]:
        """Return the first labels of a seed: every cell of the seed has the same."""
        return (self.labels[seed],) if self.labels else ()


@dataclass(frozen=True)
class PoolPlan:
    """What is taken from a published set. All choices follow the images' bytes, so every machine makes the same."""

    name: str
    """digits, mnist, cifar10, or another set of torchvision."""
    n_pool: int
    """Training images, without labels."""
    n_test: int
    labels_per_class: int
    """First labels; another seed draws other ones."""
    n_unseen: int = 0
    """So many classes, the last ones, have no label and no test image. They make a third of the pool."""
    keep_unseen: bool = True
    """Whether the images of these classes are in the pool; without them it is two thirds as large."""
    n_val: int = 0
    """Training images with their labels, outside of the pool."""
    classes: tuple[str, ...] = ()
    """The only ones that are taken; empty: all."""


def build_data(plan: PoolPlan, folder: Path, data: Path | None, seeds: Iterable[int], progress: Progress) -> TableData:
    """Build, or find, the files of a plan.

    Args:
        plan: what to take.
        folder: where they are kept, one folder for each plan.
        data: folder of NAME-train.parquet and NAME-test.parquet; None: torchvision's set, downloaded if need be.
        seeds: which label files are needed.
        progress: shows the reading.

    Raises:
        ConfigError: the set has no such number of classes.
        DataError: the set is not there, or has too few images.
    """
    home = folder / f"{plan.name}-{fingerprint(asdict(plan))[:8]}"
    images = ("pool.npz", "test.npz", "truth.csv", *["val.npz"] * bool(plan.n_val))
    files = {name: home / name for name in (*images, "data.json")}
    with locked(home.with_suffix(".lock")):
        if not files["data.json"].exists():
            write_json(
                files["data.json"], {**asdict(plan), **_build(plan, files, data, progress)}
            )  # last: all is there
        labels = {seed: home / f"labels-{seed}.csv" for seed in seeds}
        for seed, file in labels.items():
            if not file.exists():
                write_known(file, _first_labels(read_known(files["truth.csv"]), plan, seed))
    return TableData(
        name="-".join([plan.name, *plan.classes]),
        source=str(files["pool.npz"].absolute()),
        test=str(files["test.npz"].absolute()),
        identity=fingerprint({name: hash_file(files[name]) for name in images}),
        labels=labels,
        truth=files["truth.csv"],
        validation=str(files["val.npz"].absolute()) if plan.n_val else None,
    )


def hash_file(path: Path) -> str:
    """Return a hash of a file's bytes."""
    return blake2b(path.read_bytes(), digest_size=16).hexdigest()


def read_known(path: Path) -> list[Known]:
    """Read a file of known labels, such as `truth.csv`; without the column `key`, a path is its own key."""
    with path.open(newline="", encoding="utf-8") as file:
        return [Known(row["path"], row["label"], row.get("key") or row["path"]) for row in csv.DictReader(file)]


def _build(plan: PoolPlan, files: Mapping[str, Path], data: Path | None, progress: Progress) -> dict[str, Any]:
    train, test = (_only(images, plan.classes) for images in _open(plan.name, data, progress))
    n_seen = len(train.classes) - plan.n_unseen
    if n_seen < 2:
        raise ConfigError(f"{plan.name} has {len(train.classes)} classes: {plan.n_unseen} of them cannot go unseen.")
    n_kept = plan.n_pool if not plan.n_unseen else plan.n_pool * 2 // 3
    per_class = [n_kept // n_seen] * n_seen + [(plan.n_pool - n_kept) // max(1, plan.n_unseen)] * plan.n_unseen
    tests = _take(test, [plan.n_test // n_seen] * n_seen + [0] * plan.n_unseen)
    taken = {test.ids[row] for row in tests}
    left = train.select(row for row, name in enumerate(train.ids) if name not in taken)
    if plan.n_val:
        validation = _take(left, [plan.n_val // n_seen] * n_seen + [0] * plan.n_unseen)
        _write_images(files["val.npz"], left, validation, labeled=True, progress=progress)
        left = left.select(sorted({*range(len(left))} - {*validation}))
    pool = _take(left, per_class)
    if not plan.keep_unseen:
        pool = [row for row in pool if left.labels[row] < n_seen]
    _write_images(files["pool.npz"], left, pool, labeled=False, progress=progress)
    _write_images(files["test.npz"], test, tests, labeled=True, progress=progress)
    known = [Known(f"pool#{i}", left.classes[left.labels[row]], left.ids[row]) for i, row in enumerate(pool)]
    write_known(files["truth.csv"], known)
    return {"classes": list(train.classes), "n_pool": len(pool), "n_test": len(tests)}


def _open(name: str, data: Path | None, progress: Progress) -> tuple[ImageSet, ImageSet]:
    """Return training and test images; the digits have no test images of their own and are given twice."""
    if name == "digits":
        digits = open_images("digits")
        return digits, digits
    if data is None:
        whole = open_images(name, download=True, progress=progress)
        split = np.array(whole.split)
        return whole.select(np.flatnonzero(split == "train")), whole.select(np.flatnonzero(split == "test"))
    files = [data / f"{name}-{part}.parquet" for part in ("train", "test")]
    for file in files:
        if not file.is_file():
            raise DataError(
                f"{data} has no {file.name}. Name a folder that has it, or leave out --data to download it."
            )
    return open_images(files[0], progress=progress), open_images(files[1], progress=progress)


def _only(images: ImageSet, classes: tuple[str, ...]) -> ImageSet:
    """Keep the images of some classes, and no other class."""
    if not classes:
        return images
    for name in classes:
        if name not in images.classes:
            raise ConfigError(f"{images.source} has no class {name!r}. {did_you_mean(name, images.classes)}")
    chosen = [images.classes.index(name) for name in classes]
    return with_classes(images.select(np.flatnonzero(np.isin(images.labels, chosen))), classes)


def _take(images: ImageSet, per_class: list[int]) -> list[int]:
    """Draw so many rows of each class, in an order that says nothing of the class."""
    ranks = order_of(images.ids, 0)
    parts = by_class(np.flatnonzero(images.labels >= 0), images.labels, ranks, len(images.classes))
    for name, part, n in zip(images.classes, parts, per_class, strict=True):
        if len(part) < n:
            raise DataError(f"{images.source} has {len(part)} images of {name!r}; the table takes {n}.")
    rows = np.concatenate([part[:n] for part, n in zip(parts, per_class, strict=True)])
    return rows[np.argsort(ranks[rows])].tolist()


def _write_images(path: Path, images: ImageSet, rows: list[int], *, labeled: bool, progress: Progress) -> None:
    channels = decode(frames_of(images.read(rows[0]))[0], channels=None).shape[2]
    with progress(f"building {path.parent.name}", len(rows)) as advance:
        pixels = []
        for row in rows:
            pixels += [decode(image, channels=channels) for image in frames_of(images.read(row))]
            advance(1)
    arrays = {"images": np.stack(pixels)}
    if labeled:
        arrays["labels"] = np.array([images.classes[images.labels[row]] for row in rows])

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    write_atomic(path, write)


def _first_labels(truth: list[Known], plan: PoolPlan, seed: int) -> list[Known]:
    order = [truth[row] for row in np.argsort(order_of([known.key for known in truth], seed))]
    classes = sorted({known.label for known in truth})
    n_seen = len(classes) - (plan.n_unseen if plan.keep_unseen else 0)
    return [
        known for name in classes[:n_seen] for known in [k for k in order if k.label == name][: plan.labels_per_class]
    ]


def mistaken(known: list[Known], rate: float, seed: int) -> list[Known]:
    """Return what an annotator says who gives this share of the images another class, whoever asks and whenever.

    Args:
        known: all images that may be asked for, with their true classes.
        rate: of images that are answered wrongly, rounded to a whole number of them.
        seed: of which images, and of the wrong classes, each as probable.
    """
    classes = sorted({row.label for row in known})
    order = np.argsort(order_of([f"mistaken/{row.key}" for row in known], seed))[: round(rate * len(known))]
    if len(classes) < 2:
        return known
    steps = np.random.default_rng(mixed_seed(seed, 0, "mistaken")).integers(1, len(classes), len(order))
    said = list(known)
    for row, step in zip(order.tolist(), steps.tolist(), strict=True):
        wrong = classes[(classes.index(known[row].label) + step) % len(classes)]
        said[row] = known[row]._replace(label=wrong)
    return said


def write_known(path: Path, rows: list[Known]) -> None:
    """Write a label file that `read_known` and `--labels` read."""

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(Known._fields)
            table.writerows(rows)

    write_atomic(path, write)


def user_data(folder: Path, progress: Progress = silent) -> TableData:
    """Use a folder of the user's own as it is: `train` (with an `unlabeled` folder) and `test`, or files of that name.

    A `truth.csv` (path, label) in it answers requests for labels; without it a person does.

    Raises:
        DataError: one of the two is missing.
    """
    found = {path.name.split(".")[0]: path for path in sorted(folder.iterdir())} if folder.is_dir() else {}
    for part in ("train", "test"):
        if part not in found:
            raise DataError(f"{folder} has no {part}: put the images there as {part}/, {part}.zip or {part}.parquet.")
    truth = folder / "truth.csv"
    return TableData(
        name=folder.name,
        source=str(found["train"].absolute()),
        test=str(found["test"].absolute()),
        identity=fingerprint({part: str(found[part].absolute()) for part in ("train", "test")}),
        labels={},
        truth=truth if truth.exists() else None,
    )
