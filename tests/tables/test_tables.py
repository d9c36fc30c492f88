"""The tables: their cells resolve at every scale, budgets are equal, cells are shared, and a smoke run says it all."""

import csv
import json
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from eke.data.sources import open_images
from eke.errors import ConfigError, DataError
from eke.progress import silent
from eke.tables import TABLES
from eke.tables.benches import EPOCHS, POOL, digits_bench, mnist_bench, paper_benches, without_flips
from eke.tables.comatch_table2 import SELF_SUPERVISED
from eke.tables.reproduce import load_table, plan, render, reproduce
from eke.tables.unseen_classes import connections
from eke.tasks.assemble import chosen_views, images_per_step
from eke.tasks.grid_cells import Ask, Cell, Train
from eke.tasks.grid_data import PoolPlan, read_known
from eke.tasks.grid_table import Series, Table


def all_series(table: Table) -> list[Series]:
    return [series for section in table.sections for row in section.rows for series in row.figures.values()]


def cells_by_content(table: Table) -> dict[str, Cell]:
    """Every cell, those that are only needed included."""
    found: dict[str, Cell] = {}

    def add(cells: Sequence[Cell]) -> None:
        for cell in cells:
            found[cell.identity] = cell
            add(cell.needs)

    add(table.cells())
    return found


def images_of(cell: Cell) -> int:
    """Images through the network, those of the network that it starts from included."""
    before = images_of(cell.start) if cell.start else 0
    if not isinstance(cell.work, Train):
        return before
    options = cell.work.options(cell.data)
    return before + images_per_step(options) * options.steps


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Table]:
    out = tmp_path_factory.mktemp("smoke")
    return {name: load_table(name, "smoke", None, out) for name in TABLES}


@pytest.fixture
def users_folder(tmp_path: Path) -> Path:
    for name in ("train", "test"):
        (tmp_path / "own" / name).mkdir(parents=True)
    return tmp_path / "own"


def test_every_table_has_a_page_of_words_and_a_maker() -> None:
    for module in map(import_module, TABLES.values()):
        assert len(module.__doc__) > 200
        assert callable(module.make_table)


@pytest.mark.parametrize("name", TABLES)
def test_a_row_of_a_column_has_one_cell_per_seed_and_the_seeds_share_their_labels(
    name: str, smoke: dict[str, Table]
) -> None:
    table = smoke[name]
    assert table.seeds == (0, 1)
    for series in all_series(table):
        assert [cell.seed for cell in series.cells] == [0, 1]
        for cell, other in pairwise(series.cells):
            for need, its in zip(cell.needs, other.needs, strict=True):  # of the same seed, or one for all seeds
                assert need.seed == cell.seed or need.identity == its.identity
    for section in table.sections:
        assert all(set(row.figures) <= set(section.columns) for row in section.rows)
        assert all(section.columns[0] in row.figures for row in section.rows)


@pytest.mark.parametrize("name", [name for name in TABLES if not name.startswith(("gradcam", "harmonizing", "eba"))])
def test_equal_budget(name: str, smoke: dict[str, Table]) -> None:
    """All rows put the same images through the network, to a step of each stage."""
    for section in smoke[name].sections:
        first = [row.figures[section.columns[0]].cells[0] for row in section.rows]
        images = [images_of(cell) for cell in first]
        assert max(images) <= 4_000
        assert min(images) >= 0.95 * max(images)


@pytest.mark.parametrize("name", TABLES)
def test_nothing_is_chosen_on_validation_and_nothing_is_mirrored(name: str, smoke: dict[str, Table]) -> None:
    for cell in cells_by_content(smoke[name]).values():
        if isinstance(cell.work, Train):
            options = cell.work.options(cell.data)
            assert options.data.val_rate == 0 or name == "harmonizing-table1"
            views = chosen_views(options)
            presets = {*views.labeled.values(), *views.unlabeled.values()}
            assert all(preset.endswith("-noflip") or preset == "none" for preset in presets), presets


def test_pretraining_sees_no_labels_and_fine_tuning_the_first_ones(smoke: dict[str, Table]) -> None:
    for cell in cells_by_content(smoke["comatch-table2"]).values():
        if cell.work.kind == "pretrain":
            assert cell.first_labels == ()
        elif cell.work.kind == "fit":
            assert cell.first_labels == cell.data.labels_of(cell.seed)


