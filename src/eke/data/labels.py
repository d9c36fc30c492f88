"""Label files laid over a source: tables with `path` or `id`, and `label`; later files win."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from eke.data.images import ImageSet, Problem, sort_classes
from eke.data.rows import as_word
from eke.data.table_layouts import composed, missing_problem
from eke.data.tables import PATH_COLUMNS, column_of, read_table
from eke.errors import DataError, did_you_mean


def apply_labels(image_set: ImageSet, files: Sequence[Path]) -> ImageSet:
    """Lay label files over the labels of a set.

    A row names an image by `id`, or by `path` as the set does (a folded duplicate counts as its image). An
    empty label takes the label away. An image with two labels in one file loses its label and is reported as
    a conflict. A conflict of the source or of an earlier file is settled by a later one that names the image.
    A source without classes gets those of the files.

    Raises:
        DataError: a file cannot be read, names a class that the source does not have, or only missing images.
    """
    tables = {file: _read(file) for file in files}
    words = {word for rows in tables.values() for _, word in rows if word}
    classes = image_set.classes or sort_classes(words)
    place = {name: label for label, name in enumerate(classes)}
    labels = image_set.labels.copy()
    problems = list(image_set.problems)
    find = _Finder(image_set)
    for file, rows in tables.items():
        given: dict[int, set[str]] = {}
        missing: list[Problem] = []
        for name, word in rows:
            if word and word not in place:
                raise DataError(
                    f"{file} gives {name} the class {word!r}. {did_you_mean(word, classes)} A new class "
                    f"must first be in {image_set.source}: by an empty folder, or a row of its labels.csv."
                )
            row = find(name)
            if row is None:
                missing.append(missing_problem(name, str(file)))
            else:
                given.setdefault(row, set()).add(word)
        if missing and not given:
            raise DataError(
                f"None of the {len(missing)} images that {file} names is in {image_set.source}; the first is "
                f"{missing[0].path!r}. Use paths as in {image_set.paths[0]!r}, or ids."
            )
        problems += missing
        problems = _lay(image_set, file, given, place, labels, problems)
    return replace(image_set, labels=labels, classes=classes, problems=tuple(problems))


def _lay(
    image_set: ImageSet,
    file: Path,
    given: Mapping[int, set[str]],
    place: Mapping[str, int],
    labels: np.ndarray,
    problems: Sequence[Problem],
) -> list[Problem]:
    """Write one file's labels into `labels`; return the problems that remain."""
    settled = {image_set.paths[row] for row in given}
    kept = [problem for problem in problems if problem.kind != "conflict" or problem.path not in settled]
    for row, words in given.items():
        if len(words) > 1:
            labels[row] = -1
            kept.append(conflict(image_set.paths[row], words, f"in {file}"))
        else:
            labels[row] = place.get(next(iter(words)), -1)
    return kept


def conflict(path: str, words: set[str], where: str) -> Problem:
    """Say that one image has several labels; it counts as unlabeled."""
    named = " and ".join(repr(word) if word else "no label" for word in sorted(words))
    detail = f"labeled {named} {where}; counts as unlabeled"
    return Problem(path, "conflict", detail, "Settle it in a label file: --labels FILE with path,label")


def _read(file: Path) -> list[tuple[str, str]]:
    """Return (id or path, class) of each row."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read the label file {file}: {error.strerror}. Check the path.") from None
    table = read_table(content, file.name)
    by_id = [as_word(cell) for cell in table.get("id", ())]
    by_path = [] if "id" in table and not set(PATH_COLUMNS) & set(table) else column_of(table, PATH_COLUMNS, str(file))
    words = [as_word(cell) for cell in column_of(table, ("label", "class"), str(file))]
    names = [key or as_word(path) for key, path in zip(by_id or [""] * len(words), by_path or by_id, strict=True)]
    return list(zip(names, words, strict=True))


class _Finder:
    """Finds the row of an image by id, path, or absolute path; None where it is not in the set."""

    def __init__(self, image_set: ImageSet) -> None:
        self.rows = {name: row for row, name in enumerate(image_set.ids)}
        for row, path in enumerate(image_set.paths):
            self.rows.setdefault(composed(path), row)
        for path, kept in image_set.folded.items():
            self.rows.setdefault(composed(path), self.rows[composed(kept)])
        self.root = Path(image_set.source)

    def __call__(self, name: str) -> int | None:
        path = composed(name.replace("\\", "/").removeprefix("./"))
        row = self.rows.get(name, self.rows.get(path))
        if row is None and Path(name).is_absolute() and Path(name).is_relative_to(self.root.absolute()):
            row = self.rows.get(composed(Path(name).relative_to(self.root.absolute()).as_posix()))
        return row
