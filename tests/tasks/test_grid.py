"""Grids of cells: names by content, skipping, going on after a kill, sharing by locks, failures, claims."""

import fcntl
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from safetensors.torch import load_file

from eke.data.sources import open_images
from eke.engine.journal import RunFolder
from eke.errors import ConfigError, DataError, TrainingError
from eke.metrics.statistics import paired_t
from eke.progress import Progress, silent
from eke.report.table import JudgedClaim
from eke.tasks import grid as grid_module
from eke.tasks.grid import Grid, in_words, make_plan, plan_in_words
from eke.tasks.grid_cells import Ask, Cell, Place, Probe, Train, answers_file, run_folder
from eke.tasks.grid_claims import Contrast, Statement, above_chance, judge, judge_all
from eke.tasks.grid_data import PoolPlan, TableData, build_data, hash_file, read_known, user_data

TINY = PoolPlan("digits", n_pool=300, n_test=100, labels_per_class=2)
FLAGS: dict[str, Any] = {
    "steps": 6,
    "model": {"name": "small"},
    "batch": {"labeled": 8, "mu": 2},
    "data": {"val_rate": 0.0},
    "evaluate": {"log_every_steps": 1},
    "checkpoint": {"every_steps": 5},
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> TableData:
    return build_data(TINY, tmp_path_factory.mktemp("data"), None, (0, 1), silent)


# ------------------------------------------------------------------ data


def test_pool_has_no_labels_and_shares_no_image_with_test(digits: TableData) -> None:
    pool, test = open_images(digits.source), open_images(digits.test)
    assert (pool.labels == -1).all()
    assert pool.classes == ()
    assert (len(pool), len(test)) == (300, 100)
    assert not set(pool.ids) & set(test.ids)
    assert np.bincount(test.labels).tolist() == [10] * 10


def test_first_labels_are_right_equal_per_class_and_other_for_another_seed(digits: TableData) -> None:
    truth = {row.path: row.label for row in read_known(digits.truth)}
    assert len(truth) == 300
    chosen = [read_known(digits.labels[seed]) for seed in (0, 1)]
    for rows in chosen:
        assert sorted(row.label for row in rows) == sorted([str(k) for k in range(10)] * 2)
        assert all(truth[row.path] == row.label for row in rows)
    assert {row.path for row in chosen[0]} != {row.path for row in chosen[1]}
    pool = open_images(digits.source, labels=[digits.labels[0]])
    assert (pool.labels >= 0).sum() == 20


def test_truth_is_the_published_class(digits: TableData) -> None:
    published = open_images("digits")
    word = {identity: published.classes[k] for identity, k in zip(published.ids, published.labels, strict=True)}
    assert all(word[row.key] == row.label for row in read_known(digits.truth))
    pool = open_images(digits.source)
    pixels = {path: pool.read(i).tobytes() for i, path in enumerate(pool.paths)}
    places = {identity: i for i, identity in enumerate(published.ids)}
    for row in read_known(digits.truth)[:20]:
        assert pixels[row.path] == published.read(places[row.key]).tobytes()


def test_built_once_and_equal_everywhere(tmp_path: Path, digits: TableData) -> None:
    again = build_data(TINY, tmp_path, None, (0,), silent)
    assert again.identity == digits.identity
    assert hash_file(again.labels[0]) == hash_file(digits.labels[0])
    before = Path(again.source).stat().st_mtime_ns
    later = build_data(TINY, tmp_path, None, (0, 5), silent)  # another seed needs one file more, nothing else
    assert Path(again.source).stat().st_mtime_ns == before
    assert later.labels[5].exists()
    assert later.identity == again.identity


def test_building_that_was_killed_is_done_again(tmp_path: Path, digits: TableData) -> None:
    built = build_data(TINY, tmp_path, None, (0,), silent)
    (Path(built.source).parent / "data.json").unlink()  # written last
    Path(built.source).write_bytes(b"half")
    assert build_data(TINY, tmp_path, None, (0,), silent).identity == digits.identity


def test_unseen_classes_have_neither_labels_nor_test_images_and_make_a_third(tmp_path: Path) -> None:
    plan = PoolPlan("digits", n_pool=300, n_test=60, labels_per_class=2, n_unseen=4)
    whole = build_data(plan, tmp_path, None, (0,), silent)
    without = build_data(replace(plan, keep_unseen=False), tmp_path, None, (0,), silent)
    seen = {str(k) for k in range(6)}
    words = [row.label for row in read_known(whole.truth)]
    assert sum(word in seen for word in words) == 198  # 200 in six equal parts
    assert sum(word not in seen for word in words) == 100
    assert set(open_images(whole.test).classes) == seen
    assert {row.label for row in read_known(whole.labels[0])} == seen
    keys = [{row.key for row in read_known(each.labels[0])} for each in (whole, without)]
    assert keys[0] == keys[1]  # the same images are labeled in both: they are compared
    assert {row.key for row in read_known(without.truth)} == {r.key for r in read_known(whole.truth) if r.label in seen}


def test_validation_images_are_apart_and_some_classes_only(tmp_path: Path) -> None:
    plan = PoolPlan("digits", n_pool=90, n_test=40, labels_per_class=2, n_val=30, classes=("7", "3"))
    data = build_data(plan, tmp_path, None, (0,), silent)
    parts = [open_images(source) for source in (data.source, data.validation, data.test)]
    ids = [{*part.ids} for part in parts]
    assert [len(each) for each in ids] == [90, 30, 40]
    assert not ids[0] & ids[1]
    assert not ids[0] & ids[2]
    assert not ids[1] & ids[2]
    for part in parts[1:]:
        assert sorted(part.classes) == ["3", "7"]
        assert len(set(np.bincount(part.labels).tolist())) == 1
    assert {row.label for row in read_known(data.truth)} == {"3", "7"}
    assert data.name == "digits-7-3"
    options = Train("fixmatch", FLAGS).options(data)
    assert (options.data.val_source, options.data.val_rate) == (data.validation, 0)
    published = open_images("digits")
    word = {published.read(i).tobytes(): published.classes[k] for i, k in enumerate(published.labels)}
    for part in parts[1:]:
        assert all(word[part.read(i).tobytes()] == part.classes[k] for i, k in enumerate(part.labels))
    with pytest.raises(ConfigError, match="no class '11'"):
        build_data(replace(plan, classes=("7", "11")), tmp_path, None, (0,), silent)
    with pytest.raises(DataError, match=r"images of '\d'; the table takes"):
        build_data(replace(plan, n_val=340), tmp_path, None, (0,), silent)


def test_sets_in_parquet_files(tmp_path: Path, shared_data: Path) -> None:
    data = build_data(PoolPlan("mnist", 50, 20, 1), tmp_path, shared_data, (0,), silent)
    assert open_images(data.source).read(0).shape[:2] == (28, 28)
    assert len(open_images(data.test)) == 20


def test_data_that_are_not_there_or_too_few(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no mnist-train.parquet"):
        build_data(PoolPlan("mnist", 50, 20, 1), tmp_path, tmp_path, (0,), silent)
    with pytest.raises(DataError, match=r"images of '\d'; the table takes"):
        build_data(PoolPlan("digits", 3000, 20, 1), tmp_path, None, (0,), silent)
    with pytest.raises(ConfigError, match="9 of them cannot go unseen"):
        build_data(PoolPlan("digits", 50, 20, 1, n_unseen=9), tmp_path, None, (0,), silent)


def test_a_users_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no train"):
        user_data(tmp_path)
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
    data = user_data(tmp_path)
    assert (data.source, data.test) == (str(tmp_path / "train"), str(tmp_path / "test"))
    assert data.truth is None
    assert data.labels_of(3) == ()
    (tmp_path / "truth.csv").write_text("path,label\na.png,cat\n")
    truth = user_data(tmp_path).truth
    assert [tuple(row) for row in read_known(truth)] == [("a.png", "cat", "a.png")]


# ------------------------------------------------------------------ names


def test_identity_is_what_determines_the_cell(digits: TableData, tmp_path: Path) -> None:
    train = Train("fixmatch", FLAGS)
    base = Cell(train, digits, 0)
    moved = build_data(TINY, tmp_path, None, (0, 1), silent)
    assert Cell(train, moved, 0).identity == base.identity  # wherever the data lie
    assert Cell(Train("fixmatch", {**FLAGS, "checkpoint": {"every_steps": 2}}), digits, 0).identity == base.identity
    spelled = {**FLAGS, "method": {"tau": 0.95}}  # a default, written out
    assert Cell(Train("fixmatch", spelled), digits, 0).identity == base.identity
    other_labels = replace(digits, labels={0: digits.labels[1]})
    asked = Cell(Ask(4, "entropy"), digits, 0, start=base)
    others = [
        Cell(train, digits, 1),
        Cell(Train("fixmatch", {**FLAGS, "steps": 7}), digits, 0),
        Cell(Train("fixmatch", {**FLAGS, "method": {"tau": 0.9}}), digits, 0),
        Cell(Train("supervised", FLAGS), digits, 0),
        Cell(train, replace(digits, identity="other images"), 0),
        Cell(train, other_labels, 0),
        Cell(train, digits, 0, start=base),
        Cell(train, digits, 0, start=Cell(train, digits, 1)),
        Cell(train, digits, 0, asked=asked),
        Cell(train, digits, 0, asked=Cell(Ask(5, "entropy"), digits, 0, start=base)),
        Cell(train, digits, 0, asked=Cell(Ask(4, "random"), digits, 0, start=base)),
        Cell(Probe(), digits, 0, start=base),
    ]
    identities = {cell.identity for cell in (base, *others)}
    assert len(identities) == 1 + len(others)


def test_pretraining_depends_on_the_seed_and_not_on_labels(digits: TableData) -> None:
    flags = {"steps": 2, "model": {"name": "small"}, "batch": {"size": 8}, "data": {"val_rate": 0.0}}
    cell = Cell(Train("simclr", flags), digits, 0)
    assert cell.work.kind == "pretrain"
    assert cell.first_labels == ()
    assert Cell(cell.work, replace(digits, labels={0: digits.labels[1]}), 0).identity == cell.identity
    assert Cell(cell.work, digits, 1).identity != cell.identity


@pytest.mark.parametrize(("method", "per_step"), [("supervised", 8), ("fixmatch", 8 + 2 * 2 * 8)])
def test_images_become_steps_by_the_methods_own_views(digits: TableData, method: str, per_step: int) -> None:
    flags = {name: value for name, value in FLAGS.items() if name != "steps"}
    assert Train(method, flags, images=1000).options(digits).steps == 1000 // per_step


# ------------------------------------------------------------------ running: cheap works stand in for training


@dataclass(frozen=True)
class Note:
    """Appends the process to a file and is finished; may take a while, or fail as long as a file exists."""

    name: str
    folder: Path
    seconds: float = 0.0
    kind: str = "note"
    uses_labels: bool = False

    def determines(self, data: TableData) -> Mapping[str, Any]:
        return {"name": self.name}

    def words(self, data: TableData) -> str:
        return f"note {self.name}"

    def run(self, place: Place, progress: Progress) -> dict[str, float]:
        time.sleep(self.seconds)
        if (self.folder / f"{self.name}.broken").exists():
            raise TrainingError(f"{self.name} is broken")
        with (self.folder / f"{self.name}.txt").open("a") as file:
            file.write(f"{os.getpid()}\n")
        return {"accuracy": 0.5}


def nowhere(name: str = "none") -> TableData:
    return TableData(name, "none", None, "none", {})


def chain(folder: Path, *names: str, seconds: float = 0.0) -> list[Cell]:
    """Cells that each need the one before."""
    cells: list[Cell] = []
    for name in names:
        cells.append(Cell(Note(name, folder, seconds), nowhere(), 0, start=cells[-1] if cells else None))
    return cells


def runs_of(folder: Path, name: str) -> int:
    file = folder / f"{name}.txt"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_needs_run_first_and_what_is_finished_is_skipped(tmp_path: Path) -> None:
    first, second, third = chain(tmp_path, "a", "b", "c")
    grid = Grid([third, second], tmp_path)  # `first` is added because it is needed
    assert list(grid.cells.values()) == [first, second, third]
    found = grid.run()
    assert [found[cell.identity].figures for cell in (first, second, third)] == [{"accuracy": 0.5}] * 3
    again = Grid([third], tmp_path).run()
    assert again == found
    assert [runs_of(tmp_path, name) for name in "abc"] == [1, 1, 1]


def test_a_finished_cell_stands_whatever_became_of_what_it_needed(tmp_path: Path) -> None:
    first, second = chain(tmp_path, "a", "b")
    grid = Grid([second], tmp_path)
    grid.run()
    shutil.rmtree(grid.folder(first))
    (tmp_path / "a.broken").touch()
    found = grid.run()
    assert found[first.identity].failure == "a is broken"
    assert found[second.identity].figures == {"accuracy": 0.5}


def test_a_cell_that_another_process_finished_just_before_the_lock_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,) = chain(tmp_path, "a")
    taking = grid_module.held

    @contextmanager
    def taken_late(path: Path) -> Iterator[bool]:
        record = {"words": "", "seed": 0, "figures": {"accuracy": 0.7}, "seconds": 1.0}
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "cell.json").write_text(json.dumps(record))
        with taking(path) as mine:
            yield mine

    monkeypatch.setattr(grid_module, "held", taken_late)
    assert Grid([cell], tmp_path).run()[cell.identity].figures == {"accuracy": 0.7}
    assert runs_of(tmp_path, "a") == 0


