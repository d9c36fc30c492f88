"""Images with several labels: from tables and arrays, under label files, renumbered, divided by the rarest class."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eke.data.dividing import strata_of
from eke.data.images import with_classes
from eke.data.labels import apply_labels
from eke.data.options import DataOptions
from eke.data.sources import open_images, with_unlabeled, with_validation
from eke.data.splits import make_split
from eke.errors import ConfigError, DataError

from .pictures import class_folders, write


def labels_by_path(images):
    return dict(zip(images.paths, images.labels.tolist(), strict=True))


def write_table(root: Path, text: str, name: str = "labels.csv", n: int = 4) -> Path:
    for seed in range(n):
        write(root / f"{seed}.png", seed)
    (root / name).write_text(text, encoding="utf-8")
    return root


def test_a_column_of_sets(tmp_path: Path) -> None:
    root = write_table(tmp_path, "path,labels\n0.png,dog; cat\n1.png,;\n2.png,\n3.png,cat\n")
    images = open_images(root)
    assert images.classes == ("cat", "dog")
    assert labels_by_path(images) == {"0.png": [1, 1], "1.png": [0, 0], "2.png": [-1, -1], "3.png": [1, 0]}


def test_lists_in_json(tmp_path: Path) -> None:
    rows = [["dog", "cat"], [], None, ["cat"]]
    text = "\n".join(json.dumps({"path": f"{i}.png", "labels": each}) for i, each in enumerate(rows))
    images = open_images(write_table(tmp_path, text, "labels.jsonl"))
    assert labels_by_path(images) == {"0.png": [1, 1], "1.png": [0, 0], "2.png": [-1, -1], "3.png": [1, 0]}


@pytest.mark.parametrize("declared", [True, False])
def test_lists_in_an_image_parquet(tmp_path: Path, declared: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [{"bytes": write(tmp_path / f"{i}.png", i).read_bytes(), "path": None} for i in range(4)]
    table = pa.table({"image": images, "labels": pa.array([[1, 0], [], None, [0]], pa.list_(pa.int64()))})
    if declared:
        names = {"feature": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "_type": "Sequence"}
        info = {"info": {"features": {"labels": names, "image": {"_type": "Image"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, tmp_path / "set.parquet")
    found = open_images(tmp_path / "set.parquet")
    assert found.classes == (("cat", "dog") if declared else ("0", "1"))
    assert found.labels.tolist() == [[1, 1], [0, 0], [-1, -1], [1, 0]]


def test_arrays() -> None:
    pixels = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4)
    rows = open_images((pixels, np.array([[1, 0, 1], [0, 0, 0], [-1, -1, -1]])))
    assert rows.classes == ("0", "2")
    assert rows.labels.tolist() == [[1, 1], [0, 0], [-1, -1]]
    named = open_images((pixels, [["b", "a"], [], None]))
    assert named.classes == ("a", "b")
    assert named.labels.tolist() == [[1, 1], [0, 0], [-1, -1]]


def test_equal_bytes_with_different_sets_are_a_conflict(tmp_path: Path) -> None:
    root = write_table(tmp_path, "path,labels\n0.png,dog;cat\n1.png,cat\n2.png,dog\n3.png,dog\n")
    (root / "1.png").write_bytes((root / "0.png").read_bytes())
    images = open_images(root)
    assert images.labels[images.paths.index("0.png")].tolist() == [-1, -1]
    (conflict,) = [problem for problem in images.problems if problem.kind == "conflict"]
    assert "'cat' and 'cat, dog'" in conflict.detail


def test_a_file_of_sets_makes_sets_of_single_labels(tmp_path: Path) -> None:
    images = open_images(class_folders(tmp_path / "in", {"cat": 2, "dog": 2}))
    file = tmp_path / "more.csv"
    file.write_text("path,labels\ncat/000.png,dog;cat\ndog/000.png,;\n", encoding="utf-8")
    both = apply_labels(images, [file])
    assert labels_by_path(both) == {
        "cat/000.png": [1, 1],
        "cat/001.png": [1, 0],
        "dog/000.png": [0, 0],
        "dog/001.png": [0, 1],
    }
    single = tmp_path / "single.csv"
    single.write_text("path,label\ncat/000.png,dog\ncat/001.png,\n", encoding="utf-8")
    later = apply_labels(both, [single])
    assert labels_by_path(later)["cat/000.png"] == [0, 1], "one label is a set of one"
    assert labels_by_path(later)["cat/001.png"] == [-1, -1]
    file.write_text("path,labels\ncat/000.png,dog;zebra\n", encoding="utf-8")
    with pytest.raises(DataError, match="zebra"):
        apply_labels(images, [file])


def several(labels: list[list[int]], source: str = "array"):
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 4, 4), dtype=np.uint8)
    return open_images((pixels, np.array(labels)))


def test_renumbering_by_the_classes_of_another_set() -> None:
    images = several([[1, 0], [1, 1], [-1, -1], [0, 0]])
    moved = with_classes(images, ("1", "x", "0"), several=True)
    assert moved.labels.tolist() == [[0, 0, 1], [1, 0, 1], [-1, -1, -1], [0, 0, 0]]
    with pytest.raises(DataError, match="the class '1'"):
        with_classes(images, ("0", "x"), several=True)
    with pytest.raises(DataError, match="may have several labels"):
        with_classes(images, ("0", "1"))
    single = open_images((np.zeros((2, 4, 4), np.uint8) + np.arange(2, dtype=np.uint8)[:, None, None], ["0", ""]))
    assert with_classes(single, ("1", "0"), several=True).labels.tolist() == [[0, 1], [-1, -1]]


def test_joined_sets_keep_their_kind() -> None:
    images = several([[1, 0], [1, 1], [0, 1]])
    others = open_images((np.full((1, 4, 4), 7, np.uint8), [["1"]]))
    assert with_validation(images, others).labels.tolist()[-1] == [0, 1]
    assert with_unlabeled(images, others).labels.tolist()[-1] == [-1, -1]


# ------------------------------------------------------------------ division


def test_an_image_counts_for_the_rarest_of_its_classes() -> None:
    labels = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0], [-1, -1, -1], [1, 0, 0], [0, 0, 1]])
    everyone = (labels >= 0).all(1)
    # classes have 4, 1 and 2 images
    assert strata_of(labels, everyone).tolist() == [1, 0, 2, 3, -1, 0, 2]
    few = np.array([False, True, False, True, False, False, False])  # there class 0 is the frequent one, 1 before 2
    assert strata_of(labels, few).tolist() == [1, 0, 2, 3, -1, 0, 2]
    assert strata_of(np.array([2, -1]), np.array([True, False])).tolist() == [2, -1]


def brute_force_strata(labels: np.ndarray) -> list[int]:
    counts = labels[(labels >= 0).all(1)].sum(0)
    strata = []
    for row in labels.tolist():
        mine = [k for k, has in enumerate(row) if has == 1]
        strata.append(-1 if -1 in row else min(mine, key=lambda k: (counts[k], k)) if mine else labels.shape[1])
    return strata


@pytest.mark.parametrize("seed", range(5))
def test_strata_equal_brute_force(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = (generator.random((60, 5)) < [0.6, 0.3, 0.3, 0.1, 0.05]).astype(np.int64)
    labels[generator.random(60) < 0.2] = -1
    assert strata_of(labels, (labels >= 0).all(1)).tolist() == brute_force_strata(labels)


@pytest.fixture(scope="module")
def pool():
    generator = np.random.default_rng(1)
    labels = (generator.random((200, 4)) < [0.5, 0.3, 0.2, 0.1]).astype(np.int64)
    labels[:20] = -1
    pixels = generator.integers(0, 256, (200, 4, 4), dtype=np.uint8)
    return open_images((pixels, labels))


def classes_of(images, ids):
    return images.labels[images.positions(ids)].sum(0)


def test_n_labels_per_class_are_n_images_of_each_stratum(pool) -> None:
    options = DataOptions(labels_per_class=5, val_rate=0.2)
    split = make_split(pool, None, options, seed=0)
    strata = strata_of(pool.labels, pool.labeled)
    spent = pool.positions([*split.labeled, *split.validation])
    assert np.bincount(strata[spent], minlength=5).tolist() == [5, 5, 5, 5, 5], "four classes, and images of none"
    assert len(split.validation) == 5
    assert (classes_of(pool, [*split.labeled, *split.validation]) >= 5).all()
    larger = make_split(pool, None, options.model_copy(update={"labels_per_class": 9}), seed=0)
    assert {*split.labeled} < {*larger.labeled}
    assert {*split.validation} <= {*larger.validation}


def test_a_class_that_is_too_rare_is_noted(pool) -> None:
    split = make_split(pool, None, DataOptions(labels_per_class=30, val_rate=0.0), seed=0)
    assert any("less than the 30 labels" in note and "'3'" in note for note in split.notes)


def test_hold_out_and_validation_are_apart(pool) -> None:
    split = make_split(pool, None, DataOptions(holdout_rate=0.25, val_per_class=3), seed=2)
    parts = (split.labeled, split.validation, split.test)
    assert all(parts)
    assert len({*split.labeled, *split.validation, *split.test}) == sum(map(len, parts))
    assert len(split.validation) == 15


def test_the_division_does_not_depend_on_the_order_of_rows(pool) -> None:
    options = DataOptions(n_labels=40, val_rate=0.25)
    turned = pool.select(range(len(pool) - 1, -1, -1))
    assert make_split(pool, None, options, seed=3) == make_split(turned, None, options, seed=3)


def test_a_class_without_an_image_is_refused() -> None:
    images = with_classes(several([[1, 0], [0, 1], [1, 1]]), ("0", "1", "gone"), several=True)
    with pytest.raises(DataError, match="no label to train on for 'gone'"):
        make_split(images, None, DataOptions(val_rate=0.0), seed=0)


def test_one_class_is_refused() -> None:
    images = open_images((np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4), [["cat"], [], ["cat"]]))
    with pytest.raises(DataError, match="one class only"):
        make_split(images, None, DataOptions(val_rate=0.0), seed=0)


def test_too_few_labels_for_the_strata_are_refused(pool) -> None:
    with pytest.raises(ConfigError, match="less than the 5 classes"):
        make_split(pool, None, DataOptions(n_labels=4, val_rate=0.0), seed=0)


def test_the_counted_images_alone_say_how_rare_a_class_is() -> None:
    labels = np.array([[1, 1], [1, 0], [1, 0], [0, 1]])
    assert strata_of(labels, np.ones(4, bool)).tolist() == [1, 0, 0, 1]
    assert strata_of(labels, np.array([False, False, False, True])).tolist() == [0, 0, 0, 1]


def test_test_images_do_not_say_how_rare_a_class_is() -> None:
    generator = np.random.default_rng(4)
    train = (generator.random((80, 2)) < [0.3, 0.7]).astype(int).tolist()
    whole = several([*train, *[[1, 0]] * 100])
    whole = replace(whole, split=("train",) * 80 + ("test",) * 100)
    options = DataOptions(labels_per_class=4, val_rate=0.0)
    split = make_split(whole, None, options, seed=0)
    assert split.labeled == make_split(whole.select(range(80)), None, options, seed=0).labeled


def test_a_class_that_comes_along_with_rarer_ones_is_not_short_of_labels() -> None:
    images = several([[1, 1, 0]] * 6 + [[1, 0, 1]] * 6)
    split = make_split(images, None, DataOptions(labels_per_class=5, val_rate=0.0), seed=0)
    assert classes_of(images, split.labeled).tolist() == [10, 5, 5]
    assert split.notes == ()
    assert len(make_split(images, None, DataOptions(n_labels=2, val_rate=0.0), seed=0).labeled) == 2
    with pytest.raises(ConfigError, match="less than the 2 classes"):
        make_split(images, None, DataOptions(n_labels=1, val_rate=0.0), seed=0)


# ------------------------------------------------------------------ what else words and labels may be


def test_lists_of_numbers_and_of_nothing(tmp_path: Path) -> None:
    rows = [[2, 10], [None], [10.0, 10], [2, -1]]
    text = "\n".join(json.dumps({"path": f"{i}.png", "labels": each}) for i, each in enumerate(rows))
    images = open_images(write_table(tmp_path, text, "labels.jsonl"))
    assert images.classes == ("2", "10")
    assert labels_by_path(images) == {"0.png": [1, 1], "1.png": [0, 0], "2.png": [0, 1], "3.png": [1, 0]}


def test_the_order_of_words_is_no_conflict(tmp_path: Path) -> None:
    root = write_table(tmp_path, "path,labels\n0.png,dog;cat\n1.png,cat; dog;cat\n2.png,dog\n3.png,dog\n")
    (root / "1.png").write_bytes((root / "0.png").read_bytes())
    images = open_images(root)
    assert {problem.kind for problem in images.problems} == {"duplicate"}
    assert labels_by_path(images)["0.png"] == [1, 1]


@pytest.mark.parametrize("kind", ["large", "fixed"])
def test_lists_of_other_kinds_in_an_image_parquet(tmp_path: Path, kind: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = pa.large_list(pa.string()) if kind == "large" else pa.list_(pa.string(), 2)
    images = [{"bytes": write(tmp_path / f"{i}.png", i).read_bytes(), "path": None} for i in range(2)]
    table = pa.table({"image": images, "labels": pa.array([["dog", "cat"], ["cat", "cat"]], column)})
    pq.write_table(table, tmp_path / "set.parquet")
    found = open_images(tmp_path / "set.parquet")
    assert found.classes == ("cat", "dog")
    assert found.labels.tolist() == [[1, 1], [1, 0]]


def test_a_class_that_no_image_has_may_be_missing_elsewhere() -> None:
    images = with_classes(several([[1, 0], [1, 1]]), ("0", "1", "idle"), several=True)
    assert with_classes(images, ("1", "0"), several=True).labels.tolist() == [[0, 1], [1, 1]]


def test_unlabeled_images_of_a_set_of_several_labels_go_anywhere() -> None:
    images = several([[1, 0], [1, 1]])
    bare = with_classes(replace(images, labels=np.full((2, 2), -1)), ("a", "b"))
    assert bare.labels.tolist() == [-1, -1]


def test_an_unlabeled_image_names_no_class() -> None:
    images = several([[1, 0], [-1, -1], [0, 0], [1, 1]])
    assert [images.label_names(row) for row in range(4)] == [("0",), (), (), ("0", "1")]


def test_files_of_sets_and_of_single_labels_are_laid_together(tmp_path: Path) -> None:
    images = open_images(class_folders(tmp_path / "in", {"cat": 2, "dog": 1}))
    sets, single, both = (tmp_path / f"{name}.csv" for name in ("sets", "single", "both"))
    sets.write_text("path,labels\ncat/000.png,dog;cat\n", encoding="utf-8")
    single.write_text("path,label\ncat/001.png,dog\n", encoding="utf-8")
    both.write_text("path,label,labels\ncat/001.png,cat,;\n", encoding="utf-8")
    for files in ([sets, single], [single, sets]):
        assert labels_by_path(apply_labels(images, files)) == {
            "cat/000.png": [1, 1],
            "cat/001.png": [0, 1],
            "dog/000.png": [0, 1],
        }
    assert labels_by_path(apply_labels(images, [both]))["cat/001.png"] == [0, 0], "sets count where a file has both"


def test_sets_that_name_no_class_at_all_label_nothing(tmp_path: Path) -> None:
    images = open_images(class_folders(tmp_path / "in", {"unlabeled": 2}))
    file = tmp_path / "none.csv"
    file.write_text("path,labels\nunlabeled/000.png,;\n", encoding="utf-8")
    assert not apply_labels(images, [file]).labeled.any()
