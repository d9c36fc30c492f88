import csv
import io
import json
import os
import pickle
import threading
import time
import unicodedata
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import class_folders, encoded, noise, write

from eke.data import builtin, contents, identity
from eke.data.decode import decode
from eke.data.images import ImageSet, content_id, with_classes
from eke.data.sources import open_images, with_unlabeled, with_validation
from eke.errors import DataError


def words(image_set: ImageSet) -> dict[str, str]:
    names = (*image_set.classes, "")
    return {path: names[label] for path, label in zip(image_set.paths, image_set.labels, strict=True)}


def zipped(folder: Path, target: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, prefix + path.relative_to(folder).as_posix())
    return target


def save_table(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
        path.write_text(buffer.getvalue(), encoding="utf-8")
    return path


def save_image_parquet(path: Path, images: list[bytes], labels: list[Any], names: list[str] | None) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"image": [{"bytes": image, "path": None} for image in images], "label": labels})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=3)
    return path


@pytest.mark.parametrize("packed", ["folder", "zip", "zip with a top folder"])
def test_class_folders_with_unlabeled_ones(tmp_path: Path, packed: str) -> None:
    root = class_folders(tmp_path / "pets", {"cat": 2, "dog": 3, "unlabeled": 2, "empty class": 0})
    (root / ".hidden").mkdir()
    write(root / ".hidden" / "a.png", 90)
    source = root if packed == "folder" else zipped(root, tmp_path / "p.zip", "pets/" if "top" in packed else "")
    pets = open_images(source)
    assert pets.classes == ("cat", "dog", "empty class")
    assert sorted(pets.labels.tolist()) == [-1, -1, 0, 0, 1, 1, 1]
    assert words(pets)["cat/001.png"] == "cat"
    assert words(pets)["unlabeled/000.png"] == ""
    assert pets.split is None
    assert pets.groups is None
    assert pets.problems == ()
    content = (root / "dog" / "000.png").read_bytes()
    row = pets.paths.index("dog/000.png")
    assert pets.read(row) == content
    assert pets.ids[row] == content_id(content)
    assert pickle.loads(pickle.dumps(pets)).read(row) == content


def test_the_same_images_have_the_same_ids_wherever_they_lie(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "a", {"x": 3, "y": 3})
    flat = tmp_path / "b"
    for path in root.rglob("*.png"):
        write(flat / f"{path.parent.name}{path.name}", 0).write_bytes(path.read_bytes())
    packed = zipped(root, tmp_path / "z.zip")
    assert set(open_images(root).ids) == set(open_images(flat).ids) == set(open_images(packed).ids)


def test_split_folders_and_group_level(tmp_path: Path) -> None:
    seed = 0
    for part in ("train", "validation", "test"):
        for name in ("a", "b"):
            for patient in ("p1", "p2"):
                write(tmp_path / part / name / f"{part}{patient}" / "1.png", seed)
                seed += 1
    write(tmp_path / "train" / "unlabeled" / "1.png", seed)
    write(tmp_path / "unlabelled" / "1.png", seed + 1)
    found = open_images(tmp_path)
    assert found.classes == ("a", "b")
    assert found.split is not None
    parts = {part: found.split.count(part) for part in set(found.split)}
    assert parts == {"train": 5, "val": 4, "test": 4, "unlabeled": 1}
    assert words(found)["train/unlabeled/1.png"] == ""
    assert found.groups is None
    grouped = open_images(tmp_path, group_level=True)
    groups = dict(zip(grouped.paths, grouped.groups or (), strict=True))
    assert groups["train/a/trainp1/1.png"] == groups["train/b/trainp1/1.png"] == "trainp1"
    assert groups["unlabelled/1.png"] != groups["train/unlabeled/1.png"]


