"""The tables of the harmonizing paper: what rows share and differ in, what claims are about, and the paper's scale."""

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eke.data.decode import decode
from eke.data.sources import open_images
from eke.data.splits import load_split
from eke.engine.journal import RunFolder
from eke.engine.model_files import load_classifier
from eke.errors import ConfigError, DataError
from eke.explain.harmony import harmony
from eke.losses.correlation import CORRELATIONS
from eke.models.network import layers
from eke.tables.harmonizing_bench import cifar_start, make_bench
from eke.tables.harmonizing_follow import LOSSES, over_time
from eke.tables.reproduce import load_table
from eke.tables.squares import COLORS, squares
from eke.tasks.grid import Done, Grid
from eke.tasks.grid_cells import Cell, Train, run_folder
from eke.tasks.grid_claims import above_chance
from eke.tasks.grid_relations import Relation, in_words
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
    means = claims["Fine-tuning can improve classification performance when training data is scarce"].differences
    for difference, figure in zip(means, ("macro_f1", "mean_average_precision"), strict=True):
        assert difference.n == 2
        assert [*map(identities, difference.plus)] == [identities(lift[n][0]) for n in (4, 8)]
        assert [*map(identities, difference.minus)] == [identities(lift[n][1]) for n in (4, 8)]
        assert {series.figure for series in (*difference.plus, *difference.minus)} == {figure}


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


@pytest.mark.parametrize(
    "name",
    ["harmonizing-table4", "harmonizing-strategies", "harmonizing-noise", "harmonizing-elsewhere", "gradcam-boxes"],
)
def test_every_table_resolves_at_the_papers_scale(voc_folder: Path, tmp_path: Path, name: str) -> None:
    table = load_table(name, "paper", voc_folder, tmp_path / "out")
    grid = Grid(table.cells(), tmp_path / "out")
    works = [(getattr(cell.work, "train", cell.work), cell.data) for cell in grid.cells.values()]  # Follow has a Train
    resolved = [work.options(data) for work, data in works if isinstance(work, Train)]
    assert {(each.model.name, each.data.size) for each in resolved} == {("torchvision/resnet50", 256)}
    assert {len(open_images(data.source)) for work, data in works if isinstance(work, Train)} == {60}
    assert all(cell.words for cell in grid.cells.values())


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


def test_strategies_see_as_many_images_from_the_same_start_and_finetune_is_table_2s(out: Path) -> None:
    second, table = tables("smoke", None, out, "harmonizing-table2", "harmonizing-strategies")
    rows, theirs = rows_of(table), rows_of(second)
    assert list(rows) == ["not harmonized", "not harmonized, equal images", "finetune", "combined", "alternated"]
    assert identities(rows["not harmonized"].figures["mAP"]) == identities(
        theirs["4 per class, augmented"].figures["mAP"]
    )
    assert identities(rows["finetune"].figures["mAP"]) == identities(
        theirs["4 per class, augmented + attention"].figures["mAP"]
    )
    read = {}
    for name in ("not harmonized, equal images", "combined", "alternated"):
        options = options_of(rows[name].figures["mAP"])
        assert rows[name].figures["mAP"].cells[0].start is None
        before = options_of(rows["not harmonized"].figures["mAP"]).optim
        assert all(
            getattr(options.optim, each) == getattr(before, each)
            for each in ("name", "lr", "weight_decay", "schedule", "ema_decay")
        )
        both = options.method.get("strategy") == "combined"
        assert options.method.get("strategy", name) == name
        read[name] = options.steps * options.batch.labeled * (1 + both)
    assert {*read.values()} == {40 * 8 + 4 * 4}
    for n in (4, 8):
        row = rows_of(table, 1)[f"{n} per class"]
        for column, name in (("Not harmonized", ""), ("Harmonized", " + attention")):
            cells = theirs[f"{n} per class, augmented{name}"].figures["mAP"].cells
            assert [cell.start.identity for cell in row.figures[column].cells] == [cell.identity for cell in cells]


def test_table_4_has_twelve_losses_of_one_training_per_seed(out: Path) -> None:
    (table,) = tables("smoke", None, out, "harmonizing-table4")
    rows = rows_of(table)
    assert len({cell.identity for cell in table.cells()}) == len(table.seeds)
    figures = {series.figure for row in rows.values() for series in row.figures.values()}
    assert figures == {*LOSSES, "time"}
    assert len(LOSSES) == 12
    assert rows["GB as mask"].paper == {"Pearson": 0.826, "Cross-correlation": 0.267, "SSIM": 0.806}
    assert rows["GB as mask"].figures["SSIM"].figure == "guided_mask/ssim"
    best, *_, avoided = table.claims
    assert len(best.differences[0].minus) == 11
    assert best.differences[0].plus[0].figure == "guided_mask/pearson"
    assert best.differences[0].plus[0] not in best.differences[0].minus
    assert {series.figure.split("/")[0] for series in avoided.differences[0].minus} == {"gradcam_mask"}


@pytest.fixture(scope="module")
def followed(out: Path) -> tuple[Cell, Grid, Done]:
    (table,) = tables("smoke", None, out, "harmonizing-table4")
    cell = table.cells()[0]
    grid = Grid([cell], out)
    return cell, grid, grid.run()[cell.identity]


