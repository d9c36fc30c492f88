"""PASCAL VOC folders: boxes, several classes, lists, and what is wrong in them."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from eke.data.images import Box
from eke.data.sources import open_images
from eke.errors import DataError

from .pictures import write
from .voc_folder import write_voc, xml_of

CAR, CAT = ("car", 1, 1, 4, 6), ("cat", 2, 3, 10, 12)


def kinds(images):
    return sorted((problem.kind, problem.path) for problem in images.problems)


def test_classes_boxes_and_parts(tmp_path: Path) -> None:
    root = write_voc(
        tmp_path / "voc",
        {"a": [CAR, CAT, CAR], "b": [CAT], "c": [], "d": [CAR], "e": [CAT], "f": None},
        {"trainval": ["a", "b", "c", "d"], "val": ["d"], "test": ["f", "e"]},
    )
    images = open_images(root)
    assert images.classes == ("car", "cat")
    assert images.several
    by_path = {Path(path).stem: row for row, path in enumerate(images.paths)}
    rows = [by_path[name] for name in "abcdef"]
    assert images.labels[rows].tolist() == [[1, 1], [0, 1], [0, 0], [1, 0], [0, 1], [-1, -1]]
    assert images.labeled[rows].tolist() == [True] * 5 + [False]
    assert [images.split[row] for row in rows] == ["train"] * 3 + ["val", "test", "test"]
    assert images.boxes[by_path["a"]] == (Box("car", 0, 0, 4, 6), Box("cat", 1, 2, 10, 12), Box("car", 0, 0, 4, 6))
    assert images.boxes[by_path["c"]] == images.boxes[by_path["f"]] == ()
    assert images.label_words(by_path["a"]) == "car, cat"
    assert images.label_words(by_path["c"]) == "none of the classes"
    assert images.label_words(by_path["f"]) is None
    assert kinds(images) == [], "a test image may come without annotation"
    picked = images.select([by_path["b"], by_path["a"]])
    assert [len(boxes) for boxes in picked.boxes] == [1, 3]


def test_a_zip_and_a_devkit_of_two_years(tmp_path: Path) -> None:
    kit = tmp_path / "VOCdevkit"
    write_voc(kit / "VOC2007", {"1": [CAR], "2": [CAT]}, {"trainval": ["1", "2"]})
    other = write_voc(tmp_path / "more", {"x": [CAT], "y": [CAT], "1": [CAT, CAR]}, {"trainval": ["1"], "test": ["y"]})
    (other / "JPEGImages" / "x.jpg").unlink()
    shutil.move(other, kit / "VOC2012")
    shutil.make_archive(str(tmp_path / "kit"), "zip", kit)
    for source in (kit, tmp_path / "kit.zip"):
        images = open_images(source)
        found = dict(zip(images.paths, images.labels.tolist(), strict=True))
        assert found["VOC2007/JPEGImages/1.jpg"] == [1, 0]
        assert found["VOC2012/JPEGImages/1.jpg"] == [1, 1], "the years' files are not mixed up"
        assert images.boxes is not None


def test_images_in_no_list_lend_no_label(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": [CAR], "b": [CAT], "c": [CAT]}, {"train": ["a", "b"]})
    images = open_images(root)
    assert dict(zip(images.paths, images.split, strict=True))["JPEGImages/c.jpg"] == "unlabeled"


def test_objects_marked_difficult_do_not_count(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": xml_of([CAR, CAT], difficult=[1]), "b": [CAT]})
    images = open_images(root)
    row = images.paths.index("JPEGImages/a.jpg")
    assert images.label_words(row) == "car"
    assert [box.name for box in images.boxes[row]] == ["car"]


@pytest.mark.parametrize(
    ("boxes", "why"),
    [
        ([("car", 5, 1, 4, 6)], "inverted"),
        ([("car", 1, 7, 4, 6)], "inverted"),
        ([("car", 1, 1, 40, 6)], "leaves the image of 10x12"),
        ([("car", -9, 1, 4, 6)], "leaves the image"),
        ([("car", 1, 1, "wide", 6)], "four numbers"),
        ([("car", 1, 1, "nan", 6)], "four numbers"),
        ("<annotation><object><name>car</name></object></annotation>", "four numbers"),
    ],
)
def test_a_bad_box_is_named_and_its_label_counts(tmp_path: Path, boxes: object, why: str) -> None:
    images = open_images(write_voc(tmp_path, {"a": boxes, "b": [CAT]}))
    row = images.paths.index("JPEGImages/a.jpg")
    assert images.label_words(row) == "car"
    assert images.boxes[row] == ()
    (problem,) = images.problems
    assert (problem.path, problem.kind) == ("Annotations/a.xml", "bad box")
    assert why in problem.detail


def test_one_pixel_beside_the_image_is_a_matter_of_counting(tmp_path: Path) -> None:
    images = open_images(write_voc(tmp_path, {"a": [("car", 0, 0, 11, 13)], "b": [CAT]}))
    assert not images.problems
    assert images.boxes[images.paths.index("JPEGImages/a.jpg")] == (Box("car", -1, -1, 11, 13),)


def test_what_else_is_wrong_is_named(tmp_path: Path) -> None:
    root = write_voc(
        tmp_path,
        {"a": [CAR], "b": "no xml", "c": [CAT], "d": None, "e": [CAR, ("zebra", 1, 1, 2, 2)]},
        {"train": ["a", "b", "c", "d", "e", "gone"], "car_train": ["a"], "cat_train": ["c"]},
    )
    images = open_images(root)
    assert images.classes == ("car", "cat"), "the lists by class declare the classes"
    assert kinds(images) == [
        ("damaged", "Annotations/b.xml"),
        ("missing", "Annotations/gone.xml"),
        ("no annotation", "JPEGImages/d.jpg"),
        ("unknown class", "Annotations/e.xml"),
    ]
    assert images.labeled.tolist() == [name[11] not in "bd" for name in images.paths]


def test_entities_are_not_unfolded(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY b "car">]><annotation><object><name>&b;</name></object></annotation>'
    images = open_images(write_voc(tmp_path, {"a": bomb, "b": [CAT]}))
    assert "entities" in images.problems[0].detail
    assert images.classes == ("cat",)


def test_without_images_it_is_refused(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": [CAR]})
    (root / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(DataError, match="without an image"):
        open_images(root)


def test_boxes_lie_on_their_objects_in_real_photographs(shared_data: Path) -> None:
    images = open_images(shared_data / "voc5.zip")
    areas = [(box.right - box.left) * (box.bottom - box.top) / 192**2 for boxes in images.boxes or () for box in boxes]
    assert 0 < min(areas) < max(areas) <= 1
    assert np.array(images.split).tolist().count("test") == 400


# ------------------------------------------------------------------ what lists, names and borders may look like


def test_a_class_folder_called_like_it_is_no_voc(tmp_path: Path) -> None:
    for seed, name in enumerate(("JPEGImages", "cats")):
        write(tmp_path / name / "1.png", seed)
    assert open_images(tmp_path).classes == ("JPEGImages", "cats")


def test_an_image_in_several_lists_is_of_the_last_part(tmp_path: Path) -> None:
    root = write_voc(
        tmp_path,
        {name: [CAR, CAT] for name in "abcd"},
        {"trainval": list("abcd"), "train": list("abc"), "val": list("ab"), "test": ["a"]},
    )
    images = open_images(root)
    assert dict(zip((path[11] for path in images.paths), images.split, strict=True)) == {
        "a": "test",
        "b": "val",
        "c": "train",
        "d": "train",
    }


def test_an_image_in_no_list_needs_no_annotation(tmp_path: Path) -> None:
    images = open_images(write_voc(tmp_path, {"a": [CAR], "b": [CAT], "c": None}, {"train": ["a", "b"]}))
    assert images.problems == ()
    assert images.label_words(images.paths.index("JPEGImages/c.jpg")) is None


def test_lists_declare_classes_that_no_image_has(tmp_path: Path) -> None:
    images = open_images(
        write_voc(
            tmp_path,
            {"a": [("potted_plant", 1, 1, 4, 6)], "b": [CAT]},
            {"train": ["a", "b"], "potted_plant_train": ["a"], "cat_val": ["b"], "zebra_trainval": []},
        )
    )
    assert images.classes == ("cat", "potted_plant", "zebra")
    assert images.problems == ()


def test_a_list_may_say_more_than_names(tmp_path: Path) -> None:
    images = open_images(write_voc(tmp_path, {"a": [CAR], "b": [CAT]}, {"train": ["a  1"], "val": ["b -1"]}))
    assert images.split == ("train", "val")
    assert images.problems == ()


def test_an_object_without_a_name_is_named_by_its_place(tmp_path: Path) -> None:
    images = open_images(write_voc(tmp_path, {"a": [CAR, ("", 1, 1, 2, 2)], "b": [CAT]}))
    assert images.classes == ("car", "cat")
    (problem,) = images.problems
    assert (problem.kind, problem.path) == ("unknown class", "Annotations/a.xml")
    assert "object 2 is called ''" in problem.detail


def test_a_box_may_be_one_pixel(tmp_path: Path) -> None:
    images = open_images(write_voc(tmp_path, {"a": [("car", 4, 5, 4, 5)], "b": [CAT]}))
    assert images.problems == ()
    assert images.boxes[images.paths.index("JPEGImages/a.jpg")] == (Box("car", 3, 4, 4, 5),)


@pytest.mark.parametrize("ends", [(-1, 1, 4, 6), (1, -1, 4, 6), (1, 1, 12, 6), (1, 1, 4, 14)])
def test_two_pixels_beside_the_image_are_too_many_on_each_side(
    tmp_path: Path, ends: tuple[float, float, float, float]
) -> None:
    images = open_images(write_voc(tmp_path, {"a": [("car", *ends)], "b": [CAT]}))
    assert kinds(images) == [("bad box", "Annotations/a.xml")]


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_without_a_size_a_box_is_taken_as_it_is(tmp_path: Path, size: str) -> None:
    start, _, rest = xml_of([("car", 1, 1, 40, 6)]).partition("<size>")
    text = start + size + rest.partition("</size>")[2]
    images = open_images(write_voc(tmp_path, {"a": text, "b": [CAT]}))
    assert images.problems == ()
    assert images.boxes[images.paths.index("JPEGImages/a.jpg")] == (Box("car", 0, 0, 40, 6),)


def test_the_order_of_objects_is_no_conflict_of_equal_images(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": [CAR, CAT], "b": [CAT, CAR], "c": [CAT]})
    folder = root / "JPEGImages"
    (folder / "b.jpg").write_bytes((folder / "a.jpg").read_bytes())
    images = open_images(root)
    assert [kind for kind, _ in kinds(images)] == ["duplicate"]
    assert images.label_words(images.paths.index("JPEGImages/a.jpg")) == "car, cat"


def test_other_files_among_the_images_are_passed_over(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": [CAR], "b": [CAT]})
    (root / "JPEGImages" / "notes.txt").write_text("no image", encoding="utf-8")
    assert open_images(root).paths == ("JPEGImages/a.jpg", "JPEGImages/b.jpg")
