"""What the page, the Markdown and the JSON of a table say, from constructed figures."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from eke.engine.journal import RunFolder
from eke.engine.predict import Predictions
from eke.metrics.statistics import Interval, Paired, t_interval
from eke.progress import silent
from eke.report.page import render
from eke.report.table import (
    Judged,
    JudgedClaim,
    Spent,
    TableFigure,
    TableReport,
    TableRow,
    TableSection,
    figure_text,
    table_markdown,
    table_page,
)
from eke.tasks.grid import Done, Grid
from eke.tasks.grid_cells import Cell, Probe, Train, run_folder
from eke.tasks.grid_data import PoolPlan, TableData, build_data
from eke.tasks.grid_table import (
    Chosen,
    Claim,
    Difference,
    Row,
    Section,
    Series,
    Table,
    at_chance,
    report_of,
    write_table,
)


def example(**changes: object) -> TableReport:
    rows = [
        TableRow(
            "A | B <b>",
            "a note",
            {
                "Acc.": TableFigure(Interval(0.61, 0.55, 0.67), {0: 0.6, 1: 0.62}, paper=0.508),
                "Edges": TableFigure(Interval(3.25, 2, 4.5), {0: 3, 1: 3.5}, rate=False),
            },
            Spent(20, 3_996, 4.0, "46 + 31"),
        ),
        TableRow("C", "", {"Acc.": TableFigure(t_interval([0.5]), {0: 0.5})}, None),
        TableRow("D", "", {"Acc.": TableFigure(None, {}, paper=0.3)}, None),
    ]
    parts = (
        Judged("A − C", Paired(Interval(0.1, 0.05, 0.15), 0.004), 0.012, "agrees"),
        Judged("edges", Paired(Interval(-1.5, -2.5, -0.5), 0.02), 0.04, "does not agree", rate=False),
        Judged("one", Paired(Interval(0.2, -math.inf, math.inf), math.nan), math.nan, "cannot tell"),
    )
    values = {
        "title": "A table",
        "command": "eke reproduce x --out y",
        "scale": "cpu",
        "n_seeds": 2,
        "sections": [TableSection("MNIST", "what is shared", ("Acc.", "Edges"), rows)],
        "claims": [
            JudgedClaim("A is better", "Table 2", "does not agree", parts),
            JudgedClaim("C too", "section 4", "at chance: no statement", ()),
            JudgedClaim("so", "section 5", "agrees", ()),
        ],
        "failures": [("fit x", "Step 3: loss is not finite")],
        "environment": {"commit": "abc, def", "device": "cpu: a processor"},
        **changes,
    }
    return TableReport(**values)  # type: ignore[arg-type]


def words_of(html: str) -> str:
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.S).split())


def test_the_page_says_everything() -> None:
    html = render(table_page(example()))
    text = words_of(html)
    for said in (
        "Of 3 sentences of the paper, 1 agree with these figures, 1 do not, 0 cannot be told",
        "of 1 nothing can be said.",
        "50.8 % / 61.0 %",
        "55.0 to 67.0 n = 2, SD 1.4",
        "3.25 2 to 4.5 n = 2, SD 0.354",
        "50.0 % n = 1",
        "30 % / none",
        "3,996",
        "999",  # images per second
        "46 + 31",
        "A is better",
        "Table 2",
        "+10.0 +5.0 to +15.0 p = 0.012 (Holm)",
        "-1.5 -2.5 to -0.5 p = 0.040 (Holm)",
        "+20.0 one seed: no interval",
        "at chance: no statement",
        "fit x Step 3: loss is not finite",
        "eke reproduce x --out y",
        "abc, def",
        "Holm",
    ):
        assert said in text, said
    assert "A | B &lt;b&gt;" in html


def test_markdown_is_a_table_that_one_can_paste() -> None:
    lines = table_markdown(example()).splitlines()
    (head,) = [i for i, line in enumerate(lines) if line.startswith("|  | Acc. | Edges |")]
    n = len(re.findall(r"(?<!\\)\|", lines[head]))
    table = lines[head : head + 5]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == n for line in table)
    assert table[2].startswith(
        r"| A \| B <b> | 50.8 % / 61.0 % [55.0 to 67.0] (n = 2, SD 1.4) | 3.25 [2 to 4.5] (n = 2, SD 0.354) | 20 |"
    )
    text = "\n".join(lines)
    assert "| **A is better** (Table 2) | | **does not agree** |" in text
    assert "| A − C | +10.0 [+5.0 to +15.0; p = 0.012 (Holm)] | agrees |" in text
    assert "- fit x: Step 3: loss is not finite" in text
    assert "- commit: abc, def" in text


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (TableFigure(Interval(0.5, 0.4, 0.6), {0: 0.5}, 0.508), "50.8 % / 50.0 %"),
        (TableFigure(Interval(0.5, 0.4, 0.6), {0: 0.5}), "50.0 %"),
        (TableFigure(None, {}, 0.51), "51 % / none"),
        (TableFigure(Interval(12.345, 1, 20), {0: 1}, rate=False), "12.3"),
    ],
)
def test_paper_and_ours(figure: TableFigure, text: str) -> None:
    assert figure_text(figure) == text


def test_without_failures_and_claims_their_sections_are_left_out() -> None:
    text = words_of(render(table_page(example(failures=[], claims=[]))))
    assert "Cells without a figure" not in text
    assert "Sentences and differences" not in text
    assert "not finite" not in table_markdown(example(failures=[], claims=[]))


def test_columns_that_are_numbers_are_drawn_as_curves() -> None:
    figure = TableFigure(Interval(0.61, 0.55, 0.67), {0: 0.6, 1: 0.62})
    rows = [
        TableRow("A", "", {"0.5": figure, "2": TableFigure(Interval(0.7, 0.65, 0.75), {0: 0.7, 1: 0.7})}, None),
        TableRow("B", "", {"0.5": TableFigure(None, {}), "2": figure}, None),
    ]
    html = render(table_page(example(sections=[TableSection("S", "", ("0.5", "2"), rows, "images a label")])))
    said = "A: 61.0 % (55.0 % to 67.0 %) at 0.5, 70.0 % (65.0 % to 75.0 %) at 2; B: 61.0 % (55.0 % to 67.0 %) at 2."
    assert f"over images a label. {said}" in html


# ------------------------------------------------------------------ from cells to the report

FLAGS = {"steps": 3, "model": {"name": "small"}, "batch": {"labeled": 8}, "data": {"val_rate": 0.0}}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> TableData:
    plan = PoolPlan("digits", n_pool=200, n_test=100, labels_per_class=2)
    return build_data(plan, tmp_path_factory.mktemp("data"), None, (0, 1), silent)


def series(digits: TableData, tau: float, start: Series | None = None) -> Series:
    work = Train("fixmatch", {**FLAGS, "method": {"tau": tau}})
    starts = start.cells if start else (None, None)
    return Series([Cell(work, digits, seed, start=starts[seed]) for seed in (0, 1)])


def found(*given: tuple[Series, tuple[float, float]]) -> dict[str, Done]:
    return {
        cell.identity: Done({"accuracy": value, "images": 100.0, "train_seconds": 2.0, "steps": 3, "labels": 20.0}, 1.0)
        for each, values in given
        for cell, value in zip(each.cells, values, strict=True)
    }


def predictions(grid: Grid, given: Series, *, right: bool) -> None:
    """Let the cells' saved test predictions be right, or one class for all."""
    labels = np.arange(100) % 10
    for cell in given.cells:
        probs = np.eye(10, dtype=np.float32)[labels if right else labels * 0]
        file = RunFolder(run_folder(grid.folder(cell))).predictions("test")
        Predictions(np.array([str(i) for i in range(100)]), labels, probs).save(file)