def test_extra_labels_are_asked_for_by_fine_tuned_barlow_twins(smoke: dict[str, Table]) -> None:
    rows = {row.name: row for row in smoke["comatch-table2"].sections[0].rows}
    tuned = rows["Barlow Twins"].figures["Acc."].cells
    for name in ("Barlow Twins", "CoMatch"):
        for seed, cell in enumerate(rows[name].figures["Acc. Ext."].cells):
            assert cell.asked.work == Ask(10, "entropy")  # half of the 20 first labels
            assert cell.asked.start.identity == tuned[seed].identity
    extra, without = (rows["Barlow Twins"].figures[column].cells[0] for column in ("Acc. Ext.", "Acc."))
    assert extra.start.identity == without.start.identity  # the same pretraining


def test_requests_are_equally_large_and_by_whom_the_rows_say(smoke: dict[str, Table]) -> None:
    rows = {row.name: row.figures["Acc."].cells[0] for row in smoke["label-request"].sections[0].rows}
    asked = {who: rows[f"CoMatch + labels {who}"].asked for who in ("by Barlow Twins", "by CoMatch", "at random")}
    assert [cell.work for cell in asked.values()] == [Ask(10, "entropy"), Ask(10, "entropy"), Ask(10, "random")]
    assert asked["by CoMatch"].start.identity == rows["CoMatch"].identity
    assert asked["by Barlow Twins"].start.identity == rows["Barlow Twins"].identity
    assert rows["Barlow Twins + its own labels"].asked.identity == asked["by Barlow Twins"].identity
    assert rows["CoMatch"].asked is None


def test_tables_share_equal_cells(smoke: dict[str, Table]) -> None:
    first, second = (cells_by_content(smoke[name]) for name in ("comatch-table2", "label-request"))
    new = [cell for identity, cell in second.items() if identity not in first]
    words = sorted({cell.words.split(" on ")[0] for cell in new})
    assert words == [
        "ask for 10 labels by entropy",
        "ask for 10 labels by random",
        "fit comatch",
        "pretrain barlow_twins",
    ]
    assert sum(isinstance(cell.work, Train) for cell in new) == 2 * 4  # per seed: two requests, one start and its fit


def test_pools_with_and_without_unseen_classes(smoke: dict[str, Table]) -> None:
    rows = {row.name: row.figures["Acc. of seen classes"].cells[0] for row in smoke["unseen-classes"].sections[0].rows}
    whole, without = rows["CoMatch"].data, rows["CoMatch without the unseen third"].data
    assert whole.identity != without.identity
    keys = []
    for data in (whole, without):
        with data.labels[0].open() as file:
            keys.append({row["key"] for row in csv.DictReader(file)})
    assert keys[0] == keys[1]  # paired: the same images are labeled
    assert rows["CoMatch"].work == rows["CoMatch without the unseen third"].work


@pytest.mark.parametrize("name", ["gradcam-table1", "gradcam-table2", "gradcam-fig3", "gradcam-adjustability"])
def test_equal_steps_and_labeled_images_a_step(name: str, smoke: dict[str, Table]) -> None:
    for series in all_series(smoke[name]):
        options = series.cells[0].work.options(series.cells[0].data)
        assert options.steps == 20
        consistent = options.method["name"] == "gradcam_consistency"
        assert options.batch.labeled in ({16} if consistent else {16, 48})
        assert images_per_step(options) in {16, 48}