def test_equal_cells_are_one(tmp_path: Path) -> None:
    grid = Grid([*chain(tmp_path, "a"), *chain(tmp_path, "a")], tmp_path)
    grid.run()
    assert runs_of(tmp_path, "a") == 1


def test_a_failure_ends_its_cell_and_those_that_need_it_and_is_tried_again(tmp_path: Path) -> None:
    first, second = chain(tmp_path, "a", "b")
    (alone,) = chain(tmp_path, "c")
    (tmp_path / "a.broken").touch()
    found = Grid([second, alone], tmp_path).run()
    assert found[first.identity].failure == "a is broken"
    assert found[second.identity].failure == "needs note a, which failed"
    assert found[alone.identity].failure is None
    assert runs_of(tmp_path, "b") == 0
    (tmp_path / "a.broken").unlink()
    found = Grid([second, alone], tmp_path).run()
    assert [done.failure for done in found.values()] == [None] * 3
    assert [runs_of(tmp_path, name) for name in "abc"] == [1, 1, 1]


def test_errors_that_are_not_ekes_own_are_not_hidden(tmp_path: Path) -> None:
    (cell,) = chain(tmp_path / "missing", "a")  # its folder is not there: an OSError
    with pytest.raises(FileNotFoundError):
        Grid([cell], tmp_path).run()


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (cell,) = chain(tmp_path, "a")
    grid = Grid([cell], tmp_path)
    grid.run()
    (grid.folder(cell) / "cell.json").write_text("{")
    with pytest.raises(DataError, match=r"cell.json is damaged"):
        Grid([cell], tmp_path).run()


