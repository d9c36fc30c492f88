"""Label files laid over a source: tables with `path` or `id`, and `label`; later files win."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from eke.data.images import ImageSet, Problem, Word, names_in, number_labels, sort_classes, with_several
from eke.data.rows import as_word, as_words, class_names
from eke.data.table_layouts import composed, missing_problem
from eke.data.tables import PATH_COLUMNS, column_of, read_table
from eke.errors import DataError, did_you_mean


def apply_labels(image_set: ImageSet, files: Sequence[Path]) -> ImageSet:
    """Lay label files over the labels of a set.

    A row names an image by `id`, or by `path` as the set does (a folded duplicate counts as its image). Its column
    `label` holds one class; `labels` holds several, apart by ";", or a list, and then every image of the set has a set
    of labels. An empty cell takes the labels away. An image with two entries in one file that differ loses its label
    and is reported as a conflict. A conflict of the source or of an earlier file is settled by a later one that names
    the image. A source without classes gets those of the files. A file with a column `control` is one of `eke ask`:
    what it labels was asked for, or, where the column is not 0, drawn at random; see `ImageSet.asked`.

    Raises:
        DataError: a file cannot be read, names a class that the source does not have, or only missing images.
    """
    tables = {file: _read(file) for file in files}
    words = [word for rows in tables.values() for _, word, _ in rows]
    classes = image_set.classes or sort_classes(class_names(words))
    image_set = replace(image_set, classes=classes)
    if classes and (image_set.several or any(isinstance(word, tuple) for word in words)):
        image_set = with_several(image_set)
        tables = {
            file: [row._replace(word=row.word and names_in(row.word)) for row in rows] for file, rows in tables.items()
        }
    labels = image_set.labels.copy()
    problems = list(image_set.problems)
    asked = list(image_set.asked or [""] * len(image_set))
    find = _Finder(image_set)
    for file, rows in tables.items():
        given: dict[int, set[Word]] = {}
        missing: list[Problem] = []
        for name, word, how in rows:
            for unknown in (each for each in names_in(word) if each not in classes):
                raise DataError(
                    f"{file} gives {name} the class {unknown!r}. {did_you_mean(unknown, classes)} A new class "
                    f"must first be in {image_set.source}: by an empty folder, or a row of its labels.csv."
                )
            row = find(name)
            if row is None:
                missing.append(missing_problem(name, str(file)))
            else:
                given.setdefault(row, set()).add(word)
                asked[row] = how if word != "" else asked[row]
        if missing and not given:
            raise DataError(
                f"None of the {len(missing)} images that {file} names is in {image_set.source}; the first is "
                f"{missing[0].path!r}. Use paths as in {image_set.paths[0]!r}, or ids."
            )
        problems += missing
        settled = {image_set.paths[row] for row in given}
        problems = [problem for problem in problems if problem.kind != "conflict" or problem.path not in settled]
        for row, words_of in given.items():
            if len(words_of) > 1:
                problems.append(conflict(image_set.paths[row], words_of, f"in {file}"))
        laid = {row: next(iter(words_of)) if len(words_of) == 1 else "" for row, words_of in given.items()}
        labels[list(laid)] = number_labels(list(laid.values()), classes, several=image_set.several)
    return replace(image_set, labels=labels, problems=tuple(problems), asked=tuple(asked) if any(asked) else None)


def conflict(path: str, words: set[Word], where: str) -> Problem:
    """Say that one image is labeled in several ways; it counts as unlabeled."""
    spelled = sorted(", ".join(names_in(word)) for word in words)
    named = " and ".join(repr(word) if word else "no label" for word in spelled)
    detail = f"labeled {named} {where}; counts as unlabeled"
    remedy = "Settle it in a label file: --labels FILE with path,label. For several labels an image: path,labels"
    return Problem(path, "conflict", detail, remedy)


class _Row(NamedTuple):
    """One row of a label file."""

    name: str
    """Id or path."""
    word: Word
    how: str
    """As `ImageSet.asked`."""


def _read(file: Path) -> list[_Row]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read the label file {file}: {error.strerror}. Check the path.") from None
    table = read_table(content, file.name)
    by_id = [as_word(cell) for cell in table.get("id", ())]
    by_path = [] if "id" in table and not set(PATH_COLUMNS) & set(table) else column_of(table, PATH_COLUMNS, str(file))
    words: list[Word]
    if "labels" in table:
        words = [as_words(cell) for cell in table["labels"]]
    else:
        words = [as_word(cell) for cell in column_of(table, ("label", "class"), str(file))]
    names = [key or as_word(path) for key, path in zip(by_id or [""] * len(words), by_path or by_id, strict=True)]
    how = ["asked" if as_word(cell) in {"", "0"} else "control" for cell in table.get("control", ())]
    return [_Row(*row) for row in zip(names, words, how or [""] * len(words), strict=True)]


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
