"""Layouts with a table: paths and labels in a file beside the images, or images in Parquet files."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from eke.data.contents import FileContents
from eke.data.images import Problem
from eke.data.rows import SPLITS, Rows, class_names, join_rows, words_in
from eke.data.tables import (
    PATH_COLUMNS,
    Table,
    column_of,
    image_column,
    image_parquet,
    is_table,
    read_table,
    split_and_groups,
)
from eke.data.trees import Stamp, Tree, is_image, is_media
from eke.errors import DataError

LABEL_TABLES = {"labels", "manifest", "metadata"}
"""Names, without ending, of tables that are taken for tables of labels."""


def has_table(tree: Tree, group_level: bool) -> bool:
    """Tell whether a table at the top says where images and labels are."""
    return _table_name(tree) is not None


def _table_name(tree: Tree) -> str | None:
    """Return the table that says where images and labels are; the files at the top decide."""
    tables = [name for name in tree.names if "/" not in name and is_table(name) and not _holds_images(tree, name)]
    named = [name for name in tables if PurePosixPath(name).stem.lower() in LABEL_TABLES]
    if len(named) > 1:
        raise DataError(f"{tree.path} has several tables of labels: {', '.join(named)}. Keep one.")
    if named:
        return named[0]
    fitting = [name for name in tables if set(PATH_COLUMNS) & set(read_table(tree.read(name), name))]
    return fitting[0] if len(fitting) == 1 else None


def _holds_images(tree: Tree, name: str) -> bool:
    return name.lower().endswith(".parquet") and image_column(_parquet_file(tree, name), name) is not None


def _parquet_file(tree: Tree, name: str) -> Path | bytes:
    return tree.read(name) if tree.is_zip else tree.path / name


def read_table_layout(tree: Tree, group_level: bool) -> Rows:
    """Read a table and the images beside it; images that it does not name are unlabeled."""
    name = _table_name(tree)
    assert name is not None
    table = read_table(tree.read(name), name)
    known = {composed(image): image for image in tree.names if is_media(image)}
    found = [known.get(composed(path)) for path in table_paths(table, name)]
    problems = _missing(table, name, found)
    kept = [row for row, image in enumerate(found) if image is not None]
    named = [image for image in found if image is not None]
    table = {column: [cells[row] for row in kept] for column, cells in table.items()}
    split, groups = split_and_groups(table, named, name)
    words = words_in(table, len(named))
    others = sorted(set(known.values()) - set(named))
    paths = named + others
    blank = [""] * len(others)
    return Rows(
        contents=tree.contents(paths),
        paths=paths,
        words=[*words, *blank],
        stamps=[tree.stamps[path] for path in paths],
        groups=None if groups is None else groups + [f"alone:{path}" for path in others],
        split=None if split is None else split + blank,
        classes=class_names(words),
        problems=problems + ignored_files(tree, {name}),
    )


def table_paths(table: Table, name: str) -> list[str]:
    """Return the path column, with forward slashes and without a leading "./".

    Raises:
        DataError: there is no such column.
    """
    cells = column_of(table, PATH_COLUMNS, name)
    return [str(cell).strip().replace("\\", "/").removeprefix("./") for cell in cells]


def _missing(table: Table, name: str, found: Sequence[str | None]) -> list[Problem]:
    paths = table_paths(table, name)
    missing = [path for path, image in zip(paths, found, strict=True) if image is None]
    if missing and len(missing) == len(paths):
        raise DataError(
            f"None of the {len(paths)} images that {name} names exists; the first is {missing[0]!r}. "
            f"Paths are relative to the folder of {name}."
        )
    return [missing_problem(path, name) for path in missing]


def missing_problem(path: str, table: str) -> Problem:
    """Say that a table names an image that does not exist."""
    return Problem(path, "missing", f"named by {table}, but there is no such image", f"Correct {table}")


def composed(path: str) -> str:
    """Return a path in composed Unicode: some systems store é as two characters, tables rarely do."""
    return unicodedata.normalize("NFC", path)


def read_manifest(path: Path) -> Rows:
    """Read a table of paths (absolute, or relative to the table) that is named by itself."""
    table = read_table(path.read_bytes(), path.name)
    names = table_paths(table, path.name)
    found = [_existing(path.parent, name) for name in names]
    problems = _missing(table, path.name, [name for name, _ in found])
    kept = [row for row, (name, _) in enumerate(found) if name is not None]
    table = {column: [cells[row] for row in kept] for column, cells in table.items()}
    paths = [str(found[row][0]) for row in kept]
    split, groups = split_and_groups(table, paths, path.name)
    words = words_in(table, len(paths))
    return Rows(
        contents=FileContents(path.parent, paths),
        paths=paths,
        words=words,
        stamps=[stamp for _, stamp in found if stamp is not None],
        groups=groups,
        split=split,
        classes=class_names(words),
        problems=problems,
    )


def _existing(folder: Path, name: str) -> tuple[str | None, Stamp | None]:
    for form in ("NFC", "NFD"):
        spelled = unicodedata.normalize(form, name)
        try:
            status = (folder / spelled).stat()
        except (OSError, ValueError):
            continue
        if (folder / spelled).is_file():
            return spelled, Stamp(status.st_size, status.st_mtime_ns)
    return None, None


def holds_parquets(tree: Tree, group_level: bool) -> bool:
    """Tell whether the images lie in Parquet files: there are some, and no image file."""
    tables = [name for name in tree.names if name.lower().endswith(".parquet")]
    return bool(tables) and not any(map(is_image, tree.names))


def read_parquets(tree: Tree, group_level: bool) -> Rows:
    """Join image parquets, as the Hugging Face hub cuts sets into shards; their names give the split."""
    parts: list[Rows] = []
    for name in tree.names:
        file = _parquet_file(tree, name) if name.lower().endswith(".parquet") else None
        column = image_column(file, name) if file is not None else None
        if file is not None and column is not None:
            part = image_parquet(file, name, column, tree.stamps[name])
            word = re.split(r"[-_.]", PurePosixPath(name).name.lower())[0]
            part.split = part.split or [SPLITS.get(word, "")] * len(part.paths)
            parts.append(part)
    if not parts:
        raise DataError(f"{tree.path} holds Parquet files, but none has a column of images. Name a table by its path.")
    return join_rows(parts)


def ignored_files(tree: Tree, used: set[str]) -> list[Problem]:
    """Say in one problem per ending which files are no images by name."""
    others = [name for name in tree.names if name not in used and not is_media(name)]
    endings = Counter(PurePosixPath(name).suffix.lower() or "none" for name in others)
    first = {PurePosixPath(name).suffix.lower() or "none": name for name in reversed(others)}
    remedy = "Give images an ending such as .jpg or .png; nothing to do if these are none"
    return [
        Problem(
            first[ending],
            "ignored",
            f"{count} file(s) with the ending {ending} are no images by name",
            remedy,
        )
        for ending, count in sorted(endings.items())
    ]