def test_a_cell_that_another_process_holds_is_left_to_it_and_waited_for(tmp_path: Path) -> None:
    held, free = (chain(tmp_path, name)[0] for name in ("held", "free"))
    grid = Grid([held, free], tmp_path)
    folder = grid.folder(held)
    folder.mkdir(parents=True)
    found: dict[str, Any] = {}
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # another open file: as if another process had it
        worker = threading.Thread(target=lambda: found.update(grid.run()))
        worker.start()
        until = time.monotonic() + 30
        while not runs_of(tmp_path, "free") and time.monotonic() < until:
            time.sleep(0.01)
        assert runs_of(tmp_path, "free") == 1
        time.sleep(0.05)
        assert runs_of(tmp_path, "held") == 0
        assert worker.is_alive()
    worker.join(30)
    assert runs_of(tmp_path, "held") == 1
    assert set(found) == {held.identity, free.identity}


SHARE = """
import sys; from pathlib import Path
import importlib.util
spec = importlib.util.spec_from_file_location("grid_cells_of_the_test", sys.argv[1])
test = importlib.util.module_from_spec(spec); sys.modules[spec.name] = test; spec.loader.exec_module(test)
out = Path(sys.argv[2])
cells = [cell for name in "abcdef" for cell in test.chain(out, name, name * 2, seconds=0.15)]
(out / f"ready-{sys.argv[3]}").touch()
while len(list(out.glob("ready-*"))) < 2: pass
assert len(test.Grid(cells, out).run()) == 12
"""