def test_rows_of_the_gradcam_tables_differ_in_what_they_say(smoke: dict[str, Table]) -> None:
    rows = {row.name: row.figures["Acc."] for row in smoke["gradcam-table2"].sections[0].rows}
    assert all(series.figure == "validation" for series in rows.values())
    options = {name: series.cells[0].work.options(series.cells[0].data) for name, series in rows.items()}
    weights = {name: each.method for name, each in options.items() if "beta" in each.method}
    assert {name for name, own in weights.items() if own["beta"] == 0} == {f"L_S + L_G, block{i}" for i in range(1, 5)}
    assert {name for name, own in weights.items() if own["gamma"] == 0} == {name for name in rows if "L_P" in name} - {
        name for name in rows if any(word in name for word in ("L_G", "saliency", "CAM"))
    }
    assert [weights[f"L_S + L_P{form}"]["pseudo_label"] for form in ("", ", hard", ", L2")] == ["soft", "hard", "l2"]
    assert all(tuple(weights[name]["layer"]) == (name[-6:],) for name in weights if "L_G" in name or "CAM" in name)
    maps = {name: each.attention.map for name, each in options.items() if each.attention.map != "gradcam"}
    assert maps == {"L_S + L_P + saliency": "saliency", "L_S + L_P + CAM, block4": "cam"}
    assert options["L_S"].views == {"weak": "flip-noflip"}
    assert options["L_S, augmented"].views == {"weak": "crop-rotate-jitter-noflip"}
    assert len({cell.identity for series in rows.values() for cell in series.cells}) == 2 * len(rows)


def test_ratios_are_unlabeled_images_beside_the_same_labels(smoke: dict[str, Table]) -> None:
    (section,) = smoke["gradcam-table1"].sections
    assert [row.name for row in section.rows] == ["Ratio 0.5", "Ratio 1", "Ratio 2"]
    for row, n in zip(section.rows, (40, 80, 160), strict=True):
        for layer in ("block1", "block2", "block3", "block4"):
            for cell in row.figures[layer].cells:
                options = cell.work.options(cell.data)
                assert (options.data.n_unlabeled, options.data.unlabeled_with_labeled) == (n, False)
                assert cell.first_labels == cell.data.labels_of(cell.seed)
                assert len(read_known(cell.first_labels[0])) == 80
    assert {tuple(row.figures["Baseline"].cells) for row in section.rows} == {
        tuple(section.rows[0].figures["Baseline"].cells)
    }


def test_figure_3_shares_the_cells_of_the_tables(smoke: dict[str, Table]) -> None:
    others = {*cells_by_content(smoke["gradcam-table1"]), *cells_by_content(smoke["gradcam-table2"])}
    assert set(cells_by_content(smoke["gradcam-fig3"])) <= others
    (section,) = smoke["gradcam-fig3"].sections
    assert section.x
    assert [float(column) for column in section.columns] == [0.5, 1, 2]


def test_what_is_chosen_on_validation_is_stated_on_test(smoke: dict[str, Table]) -> None:
    chosen = smoke["gradcam-table1"].chosen
    assert len(chosen.candidates) == 3 * 4
    assert all(series.figure == "validation" for series in chosen.candidates.values())
    section, claim = chosen.state("block2, ratio 0.5")
    best, ablation, *_ = section.rows
    for column, figure in (("Test", "accuracy"), ("Validation", "validation")):
        assert best.figures[column].figure == figure
        same = zip(best.figures[column].cells, chosen.candidates["block2, ratio 0.5"].cells, strict=True)
        assert all(a.identity == b.identity for a, b in same)
    options = ablation.figures["Test"].cells[0].work.options(ablation.figures["Test"].cells[0].data)
    assert (options.method["gamma"], options.data.n_unlabeled) == (0, 40)
    assert all(series.figure == "accuracy" for each in claim.differences for series in (*each.plus, *each.minus))


def test_pairs_of_classes(smoke: dict[str, Table]) -> None:
    rows = {row.name: row for row in smoke["gradcam-adjustability"].sections[0].rows}
    for words, row in rows.items():
        data = row.figures["L_S"].cells[0].data
        assert {known.label for known in read_known(data.truth)} == set(words.split(" or "))
        assert set(open_images(data.test).classes) == set(words.split(" or "))
        assert data.validation is None
        assert all(series.figure == "accuracy" for series in row.figures.values())


