"""PASCAL VOC folders: an XML file of boxes beside each image, several classes an image, lists of who trains and tests.

    [VOCdevkit/VOC2012/]JPEGImages/000001.jpg  Annotations/000001.xml  ImageSets/Main/{train,val,trainval,test}.txt

An image has the classes of its boxes. An object marked difficult counts for nothing, as in the challenge (Everingham
et al. 2010, section 4). An image without an XML file is unlabeled; one whose file has no object that counts is labeled
with none of the classes. Where there are lists, images in none of them are unlabeled: in VOC2012 they belong to other
tasks. An image in several lists is of the last of train, val and test that names it; `trainval` stands for train.
Lists by class (car_train.txt) declare the classes: objects of others are named and count for nothing.
"""

import math
import xml.etree.ElementTree as ET
from pathlib import PurePosixPath
from typing import NamedTuple

from eke.data.images import Box, Problem, Word
from eke.data.rows import Rows, class_names
from eke.data.trees import Tree, is_image
from eke.errors import DataError

_LISTS = {"trainval": "train", "train": "train", "val": "val", "test": "test"}
"""Lists of images -> the part that they name; later ones win."""
_BESIDE = 1.0
"""Pixels by which a box may leave its image: some tools count from 0, the challenge from 1."""


class _Annotation(NamedTuple):
    """What a person said of one image."""

    word: Word
    boxes: tuple[Box, ...]
    problems: tuple[Problem, ...] = ()


def is_voc(tree: Tree, group_level: bool) -> bool:
    """Tell whether images and annotations lie as in PASCAL VOC."""
    return bool(_roots(tree))


def _roots(tree: Tree) -> list[str]:
    """Return the folders, with their slash, that hold both JPEGImages and Annotations."""
    found = [name.removesuffix("JPEGImages") for name in tree.folders if PurePosixPath(name).name == "JPEGImages"]
    return [root for root in found if f"{root}Annotations" in tree.folders]


def read_voc(tree: Tree, group_level: bool) -> Rows:
    """Read one VOC folder, or several below one folder (VOC2007 beside VOC2012).

    Raises:
        DataError: there is no image.
    """
    image_of = {
        f"{root}Annotations/{PurePosixPath(name).stem}.xml": name
        for root in _roots(tree)
        for name in tree.names
        if name.startswith(f"{root}JPEGImages/") and is_image(name)
    }
    if not image_of:
        raise DataError(f"{tree.path} has a folder JPEGImages without an image. Check the path.")
    parts, declared = _read_lists(tree)
    known = [name for name in image_of if name in tree.stamps]
    contents = tree.contents(known)
    read = {name: _read_annotation(name, contents.read(row), declared) for row, name in enumerate(known)}
    found = [read.get(name, _Annotation("", ())) for name in image_of]
    missing = [
        Problem(name, "missing", "named by a list in ImageSets/Main, but there is no such image", "Correct the list")
        for name in sorted(set(parts) - set(image_of))
    ]
    unannotated = [
        Problem(image, "no annotation", f"there is no {name}; counts as unlabeled", "Restore the file, or label it")
        for name, image in image_of.items()
        if name not in read and parts.get(name, "test") != "test"  # test sets are handed out without
    ]
    words = [each.word for each in found]
    paths = list(image_of.values())
    return Rows(
        contents=tree.contents(paths),
        paths=paths,
        words=words,
        stamps=[tree.stamps[path] for path in paths],
        split=[parts.get(name, "unlabeled") for name in image_of] if parts else None,
        classes=class_names(words) | declared,
        problems=[*(problem for each in found for problem in each.problems), *missing, *unannotated],
        boxes=[each.boxes for each in found],
    )


def _read_lists(tree: Tree) -> tuple[dict[str, str], set[str]]:
    """Return the part of each listed annotation, and the classes that lists declare."""
    parts: dict[str, str] = {}
    classes: set[str] = set()
    for root in _roots(tree):
        folder = f"{root}ImageSets/Main/"
        stems = [name.removeprefix(folder).removesuffix(".txt") for name in tree.names if name.startswith(folder)]
        for name, part in _LISTS.items():
            if name in stems:
                lines = tree.read(f"{folder}{name}.txt").decode("utf-8", "replace").splitlines()
                parts |= {f"{root}Annotations/{line.split()[0]}.xml": part for line in lines if line.strip()}
        classes |= {stem.rpartition("_")[0] for stem in stems if stem.rpartition("_")[2] in _LISTS} - {""}
    return parts, classes


def _read_annotation(name: str, content: bytes, declared: set[str]) -> _Annotation:
    """Read one XML file; what is wrong with an object is named, and the others count."""
    try:
        if b"<!DOCTYPE" in content or b"<!ENTITY" in content:  # entities can unfold without end
            raise ET.ParseError("it declares entities")
        root = ET.fromstring(content)
    except ET.ParseError as error:
        detail = f"no XML that can be read ({error}); the image counts as unlabeled"
        return _Annotation("", (), (Problem(name, "damaged", detail, "Restore the file"),))
    width, height = (_number(root.find(f"size/{side}")) for side in ("width", "height"))
    names: set[str] = set()
    boxes: list[Box] = []
    problems: list[Problem] = []
    for place, each in enumerate(root.iter("object"), 1):
        word = (each.findtext("name") or "").strip()
        if (each.findtext("difficult") or "").strip() == "1":
            continue
        if not word or (declared and word not in declared):
            detail = (
                f"object {place} is called {word!r}, which no list in ImageSets/Main declares; it counts for nothing"
            )
            problems.append(Problem(name, "unknown class", detail, "Correct the name, or add the class's list"))
            continue
        names.add(word)
        try:
            boxes.append(_box(word, each, width, height))
        except ValueError as error:
            detail = f"{word}, object {place}: {error}; the label counts, the box does not"
            problems.append(Problem(name, "bad box", detail, "Correct the box"))
    return _Annotation(tuple(sorted(names)), tuple(boxes), tuple(problems))


def _box(word: str, element: ET.Element, width: float | None, height: float | None) -> Box:
    """Read a box; VOC counts pixels from 1, and its last pixel is inside.

    Raises:
        ValueError: it marks nothing of the image; the message says why.
    """
    values = [_number(element.find(f"bndbox/{end}")) for end in ("xmin", "ymin", "xmax", "ymax")]
    left, top, right, bottom = values
    if left is None or top is None or right is None or bottom is None:
        raise ValueError("it has no box of four numbers")
    said = f"xmin {left:g}, ymin {top:g}, xmax {right:g}, ymax {bottom:g}"
    if left > right or top > bottom:
        raise ValueError(f"its box is inverted ({said})")
    if (
        width
        and height
        and (left < 1 - _BESIDE or top < 1 - _BESIDE or right > width + _BESIDE or bottom > height + _BESIDE)
    ):
        raise ValueError(f"its box leaves the image of {width:g}x{height:g} pixels ({said})")
    return Box(word, left - 1, top - 1, right, bottom)


def _number(element: ET.Element | None) -> float | None:
    try:
        value = float((element is not None and element.text) or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