@pytest.mark.slow
def test_two_processes_share_the_cells(tmp_path: Path) -> None:
    words = [sys.executable, "-c", SHARE, __file__, str(tmp_path)]
    both = [subprocess.Popen([*words, str(i)], stderr=subprocess.PIPE, text=True) for i in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    workers = [(tmp_path / f"{name}.txt").read_text().split() for each in "abcdef" for name in (each, each * 2)]
    assert all(len(each) == 1 for each in workers)  # every cell once
    assert len({each[0] for each in workers}) == 2  # and both had a part


# ------------------------------------------------------------------ real cells


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, digits: TableData) -> tuple[Grid, dict[str, Cell]]:
    """A fit, a probe of it, a request for labels by it, and a fit with the answers."""
    fit = Cell(Train("fixmatch", FLAGS), digits, 0)
    asked = Cell(Ask(5, "entropy"), digits, 0, start=fit)
    cells = {
        "fit": fit,
        "probe": Cell(Probe(), digits, 0, start=fit),
        "asked": asked,
        "more": Cell(Train("supervised", FLAGS), digits, 0, start=fit, asked=asked),
    }
    grid = Grid(list(cells.values()), tmp_path_factory.mktemp("grid"))
    found = grid.run()
    assert [done.failure for done in found.values()] == [None] * 4
    return grid, cells


