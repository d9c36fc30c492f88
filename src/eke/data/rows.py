"""What a layout finds in a source, before images have identities: one entry per row, in plain words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eke.data.contents import JoinedContents
from eke.data.images import Box, Contents, Problem, Word, names_in
from eke.data.trees import Stamp
from eke.errors import DataError, did_you_mean

SPLITS = {
    "": "",
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "unlabeled": "unlabeled",
    "unlabelled": "unlabeled",
}
"""Words for the parts of a source -> the name used everywhere."""


@dataclass
class Rows:
    """Entry i of every list speaks of row i of `contents`."""

    contents: Contents
    paths: list[str]
    words: Sequence[Word]
    """What each row is called."""
    stamps: list[Stamp] | None
    """Size and time of the file behind each row; None where hashing is not worth remembering."""
    groups: list[str] | None = None
    split: list[str] | None = None
    classes: set[str] = field(default_factory=set)
    """Classes that the source declares, with or without images."""
    problems: list[Problem] = field(default_factory=list)
    boxes: list[tuple[Box, ...]] | None = None
    frames: int | None = None
    """T, where every row is a clip of T frames."""


def class_names(words: Iterable[Word]) -> set[str]:
    """Return the classes that words name."""
    return {name for word in words for name in names_in(word)}


def known_split(word: object, where: str) -> str:
    """Read a word such as "training" as train, val, test, unlabeled or "".

    Raises:
        DataError: the word is none of these.
    """
    text = as_word(word).lower()
    if text not in SPLITS:
        known = did_you_mean(text, [name for name in SPLITS if name])
        raise DataError(f"{where} has the split {text!r}. {known}")
    return SPLITS[text]


def as_word(value: object) -> str:
    """Turn a cell into a class, group or split name; missing values and -1 become ""."""
    if value is None or value == -1 or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return "" if text == "-1" else text


def as_words(value: object) -> Word:
    """Turn a cell of a column of label sets into class names: a list, or text such as "car; person".

    Missing values become "", unlabeled. An empty list, or ";" alone, is an image with none of the classes.
    """
    if isinstance(value, (list, tuple)):
        return tuple(sorted({as_word(each) for each in value} - {""}))
    text = as_word(value)
    return tuple(sorted({part.strip() for part in text.split(";")} - {""})) if text else ""


def spell_labels(names: Iterable[str]) -> str:
    """Write the classes of an image as `as_words` reads them."""
    return "; ".join(names) or ";"


def words_in(table: Mapping[str, Sequence[Any]], n: int) -> list[Word]:
    """Return what a table calls its n rows: its column `labels` holds sets, its column `label` one class each."""
    if "labels" in table:
        return [as_words(cell) for cell in table["labels"]]
    return [as_word(cell) for cell in table.get("label", [""] * n)]


def own_groups(words: Sequence[str], paths: Sequence[str]) -> list[str] | None:
    """Return groups, each image without a word being a group of its own; None where no image has a word."""
    if not any(words):
        return None
    return [word or f"alone:{path}" for word, path in zip(words, paths, strict=True)]


def join_rows(parts: Sequence[Rows]) -> Rows:
    """Lay the rows of several sources one after the other."""
    groups = [part.groups or [f"alone:{path}" for path in part.paths] for part in parts]
    split = [part.split or [""] * len(part.paths) for part in parts]
    stamps = [part.stamps or [] for part in parts]
    known = all(part.stamps is not None for part in parts)
    return Rows(
        contents=JoinedContents([(part.contents, len(part.paths)) for part in parts]),
        paths=[path for part in parts for path in part.paths],
        words=[word for part in parts for word in part.words],
        stamps=[stamp for part in stamps for stamp in part] if known else None,
        groups=[word for part in groups for word in part] if any(part.groups for part in parts) else None,
        split=[word for part in split for word in part] if any(map(any, split)) else None,
        classes=set().union(*(part.classes for part in parts)),
        problems=[problem for part in parts for problem in part.problems],
        boxes=[row for part in parts for row in part.boxes or [()] * len(part.paths)]
        if any(part.boxes is not None for part in parts)
        else None,
    )