def test_rows_of_the_stop_table_differ_in_rate_and_in_what_is_kept(smoke: dict[str, Table]) -> None:
    first, *rows = smoke["harmonizing-stop"].sections[0].rows
    start = first.figures["Acc."].cells
    assert first.name == "not harmonized"
    found = {}
    for row in rows:
        for seed, cell in enumerate(row.figures["Acc."].cells):
            assert cell.start.identity == start[seed].identity
            options = cell.work.options(cell.data)
            assert (options.method["strategy"], options.steps) == ("finetune", 20)
            found[row.name] = (options.evaluate.keep, options.evaluate.patience, options.optim.lr)
    assert found == {
        f"{stop}, rate {rate:g}": (keep, patience, rate)
        for rate in (1e-5, 1e-3)
        for stop, (keep, patience) in {
            "agreement": ("attention", 3),
            "labels": ("labels", 3),
            "last": ("last", None),
        }.items()
    }
    cells = [cell.identity for row in rows for cell in row.figures["Acc."].cells]
    assert len({*cells}) == len(cells), "what is kept is part of a cell's name"


def test_gradcam_at_the_other_scales(tmp_path: Path, shared_data: Path) -> None:
    cpu = load_table("gradcam-table2", "cpu", shared_data, tmp_path)
    per_seed = len({cell.identity for cell in cpu.cells()}) / len(cpu.seeds)
    assert per_seed == 4 + 3 + 2 + 3 * 4 + 4 + 2
    pairs = load_table("gradcam-adjustability", "cpu", shared_data, tmp_path)
    assert [row.name for row in pairs.sections[0].rows] == ["cat or truck", "4 or 9", "3 or 5", "cat or dog"]
    with pytest.raises(ConfigError, match="no paper scale"):
        load_table("gradcam-adjustability", "paper", shared_data, tmp_path)