def test_what_cells_find(finished: tuple[Grid, dict[str, Cell]]) -> None:
    grid, cells = finished
    figures = {name: grid.done(cell).figures for name, cell in cells.items()}
    assert figures["fit"]["images"] == 6 * (8 + 2 * 16)
    assert figures["fit"]["train_seconds"] > 0
    folder = RunFolder(run_folder(grid.folder(cells["fit"])))
    assert figures["fit"]["accuracy"] == folder.read(folder.results)["evaluations"]["test"]["accuracy"]["value"]
    assert {"linear", "knn"} == set(figures["probe"])
    assert all(0 < value <= 1 for value in figures["probe"].values())
    assert figures["fit"]["labels"] == 20
    assert figures["more"]["labels"] == 25  # five were answered


def test_the_annotator_tells_the_truth_about_what_was_asked_and_nothing_else(
    finished: tuple[Grid, dict[str, Cell]], digits: TableData
) -> None:
    grid, cells = finished
    folder = grid.folder(cells["asked"])
    truth = {row.path: row.label for row in read_known(digits.truth)}
    answers = {row.path: row.label for row in read_known(answers_file(folder))}
    assert set(answers) == {row.path for row in read_known(folder / "request.csv")}
    assert all(truth[path] == label for path, label in answers.items())
    assert not set(answers) & {row.path for row in read_known(digits.labels[0])}


def test_without_a_truth_the_request_waits_for_a_person(
    tmp_path: Path, finished: tuple[Grid, dict[str, Cell]], digits: TableData
) -> None:
    fitted = finished[0].folder(finished[1]["fit"])
    place = Place(tmp_path, replace(digits, truth=None), 0, (), run_folder(fitted))
    with pytest.raises(DataError, match="Fill in its column label"):
        Ask(3, "entropy").run(place, silent)
    request = tmp_path / "request.csv"
    rows = request.read_text().splitlines()
    answers_file(tmp_path).write_text("\n".join([rows[0], *(f"{row}7" for row in rows[1:])]) + "\n")
    assert Ask(3, "entropy").run(place, silent) == {"labels": 3}
    assert request.read_text().splitlines() == rows  # not asked again


