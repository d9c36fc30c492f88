"""Who trains, who validates, who tests: by id, stratified, never across groups, whatever the order of rows.

Within a class, images are ordered by a hash of (seed, id). A budget takes the first of them; of these, a
fixed set of places validates. So a larger budget under the same seed is a superset, on both sides.

An image of several classes is divided as one of its rarest class (counted over the labeled training images; the
first of equally rare ones), and one of no class as of a class of its own. So n labels per class are n images for each
class that is the rarest of some: frequent classes come along with rare ones, and have more.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from eke.data.dividing import by_class, floor_rate, order_of, share_labels, strata_of, take_groups, take_rate
from eke.data.images import NO_CLASS, ImageSet, is_known
from eke.data.options import MAX_VAL_RATE
from eke.data.options import DataOptions as DataOptions
from eke.errors import ConfigError, DataError
from eke.files import write_json


@dataclass(frozen=True)
class Split:
    """Sorted ids of each part. Labeled, validation and test images share no image and no group."""

    labeled: tuple[str, ...]
    validation: tuple[str, ...]
    unlabeled: tuple[str, ...]
    """The training images, or so many as the options say, the labeled ones included unless they say otherwise."""
    test: tuple[str, ...]
    dropped: tuple[str, ...]
    """Images that are in no part: their equal, or one of their group, tests or validates."""
    notes: tuple[str, ...]
    """What a reader of the results must know: classes short of labels, images dropped."""

    @property
    def budget(self) -> int:
        """Number of labels spent: training + validation."""
        return len(self.labeled) + len(self.validation)

    def save(self, path: Path) -> None:
        """Write the split as JSON, atomically."""
        write_json(path, asdict(self))


def load_split(path: Path) -> Split:
    """Read a saved split.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Split(**{item.name: tuple(values[item.name]) for item in fields(Split)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a split that eke saved ({error}). Start a new run.") from None


def make_split(
    train: ImageSet, test: ImageSet | None, options: DataOptions, seed: int, pool: Collection[str] | None = None
) -> Split:
    """Divide the images of a source.

    Test images are those of `test`, else the rows that the source calls test, else a stated hold-out, else
    none. Validation images are the rows that the source calls val (`with_validation` adds those of
    `val_source`), else `val_per_class` labels, else a part of the given labels. Rows called unlabeled lend no
    label.

    Args:
        train: all rows of the training source.
        test: a separate test source, its labels numbered by the classes of `train`; or None.
        options: budget, rates.
        seed: another seed makes another choice.
        pool: ids of the images that may be used without a label; None: all.

    Raises:
        DataError: no labels at all, one class only, or a class without a label to train on.
        ConfigError: options that contradict the source or each other, or validation that would be empty.
    """
    division = _Division(train, test, options, seed, pool)
    division.require_labels(division.labeled_rows("train"))
    division.settle_test()
    labeled, validation = division.spend()
    division.drop_relatives("val", "validation")
    return Split(
        labeled=division.ids(labeled),
        validation=division.ids(validation),
        unlabeled=division.ids(division.pool(labeled)),
        test=division.test_ids(),
        dropped=division.ids(np.flatnonzero(division.role == "dropped")),
        notes=tuple(division.notes),
    )


def make_pool(
    train: ImageSet,
    test: ImageSet | None,
    options: DataOptions,
    seed: int,
    note: str,
    pool: Collection[str] | None = None,
) -> Split:
    """Take every image that neither validates nor tests as unlabeled: what can be learned without any label.

    Args:
        train: all rows of the training source.
        test: a separate test source; images equal to one of its are dropped.
        options: `data.holdout_rate` needs labels and is left aside.
        seed: see `make_split`.
        note: why there are no labels; kept among the split's notes.
        pool: see `make_split`.

    Raises:
        DataError: there is no such image.
    """
    division = _Division(train, test, options.model_copy(update={"holdout_rate": 0.0}), seed, pool)
    division.settle_test()
    rows = division.pool(np.array([], dtype=np.int64))
    if not len(rows):
        raise DataError(f"{train.source} has no image to train on: all of them validate or test.")
    return Split(
        (),
        (),
        division.ids(rows),
        (),
        division.ids(np.flatnonzero(division.role == "dropped")),
        (note, *division.notes),
    )


class _Division:
    """A split in the making: `role` says what each row is so far: train, val, test or dropped."""

    def __init__(
        self,
        train: ImageSet,
        test: ImageSet | None,
        options: DataOptions,
        seed: int,
        pool: Collection[str] | None = None,
    ) -> None:
        self.elsewhere = np.array([pool is not None and name not in pool for name in train.ids], dtype=bool)
        self.images, self.tests, self.options, self.seed = train, test, options, seed
        self.ranks = order_of(train.ids, seed)
        words = np.array(train.split if train.split is not None else [""] * len(train), dtype="<U9")
        self.labels = train.labels.copy()
        self.labels[words == "unlabeled"] = -1
        self.labeled = is_known(self.labels)
        self.role = np.where(np.isin(words, ["test", "val"]), words, "train")
        self.strata = strata_of(self.labels, self.labeled & (self.role == "train"))
        asked = np.array(train.asked if train.asked is not None else [""] * len(train), dtype="<U7")
        self.control, self.asked = asked == "control", asked == "asked"
        self.notes: list[str] = []

    def ids(self, rows: np.ndarray) -> tuple[str, ...]:
        return tuple(sorted(self.images.ids[row] for row in rows.tolist()))

    def labeled_rows(self, role: str) -> np.ndarray:
        return np.flatnonzero((self.role == role) & self.labeled)

    @property
    def names(self) -> tuple[str, ...]:
        """What the strata are called: the classes, and one more where images may have several labels or none."""
        return (*self.images.classes, NO_CLASS) if self.images.several else self.images.classes

    def classes_of(self, rows: np.ndarray) -> list[np.ndarray]:
        return by_class(rows, self.strata, self.ranks, len(self.names))

    def require_labels(self, rows: np.ndarray) -> None:
        """Refuse rows that no classifier can be trained on."""
        classes, source = self.images.classes, self.images.source
        if not len(rows):
            raise DataError(
                f"{source} has no labeled image to train on. Give labels by --labels FILE (CSV of "
                f"path,label), or sort some images into class folders."
            )
        if len(classes) < 2:
            raise DataError(f"{source} has one class only ({classes[0]!r}). Label images of a second one.")
        without = np.flatnonzero(self.count(rows) == 0)
        if len(without) and not self.options.empty_classes:
            raise DataError(
                f"{source} has no label to train on for {_listed([classes[label] for label in without])}. "
                f"Label at least one image of each class, or remove the class."
            )

    def settle_test(self) -> None:
        """Find the test images, and drop from training what equals them or shares their group."""
        own = self.role == "test"
        rate = self.options.holdout_rate
        if self.tests is None and rate and not own.any():
            self.role[self.divide(self.labeled_rows("train"), rate)] = "test"
            if not (self.role == "test").any():
                raise ConfigError(
                    f"data.holdout_rate={rate:g} holds out no image: floor(n * rate) is 0 in every class. "
                    f"Raise it, or name a test set."
                )
        elif rate:
            named = self.tests.source if self.tests else f"what {self.images.source} calls test"
            raise ConfigError(
                f"data.holdout_rate={rate:g} asks for a hold-out, but {named} is the test set. Leave one of them out."
            )
        if self.tests is None:
            self.drop_relatives("test", "test")
            return
        name = self.tests.source
        self.drop(own, f"are called test by {self.images.source}, but {name} was named as test set")
        theirs = set(self.tests.ids)
        equal = np.array([image in theirs for image in self.images.ids], dtype=bool)
        self.drop(equal, f"are also in the test set {name}")
        self.drop(self.in_groups(set(self.tests.groups or ())), f"share a group with the test set {name}")

    def test_ids(self) -> tuple[str, ...]:
        if self.tests is None:
            return self.ids(self.labeled_rows("test"))
        ids = zip(self.tests.ids, self.tests.labeled.tolist(), strict=True)
        labeled = tuple(sorted(name for name, known in ids if known))
        if not labeled:
            raise DataError(f"The test set {self.tests.source} has no labeled image. Label it, or name none.")
        return labeled

    def spend(self) -> tuple[np.ndarray, np.ndarray]:
        """Choose labeled and validation rows within the budget."""
        rows = self.labeled_rows("train")
        control = rows[self.control[rows]]
        if len(control):
            self.notes.append(
                f"{len(control):,} images that were drawn at random as a control validate, and do not train."
            )
        if (self.role == "val").any():
            return self.spend_beside(np.union1d(self.labeled_rows("val"), control))
        if self.options.val_source:
            raise ConfigError(f"data.val_source={self.options.val_source!r} was not joined to the training images.")
        if self.options.val_per_class:
            others = rows[~self.asked[rows] & ~self.control[rows]]
            return self.spend_beside(np.union1d(self.last_of_each(others, self.options.val_per_class), control))
        return self.spend_within(rows, self.options.val_rate)

    def spend_beside(self, validation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Spend the budget on training alone: validation has labels of its own."""
        if not len(validation):
            raise ConfigError("Validation would be empty: none of its images is labeled. Label them, or remove them.")
        self.role[validation] = "val"
        self.drop_relatives("val", "validation")
        rows = self.labeled_rows("train")
        self.require_labels(rows)
        training = self.classes_of(rows)
        wanted = self.wanted(np.array([len(part) for part in training]))
        labeled = np.concatenate([part[:n] for part, n in zip(training, wanted, strict=True)])
        self.note_short(labeled)
        return labeled, validation

    def spend_within(self, rows: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
        """Take validation out of the budget: floor(n * rate) of n labels of a class, the rest trains.

        Images that a strategy asked for are harder than others and only train; those drawn beside them only validate.
        """
        others = rows[~self.asked[rows] & ~self.control[rows]]
        validating = np.union1d(self.divide(others, rate), rows[self.control[rows]])
        self.require_labels(np.setdiff1d(rows, validating))
        training, checking = self.classes_of(np.setdiff1d(rows, validating)), self.classes_of(validating)
        wanted = self.wanted(np.array([len(a) + len(b) for a, b in zip(training, checking, strict=True)]))
        spent = self.options.labels_per_class or self.options.n_labels
        n_val = floor_rate(wanted, rate) if spent else np.array([len(part) for part in checking])
        labeled = np.concatenate([part[:n] for part, n in zip(training, wanted - n_val, strict=True)])
        validation = np.concatenate([part[:n] for part, n in zip(checking, n_val, strict=True)])
        if rate and not len(validation):
            enough = np.ceil(100 / wanted.max()) / 100
            larger = f"data.val_rate={enough:g} or more" if enough <= MAX_VAL_RATE else "data.val_per_class=1"
            raise ConfigError(
                f"Validation would be empty: floor(n * data.val_rate={rate:g}) is 0 for every class, the largest "
                f"n being {wanted.max()}. Give {int(np.ceil(1 / rate - 1e-9))} labels per class, set {larger}, "
                f"or set data.val_rate=0 (no validation)."
            )
        self.note_classes(
            list(self.count(validation) == 0) if rate else [],
            "no validation image",
        )
        self.note_short(np.concatenate([labeled, validation]))
        self.role[validation] = "val"
        return labeled, validation

    def pool(self, labeled: np.ndarray) -> np.ndarray:
        """Choose the rows that are used without a label; call it when all parts are settled."""
        allowed = np.flatnonzero((self.role == "train") & ~self.elsewhere)
        others, wanted = np.setdiff1d(allowed, labeled), self.options.n_unlabeled
        if wanted is not None:
            if wanted > len(others):
                self.notes.append(f"{wanted:,} unlabeled images were asked for, but there are {len(others):,}.")
            others = others[np.argsort(self.ranks[others])][:wanted]
        with_labeled = self.options.unlabeled_with_labeled
        return np.union1d(others, np.intersect1d(allowed, labeled)) if with_labeled else others

    def last_of_each(self, rows: np.ndarray, n: int) -> np.ndarray:
        """Return the last n rows of each class, at most half of them: far from the first, which train."""
        if self.images.groups is not None:
            raise ConfigError("data.val_per_class cannot keep groups whole. Use data.val_rate or data.val_source.")
        parts = [part[len(part) - min(n, len(part) // 2) :] for part in self.classes_of(rows)]
        self.note_classes([len(part) < n for part in parts], f"less than {n} validation images (at most half)")
        return np.concatenate(parts)

    def divide(self, rows: np.ndarray, rate: float) -> np.ndarray:
        if self.images.groups is None:
            return take_rate(self.classes_of(rows), rate)
        return take_groups(rows, self.strata, self.images.groups, self.seed, rate, len(self.names))

    def wanted(self, counts: np.ndarray) -> np.ndarray:
        """Return the labels to use of each class, of those it has."""
        per_class, total = self.options.labels_per_class, self.options.n_labels
        if per_class is not None:
            return np.minimum(counts, per_class)
        n_strata = int((counts > 0).sum())
        if total is not None and total < n_strata:
            raise ConfigError(f"data.n_labels={total} is less than the {n_strata} classes. Each needs one label.")
        if total is not None and total > counts.sum():
            self.notes.append(f"{total} labels were asked for, but there are {counts.sum()}.")
        return counts if total is None else share_labels(counts, total)

    def note_short(self, spent: np.ndarray) -> None:
        """Note the classes of which fewer labels were spent than asked for."""
        n = self.options.labels_per_class
        if self.options.empty_classes:
            self.note_classes(list(self.count(spent) == 0), "no label yet")
        if n is not None:
            self.note_classes(list(self.count(spent) < n), f"less than the {n} labels asked for")

    def count(self, rows: np.ndarray) -> np.ndarray:
        """Return how many of the rows have each class."""
        if self.images.several:
            return np.asarray(self.labels[rows].sum(0))
        return np.bincount(self.labels[rows], minlength=len(self.images.classes))

    def note_classes(self, affected: Sequence[bool], what: str) -> None:
        names = [name for name, hit in zip(self.images.classes, affected, strict=False) if hit]
        if names:
            self.notes.append(f"{_listed(names)}: {what}.")

    def in_groups(self, groups: set[str]) -> np.ndarray:
        if self.images.groups is None or not groups:
            return np.zeros(len(self.images), dtype=bool)
        return np.array([group in groups and not group.startswith("alone:") for group in self.images.groups], bool)

    def drop_relatives(self, part: str, called: str) -> None:
        """Drop training images (of test images: validation images, too) that share a group with a part."""
        groups = self.images.groups
        if groups is not None:
            mask = self.in_groups({groups[row] for row in np.flatnonzero(self.role == part)})
            beside = (self.role == "train") if part == "val" else (self.role != part)
            self.drop(mask & beside, f"share a group with {called} images")

    def drop(self, mask: np.ndarray, why: str) -> None:
        mask = mask & (self.role != "dropped")
        if mask.any():
            self.role[mask] = "dropped"
            self.notes.append(f"{int(mask.sum())} images {why}; they are used in no part.")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return f"{shown} and {len(names) - 5} more classes" if len(names) > 5 else shown
