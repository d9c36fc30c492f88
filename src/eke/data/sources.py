"""`open_images`: whatever a user names becomes one ImageSet."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from eke.data import builtin
from eke.data.contents import FileContents, JoinedContents
from eke.data.identity import EMPTY, UNREADABLE, ids_of
from eke.data.images import (
    Content,
    ImageSet,
    Problem,
    Word,
    number_labels,
    require_alike,
    sort_classes,
    unknown_labels,
    with_classes,
)
from eke.data.labels import apply_labels, conflict
from eke.data.layouts import read_tree
from eke.data.options import ClipOptions
from eke.data.recordings import cut_recordings
from eke.data.rows import Rows, class_names
from eke.data.table_layouts import read_manifest
from eke.data.tables import image_column, image_parquet, is_table
from eke.data.trees import Stamp, is_media, open_folder, open_zip
from eke.errors import DataError, did_you_mean
from eke.progress import Progress, silent

Arrays = np.ndarray | tuple[np.ndarray, np.ndarray | Sequence[object]]
"""Images (N, H, W[, C]); or such images and N labels, where -1, None and "" mean unlabeled."""
FOUR_SECONDS = ClipOptions()
"""How recordings are cut where nothing else is said."""


def open_images(
    source: str | Path | Arrays,
    *,
    labels: Sequence[Path] = (),
    download: bool = False,
    group_level: bool = False,
    clip: ClipOptions | None = FOUR_SECONDS,
    progress: Progress = silent,
) -> ImageSet:
    """Open images or clips, give each its id, fold equal ones, and lay label files over their labels.

    Args:
        source: a folder (of class folders, of train/val/test folders, or flat with a table), a zip of one, a
            CSV, TSV, JSONL or Parquet table, an image Parquet file, an .npz, one image, "digits", the name of
            a torchvision set, a video, or arrays.
        labels: label files; later ones win. See `apply_labels`.
        download: whether a torchvision set may be downloaded.
        group_level: whether the folder below the class folder names the group (class/patient/image.jpg). The
            same name below two classes is the same group. Frames of clips are then single images.
        clip: how recordings (folders of frames, videos) are cut; None: single images are needed, also of frames.
        progress: shows the hashing of images that were not seen before.

    Raises:
        DataError: the source does not exist, cannot be read, or holds no image.
        ConfigError: it holds videos, and PyAV is not installed.
    """
    if isinstance(source, np.ndarray):
        rows, name = builtin.array_rows(source, None, "array"), "array"
    elif isinstance(source, tuple):
        rows, name = builtin.array_rows(np.asarray(source[0]), source[1], "array"), "array"
    else:
        name = str(source)
        rows = cut_recordings(_named_rows(name, download, group_level, clip is not None), name, clip)
    if not rows.paths:
        raise DataError(f"{name} holds no image. Check the path.")
    root = str(Path(name).absolute()) if rows.stamps is not None else name
    image_set = fold(rows, ids_of(rows, root, progress), name)
    return apply_labels(image_set, [Path(file) for file in labels]) if labels else image_set


def _named_rows(name: str, download: bool, group_level: bool, clips: bool) -> Rows:
    path = Path(name).expanduser()
    if path.is_dir():
        return read_tree(open_folder(path), group_level, clips=clips)
    if path.is_file():
        return _file_rows(path, group_level, clips)
    if name == "digits":
        return builtin.digits_rows()
    if name in builtin.TORCHVISION:
        return builtin.torchvision_rows(name, download)
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    known = ["digits", *builtin.TORCHVISION, *beside]
    raise DataError(
        f"There is no file or folder {name}, and no such built-in set. {did_you_mean(path.name, known[:50])}"
    )


def _file_rows(path: Path, group_level: bool, clips: bool) -> Rows:
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return read_tree(open_zip(path), group_level, clips=clips)
    if suffix == ".npz":
        return builtin.npz_rows(path)
    status = path.stat()
    stamp = Stamp(status.st_size, status.st_mtime_ns)
    if suffix == ".parquet":
        column = image_column(path, path.name)
        if column is not None:
            return image_parquet(path, path.name, column, stamp)
    if is_table(path.name):
        return read_manifest(path)
    if is_media(path.name):
        return Rows(FileContents(path.parent, [path.name]), [path.name], [""], [stamp])
    raise DataError(
        f"{path} is not a source that eke knows. Give a folder, a .zip, .csv, .tsv, .jsonl, .parquet or .npz "
        f"file, one image or one video."
    )


def fold(rows: Rows, ids: Sequence[str], source: str) -> ImageSet:
    """Make an ImageSet: set unreadable and empty rows aside, and keep one row of each id.

    Of equal rows a test row is kept before a validation row, that before any other, then the first. Rows with
    equal ids and different labels become one unlabeled row and a reported conflict.

    Args:
        rows: what a layout found.
        ids: one per row; those that start with UNREADABLE carry a reason.
        source: what the user named.
    """
    problems = list(rows.problems)
    same: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(ids):
        if name.startswith(UNREADABLE):
            reason = name.removeprefix(UNREADABLE)
            problems.append(Problem(rows.paths[row], "unreadable", reason, "Repair or delete it"))
        elif name == EMPTY:
            problems.append(Problem(rows.paths[row], "empty", "the file has no bytes", "Restore or delete it"))
        else:
            same[name].append(row)
    rank = {"test": 0, "val": 1}
    split = rows.split
    kept: list[int] = []
    words: list[Word] = []
    folded: dict[str, str] = {}
    for twins in same.values():
        if len(twins) == 1:
            kept += twins
            words.append(rows.words[twins[0]])
            continue
        first = min(twins, key=lambda row: (rank.get(split[row], 2) if split else 0, row))
        given = {rows.words[row] for row in twins} - {""}
        kept.append(first)
        words.append(given.pop() if len(given) == 1 else "")
        others = [row for row in twins if rows.paths[row] != rows.paths[first]]
        folded |= {rows.paths[row]: rows.paths[first] for row in others}
        problems += [_duplicate(rows, row, first) for row in others]
        if len(given) > 1:
            problems.append(conflict(rows.paths[first], given, f"in {source} under equal bytes"))
    classes = sort_classes(rows.classes | class_names(rows.words))
    several = bool(classes) and any(isinstance(word, tuple) for word in rows.words)
    return ImageSet(
        source=source,
        ids=tuple(same),
        paths=tuple(rows.paths[row] for row in kept),
        labels=number_labels(words, classes, several=several),
        classes=classes,
        groups=None if rows.groups is None else tuple(rows.groups[row] for row in kept),
        split=None if split is None else tuple(split[row] for row in kept),
        problems=tuple(problems),
        contents=rows.contents,
        rows=np.array(kept, dtype=np.int64),
        folded=folded,
        boxes=None if rows.boxes is None else tuple(rows.boxes[row] for row in kept),
        frames=rows.frames,
    )


def _duplicate(rows: Rows, row: int, first: int) -> Problem:
    path, same = rows.paths[row], f"same bytes as {rows.paths[first]}"
    if rows.split and rows.split[first] in {"test", "val"} and rows.split[row] != rows.split[first]:
        part = rows.split[first]
        return Problem(path, "leak", f"{same}, which is a {part} image; counts as {part}", "Delete one of them")
    return Problem(path, "duplicate", f"{same}; counted once", "Nothing to do")


def with_validation(train: ImageSet, validation: ImageSet) -> ImageSet:
    """Append a labeled validation set to a training set, so that one split and one pixel cache serve both.

    Images that are in both count as validation images only.

    Raises:
        DataError: a validation image has a class that the training images do not have.
    """
    theirs = set(validation.ids)
    kept = train.select(row for row, name in enumerate(train.ids) if name not in theirs)
    return _joined(kept, with_classes(validation, train.classes, several=train.several), "val")


def with_unlabeled(train: ImageSet, others: ImageSet) -> ImageSet:
    """Append images to a training set whose labels, if they have any, are not looked at; images in both stay once."""
    ours = set(train.ids)
    new = others.select(row for row, name in enumerate(others.ids) if name not in ours)
    return _joined(
        train, replace(new, labels=unknown_labels(len(new), train.labels), classes=train.classes), "unlabeled"
    )


def _joined(first: ImageSet, second: ImageSet, word: str) -> ImageSet:
    """Put the rows of two sets of equal classes into one; those of the second are called `word`."""
    require_alike(first, second)
    parts = (first, second)
    split = (first.split or ("",) * len(first)) + (word,) * len(second)
    groups = tuple(name for part in parts for name in part.groups or _alone(part))
    return replace(
        first,
        ids=first.ids + second.ids,
        paths=first.paths + tuple(f"{second.source}/{path}" for path in second.paths),
        labels=np.concatenate([part.labels for part in parts]),
        groups=groups if first.groups or second.groups else None,
        split=split,
        problems=first.problems + second.problems,
        contents=JoinedContents([(_Chosen(part), len(part)) for part in parts]),
        rows=np.arange(len(split)),
        boxes=tuple(row for part in parts for row in part.boxes or ((),) * len(part))
        if first.boxes is not None or second.boxes is not None
        else None,
        asked=None if first.asked is None else first.asked + ("",) * len(second),
    )


def _alone(image_set: ImageSet) -> tuple[str, ...]:
    return tuple(f"alone:{path}" for path in image_set.paths)


class _Chosen:
    """Reads the rows of an image set by position."""

    def __init__(self, image_set: ImageSet) -> None:
        self.contents, self.rows = image_set.contents, image_set.rows

    def read(self, row: int) -> Content:
        return self.contents.read(int(self.rows[row]))