def test_a_plan_counts_times_and_knows_what_is_finished(
    finished: tuple[Grid, dict[str, Cell]], digits: TableData
) -> None:
    grid, cells = finished
    new = [Cell(Train("fixmatch", FLAGS), digits, 1), Cell(Train("fixmatch", {**FLAGS, "steps": 60}), digits, 1)]
    plan = make_plan(Grid([*cells.values(), *new], grid.home.parent))
    of = {each.words: each for each in plan}
    fit = of["fit fixmatch on digits, 6 steps, 240 images"]
    assert (fit.n, fit.n_done) == (2, 1)
    assert fit.seconds == grid.done(cells["fit"]).seconds  # from the finished one
    timed = of["fit fixmatch on digits, 60 steps, 2,400 images"]
    assert (timed.n, timed.n_done) == (1, 0)
    assert 0 < timed.seconds < 60
    text = plan_in_words(plan)
    assert "2 cells to do, 4 done" in text
    assert f"about {in_words(fit.seconds + timed.seconds)} by one process" in text
    unknown = make_plan(Grid([Cell(Ask(7, "random"), digits, 0, start=cells["fit"])], grid.home.parent), None)
    assert "and 1 cells whose time is not known yet" in plan_in_words(unknown)


LONG = {**FLAGS, "steps": 200, "checkpoint": {"every_steps": 7}}
KILLED = """
import sys; from pathlib import Path
from eke.progress import silent
from eke.tasks import grid as grid_module
from eke.tasks.grid import Grid
from eke.tasks.grid_cells import Cell, Train
from eke.tasks.grid_data import PoolPlan, build_data
import json
out = Path(sys.argv[1])
data = build_data(PoolPlan(**json.loads(sys.argv[2])), out, None, (0,), silent)
Grid([Cell(Train("fixmatch", json.loads(sys.argv[3])), data, 0)], out).run()
"""


@pytest.mark.slow
def test_a_killed_grid_goes_on_and_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    words = json.dumps(vars(TINY)), json.dumps(LONG)
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    command = [sys.executable, "-c", KILLED]
    process = subprocess.Popen([*command, str(broken), *words])
    until = time.monotonic() + 120
    while not list(broken.glob("cells/*/run/checkpoint.pt")) and time.monotonic() < until and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    (cell,) = broken.glob("cells/fit-*")
    assert not (cell / "cell.json").exists()
    for out in (broken, whole):
        subprocess.run([*command, str(out), *words], check=True, timeout=200)
    ended = [load_file(next(out.glob("cells/*/run/model/weights.safetensors"))) for out in (broken, whole)]
    assert ended[0].keys() == ended[1].keys()
    assert all(torch.equal(ended[0][name], ended[1][name]) for name in ended[0])
    records = [json.loads(next(out.glob("cells/*/cell.json")).read_text()) for out in (broken, whole)]
    assert records[0]["figures"]["accuracy"] == records[1]["figures"]["accuracy"]
    assert records[0]["seconds"] is None  # a kill came between: nobody knows how long it took
    assert records[1]["seconds"] > 0


def test_a_run_folder_that_a_kill_left_without_a_config_is_begun_anew(tmp_path: Path, digits: TableData) -> None:
    cell = Cell(Train("supervised", FLAGS), digits, 0)
    grid = Grid([cell], tmp_path)
    left = run_folder(grid.folder(cell))
    left.mkdir(parents=True)
    (left / ".config.json.abc").write_text("{")
    assert grid.run()[cell.identity].failure is None


# ------------------------------------------------------------------ claims


