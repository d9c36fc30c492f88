"""Sources without files of their own: arrays, .npz files, scikit-learn's digits, torchvision's sets."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eke.data.contents import ArrayContents
from eke.data.decode import BadImageError, to_uint8
from eke.data.identity import cache_folder
from eke.data.rows import Rows, as_word, as_words, join_rows, own_groups
from eke.errors import DataError


class _Published(NamedTuple):
    """A set of torchvision: its class, and the arguments that select each split."""

    name: str
    splits: dict[str, dict[str, Any]]
    numbered: bool
    """Whether classes are called by their number."""


_TRAIN_OR_NOT: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
TORCHVISION = {
    "cifar10": _Published("CIFAR10", _TRAIN_OR_NOT, False),
    "cifar100": _Published("CIFAR100", _TRAIN_OR_NOT, False),
    "mnist": _Published("MNIST", _TRAIN_OR_NOT, True),
    "svhn": _Published("SVHN", {name: {"split": name} for name in ("train", "test")}, True),
    "stl10": _Published("STL10", {name: {"split": name} for name in ("train", "unlabeled", "test")}, False),
}


def _label_values(labels: np.ndarray | Sequence[object]) -> list[object]:
    """Return one label, or one list of labels, for each image."""
    if isinstance(labels, np.ndarray) and labels.ndim == 2 and labels.shape[1] > 1:
        return [np.flatnonzero(row).tolist() if (row >= 0).all() else None for row in labels]
    if isinstance(labels, np.ndarray):
        return labels.reshape(-1).tolist()
    return list(labels)


def array_rows(images: np.ndarray, labels: np.ndarray | Sequence[object] | None, name: str, split: str = "") -> Rows:
    """Make rows of an array.

    Args:
        images: (N, H, W), (N, H, W, 1), (N, H, W, 3) or (N, H, W, 4); values as `to_uint8` takes them.
        labels: N classes (numbers or words); -1, None and "" mean unlabeled. None: all unlabeled. For several labels
            an image: (N, K) of 0 and 1, a row of -1 being unlabeled, or N lists of classes.
        name: row 3 is called `name#3`.
        split: train, val, test, unlabeled or "" for all rows.

    Raises:
        DataError: another shape, dtype or range, or another number of labels.
    """
    if images.ndim not in {3, 4} or (images.ndim == 4 and images.shape[3] not in {1, 3, 4}):
        channels_first = images.ndim == 4 and images.shape[1] in {1, 3}
        hint = " It looks like (N, C, H, W): transpose it by images.transpose(0, 2, 3, 1)." if channels_first else ""
        raise DataError(f"{name}: images must be (N, H, W) or (N, H, W, C), not {images.shape}.{hint}")
    values = [] if labels is None else _label_values(labels)
    if labels is not None and len(values) != len(images):
        raise DataError(f"{name}: {len(images)} images, but {len(values)} labels. Give one label each; -1 = unlabeled.")
    if images.dtype != np.uint8 and len(images):
        images = _whole_uint8(images, name)
    paths = [f"{name}#{row}" for row in range(len(images))]
    sets = any(isinstance(value, (list, tuple)) for value in values)
    words = [(as_words if sets else as_word)(value) for value in values] or [""] * len(images)
    return Rows(ArrayContents(images), paths, words, None, split=[split] * len(images) if split else None)


def _whole_uint8(images: np.ndarray, name: str) -> np.ndarray:
    """Scale all images alike: a dark image of an array in [0, 255] must not be taken for one in [0, 1]."""
    flat = images.reshape(len(images), -1, 1)
    try:
        return to_uint8(flat).reshape(images.shape)
    except BadImageError as error:
        raise DataError(f"{name}: {error.detail}. {error.remedy}.") from None


def npz_rows(path: Path) -> Rows:
    """Read an .npz file: `images` or `x`, `labels` or `y`, `groups`; or by split: `x_train`, `y_train` ...

    Raises:
        DataError: it is damaged, holds pickled objects, or has no such array.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key.lower(): file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} cannot be read: {error}. Save plain arrays by numpy.savez(images=..., labels=...)."
        ) from None
    parts = []
    for split in ("", "train", "val", "test", "unlabeled"):
        images = _first(arrays, ("images", "x"), split)
        if images is not None:
            part = array_rows(
                images,
                _first(arrays, ("labels", "y"), split),
                path.stem + (f"/{split}" if split else ""),
                split,
            )
            groups = _first(arrays, ("groups",), split)
            if groups is not None:
                part.groups = own_groups([as_word(word) for word in groups.tolist()], part.paths)
            parts.append(part)
    if not parts:
        raise DataError(
            f"{path} holds {', '.join(arrays) or 'nothing'}. Name the arrays images and labels (or x and y)."
        )
    return parts[0] if len(parts) == 1 else join_rows(parts)


def _first(arrays: dict[str, np.ndarray], names: Sequence[str], split: str) -> np.ndarray | None:
    wanted = [f"{name}_{split}" if split else name for name in names]
    return next((arrays[name] for name in wanted if name in arrays), None)


def digits_rows() -> Rows:
    """Return scikit-learn's 1,797 handwritten digits (Alpaydin and Kaynak 1998): 8x8, scaled to 0-255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return array_rows(images, digits.target, "digits")


def torchvision_rows(name: str, download: bool) -> Rows:
    """Read a set of torchvision from the cache folder, downloading it first where that is allowed.

    Raises:
        DataError: it is not there, and may not be or could not be downloaded.
    """
    import torchvision.datasets

    published = TORCHVISION[name]
    kind = getattr(torchvision.datasets, published.name)
    folder = cache_folder() / "downloads"
    parts = []
    for split, arguments in published.splits.items():
        try:
            part = kind(str(folder), download=download, **arguments)
        except (RuntimeError, OSError) as error:
            remedy = "Check the connection" if download else "Add --set data.download=true to fetch it"
            raise DataError(f"{name} is not in {folder}: {error}. {remedy}.") from None
        parts.append(_published_rows(part, f"{name}/{split}", split, published.numbered))
    return join_rows(parts)


def _published_rows(part: Any, name: str, split: str, numbered: bool) -> Rows:
    images = np.asarray(part.data)
    if images.ndim == 4 and images.shape[1] == 3:  # SVHN and STL-10 are stored channels first
        images = images.transpose(0, 2, 3, 1)
    labels = [int(label) for label in (part.targets if hasattr(part, "targets") else part.labels)]
    words = labels if numbered else [part.classes[label] if label >= 0 else "" for label in labels]
    return array_rows(images, words, name, split)