@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv", "labels.jsonl", "labels.parquet", "list.csv"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_flat_folder_with_a_table(tmp_path: Path, name: str, packed: bool) -> None:
    root = tmp_path / "photos"
    for seed in range(5):
        write(root / f"photo {seed} é.png", seed)
    rows = [
        {"path": "photo 0 é.png", "label": "cat", "split": "train", "group": "tom"},
        {"path": "./photo 1 é.png", "label": "dog", "split": "testing", "group": "rex"},
        {
            "path": unicodedata.normalize("NFD", "photo 2 é.png"),
            "label": "",
            "split": "train",
            "group": "rex",
        },
        {"path": "gone.png", "label": "cat", "split": "train", "group": ""},
    ]
    save_table(root / name, rows, delimiter="\t" if name.endswith("tsv") else ",")
    found = open_images(zipped(root, tmp_path / "p.zip") if packed else root)
    assert words(found) == {f"photo {i} é.png": word for i, word in enumerate(["cat", "dog", "", "", ""])}
    assert dict(zip(found.paths, found.split or (), strict=True))["photo 1 é.png"] == "test"
    groups = dict(zip(found.paths, found.groups or (), strict=True))
    assert groups["photo 1 é.png"] == groups["photo 2 é.png"] == "rex"
    assert len(set(groups.values())) == 4
    assert [(problem.path, problem.kind) for problem in found.problems] == [("gone.png", "missing")]


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.jsonl", "m.parquet"])
def test_a_manifest_by_itself(tmp_path: Path, name: str) -> None:
    inside = write(tmp_path / "images" / "a b.png", 0)
    outside = write(tmp_path / "other ü.png", 1)
    rows = [{"path": "../images/a b.png", "label": 10}, {"path": str(outside), "label": 9}]
    found = open_images(save_table(tmp_path / "lists" / name, rows, delimiter=";" if name == "m.csv" else "\t"))
    assert found.classes == ("9", "10")
    assert found.labels.tolist() == [1, 0]
    assert found.read(0) == inside.read_bytes()
    assert found.read(1) == outside.read_bytes()


def test_image_parquet_reads_names_nulls_and_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [encoded(noise(seed)) for seed in range(8)]
    file = save_image_parquet(tmp_path / "x.parquet", images, [1, 0, None, -1, 1, 0, 1, 0], ["zebra", "ant"])
    found = open_images(file)
    assert found.classes == ("ant", "zebra")
    assert found.labels.tolist() == [0, 1, -1, -1, 0, 1, 0, 1]
    assert found.paths[7] == "x.parquet#7"
    monkeypatch.setattr(contents, "HELD_BYTES", 1)
    again = pickle.loads(pickle.dumps(open_images(file)))
    order = np.random.default_rng(0).permutation(8)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(again.read, order)) == [images[row] for row in order]


def test_a_folder_and_a_zip_of_parquet_shards(tmp_path: Path) -> None:
    root = tmp_path / "hub"
    (root / "data").mkdir(parents=True)
    images = [encoded(noise(seed)) for seed in range(6)]
    for place, name in enumerate(["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"]):
        mine = images[2 * place : 2 * place + 2]
        save_image_parquet(root / "data" / f"{name}.parquet", mine, [0, 1], ["a", "b"])
    for source in (root, zipped(root, tmp_path / "hub.zip")):
        found = open_images(source)
        assert sorted(found.split or ()) == ["test"] * 2 + ["train"] * 4
        by_name = {path.removeprefix("data/"): found.read(row) for row, path in enumerate(found.paths)}
        assert by_name["train-00001-of-00002.parquet#1"] == images[3]