def seeds(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def claim(*contrasts: Contrast, at_chance: bool = False) -> Statement:
    return Statement("a sentence", "section 1", contrasts, at_chance)


HIGH, LOW, NEAR = seeds(0.8, 0.82, 0.81), seeds(0.5, 0.53, 0.5), seeds(0.79, 0.84, 0.81)


@pytest.mark.parametrize(
    ("plus", "minus", "at_chance", "verdict"),
    [
        (HIGH, LOW, False, "agrees"),
        (LOW, HIGH, False, "does not agree"),
        (HIGH, NEAR, False, "cannot tell"),
        (HIGH, HIGH, False, "cannot tell"),
        (seeds(0.9), seeds(0.1), False, "cannot tell"),  # one seed has no interval
        (HIGH, LOW, True, "at chance: no statement"),
        (HIGH, {}, False, "not measured"),
    ],
)
def test_words_of_one_difference(
    plus: dict[int, float], minus: dict[int, float], at_chance: bool, verdict: str
) -> None:
    (judged,) = judge_all([claim(Contrast("x", [plus], [minus]), at_chance=at_chance)])
    assert judged.verdict == verdict
    assert judged.parts[0].verdict == verdict


def test_a_difference_is_paired_by_seed_over_the_seeds_that_both_have() -> None:
    a, b = {0: 0.5, 1: 0.7, 3: 0.6}, {3: 0.5, 1: 0.6, 2: 0.9}
    paired = Contrast("x", [a], [b]).paired()
    assert paired.interval.value == pytest.approx(0.1)
    assert paired == paired_t([0.7, 0.6], [0.6, 0.5])
    four = Contrast("x", [seeds(1, 2, 3), seeds(4, 5, 9)], [seeds(1, 1, 1), seeds(2, 2, 2)]).paired()
    assert four.interval.value == pytest.approx(np.mean([2, 4, 9]))


def test_a_claim_of_several_differences_says_all_of_them() -> None:
    up, down, open_ = Contrast("u", [HIGH], [LOW]), Contrast("d", [LOW], [HIGH]), Contrast("o", [HIGH], [NEAR])
    missing = Contrast("m", [HIGH], [{}])
    words = [
        ((up, up), "agrees"),
        ((up, open_), "cannot tell"),
        ((open_, down), "does not agree"),
        ((up, missing), "not measured"),
        ((down, missing), "does not agree"),
    ]
    for contrasts, verdict in words:
        for order in itertools.permutations(contrasts):
            assert judge_all([claim(*order)])[0].verdict == verdict


def test_p_is_corrected_over_all_differences_of_a_table() -> None:
    generator = np.random.default_rng(0)
    sides = [(seeds(*generator.normal(0.6, 0.05, 5)), seeds(*generator.normal(0.5, 0.05, 5))) for _ in range(3)]
    contrasts = [Contrast("x", [a], [b]) for a, b in sides]
    judged: list[JudgedClaim] = judge_all([claim(*contrasts[:2]), claim(contrasts[2])])
    raw = [scipy.stats.ttest_rel(list(a.values()), list(b.values())).pvalue for a, b in sides]
    order = np.argsort(raw)
    expected, running = [0.0] * 3, 0.0
    for place, i in enumerate(order):
        running = max(running, min(1.0, (3 - place) * raw[i]))
        expected[i] = running
    assert [part.p_holm for each in judged for part in each.parts] == pytest.approx(expected, abs=1e-9)


def test_judging_looks_at_the_sign_only_where_it_is_decided() -> None:
    assert judge(paired_t([0.1, 0.2, 0.15], [0, 0, 0]), False) == "agrees"
    assert judge(paired_t([-0.1, -0.2, -0.15], [0, 0, 0]), False) == "does not agree"
    assert judge(paired_t([-0.1, 0.2, 0.15], [0, 0, 0]), False) == "cannot tell"


def test_above_chance_against_all_permutations() -> None:
    predicted, labels = np.array([0, 1, 1, 2, 2, 0, 1]), np.array([0, 1, 1, 2, 0, 0, 2])
    right = (predicted == labels).sum()
    every = [(predicted == np.array(each)).sum() >= right for each in itertools.permutations(labels)]
    assert above_chance(predicted, labels) == pytest.approx(np.mean(every), abs=4 * math.sqrt(0.05 * 0.95 / 999))


def test_one_class_for_all_is_chance_however_frequent_it_is() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    assert above_chance(np.zeros(100, np.int64), labels) == 1.0
    assert above_chance(labels, labels) == pytest.approx(1 / 1000)


def test_durations_in_words() -> None:
    assert [in_words(each) for each in (95, 1500, 20000)] == ["95 s", "25 min", "5.6 h"]
