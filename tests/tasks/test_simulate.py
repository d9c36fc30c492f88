"""Active learning replayed: pools, first batches, chains of labels, wrong answers, going on, and what is said of it."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eke.data.images import content_id
from eke.data.labels import apply_labels
from eke.data.sources import open_images
from eke.data.splits import load_split
from eke.errors import ConfigError
from eke.progress import silent
from eke.tasks import grid_cells
from eke.tasks.bought import in_words, labels_to_reach
from eke.tasks.distortions import kept_rows, perturb
from eke.tasks.grid import Done, Grid
from eke.tasks.grid_cells import Ask, Cell, Train, answers_file, run_folder
from eke.tasks.grid_claims import Contrast
from eke.tasks.grid_data import Known, TableData, mistaken, read_known
from eke.tasks.grid_table import Series
from eke.tasks.replay import RANDOM, Replay, area
from eke.tasks.simulate import make_table, plan, simulate
from eke.tasks.simulate_data import SimulationPlan, build_simulation
from eke.tasks.simulate_options import SimulateOptions, command

BATCH, ROUNDS = 15, 2
ORACLE = "eba:grad@block3/oracle"
OPTIONS = SimulateOptions(
    source="digits",
    test=None,
    strategies=["entropy", ORACLE],
    rounds=ROUNDS,
    batch=BATCH,
    seeds=1,
    imbalance=[10.0],
    distortion="none",
    noise=0.0,
    n_passes=2,
    n_val=40,
    method="supervised",
    flags={"steps": 8, "model": {"name": "small"}, "batch": {"labeled": 8}, "views": {"weak": "none"}},
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Replay, Grid]:
    out = tmp_path_factory.mktemp("simulated")
    result = simulate(OPTIONS, out)
    table, (replay,) = make_table(OPTIONS, out, silent)
    return out, result, replay, Grid(table.cells(), out)


def paths(file: Path) -> list[str]:
    return [row.path for row in read_known(file)]


def known(n: int, n_classes: int = 5) -> list[Known]:
    return [Known(f"pool/train#{i}", str(i % n_classes), f"key{i}") for i in range(n)]


# ------------------------------------------------------------------ data


def build(tmp_path: Path, **values: Any) -> TableData:
    return build_simulation(SimulationPlan("digits", None, BATCH, n_val=40, **values), tmp_path, (0, 1), silent)


def test_parts_share_no_image_and_only_the_truth_knows_the_pool(tmp_path: Path) -> None:
    data = build(tmp_path)
    pool, test, published = open_images(data.source), open_images(data.test), open_images("digits")
    roles = np.array(pool.split)
    assert (pool.labels[roles == "train"] == -1).all()
    assert (pool.labels[roles == "val"] >= 0).all()
    assert (roles == "val").sum() == 40
    assert set(np.bincount(pool.labels[roles == "val"], minlength=10).tolist()) == {4}
    assert not set(pool.ids) & set(test.ids)
    assert len(pool) + len(test) == len(published)  # at ratio 1 nothing is left over but what is drawn less
    word = {published.read(i).tobytes(): published.classes[k] for i, k in enumerate(published.labels)}
    images = {path: pool.read(i) for i, path in enumerate(pool.paths)}
    for row in read_known(data.truth):
        assert word[images[row.path].reshape(8, 8).tobytes()] == row.label
        assert row.key == content_id(images[row.path].reshape(8, 8))
    for seed, other in ((0, 1), (1, 0)):
        first = paths(data.labels[seed])
        assert len(first) == len({*first}) == BATCH
        assert set(first) <= {row.path for row in read_known(data.truth)}
        assert first != paths(data.labels[other])


def test_imbalance_counts_are_exact_and_validation_and_test_stay(tmp_path: Path) -> None:
    even = build(tmp_path)
    counts = Counter(row.label for row in read_known(even.truth))
    for ratio in (10.0, 100.0):
        data = build(tmp_path, imbalance=ratio)
        rare = Counter(row.label for row in read_known(data.truth))
        n = sum(counts[str(k)] for k in range(5))
        assert all(rare[str(k)] == counts[str(k)] for k in range(5))
        assert sum(rare[str(k)] for k in range(5, 10)) == int(n / ratio)
        assert open_images(data.test).ids == open_images(even.test).ids
        assert sorted(open_images(data.source).classes) == [str(k) for k in range(10)]
        assert data.identity != even.identity


def test_first_batches_hold_as_many_rare_images_as_chance_would(tmp_path: Path) -> None:
    """Whatever was drawn before: the pool out of all images, and the rare ones out of the pool."""
    for n_pool in (None, 600):
        plan = SimulationPlan("digits", None, 100, imbalance=10.0, n_val=40, n_pool=n_pool)
        data = build_simulation(plan, tmp_path, range(8), silent)
        truth = {row.path: row.label for row in read_known(data.truth)}
        rare = np.array([truth[path] >= "5" for path in truth])
        counts = [sum(truth[path] >= "5" for path in paths(data.labels[seed])) for seed in range(8)]
        spread = np.sqrt(100 * rare.mean() * (1 - rare.mean()))
        assert np.abs(np.array(counts) - 100 * rare.mean()).max() < 4 * spread
        assert len({*counts}) > 1


def test_numbers_that_are_named_are_kept_exactly(tmp_path: Path) -> None:
    data = build(tmp_path, n_pool=200, n_test=50, size=16)
    pool = open_images(data.source)
    assert Counter(pool.split) == {"train": 200, "val": 40}
    assert pool.read(0).shape[:2] == (16, 16)
    assert len(open_images(data.test)) == 50
    with pytest.raises(ConfigError, match="--val 5: give a number from 10"):
        build_simulation(SimulationPlan("digits", None, BATCH, n_val=5), tmp_path, (0,), silent)


LABELS = np.repeat(np.arange(4), (40, 30, 20, 10))
RANKS = np.random.default_rng(0).permutation(100)
BRIGHT = np.random.default_rng(1).random(100)


def test_distortions_by_brute_force() -> None:
    tail = kept_rows(LABELS, RANKS, BRIGHT, 8.0, "long_tail")
    assert np.bincount(LABELS[tail]).tolist() == [40, 20, 10, 5]
    rows = kept_rows(LABELS, RANKS, BRIGHT, 5.0, "within_class")
    for k, size in enumerate((40, 30, 20, 10)):
        middle = np.median(BRIGHT[k == LABELS])
        mine = rows[LABELS[rows] == k]
        assert (BRIGHT[mine] < middle).sum() == size // 2
        assert (BRIGHT[mine] > middle).sum() == int(size / 2 / 5)
    step = kept_rows(LABELS, RANKS, BRIGHT, 10.0, "none")
    assert (LABELS[step] < 2).sum() == 70
    others = sorted(np.flatnonzero(LABELS >= 2).tolist(), key=RANKS.__getitem__)[:7]
    assert sorted(step[LABELS[step] >= 2].tolist()) == sorted(others)


def test_perturbed_images_are_three_tenths_of_the_pool() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 1), dtype=np.uint8)
    before = pixels.copy()
    changed = perturb(pixels, np.arange(40))
    differ = (changed != pixels).any((1, 2, 3))
    assert differ.tolist() == [True] * 12 + [False] * 28
    assert (pixels == before).all()
    blurred = changed[1, 6, 6, 0]
    assert abs(float(blurred) - pixels[1, 4:9, 4:9, 0].mean()) <= 0.51
    assert changed[1].std() < 0.5 * pixels[1].std() < changed[0].std()


def test_noise_flips_an_exact_share_to_other_classes_whoever_asks() -> None:
    truth = known(200)
    said = mistaken(truth, 0.15, seed=3)
    wrong = [a for a, b in zip(said, truth, strict=True) if a.label != b.label]
    assert len(wrong) == 30
    assert [row.path for row in said] == [row.path for row in truth]
    assert len({row.label for row in wrong}) == 5
    assert mistaken(truth, 0.15, seed=3) == said
    assert mistaken(truth, 0.15, seed=4) != said
    assert mistaken(truth, 0.0, seed=3) == truth
    other = {row.path for row in wrong}
    assert other <= {a.path for a, b in zip(mistaken(truth, 0.5, 3), truth, strict=True) if a.label != b.label}


# ------------------------------------------------------------------ rounds


def test_labels_of_a_round_are_those_of_all_rounds_before(done: tuple[Path, dict[str, Any], Replay, Grid]) -> None:
    _, _, replay, grid = done
    truth = {row.path: row.label for row in read_known(replay.data.truth)}
    for strategy in replay.strategies:
        expected = paths(replay.data.labels[0])
        for number, series in enumerate(replay.curve(strategy)):
            (cell,) = series.cells
            if number:
                request = grid.folder(cell.asked)
                asked = paths(request / "request.csv")
                assert len(asked) == BATCH
                assert not set(asked) & set(expected), "no image is asked for twice"
                assert {row.path: row.label for row in read_known(answers_file(request))} == {
                    path: truth[path] for path in asked
                }
                expected += asked
            images = open_images(replay.data.source)
            split = load_split(run_folder(grid.folder(cell)) / "split.json")
            trained = {images.paths[row] for row in images.positions(split.labeled)}
            assert trained == set(expected)
            assert len(split.validation) == 40
            assert cell.start is None, "each round starts from random weights"


def test_strategies_begin_alike(done: tuple[Path, dict[str, Any], Replay, Grid]) -> None:
    _, _, replay, _ = done
    curves = [replay.curve(strategy) for strategy in replay.strategies]
    assert len({curve[0].cells[0].identity for curve in curves}) == 1
    assert len({curve[1].cells[0].identity for curve in curves}) == len(curves)


def test_only_an_oracle_sees_the_true_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def asked(run: Path, source: str, n: int, strategy: str, out: Path, *_: Any, **named: Any) -> None:
        seen[strategy] = named
        out.write_text("path,label\n")

    monkeypatch.setattr(grid_cells, "ask", asked)
    data = build(tmp_path)
    for strategy in (RANDOM, "varratio_mc", "eba:ig@L90", "eba:ig@L90/oracle"):
        folder = tmp_path / strategy.replace("/", "-")
        folder.mkdir()
        Ask(3, strategy, 4).run(grid_cells.Place(folder, data, 0, (), tmp_path), silent)
    assert {name for name, given in seen.items() if given["truth"] is not None} == {"eba:ig@L90/oracle"}
    assert all(given["control_rate"] == 0 and not given["sheet"] for given in seen.values())
    assert (open_images(data.source).labels[np.array(open_images(data.source).split) == "train"] == -1).all()


def test_requests_are_named_by_what_makes_a_difference(tmp_path: Path) -> None:
    data = TableData("none", "none", None, "none", {})
    start = Cell(Ask(1, "random"), data, 0)

    def name(*given: Any) -> str:
        return Cell(Ask(*given), data, 0, start=start).identity

    assert name(5, "entropy") == name(5, "entropy", 4), "no passes, no difference"
    assert name(5, "varratio_mc") != name(5, "varratio_mc", 4)
    assert name(5, "eba:ig") != name(5, "eba:ig", 4)
    assert name(5, "entropy", 32, 0.1) != name(5, "entropy")
    chain = Cell(Ask(1, "random"), data, 0, start=Cell(Ask(1, "random"), data, 0, asked=start))
    assert Cell(Ask(1, "random"), data, 0, asked=chain).requests == (start, chain)


def test_a_stopped_simulation_runs_only_what_is_missing(
    done: tuple[Path, dict[str, Any], Replay, Grid], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, result, replay, grid = done
    (last,) = replay.curve("entropy")[-1].cells
    (grid.folder(last) / "cell.json").unlink()
    trained = []
    run = Train.run
    monkeypatch.setattr(Train, "run", lambda self, place, bar: trained.append(place.folder) or run(self, place, bar))
    monkeypatch.setattr(Ask, "run", lambda *_: pytest.fail("nothing is to be asked"))
    again = simulate(OPTIONS, out)
    assert trained == [grid.folder(last)]
    assert again["sections"] == result["sections"]
    assert "\n0 cells to do, 14 done" in plan(OPTIONS, out)


# ------------------------------------------------------------------ what is said


def test_random_has_no_area_over_itself_and_areas_are_trapezoids(
    done: tuple[Path, dict[str, Any], Replay, Grid],
) -> None:
    _, _, replay, grid = done
    random = replay.curve(RANDOM)
    found = grid.run()

    def difference(higher: list[Series], lower: list[Series]) -> float:
        each = area("", higher, lower)
        sides = [
            [{0: found[s.cells[0].identity].figures["accuracy"]} for s in side] for side in (each.plus, each.minus)
        ]
        return Contrast("", *sides, n=each.n).paired().interval.value

    assert difference(random, random) == 0
    heights = [
        [found[series.cells[0].identity].figures["accuracy"] for series in replay.curve(name)]
        for name in ("entropy", RANDOM)
    ]
    expected = [np.trapezoid(values) / ROUNDS for values in heights]
    assert difference(replay.curve("entropy"), random) == pytest.approx(expected[0] - expected[1], abs=1e-12)


def test_page_has_curves_areas_and_what_labels_bought(done: tuple[Path, dict[str, Any], Replay, Grid]) -> None:
    out, result, _, _ = done
    assert result["failures"] == []
    (section,) = result["sections"]
    assert section["columns"] == ["15", "30", "45"]
    names = [row["name"] for row in section["rows"]]
    assert names[:-1] == [RANDOM, "entropy", ORACLE]
    assert names[-1].startswith("all ")
    assert len({row["figures"]["15"]["ours"]["value"] for row in section["rows"][:-1]}) == 1
    assert [claim["parts"][0]["words"] for claim in result["claims"]] == ["entropy − random", f"{ORACLE} − random"]
    assert section["rows"][0]["spent"]["labels"] == 45 + 40
    assert "30 more labels bought" in (out / "simulate.html").read_text()
    assert "paper" not in (out / "simulate.md").read_text().lower()
    assert json.loads((out / "simulate.json").read_text())["sections"] == result["sections"]


def test_what_labels_bought() -> None:
    labels = [100.0, 200.0, 300.0]
    assert labels_to_reach(0.6, labels, [0.5, 0.7, 0.8]) == pytest.approx(150)
    assert labels_to_reach(0.4, labels, [0.5, 0.7, 0.8]) == 100
    assert labels_to_reach(0.9, labels, [0.5, 0.7, 0.8]) is None
    assert in_words("badge", labels, [0.5, 0.8, 0.9], [0.5, 0.6, 0.7]) == (
        "badge: 200 more labels bought +40.0 points, 90.0 % at the end; it has what random labels have at the end "
        "after 167 of 300."
    )
    assert "which random labels exceed by 10.0 points" in in_words("k", labels, [0.5, 0.5, 0.6], [0.5, 0.6, 0.7])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rounds": 0}, "--rounds 0: give 1 or more"),
        ({"imbalance": [0.5]}, "--imbalance is a list of ratios of 1 or more"),
        ({"noise": 1.5}, "--noise 1.5 is no share"),
        ({"distortion": "long-tail"}, "Unknown distortion 'long-tail'. Did you mean 'long_tail'"),
        ({"strategies": ["entropi"]}, "Unknown strategy 'entropi'. Did you mean 'entropy'"),
        ({"strategies": ["varratio_mc"]}, "varratio_mc needs dropout"),
        ({"batch": 400}, "2 rounds of 400 after a first batch are 1,200 images, and the pool at imbalance 10 has"),
    ],
)
def test_what_cannot_be_simulated(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        plan(replace(OPTIONS, **changed), tmp_path)
    assert message in str(raised.value)


def test_dropout_is_known_where_the_network_has_it() -> None:
    for model in ({"name": "lenet"}, {"name": "small", "dropout": 0.2}):
        replace(OPTIONS, strategies=["bald"], flags={"model": model}).checked()


def test_the_command_says_everything() -> None:
    words = command(OPTIONS, Path("out"))
    assert words.startswith(f"eke simulate digits --strategies entropy,{ORACLE} --rounds 2 --batch 15 --seeds 1")
    assert "--imbalance 10 --distort none --noise 0.0 --passes 2 --val 40 --method supervised --out out" in words
    assert "--set batch.labeled=8" in words


def test_every_network_of_a_seed_may_begin_from_one_that_saw_no_labels(tmp_path: Path) -> None:
    options = replace(OPTIONS, strategies=["entropy"], rounds=1, start="simclr", start_steps=3)
    result = simulate(options, tmp_path)
    table, (replay,) = make_table(options, tmp_path, silent)
    grid = Grid(table.cells(), tmp_path)
    fits = [cell for series in (*replay.curve("entropy"), replay.whole(9)) for cell in series.cells]
    (start,) = {cell.start.identity: cell.start for cell in fits if cell.start}.values()
    folder = run_folder(grid.folder(start))
    assert json.loads((folder / "results.json").read_text())["steps"] == 3
    for cell in fits:
        config = json.loads((run_folder(grid.folder(cell)) / "config.json").read_text())
        assert config["init"] == str(folder)
    assert "from a network that simclr trained on the pool without labels, 3 steps" in result["markdown"]
    assert "--start simclr --start-steps 3" in command(options, tmp_path)
    with pytest.raises(ConfigError, match="supervised"):
        plan(replace(options, start="supervised"), tmp_path)


def test_the_whole_pool_is_trained_on_with_its_true_labels(done: tuple[Path, dict[str, Any], Replay, Grid]) -> None:
    _, _, replay, grid = done
    found: dict[str, Done] = grid.run()
    n = len(read_known(replay.data.truth))
    (cell,) = replay.whole(n).cells
    assert found[cell.identity].figures["labels"] == n + 40
    labeled = apply_labels(open_images(replay.data.source), [replay.data.truth])
    assert labeled.labeled.all()