def test_arrays_npz_and_digits(tmp_path: Path) -> None:
    images = np.stack([noise(seed) for seed in range(4)])
    found = open_images((images, ["b", "a", None, "b"]))
    assert found.classes == ("a", "b")
    assert found.labels.tolist() == [1, 0, -1, 1]
    np.testing.assert_array_equal(found.read(2), images[2])
    assert found.ids[0] == content_id(images[0]) != content_id(images[0].reshape(10, 12, 3))
    assert open_images(images).classes == ()
    np.savez(tmp_path / "a.npz", x_train=images[:3], y_train=[[0], [1], [-1]], x_test=images[3:], y_test=[1])
    saved = open_images(tmp_path / "a.npz")
    assert saved.split == ("train", "train", "train", "test")
    assert saved.labels.tolist() == [0, 1, -1, 1]
    digits = open_images("digits")
    assert len(digits) == 1797
    assert digits.classes == tuple("0123456789")
    assert decode(digits.read(0), channels=None).max() > 200
    dark = np.zeros((2, 4, 4))
    dark[1] = 1.0
    assert np.max(open_images(dark).read(1)) == 255


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (np.zeros((2, 3, 8, 8), np.uint8), None, "transpose"),
        (np.zeros((2, 8), np.uint8), None, r"\(N, H, W\)"),
        (np.zeros((2, 8, 8), np.uint8), [1], "2 images, but 1 labels"),
        (np.full((2, 8, 8), 16.0), None, "0, 1"),
    ],
)
def test_arrays_that_cannot_be_images(images: np.ndarray, labels: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        open_images(images if labels is None else (images, labels))


def test_published_sets_need_a_download_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    with pytest.raises(DataError, match="download"):
        open_images("cifar10")

    class Fake:
        classes = ("a", "b")

        def __init__(self, root: str, download: bool, split: str) -> None:
            assert download
            first = ["train", "unlabeled", "test"].index(split) * 10
            self.data = np.stack([noise(first + seed).transpose(2, 0, 1) for seed in range(2)])
            self.labels = np.array([-1, -1] if split == "unlabeled" else [0, 1])

    monkeypatch.setattr(torchvision.datasets, "STL10", Fake)
    found = open_images("stl10", download=True)
    assert found.split == ("train", "train", "unlabeled", "unlabeled", "test", "test")
    assert found.labels.tolist() == [0, 1, -1, -1, 0, 1]
    np.testing.assert_array_equal(found.read(4), noise(20))


def test_equal_bytes_are_one_row_and_two_labels_are_a_conflict(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"a": 2, "b": 2})
    write(root / "a" / "twin.png", 0)
    write(root / "b" / "other.png", 1)
    write(root / "unlabeled" / "known.png", 2)
    found = open_images(root)
    assert len(found) == 4
    assert words(found) == {"a/000.png": "a", "a/001.png": "", "b/000.png": "b", "b/001.png": "b"}
    kinds = [(problem.path, problem.kind) for problem in found.problems]
    assert sorted(kinds) == [
        ("a/001.png", "conflict"),
        ("a/twin.png", "duplicate"),
        ("b/other.png", "duplicate"),
        ("unlabeled/known.png", "duplicate"),
    ]
    conflict = next(problem for problem in found.problems if problem.kind == "conflict")
    assert "'a' and 'b'" in conflict.detail
    assert "--labels" in conflict.remedy


@pytest.mark.parametrize("part", ["test", "val"])
def test_a_training_image_that_is_a_test_image_counts_as_test(tmp_path: Path, part: str) -> None:
    class_folders(tmp_path / "train", {"a": 2, "b": 2})
    class_folders(tmp_path / part, {"a": 1, "b": 1}, first_seed=10)
    write(tmp_path / part / "a" / "leak.png", 0)
    found = open_images(tmp_path)
    assert found.split is not None
    assert found.split[found.paths.index(f"{part}/a/leak.png")] == part
    assert "train/a/000.png" not in found.paths
    assert [(problem.path, problem.kind) for problem in found.problems] == [("train/a/000.png", "leak")]