def test_a_look_is_the_losses_of_the_saved_network(followed: tuple[Cell, Grid, Done], out: Path) -> None:
    """The last look and the saved model are of the same step: each figure anew, from the files alone."""
    cell, grid, _ = followed
    folder = RunFolder(run_folder(grid.folder(cell)))
    lines = [line for line in folder.lines() if "evaluation" in line]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    network, card = load_classifier(folder.model, torch.device("cpu"))
    images = open_images(cell.data.source)
    rows = [images.ids.index(name) for name in load_split(folder.split).validation]
    pixels = torch.stack([torch.from_numpy(decode(images.read(row), channels=3)) for row in rows])
    pixels = pixels.permute(0, 3, 1, 2).float() / 255
    truth = torch.as_tensor(images.labels[rows]).float()
    with torch.no_grad():
        expected = torch.nn.functional.binary_cross_entropy_with_logits(network(pixels).logits, truth)
    assert lines[-1]["supervised_loss"] == pytest.approx(float(expected), rel=1e-4)
    for name in LOSSES:
        matching, measure = name.split("/")
        found = harmony(
            network, pixels, layers(network, card.size)[-1], correlation=CORRELATIONS[measure], matching=matching
        )
        assert lines[-1][name] == pytest.approx(-float(found.similarity.detach().mean()), abs=1e-4), name


def test_figures_of_table_4_are_correlations_over_the_looks(followed: tuple[Cell, Grid, Done]) -> None:
    cell, grid, done = followed
    lines = [line for line in RunFolder(run_folder(grid.folder(cell))).lines() if "evaluation" in line]
    target = [line["supervised_loss"] for line in lines]
    assert {*done.figures} == {*LOSSES, "time"}
    for name in LOSSES:
        assert done.figures[name] == pytest.approx(np.corrcoef([line[name] for line in lines], target)[0, 1])
    assert done.figures["time"] == pytest.approx(np.corrcoef(range(6), target)[0, 1])


def test_losses_that_are_constant_or_not_finite_have_no_correlation() -> None:
    looks = [
        {"supervised_loss": loss, **dict.fromkeys(LOSSES, 2 * loss), LOSSES[0]: 1.0, LOSSES[1]: None}
        for loss in (3.0, 2.0, 1.0)
    ]
    found = over_time(looks)
    assert {*found} == {*LOSSES[2:], "time"}
    assert found[LOSSES[2]] == pytest.approx(1)
    assert found["time"] == pytest.approx(-1)


def test_rows_beside_boxes_differ_in_beta_and_gamma_alone(out: Path) -> None:
    (table,) = tables("smoke", None, out, "gradcam-boxes")
    found, rest = {}, []
    for name, row in rows_of(table).items():
        options = options_of(row.figures["Overlap, all pairs"])
        if name.startswith("L_S"):
            found[name] = (options.method["beta"], options.method["gamma"])
            rest.append(options.model_copy(update={"method": {**options.method, "beta": 0, "gamma": 0}}))
    assert found == {"L_S": (0, 0), "L_S + L_P": (1, 0), "L_S + L_G": (0, 1), "L_S + L_P + L_G": (1, 1)}
    assert all(options == rest[0] for options in rest)
    (relation,) = table.relations
    assert len(relation.cells) == 4 * len(table.seeds)


def test_relations_are_correlations_over_the_runs_that_have_both_figures(out: Path) -> None:
    (table,) = tables("smoke", None, out, "gradcam-boxes")
    cells = [cell for row in rows_of(table).values() for cell in row.figures["Overlap, all pairs"].cells][:6]
    values = [(0.1, 0.2), (0.3, 0.1), (0.2, 0.4), (0.5, 0.6), (0.4, 0.3)]
    found = {cell.identity: Done({"x": x, "y": y}, 1.0) for cell, (x, y) in zip(cells, values, strict=False)}
    found[cells[5].identity] = Done({"x": 0.0}, 1.0)
    words = in_words(Relation("x", "y", "x and y", cells), found)
    r = np.corrcoef(*zip(*values, strict=True))[0, 1]
    low, high = np.tanh(np.arctanh(r) - 1.96 / np.sqrt(2)), np.tanh(np.arctanh(r) + 1.96 / np.sqrt(2))
    assert f"r = {r:.2f} [{low:.2f} to {high:.2f}] over 5 runs" in words
    assert "too few" in in_words(Relation("x", "y", "x and y", cells[:3]), found)


def test_another_place_is_darker_and_its_halves_share_no_image(out: Path) -> None:
    (table,) = tables("smoke", None, out, "harmonizing-elsewhere")
    rows = rows_of(table)
    seen, measured = (
        open_images(source)
        for source in (
            rows["on images from elsewhere"].figures["mAP"].cells[0].data.unlabeled,
            rows["not harmonized"].figures["mAP, elsewhere"].cells[0].data.test,
        )
    )
    before = open_images(rows["not harmonized"].figures["mAP"].cells[0].data.source)
    assert (len(seen), len(measured)) == (30, 30)
    assert not {*seen.ids} & {*measured.ids}
    assert not {*seen.paths} & {*measured.paths}
    tests = before.select(row for row, word in enumerate(before.split) if word == "test")
    for part in (seen, measured):
        for row, path in enumerate(part.paths):
            original = int(Path(path).stem)
            assert part.boxes[row] == tests.boxes[original]
            light = [decode(images.read(i), channels=3).mean() for images, i in ((part, row), (tests, original))]
            assert light[0] == pytest.approx(0.45 * light[1], rel=0.02)


