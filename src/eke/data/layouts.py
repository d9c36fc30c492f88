"""How images and their classes lie in a folder or zip: one entry of LAYOUTS each, tried in order."""

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import NamedTuple

from eke.data.rows import SPLITS, Rows, own_groups
from eke.data.table_layouts import has_table, holds_parquets, ignored_files, read_parquets, read_table_layout
from eke.data.trees import Tree, is_image
from eke.data.voc import is_voc, read_voc
from eke.errors import DataError

UNLABELED = {"unlabeled", "unlabelled"}
_FRAME = re.compile(r"frame[_-]?\d+", re.IGNORECASE)


class Layout(NamedTuple):
    """A way in which images lie."""

    name: str
    recognize: Callable[[Tree, bool], bool]
    """(tree, group_level) -> whether it is this layout."""
    read: Callable[[Tree, bool], Rows]


def read_tree(tree: Tree, group_level: bool) -> Rows:
    """Read a folder or zip by the first layout that recognizes it.

    Raises:
        DataError: there is no image, or the layout is refused.
    """
    layout = next(layout for layout in LAYOUTS if layout.recognize(tree, group_level))
    return layout.read(tree, group_level)


def _is_clips(tree: Tree, group_level: bool) -> bool:
    images = [PurePosixPath(name) for name in tree.names if is_image(name)]
    frames = [path for path in images if len(path.parts) >= 3 and _FRAME.fullmatch(path.stem)]
    return not group_level and 2 * len(frames) > len(images)


def _refuse(what: str, instead: str) -> Callable[[Tree, bool], Rows]:
    def read(tree: Tree, group_level: bool) -> Rows:
        raise DataError(
            f"{tree.path} is {what}, which eke cannot read yet. It reads class folders, a folder with "
            f"labels.csv, CSV, TSV, Parquet and JSONL tables, image parquet, and zips of these. {instead}"
        )

    return read


def _is_split_folders(tree: Tree, group_level: bool) -> bool:
    tops = {name.split("/", 1)[0].lower() for name in tree.names if "/" in name and is_image(name)}
    return bool(tops) and tops <= set(SPLITS) and not tops <= UNLABELED


def _read_split_folders(tree: Tree, group_level: bool) -> Rows:
    return _read_folders(tree, 1, group_level)


def _read_class_folders(tree: Tree, group_level: bool) -> Rows:
    return _read_folders(tree, 0, group_level)


def _read_folders(tree: Tree, depth: int, group_level: bool) -> Rows:
    """Read class folders that lie `depth` folders down; images above or in `unlabeled/` have no label."""
    paths = [name for name in tree.names if is_image(name)]
    if not paths:
        raise DataError(f"{tree.path} holds no image (endings such as .jpg, .png, .tif) and no table. Check the path.")
    words, split, groups = [], [], []
    for path in paths:
        *folders, _ = path.split("/")
        inside = folders[depth:]
        split.append(SPLITS.get(folders[0].lower(), "") if depth and folders else "")
        words.append(inside[0] if inside and inside[0].lower() not in UNLABELED else "")
        groups.append(inside[1] if group_level and len(inside) > 1 else "")
    declared = {name.split("/")[depth] for name in tree.folders if name.count("/") == depth}
    return Rows(
        contents=tree.contents(paths),
        paths=paths,
        words=words,
        stamps=[tree.stamps[path] for path in paths],
        groups=own_groups(groups, paths),
        split=split if any(split) else None,
        classes={name for name in declared if name.lower() not in UNLABELED},
        problems=ignored_files(tree, set()),
    )


def _always(tree: Tree, group_level: bool) -> bool:
    return True


LAYOUTS = (
    Layout("PASCAL VOC", is_voc, read_voc),
    Layout(
        "clips",
        _is_clips,
        _refuse(
            "a folder of clips (class/clip/frame_000.jpg)",
            "To train on its frames, each clip a group that no split tears apart, set data.group_level=true.",
        ),
    ),
    Layout("table", has_table, read_table_layout),
    Layout("image parquets", holds_parquets, read_parquets),
    Layout("split folders", _is_split_folders, _read_split_folders),
    Layout("class folders", _always, _read_class_folders),
)
