"""Every form in which images may lie goes through a whole run: real digits, written in each form."""

import csv
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eke.data.splits import Split, load_split
from eke.tasks.fit import fit
from eke.tasks.options import resolve

N_TRAIN, N_TEST = 6, 3
"""Images per class."""
CLASSES = [str(digit) for digit in range(10)]
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EKE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def digits() -> dict[str, list[np.ndarray]]:
    """uint8 (8, 8) images of each class."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)
    return {name: list(images[data.target == int(name)][: N_TRAIN + N_TEST]) for name in CLASSES}


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def rows_of(digits: dict[str, list[np.ndarray]]) -> Iterator[tuple[str, int, np.ndarray]]:
    return ((name, place, image) for name, images in digits.items() for place, image in enumerate(images))


def run(source: str | Path, out: Path, assignments: tuple[str, ...] = (), **flags: Any) -> tuple[dict[str, Any], Split]:
    """Fit three steps of FixMatch; return its results and its split."""
    values = {
        "source": str(source),
        "steps": 3,
        "baseline": "none",
        "model": {"name": "small"},
        "batch": {"labeled": 10, "mu": 2},
        **flags,
    }
    results = fit(resolve("fixmatch", values, assignments), out)
    assert results is not None
    assert (out / "report.html").exists()
    return results, load_split(out / "split.json")


def assert_honest(results: dict[str, Any], split: Split, train: int, validation: int, n_pool: int, n_test: int) -> None:
    """Check the budget and the sizes, and that the parts share no image."""
    assert results["labels"] == {"train": train, "validation": validation, "total": train + validation}
    assert (len(split.labeled), len(split.validation)) == (train, validation)
    assert results["n_unlabeled"] == len(split.unlabeled) == n_pool
    measured = {part: figures["n"] for part, figures in results["evaluations"].items()}
    assert measured == {part: n for part, n in (("validation", validation), ("test", n_test)) if n}
    parts = [set(split.labeled), set(split.validation), set(split.test)]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert not set(split.unlabeled) & (parts[1] | parts[2])
    assert results["classes"] in (CLASSES, sorted(WORDS))


def test_class_folders_with_unlabeled_ones_by_the_command_line(
    digits: dict[str, list[np.ndarray]], tmp_path: Path
) -> None:
    for name, place, image in rows_of(digits):
        write(tmp_path / "own images" / (name if place < 4 else "unlabeled") / f"{name}-{place}.png", image)
    words = ["--steps", "3", "--model", "small", "--baseline", "none", "--out", "run", "--json"]
    assigned = ["--set", "data.val_rate=0.25", "--set", "batch.labeled=10", "--set", "batch.mu=2"]
    done = subprocess.run(
        [sys.executable, "-m", "eke", "fit", "own images", *words, *assigned],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    split = load_split(tmp_path / "run" / "split.json")
    assert_honest(json.loads(done.stdout), split, train=30, validation=10, n_pool=80, n_test=0)


@pytest.mark.parametrize("packed", ["folder", "zip"])
def test_split_folders_and_a_zip_of_them(digits: dict[str, list[np.ndarray]], tmp_path: Path, packed: str) -> None:
    for name, place, image in rows_of(digits):
        part = "test" if place >= N_TRAIN else "val" if place == 5 else "train"
        write(tmp_path / "set" / part / name / f"{place}.png", image)
    source = tmp_path / "set"
    if packed == "zip":
        source = tmp_path / "set.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for path in sorted((tmp_path / "set").rglob("*.png")):
                archive.write(path, path.relative_to(tmp_path).as_posix())
        shutil.rmtree(tmp_path / "set")  # the zip is read alone
    results, split = run(source, tmp_path / "run", data={"labels_per_class": 2})
    assert_honest(results, split, train=20, validation=10, n_pool=50, n_test=30)


def test_a_flat_folder_with_a_table(digits: dict[str, list[np.ndarray]], tmp_path: Path) -> None:
    with (write_flat(digits, tmp_path / "flat") / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label"])
        table.writerows([f"{name}-{place}.png", name] for name, place, _ in rows_of(digits) if place < 5)
    results, split = run(tmp_path / "flat", tmp_path / "run")
    assert_honest(results, split, train=40, validation=10, n_pool=80, n_test=0)


def write_flat(digits: dict[str, list[np.ndarray]], folder: Path) -> Path:
    for name, place, image in rows_of(digits):
        write(folder / f"{name}-{place}.png", image)
    return folder


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_manifest_with_splits_and_groups(digits: dict[str, list[np.ndarray]], tmp_path: Path, ending: str) -> None:
    """Of each class places 0 to 3 train, 4 is unlabeled, 6 to 8 test; 5 would train, but its group tests."""
    write_flat(digits, tmp_path / "images")
    rows = []
    for name, place, _ in rows_of(digits):
        part = "test" if place >= N_TRAIN else "unlabeled" if place == 4 else "train"
        group = f"{name}/{place // 2}"
        if place == 5:
            group = f"{name}/{N_TRAIN // 2}"  # shares the group of test images 6 and 7
        rows.append({"path": f"images/{name}-{place}.png", "label": name, "split": part, "group": group})
    manifest = tmp_path / f"manifest.{ending}"
    if ending == "csv":
        with manifest.open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    elif ending == "jsonl":
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), manifest)
    results, split = run(manifest, tmp_path / "run", data={"val_rate": 0.0})
    assert_honest(results, split, train=40, validation=0, n_pool=50, n_test=30)
    assert len(split.dropped) == 10
    assert any("share a group" in note for note in results["notes"])


def test_an_image_parquet_as_the_hub_stores_it(digits: dict[str, list[np.ndarray]], tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_image_parquet(digits, tmp_path / f"{part}.parquet", part)
    results, split = run(
        tmp_path / "train.parquet",
        tmp_path / "run",
        test=str(tmp_path / "test.parquet"),
        data={"labels_per_class": 4, "val_rate": 0.25},
    )
    assert_honest(results, split, train=30, validation=10, n_pool=50, n_test=30)
    assert results["classes"] == sorted(WORDS)


def write_image_parquet(digits: dict[str, list[np.ndarray]], path: Path, part: str) -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    contents, labels = [], []
    for name, place, image in rows_of(digits):
        if (place >= N_TRAIN) == (part == "test"):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            contents.append({"bytes": buffer.getvalue(), "path": None})
            labels.append(int(name))
    features = {"image": {"_type": "Image"}, "label": {"names": WORDS, "_type": "ClassLabel"}}
    table = pa.table({"image": contents, "label": labels})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=16)


def test_an_npz_with_unlabeled_images(digits: dict[str, list[np.ndarray]], tmp_path: Path) -> None:
    images = np.stack([image for _, _, image in rows_of(digits)])
    labels = np.array([int(name) if place < 5 else -1 for name, place, _ in rows_of(digits)])
    np.savez(tmp_path / "digits.npz", images=images, labels=labels)
    results, split = run(tmp_path / "digits.npz", tmp_path / "run", ("data.n_labels=40", "data.val_rate=0.25"))
    assert_honest(results, split, train=30, validation=10, n_pool=80, n_test=0)


def test_label_files_over_a_folder_without_labels(digits: dict[str, list[np.ndarray]], tmp_path: Path) -> None:
    folder = write_flat(digits, tmp_path / "flat")
    (tmp_path / "first.csv").write_text(
        "path,label\n" + "".join(f"{name}-{place}.png,{name}\n" for name, place, _ in rows_of(digits) if place < 2)
    )
    (tmp_path / "later.csv").write_text(
        "path,label\n" + "".join(f"{name}-{place}.png,{name}\n" for name, place, _ in rows_of(digits) if place == 2)
    )
    labels = (str(tmp_path / "first.csv"), str(tmp_path / "later.csv"))
    results, split = run(folder, tmp_path / "run", labels=labels, data={"val_rate": 0.34})
    assert_honest(results, split, train=20, validation=10, n_pool=80, n_test=0)


def test_equal_images_in_training_and_test_only_test(digits: dict[str, list[np.ndarray]], tmp_path: Path) -> None:
    for name, place, image in rows_of(digits):
        write(tmp_path / "train" / name / f"{place}.png", image)
        if place >= N_TRAIN:
            write(tmp_path / "held out" / name / f"copy of {place}.png", image)
    results, split = run(tmp_path / "train", tmp_path / "run", test=str(tmp_path / "held out"), data={"val_rate": 0.17})
    assert_honest(results, split, train=50, validation=10, n_pool=50, n_test=30)
    assert len(split.dropped) == 30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "n_train", "n_test", "shape"),
    [("cifar10", 50_000, 10_000, (3, 32, 32)), ("mnist", 60_000, 10_000, (1, 28, 28))],
)
def test_the_real_sets(
    name: str, n_train: int, n_test: int, shape: tuple[int, int, int], shared_data: Path, tmp_path: Path
) -> None:
    results, split = run(
        shared_data / f"{name}-train.parquet",
        tmp_path / "run",
        test=str(shared_data / f"{name}-test.parquet"),
        data={"labels_per_class": 10},
        steps=2,
    )
    assert results["labels"] == {"train": 80, "validation": 20, "total": 100}
    assert results["evaluations"]["test"]["n"] == n_test - sum(p["kind"] == "duplicate" for p in results["problems"])
    assert len(split.unlabeled) + len(split.validation) + len(split.dropped) <= n_train
    assert not (set(split.unlabeled) | set(split.labeled) | set(split.validation)) & set(split.test)
    card = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
    assert (card["channels"], *card["size"]) == shape
    assert len(card["classes"]) == 10