@pytest.mark.parametrize(
    ("b", "right", "verdict"),
    [
        ((0.5, 0.6), True, "agrees"),
        ((0.9, 1.0), True, "does not agree"),
        ((0.5, 0.9), True, "cannot tell"),
        ((0.5, 0.6), False, "at chance: no statement"),
    ],
)
def test_from_figures_to_verdicts(
    digits: TableData, tmp_path: Path, b: tuple[float, float], right: bool, verdict: str
) -> None:
    high, low, base = series(digits, 0.9), series(digits, 0.8), series(digits, 0.7)
    table = Table(
        "x", "X", "smoke", (0, 1),
        [Section("S", "text", ("Acc.",), [Row("high", {"Acc.": high}, {"Acc.": 0.5}), Row("low", {"Acc.": low})])],
        [Claim("high above low", "T", [Difference("h − l", [high], [low])], base, {"low": low, "high": high})],
    )  # fmt: skip
    grid = Grid(table.cells(), tmp_path)
    predictions(grid, base, right=right)
    done = found((high, (0.7, 0.8001)), (low, b), (base, (0.5, 0.5)))
    report = report_of(table, grid, done, "a command")
    (claim,) = report.claims
    assert claim.verdict == verdict
    means = {"high": 0.75, "low": sum(b) / 2}
    assert claim.source == f"T; the highest mean of them: {max(means, key=means.get)}"
    row = report.sections[0].rows[0]
    assert row.figures["Acc."].per_seed == {0: 0.7, 1: 0.8001}
    assert row.figures["Acc."].ours == t_interval([0.7, 0.8001])
    result = write_table(report, tmp_path, "x-smoke")
    stored = json.loads((tmp_path / "x-smoke.json").read_text())
    assert stored["claims"][0]["verdict"] == verdict
    assert stored["sections"][0]["rows"][0]["figures"]["Acc."]["paper"] == 0.5
    assert result["markdown"] == (tmp_path / "x-smoke.md").read_text()


