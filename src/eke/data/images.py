"""The value that every other part speaks of: images or clips with identities, labels, groups and declared splits."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from eke.errors import DataError, did_you_mean

NO_CLASS = "none of the classes"
"""What an image is called that is labeled with no class, where images may have several."""

ImageContent = bytes | np.ndarray
"""One image as its source holds it: an encoded file, or an array (H, W[, C])."""
Content = ImageContent | tuple[bytes, ...]
"""One image, or one clip: its encoded frames, or an array (T, H, W, C)."""


@dataclass(frozen=True)
class Problem:
    """Something about one image that was set aside, and what to do about it."""

    path: str
    """Readable name of the image."""
    kind: str
    """One word or two: empty, truncated, missing, duplicate, conflict ..."""
    detail: str
    remedy: str


class Box(NamedTuple):
    """Where a person saw an object of a class: pixel-edge coordinates of the image as its file holds it."""

    name: str
    """Its class."""
    left: float
    top: float
    right: float
    bottom: float


class Contents(Protocol):
    """Where the bytes of a source lie; picklable, and safe to read from several threads."""

    def read(self, row: int) -> Content:
        """Return one row as the source holds it."""
        ...


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one source, folded by content: no two rows have the same id."""

    source: str
    """What the user named."""
    ids: tuple[str, ...]
    """Names by content, 32 hexadecimal digits each: see `content_id`."""
    paths: tuple[str, ...]
    """Readable name of each row: a relative path, "file.parquet#17", "digits#3"."""
    labels: np.ndarray
    """(n,) int64 positions in `classes`; -1 = unlabeled. Of images with several labels (n, K) int64: 1 = has the class,
    0 = has not, a row of -1 = unlabeled."""
    classes: tuple[str, ...]
    """Class names, by number where all are numbers, else by text."""
    groups: tuple[str, ...] | None
    """What must not be torn apart by a split (patient, track, recording), or None."""
    split: tuple[str, ...] | None
    """train, val, test, unlabeled or "" where the source says so, else None."""
    problems: tuple[Problem, ...]
    """Rows that were set aside, and conflicts."""
    contents: Contents = field(repr=False)
    rows: np.ndarray = field(repr=False)
    """(n,) int64 positions in `contents`."""
    folded: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Path of each row that was folded -> path of the row that stands for it."""
    boxes: tuple[tuple[Box, ...], ...] | None = field(default=None, repr=False)
    """Boxes of each row, or None where the source draws none."""
    frames: int | None = None
    """T, where every row is a clip of T frames; None: every row is an image."""
    asked: tuple[str, ...] | None = field(default=None, repr=False)
    """Of each row "asked", if its label was asked for by a strategy, "control", if it was drawn at random beside, to
    measure by, else ""; None: nothing was asked for."""

    @property
    def several(self) -> bool:
        """Whether an image may have several labels, or none of the classes."""
        return self.labels.ndim == 2

    @property
    def labeled(self) -> np.ndarray:
        """(n,) bool: whose labels are known."""
        return is_known(self.labels)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int) -> Content:
        """Return the encoded bytes, or the array, of one row."""
        return self.contents.read(int(self.rows[index]))

    def select(self, indices: Iterable[int]) -> "ImageSet":
        """Return the rows at `indices`, in that order; problems stay."""
        chosen = np.fromiter(indices, dtype=np.int64)
        return replace(
            self,
            ids=_pick(self.ids, chosen),
            paths=_pick(self.paths, chosen),
            labels=self.labels[chosen],
            groups=None if self.groups is None else _pick(self.groups, chosen),
            split=None if self.split is None else _pick(self.split, chosen),
            rows=self.rows[chosen],
            boxes=None if self.boxes is None else tuple(self.boxes[row] for row in chosen.tolist()),
            asked=None if self.asked is None else _pick(self.asked, chosen),
        )

    def label_words(self, row: int) -> str | None:
        """Name the class of one row, or its classes, joined by commas; None where it is unlabeled."""
        return (", ".join(self.label_names(row)) or NO_CLASS) if is_known(self.labels[row : row + 1])[0] else None

    def label_names(self, row: int) -> tuple[str, ...]:
        """Return the classes of one row; none where it is unlabeled, or has none of the classes."""
        labels = np.flatnonzero(self.labels[row] == 1) if self.several else self.labels[row : row + 1]
        return tuple(self.classes[label] for label in labels if label >= 0)

    def positions(self, ids: Iterable[str]) -> np.ndarray:
        """Return the rows (m,) int64 of the named images.

        Raises:
            DataError: an id is not in this set.
        """
        try:
            return np.array([self._places[name] for name in ids], dtype=np.int64)
        except KeyError as error:
            raise DataError(
                f"{self.source} has no image with id {error.args[0]}. It was removed or changed since the id "
                f"was saved: restore the file, or start a new run."
            ) from None

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids)}


def _pick(values: Sequence[str], chosen: np.ndarray) -> tuple[str, ...]:
    return tuple(values[row] for row in chosen.tolist())


def content_id(content: Content) -> str:
    """Return the id of an image: blake2b with a digest of 16 bytes, in hexadecimal digits.

    Files are hashed as they are; arrays as shape, dtype and bytes, so that a reshaped array is another image; a clip of
    encoded frames by the ids of its frames.
    """
    if isinstance(content, tuple):
        return hashlib.blake2b(bytes.fromhex("".join(map(content_id, content))), digest_size=16).hexdigest()
    if isinstance(content, bytes):
        return hashlib.blake2b(content, digest_size=16).hexdigest()
    digest = hashlib.blake2b(f"{content.shape}{content.dtype.str}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(content).data)
    return digest.hexdigest()


def frames_of(content: Content) -> Sequence[ImageContent]:
    """Return the frames of a clip, in their order; of an image, it alone."""
    if isinstance(content, tuple):
        return content
    return list(content) if isinstance(content, np.ndarray) and content.ndim == 4 else [content]


def require_alike(first: ImageSet, second: ImageSet) -> None:
    """Refuse images beside clips, and clips of different lengths.

    Raises:
        DataError: the two sets are not of one kind.
    """
    if first.frames != second.frames:
        one, other = (
            f"{each.source} holds {'images' if each.frames is None else f'clips of {each.frames} frames'}"
            for each in (first, second)
        )
        raise DataError(f"{one}, and {other}: both must be alike. Frames are read as images by data.group_level=true.")


def sort_classes(words: Iterable[str]) -> tuple[str, ...]:
    """Sort class names: by number where all are whole numbers (so 10 follows 9), else by text."""
    names = set(words)
    numbers = all(name.isascii() and name.isdecimal() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name), name) if numbers else (0, name)))


def is_known(labels: np.ndarray) -> np.ndarray:
    """Return (n,) bool: whose labels are known, of labels as `ImageSet` has them."""
    return np.asarray(labels >= 0 if labels.ndim == 1 else (labels >= 0).all(1))


def unknown_labels(n: int, like: np.ndarray) -> np.ndarray:
    """Return labels of n unlabeled images, of one or of several classes as those of `like`."""
    return np.full((n, *like.shape[1:]), -1, dtype=np.int64)


Word = str | tuple[str, ...]
"""What a source calls an image: a class, "" = unlabeled; or the classes of an image that may have several, sorted."""


def number_labels(words: Sequence[Word], classes: Sequence[str], *, several: bool) -> np.ndarray:
    """Turn words into labels: (n,) of one class each, or with `several` (n, K); see `ImageSet.labels`."""
    place = {name: label for label, name in enumerate(classes)}
    if not several:
        return np.array([place[str(word)] if word else -1 for word in words], dtype=np.int64)
    labels = np.full((len(words), len(classes)), -1, dtype=np.int64)
    for row, word in enumerate(words):
        if word != "":
            labels[row] = 0
            labels[row, [place[name] for name in names_in(word)]] = 1
    return labels


def names_in(word: Word) -> tuple[str, ...]:
    """Return the classes that a word names."""
    return word if isinstance(word, tuple) else (word,) if word else ()


def with_several(image_set: ImageSet) -> ImageSet:
    """Return the same images, each with a set of labels where it had one label."""
    if image_set.several:
        return image_set
    one_hot = (image_set.labels[:, None] == np.arange(len(image_set.classes))).astype(np.int64)
    one_hot[image_set.labels < 0] = -1
    return replace(image_set, labels=one_hot)


def with_classes(image_set: ImageSet, classes: Sequence[str], *, several: bool = False) -> ImageSet:
    """Renumber the labels of one set by the classes of another: a test set by those of its training set.

    Args:
        image_set: whose labels are renumbered.
        classes: names in their new order.
        several: whether each image gets a set of labels, as those of the other set have.

    Raises:
        DataError: a labeled image has a class that is not among `classes`, or several labels where one is wanted.
    """
    if image_set.several and not several and image_set.labeled.any():
        raise DataError(
            f"The images of {image_set.source} may have several labels, those of training have one each. Name a "
            "source with one label for each image."
        )
    if several:
        image_set = with_several(image_set)
    place = {name: label for label, name in enumerate(classes)}
    known = image_set.labels[image_set.labeled]
    used = np.flatnonzero(known.any(0)) if image_set.several else np.unique(known)
    for name in (image_set.classes[label] for label in used):
        if name not in place:
            raise DataError(
                f"{image_set.source} has the class {name!r}, which the training images do not have. "
                f"{did_you_mean(name, classes)}"
            )
    new = np.array([place.get(name, -1) for name in image_set.classes] + [-1], dtype=np.int64)
    labels = np.full((len(image_set), *([len(classes)] if several else [])), -1, dtype=np.int64)
    if several:
        kept = np.flatnonzero(new[:-1] >= 0)
        labels[image_set.labeled] = 0
        labels[np.ix_(image_set.labeled, new[kept])] = image_set.labels[np.ix_(image_set.labeled, kept)]
    elif not image_set.several:
        labels[:] = new[image_set.labels]
    return replace(image_set, labels=labels, classes=tuple(classes))