@pytest.mark.parametrize("published", [True, False])
def test_gradcam_at_the_papers_scale(
    published: bool, tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images are few here, so that they are quickly built; all else is what would run."""
    monkeypatch.setattr("eke.tables.gradcam_bench._downloadable", lambda: published)
    few = PoolPlan("cifar10", 60, 20, labels_per_class=2, n_val=20)
    monkeypatch.setattr("eke.tables.gradcam_bench.PLANS", {"paper": few})
    table = load_table("gradcam-table1", "paper", shared_data, tmp_path)
    cell = table.sections[0].rows[0].figures["layer3"].cells[0]
    options = cell.work.options(cell.data)
    assert (options.batch.labeled, options.optim.lr, options.optim.schedule) == (32, 0.008, "constant")
    assert options.model.pretrained == published
    text = table.sections[0].text
    if published:
        assert cell.start is None
        assert "from ImageNet weights" in text
    else:
        assert cell.start.work.method == "simclr"
        assert "cannot be downloaded" in text


def test_cpu_scale_lists_mnist_and_cifar(tmp_path: Path, shared_data: Path) -> None:
    table = load_table("comatch-table2", "cpu", shared_data, tmp_path)
    assert len(table.seeds) == 3
    assert [section.title for section in table.sections] == ["mnist, equal budget", "CIFAR-10, beside it"]
    assert len({cell.identity for cell in table.cells()}) == len(cells_by_content(table)) - 3 * 5  # pretraining, asking
    for section in table.sections:
        images = [images_of(row.figures["Acc."].cells[0]) for row in section.rows]
        assert min(images) >= 0.98 * max(images)


def test_paper_scale_resolves_and_has_the_reports_epochs(users_folder: Path, tmp_path: Path) -> None:
    table = load_table("comatch-table2", "paper", users_folder, tmp_path)
    equal, reported = table.sections
    options = {}
    for row in reported.rows:
        cell = row.figures["Acc."].cells[0]
        options[row.name] = (cell.start or cell).work.options(cell.data)
    assert options["CoMatch"].steps == 400 * 512_000 // 256
    assert options["FixMatch"].steps == 300 * 512_000 // 256
    assert options["SimCLR"].steps == 300 * 1_000
    assert options["SimCLR"].batch.size == 512
    assert options["Barlow Twins"].steps == 100 * 1_000
    comatch = options["CoMatch"]
    assert (comatch.batch.labeled, comatch.batch.mu) == (64, 4)
    assert (comatch.method["tau"], comatch.method["graph_tau"], comatch.method["lambda_ctr"]) == (0.55, 0.25, 5)
    assert (comatch.optim.lr, comatch.optim.weight_decay, comatch.optim.schedule) == (0.1, 1e-4, "half-cosine")
    assert (comatch.model.name, comatch.data.size) == ("resnet50", 96)
    extra = {row.name: row for row in reported.rows}["CoMatch"].figures["Acc. Ext."].cells[0]
    assert (extra.asked.work.n, extra.work.options(extra.data).method["tau"]) == (12_800, 0.52)
    images = [images_of(row.figures["Acc."].cells[0]) for row in equal.rows]
    assert min(images) >= 0.999 * max(images)
    assert max(images) <= paper_benches(users_folder)[1].images == 400 * POOL // 256 * (64 + 3 * 256)
    assert set(EPOCHS) == {*SELF_SUPERVISED, "fixmatch", "comatch", "simmatch"}


@pytest.mark.parametrize("name", ["comatch-table2", "label-request"])
def test_paper_scale_has_a_plan_that_opens_no_image(name: str, users_folder: Path, tmp_path: Path) -> None:
    text = plan(name, "paper", users_folder, tmp_path / "out")
    assert "fit comatch/report-96px on own, 800,000 steps, 665,600,000 images" in text
    assert "ask for 12,800 labels by entropy on own" in text
    assert "0 done" in text
    assert not (tmp_path / "out").exists()


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'label-request'"):
        load_table("label-requests", "smoke", None, tmp_path)
    with pytest.raises(ConfigError, match="Unknown scale 'cpus'. Did you mean 'cpu'"):
        load_table("label-request", "cpus", None, tmp_path)
    with pytest.raises(ConfigError, match="--seeds 0"):
        load_table("label-request", "smoke", None, tmp_path, 0)
    with pytest.raises(ConfigError, match="--data FOLDER"):
        load_table("comatch-table2", "paper", None, tmp_path)
    with pytest.raises(ConfigError, match="no such experiment"):
        load_table("unseen-classes", "paper", None, tmp_path)
    with pytest.raises(DataError, match="has no mnist-train.parquet"):
        load_table("unseen-classes", "cpu", tmp_path, tmp_path)


def test_views_without_mirroring() -> None:
    assert without_flips("fixmatch") == {"weak": "weak-noflip", "strong": "randaugment/google-noflip"}


def test_connections_against_pairs() -> None:
    probs = torch.rand(12, 3, dtype=torch.float64).pow(4)
    probs /= probs.sum(1, keepdim=True)
    seen = torch.tensor([True] * 7 + [False] * 5)
    found = connections(probs, seen, 0.5)
    n_edges = 0
    for b in range(12):
        linked = [j for j in range(12) if j != b and float(probs[b] @ probs[j]) >= 0.5]
        others = [j for j in range(7) if j != b]
        n_edges += len(linked)
        assert found.degree[b] == len(linked)
        assert found.seen_rate[b] == pytest.approx(len(set(linked) & set(others)) / len(others))
    assert 0 < n_edges < 12 * 11


def test_comatchs_memory_is_full_after_five_steps(tmp_path: Path, shared_data: Path) -> None:
    for bench in (digits_bench(tmp_path, (0,), silent), mnist_bench(tmp_path, shared_data, (0,), silent)):
        options = bench.semi_supervised("comatch").options(bench.data)
        assert options.method["memory_size"] == 5 * (options.batch.labeled + options.batch.unlabeled)


@pytest.mark.slow
def test_smoke_scale_of_all_tables(tmp_path: Path) -> None:
    for name in (name for name in TABLES if not name.startswith("eba")):  # many cells: test_eba.py has one seed
        result = reproduce(name, "smoke", None, tmp_path)
        assert result["failures"] == []
        assert all(
            figure["ours"] for s in result["sections"] for row in s["rows"] for figure in row["figures"].values()
        )
        assert {claim["verdict"] for claim in result["claims"]} <= {"agrees", "does not agree", "cannot tell"}
        assert json.loads((tmp_path / f"{name}-smoke.json").read_text())["claims"] == result["claims"]
        page = (tmp_path / f"{name}-smoke.html").read_text()
        assert f"eke reproduce {name} --scale smoke" in page
        assert str(tmp_path / f"{name}-smoke.html") in render(result)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("cells/*/cell.json")}
    again = reproduce("label-request", "smoke", None, tmp_path)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("cells/*/cell.json")} == before
    assert again["claims"] == json.loads((tmp_path / "label-request-smoke.json").read_text())["claims"]