def test_a_forked_process_opens_the_zip_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parent and child would otherwise move one file position under each other."""
    root = class_folders(tmp_path / "r", {"a": 1, "b": 1})
    found = open_images(zipped(root, tmp_path / "r.zip"))
    opened: list[object] = []
    whole = zipfile.ZipFile
    monkeypatch.setattr(zipfile, "ZipFile", lambda path: opened.append(path) or whole(path))
    found.read(0)
    assert opened == []
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert found.read(0) == (root / "a" / "000.png").read_bytes()
    assert len(opened) == 1


def test_ids_are_remembered_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = class_folders(tmp_path, {"a": 2, "b": 2})
    old = time.time() - 3600
    for path in root.rglob("*.png"):
        os.utime(path, (old, old))
    hashed: list[bytes] = []
    lock = threading.Lock()

    def counted(content: Any) -> str:
        with lock:
            hashed.append(content)
        return content_id(content)

    monkeypatch.setattr(identity, "content_id", counted)
    first = open_images(root)
    assert len(hashed) == 4
    assert open_images(root).ids == first.ids
    assert len(hashed) == 4
    write(root / "a" / "000.png", 99)
    changed = open_images(root)
    assert len(hashed) == 5
    assert changed.ids != first.ids
    assert open_images(root).ids == changed.ids
    assert len(hashed) == 6, "a file that changed a moment ago may change again within the clock's tick"
    for file in identity.cache_folder().rglob("*.npz"):
        file.write_bytes(b"damaged")
    assert open_images(root).ids == changed.ids


def test_select_positions_and_renumbered_classes(tmp_path: Path) -> None:
    found = open_images((np.stack([noise(seed) for seed in range(4)]), ["b", "a", "", "b"]))
    chosen = found.select([3, 1])
    assert chosen.paths == ("array#3", "array#1")
    assert chosen.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(chosen.read(1), found.read(1))
    assert found.positions(chosen.ids).tolist() == [3, 1]
    with pytest.raises(DataError, match="no image with id"):
        chosen.positions(found.ids)
    assert with_classes(found, ("z", "b", "a")).labels.tolist() == [1, 2, -1, 1]
    with pytest.raises(DataError, match="Did you mean 'bb'"):
        with_classes(found, ("a", "bb"))


def test_a_validation_source_is_appended(tmp_path: Path) -> None:
    train = open_images(class_folders(tmp_path / "t", {"a": 2, "b": 2}))
    root = class_folders(tmp_path / "v", {"b": 1, "a": 1}, first_seed=3)
    both = with_validation(train, open_images(root))
    assert both.split == ("", "", "", "val", "val")
    assert both.labels.tolist() == [0, 0, 1, 0, 1]
    assert both.read(4) == (root / "b" / "000.png").read_bytes()
    assert both.read(0) == train.read(0)
    assert len(set(both.ids)) == 5


def test_unlabeled_images_from_elsewhere_are_appended_without_their_labels(tmp_path: Path) -> None:
    train = open_images(class_folders(tmp_path / "t", {"a": 2, "b": 2}))
    root = class_folders(tmp_path / "u", {"c": 2, "a": 1}, first_seed=10)  # one of them is in `train` as well
    (root / "c" / "again.png").write_bytes(train.read(0))
    both = with_unlabeled(train, open_images(root))
    assert both.split == ("", "", "", "", "unlabeled", "unlabeled", "unlabeled")
    assert both.labels.tolist() == [0, 0, 1, 1, -1, -1, -1]
    assert both.classes == train.classes
    assert both.ids[:4] == train.ids
    assert {both.read(row) for row in range(4, 7)} == {
        path.read_bytes() for path in root.rglob("*.png") if path.name != "again.png"
    }


def test_real_sets(shared_data: Path) -> None:
    started = time.perf_counter()
    found = open_images(shared_data / "cifar10-train.parquet")
    assert time.perf_counter() - started < 15
    assert len(found) == 50_000
    assert found.classes[:2] == ("airplane", "automobile")
    assert np.bincount(found.labels).tolist() == [5000] * 10
    assert decode(found.read(49_999), channels=None).shape == (32, 32, 3)
    photos = open_images(shared_data / "voc5.zip")
    assert photos.classes == ("bus", "car", "cat", "person", "train")
    assert photos.labels.sum(0).tolist() == [169, 739, 336, 367, 241]
    assert sum(map(len, photos.boxes or ())) > 1852, "some images hold several objects of a class"
    frames = open_images(shared_data / "sign-clips.zip", group_level=True)
    assert len(frames) == 3456
    assert len(frames.classes) == 6
    assert {*(frames.split or ())} == {"train", "test"}
    assert builtin.TORCHVISION.keys() >= {"cifar10", "svhn"}
