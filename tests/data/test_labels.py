from pathlib import Path

import pytest
from pictures import class_folders, write

from eke.data.images import ImageSet
from eke.data.labels import apply_labels
from eke.data.sources import open_images
from eke.errors import DataError


@pytest.fixture
def pets(tmp_path: Path) -> ImageSet:
    root = class_folders(tmp_path / "pets", {"cat": 2, "dog": 1, "unlabeled": 2})
    write(root / "unlabeled" / "copy of dog 0.png", 2)
    return open_images(root)


def label_of(image_set: ImageSet, path: str) -> str:
    return (*image_set.classes, "")[image_set.labels[image_set.paths.index(path)]]


def kinds(image_set: ImageSet) -> list[tuple[str, str]]:
    return [(problem.path, problem.kind) for problem in image_set.problems if problem.kind != "duplicate"]


def save(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_paths_ids_and_later_files(pets: ImageSet, tmp_path: Path) -> None:
    by_id = pets.ids[pets.paths.index("unlabeled/001.png")]
    absolute = (tmp_path / "pets" / "cat" / "001.png").absolute()
    first = save(tmp_path / "1.csv", "path,label", "unlabeled/000.png,cat", f"{absolute},dog")
    second = save(tmp_path / "2.csv", "id,label", f"{by_id},cat", f"{pets.ids[pets.paths.index('cat/000.png')]},")
    third = save(tmp_path / "3.csv", "label,path", "dog,unlabeled/000.png")
    both = apply_labels(pets, [first, second, third])
    assert label_of(both, "unlabeled/000.png") == "dog"
    assert label_of(both, "unlabeled/001.png") == "cat"
    assert label_of(both, "cat/001.png") == "dog"
    assert label_of(both, "cat/000.png") == "", "an empty label takes the label away"
    assert label_of(both, "dog/000.png") == "dog"
    assert kinds(both) == []
    assert label_of(apply_labels(pets, [third, first]), "unlabeled/000.png") == "cat"
    assert label_of(pets, "unlabeled/000.png") == "", "the set itself is unchanged"


def test_a_folded_copy_stands_for_its_image(pets: ImageSet, tmp_path: Path) -> None:
    assert "unlabeled/copy of dog 0.png" not in pets.paths
    file = save(tmp_path / "l.csv", "path,label", "unlabeled/copy of dog 0.png,cat")
    assert label_of(apply_labels(pets, [file]), "dog/000.png") == "cat"


def test_open_images_lays_files_over_the_source(pets: ImageSet, tmp_path: Path) -> None:
    file = save(tmp_path / "l.csv", "path,label", "unlabeled/000.png,cat")
    assert label_of(open_images(pets.source, labels=[file]), "unlabeled/000.png") == "cat"


def test_two_labels_in_one_file_are_a_conflict_that_a_later_file_settles(pets: ImageSet, tmp_path: Path) -> None:
    file = save(tmp_path / "two.csv", "path,label", "cat/000.png,dog", "cat/000.png,cat", "cat/001.png,cat")
    found = apply_labels(pets, [file])
    assert label_of(found, "cat/000.png") == ""
    assert kinds(found) == [("cat/000.png", "conflict")]
    assert "two.csv" in found.problems[-1].detail
    settled = apply_labels(pets, [file, save(tmp_path / "s.csv", "path,label", "cat/000.png,dog")])
    assert label_of(settled, "cat/000.png") == "dog"
    assert kinds(settled) == []


def test_missing_images_are_named(pets: ImageSet, tmp_path: Path) -> None:
    file = save(tmp_path / "l.csv", "path,label", "unlabeled/000.png,cat", "unlabeled/nine.png,dog")
    found = apply_labels(pets, [file])
    assert kinds(found) == [("unlabeled/nine.png", "missing")]
    assert label_of(found, "unlabeled/000.png") == "cat"
    with pytest.raises(DataError, match=r"None of the 1 images .*nowhere\.png"):
        apply_labels(pets, [save(tmp_path / "l.csv", "path,label", "nowhere.png,cat")])


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["path,label", "cat/000.png,catt"], "Did you mean 'cat'"),
        (["path,lable", "cat/000.png,cat"], "Did you mean 'lable'"),
        (["paht,label", "cat/000.png,cat"], "Did you mean 'paht'"),
        (["path,label", "cat/000.png,cat,dog"], "line 2: 3 cells"),
        (["path,label", 'cat/000.png,"cat'], "quotes"),
        ([], "columns"),
    ],
)
def test_label_files_that_cannot_be_right(pets: ImageSet, tmp_path: Path, lines: list[str], says: str) -> None:
    file = tmp_path / "l.csv"
    file.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=says):
        apply_labels(pets, [file])


def test_a_label_file_that_is_missing_or_no_text(pets: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Cannot read the label file"):
        apply_labels(pets, [tmp_path / "none.csv"])
    (tmp_path / "l.csv").write_bytes(b"path,label\n\xff\xfe,cat\n")
    with pytest.raises(DataError, match="UTF-8"):
        apply_labels(pets, [tmp_path / "l.csv"])


def test_a_source_without_classes_gets_those_of_the_files(tmp_path: Path) -> None:
    for seed in range(12):
        write(tmp_path / "flat" / f"{seed}.png", seed)
    file = save(tmp_path / "l.csv", "path,label", *(f"{seed}.png,{seed}" for seed in range(12)))
    found = open_images(tmp_path / "flat", labels=[file])
    assert found.classes == tuple(str(seed) for seed in range(12))
    assert label_of(found, "10.png") == "10"