def test_rows_of_elsewhere_differ_in_their_unlabeled_images_and_all_are_measured_there(out: Path) -> None:
    (table,) = tables("smoke", None, out, "harmonizing-elsewhere")
    rows = rows_of(table)
    start = rows["not harmonized"].figures["mAP"]
    pools = {}
    for name, row in rows.items():
        assert [cell.start.identity for cell in row.figures["mAP, elsewhere"].cells] == identities(row.figures["mAP"])
        if name != "not harmonized":
            assert [cell.start.identity for cell in row.figures["mAP"].cells] == identities(start)
            data = options_of(row.figures["mAP"]).data
            pools[name] = (data.unlabeled_with_labeled, data.n_unlabeled, data.unlabeled_source is not None)
    assert pools == {
        "on the training images": (True, 0, False),
        "on others of their kind": (False, 160, False),
        "on images from elsewhere": (False, 160, True),
    }
    assert len({row.figures["mAP"].cells[0].identity for row in rows.values()}) == 4


def test_a_cells_name_follows_images_from_elsewhere_and_not_their_path(out: Path) -> None:
    (table,) = tables("smoke", None, out, "harmonizing-elsewhere")
    cell = rows_of(table)["on images from elsewhere"].figures["mAP"].cells[0]
    moved = replace(cell, data=replace(cell.data, unlabeled="/another/place.zip"))
    assert moved.identity == cell.identity
    assert moved.work.options(moved.data).data.unlabeled_source == "/another/place.zip"
    assert replace(cell, data=replace(cell.data, identity="other images")).identity != cell.identity


def test_table_1_trains_on_so_many_clips_and_has_f1_of_each_class(out: Path) -> None:
    (table,) = tables("smoke", None, out, "harmonizing-table1")
    rows = rows_of(table)
    names = ("baseline", "baseline + attention", "SimCLR", "SimCLR + attention")
    assert list(rows) == [f"{n} per class, {name}" for n in (4, 8) for name in names]
    assert {column: series.figure for column, series in rows["4 per class, SimCLR"].figures.items()} == {
        "Mean F1": "macro_f1",
        "Accuracy": "accuracy",
        **{f"F1 {name}": f"f1/{name}" for name in sorted(COLORS)},
    }
    for name, row in rows.items():
        series, n = row.figures["Mean F1"], int(name[0])
        options = options_of(series)
        labels = options.data.labels_per_class
        assert labels - int(labels * options.data.val_rate) == n
        if "attention" in name:
            before = rows[name.removesuffix(" + attention")].figures["Mean F1"]
            assert [cell.start.identity for cell in series.cells] == identities(before)
            assert options.method["name"] == "harmonize"
        else:
            assert [cell.start is not None for cell in series.cells] == ["SimCLR" in name] * 2
    starts = {cell.start.identity for n in (4, 8) for cell in rows[f"{n} per class, SimCLR"].figures["Mean F1"].cells}
    assert len(starts) == 1


def test_table_1_at_the_other_scales(tmp_path: Path, shared_data: Path) -> None:
    table = load_table("harmonizing-table1", "cpu", shared_data, tmp_path)
    assert [name for name in rows_of(table) if name.endswith("baseline")] == [
        f"{n} per class, baseline" for n in (8, 16)
    ]
    row = rows_of(table)["16 per class, SimCLR + attention"]
    assert sum(column.startswith("F1 ") for column in row.figures) == 6
    assert options_of(row.figures["Mean F1"]).clip.frames == 8
    for name in ("train", "test"):
        (tmp_path / "own" / name).mkdir(parents=True)
    paper = load_table("harmonizing-table1", "paper", tmp_path / "own", tmp_path)
    row = rows_of(paper)["32 per class, SimCLR + attention"]
    assert row.paper == {"Mean F1": 0.314}
    options = options_of(row.figures["Mean F1"])
    assert (options.model.name, options.model.pretrained, options.data.size) == ("torchvision/r3d_18", True, 80)
    assert (options.batch.labeled, options.clip.frames) == (12, 16)
    with pytest.raises(DataError, match="has no sign-clips.zip"):
        load_table("harmonizing-table1", "cpu", tmp_path, tmp_path)


@pytest.mark.parametrize("informed", [True, False])
def test_chance_of_several_labels(informed: bool) -> None:
    """The likeliest class is one of the image's: always, or as often as in other images."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, (60, 4))
    labels[:, 0] |= labels.sum(1) == 0
    predicted = labels.argmax(1) if informed else np.zeros(60, np.int64)
    p = above_chance(predicted, labels)
    assert p == (0.001 if informed else 1.0)