def test_what_is_chosen_on_validation_is_stated_alone(digits: TableData, tmp_path: Path) -> None:
    by_name = {"a": series(digits, 0.9), "b": series(digits, 0.8)}
    base = series(digits, 0.7)

    def state(name: str) -> tuple[Section, Claim]:
        claim = Claim(f"{name} is above", "T", [Difference(f"{name} − base", [by_name[name]], [base])], base)
        return Section("Chosen", "", ("Acc.",), [Row(name, {"Acc.": by_name[name]})]), claim

    validation = {name: Series(each.cells, "validation") for name, each in by_name.items()}
    mean = Difference("mean of both − base", [*by_name.values()], [base] * 2, 2)
    table = Table(
        "x", "X", "smoke", (0, 1), [], [Claim("both", "T", [mean], base)], chosen=Chosen(validation, state)
    )  # fmt: skip
    assert {cell.identity for cell in table.cells()} == {
        cell.identity for each in (*by_name.values(), base) for cell in each.cells
    }
    grid = Grid(table.cells(), tmp_path)
    predictions(grid, base, right=True)
    done = found((by_name["a"], (0.9, 0.91)), (by_name["b"], (0.6, 0.62)), (base, (0.5, 0.5)))
    for name, value in (("a", 0.4), ("b", 0.8)):  # b is better on validation and worse on test
        for cell in by_name[name].cells:
            done[cell.identity].figures["validation"] = value
    report = report_of(table, grid, done, "a command")
    assert [[row.name for row in section.rows] for section in report.sections] == [["b"]]
    both, chosen = report.claims
    assert both.parts[0].paired.interval.value == pytest.approx((0.9 + 0.91 + 0.6 + 0.62) / 4 - 0.5)
    assert chosen.sentence == "b is above"
    assert chosen.parts[0].paired.interval.value == pytest.approx(0.11)


def test_at_chance_in_one_seed_is_at_chance(digits: TableData, tmp_path: Path) -> None:
    base = series(digits, 0.9)
    grid = Grid(base.cells, tmp_path)
    done = found((base, (0.5, 0.5)))
    predictions(grid, base, right=True)
    assert not at_chance(base, grid, done)
    predictions(grid, Series(base.cells[1:]), right=False)
    assert at_chance(base, grid, done)
    done[base.cells[1].identity] = Done({}, None, "failed")  # says nothing
    assert not at_chance(base, grid, done)


def test_what_a_row_took_counts_the_network_it_starts_from(digits: TableData, tmp_path: Path) -> None:
    first = series(digits, 0.9)
    second = series(digits, 0.8, start=first)
    probed = Series([Cell(Probe(), digits, cell.seed, start=cell) for cell in first.cells], figure="linear")
    table = Table(
        "x", "X", "smoke", (0, 1), [Section("S", "", ("Acc.", "P"), [Row("r", {"Acc.": second, "P": probed})])], []
    )
    done = found((first, (0.5, 0.5)), (second, (0.6, 0.6)))
    done |= {cell.identity: Done({}, None, "failed") for cell in probed.cells}
    (row,) = report_of(table, Grid(table.cells(), tmp_path), done, "").sections[0].rows
    assert row.spent == Spent(20, 200, 4.0, "3 + 3")
    assert row.figures["P"].ours is None


def test_a_failed_seed_leaves_the_others(digits: TableData, tmp_path: Path) -> None:
    one = series(digits, 0.9)
    table = Table("x", "X", "smoke", (0, 1), [Section("S", "", ("Acc.",), [Row("r", {"Acc.": one})])], [])
    done = found((one, (0.5, 0.5)))
    done[one.cells[0].identity] = Done({}, None, "Step 1: loss is not finite")
    report = report_of(table, Grid(table.cells(), tmp_path), done, "")
    assert report.sections[0].rows[0].figures["Acc."].per_seed == {1: 0.5}
    ((words, why),) = report.failures
    assert words.endswith("seed 0")
    assert why == "Step 1: loss is not finite"
