"""The tables of the harmonizing paper: what rows share and differ in, what claims are about, and the paper's scale."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eke.data.decode import decode
from eke.data.sources import open_images
from eke.errors import ConfigError, DataError
from eke.tables.harmonizing_bench import cifar_start, make_bench
from eke.tables.reproduce import load_table
from eke.tables.squares import COLORS, squares
from eke.tasks.grid_claims import above_chance
from eke.tasks.grid_table import Row, Series, Table


def rows_of(table: Table, section: int = 0) -> dict[str, Row]:
    return {row.name: row for row in table.sections[section].rows}


def options_of(series: Series) -> Any:
    return series.cells[0].work.options(series.cells[0].data)


def identities(series: Series) -> list[str]:
    return [cell.identity for cell in series.cells]


def tables(scale: str, data: Path | None, out: Path, *names: str) -> list[Table]:
    return [load_table(name, scale, data, out) for name in names]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("harmonizing")


@pytest.fixture
def voc_folder(tmp_path: Path) -> Path:
    """A VOC folder with the lists of VOC2012: train and val."""
    folder = tmp_path / "VOC2012"
    with zipfile.ZipFile(squares(tmp_path / "squares.zip", 40, 20)) as file:
        file.extractall(folder)
    lists = folder / "ImageSets" / "Main"
    (lists / "trainval.txt").rename(lists / "train.txt")
    (lists / "test.txt").rename(lists / "val.txt")
    return folder


def test_squares_have_their_color_inside_their_box_and_equal_bytes(tmp_path: Path) -> None:
    path = squares(tmp_path / "a.zip", 30, 10)
    assert path.read_bytes() == squares(tmp_path / "b.zip", 30, 10).read_bytes()
    images = open_images(path)
    assert images.classes == tuple(sorted(COLORS))
    assert [images.split.count(word) for word in ("train", "test")] == [30, 10]
    assert {1, 2} == {int(labels.sum()) for labels in images.labels}
    for row in range(len(images)):
        pixels = decode(images.read(row), channels=3)
        assert {box.name for box in images.boxes[row]} == {
            name for name, has in zip(images.classes, images.labels[row], strict=True) if has
        }
        for box in images.boxes[row]:
            inside = (pixels == COLORS[box.name]).all(2)
            assert inside[int(box.top) : int(box.bottom), int(box.left) : int(box.right)].all()
            assert inside.sum() == (box.bottom - box.top) * (box.right - box.left)


def test_table_2_trains_on_what_its_rows_say_and_harmonizes_the_same_networks_on_the_same_images(out: Path) -> None:
    (table,) = tables("smoke", None, out, "harmonizing-table2")
    rows = rows_of(table)
    assert list(rows) == [
        f"{name}{end}"
        for name in ("8 per class, plain", "4 per class, augmented", "8 per class, augmented",
                     "8 per class, augmented, from SimCLR")
        for end in ("", " + attention")
    ]  # fmt: skip
    for name, row in rows.items():
        options = options_of(row.figures["Macro-F1"])
        assert options.data.labels_per_class == int(name[0])
        assert (options.data.n_unlabeled, options.data.unlabeled_with_labeled) == (0, True)
        assert options.evaluate.keep == "labels"
        assert options.views["weak"] == ("none" if "plain" in name else "weak-noflip")
        assert {series.figure for series in row.figures.values()} == {"macro_f1", "mean_average_precision"}
        if "attention" in name:
            before = rows[name.removesuffix(" + attention")].figures["Macro-F1"]
            assert [cell.start.identity for cell in row.figures["Macro-F1"].cells] == identities(before)
            assert options.method["name"] == "harmonize"
            assert options.method["strategy"] == "finetune"
            assert options.views["original"] == options.views["weak"]
        else:
            assert options.method["name"] == "supervised"
    cells = [identity for row in rows.values() for identity in identities(row.figures["Macro-F1"])]
    assert len({*cells}) == len(cells)
    pretrained = {cell.start.identity for cell in rows["8 per class, augmented, from SimCLR"].figures["mAP"].cells}
    assert len(pretrained) == 1, "one pretraining for all seeds"


def test_table_3_measures_the_cells_of_table_2(out: Path) -> None:
    second, third = tables("smoke", None, out, "harmonizing-table2", "harmonizing-table3")
    theirs, ours = rows_of(second), rows_of(third)
    for name, row in ours.items():
        if "per class" in name:
            assert identities(row.figures["All pairs"]) == identities(theirs[name].figures["mAP"])
            assert row.figures["True positives"].figure == "overlap"
    assert {name: row.figures["All pairs"].figure for name, row in ours.items() if "per class" not in name} == {
        "A box in the center": "overlap_center",
        "Random maps": "overlap_random",
    }


def test_the_lift_is_harmonized_less_not_harmonized(out: Path) -> None:
    (table,) = tables("smoke", None, out, "harmonizing-table2")
    rows, claims = rows_of(table), {claim.sentence: claim for claim in table.claims}
    f1 = {name: row.figures["Macro-F1"] for name, row in rows.items()}
    for n, difference in zip(
        (4, 8), claims["Attention consistency provides a lift of mean F1"].differences, strict=True
    ):
        name = f"{n} per class, augmented"
        assert (difference.plus, difference.minus) == ([f1[f"{name} + attention"]], [f1[name]])
    (more,) = claims["The lift is larger with fewer training images"].differences
    lift = {n: (f1[f"{n} per class, augmented + attention"], f1[f"{n} per class, augmented"]) for n in (4, 8)}
    assert [*map(identities, more.plus)] == [*map(identities, (lift[4][0], lift[8][1]))]
    assert [*map(identities, more.minus)] == [*map(identities, (lift[4][1], lift[8][0]))]


def test_cpu_scale(tmp_path: Path, shared_data: Path) -> None:
    table = load_table("harmonizing-table2", "cpu", shared_data, tmp_path)
    assert len(table.seeds) == 5
    assert [name for name in rows_of(table) if "attention" not in name] == [
        "8 per class, plain",
        "4 per class, augmented",
        "8 per class, augmented",
        "16 per class, augmented",
        "8 per class, augmented, from SimCLR",
    ]
    first = {cell.start.identity for cell in rows_of(table)["8 per class, augmented"].figures["mAP"].cells}
    assert first == {cifar_start(shared_data).identity}
    with pytest.raises(DataError, match="has no voc5.zip"):
        make_bench("cpu", (0,), tmp_path, tmp_path)
    with pytest.raises(ConfigError, match="--data FOLDER"):
        make_bench("cpu", (0,), None, tmp_path)


def test_papers_scale_has_the_papers_parts_and_networks(voc_folder: Path, tmp_path: Path) -> None:
    second, third = tables("paper", voc_folder, tmp_path / "out", "harmonizing-table2", "harmonizing-table3")
    names = {f"{n} per class, {how}" for n in (2, 4, 8, 12, 16, 135) for how in ("plain", "augmented")}
    assert {name for name in rows_of(second) if "attention" not in name} == names
    row = rows_of(second)["8 per class, augmented + attention"]
    assert row.paper == {"Macro-F1": 0.625, "mAP": 0.749}
    options = options_of(row.figures["mAP"])
    assert (options.model.name, options.model.pretrained, options.data.size) == ("torchvision/resnet50", True, 256)
    assert (options.batch.labeled, options.optim.name, options.optim.lr) == (4, "adamw", 1e-3)
    images = open_images(row.figures["mAP"].cells[0].data.source)
    assert [images.split.count(word) for word in ("train", "test")] == [40, 20]
    inception = rows_of(third)["12 per class, augmented, Inception-v3 + attention"]
    assert inception.paper == {"True positives": 0.449}
    assert (options_of(inception.figures["All pairs"]).model.name, inception.figures["All pairs"].figure) == (
        "torchvision/inception_v3",
        "overlap_labeled",
    )
    (voc_folder / "ImageSets" / "Main" / "val.txt").unlink()
    with pytest.raises(DataError, match=r"has no ImageSets/Main/val.txt"):
        make_bench("paper", (0,), voc_folder, tmp_path / "other")


@pytest.mark.parametrize("informed", [True, False])
def test_chance_of_several_labels(informed: bool) -> None:
    """The likeliest class is one of the image's: always, or as often as in other images."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, (60, 4))
    labels[:, 0] |= labels.sum(1) == 0
    predicted = labels.argmax(1) if informed else np.zeros(60, np.int64)
    p = above_chance(predicted, labels)
    assert p == (0.001 if informed else 1.0)
