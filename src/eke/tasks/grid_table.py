"""A table as plain values, and from what its cells found to the report that is printed."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from eke.engine.journal import RunFolder
from eke.engine.predict import Predictions
from eke.files import write_json, write_text
from eke.metrics.statistics import Paired, t_interval
from eke.report.page import write_page
from eke.report.table import Spent, TableFigure, TableReport, TableRow, TableSection, table_markdown, table_page
from eke.tasks.grid import Done, Grid
from eke.tasks.grid_cells import Cell, Train, run_folder
from eke.tasks.grid_claims import Contrast, Statement, above_chance, judge_all
from eke.tasks.grid_relations import Relation, in_words

CHANCE_LEVEL = 0.05
"""A baseline is above chance where p is below this in every seed."""


@dataclass(frozen=True)
class Series:
    """One figure of a table: the same figure of one cell per seed."""

    cells: Sequence[Cell]
    figure: str = "accuracy"
    """Name among the cells' figures."""
    rate: bool = True
    """Whether it lies in [0, 1]."""


@dataclass(frozen=True)
class Row:
    """A row: its first figure is the one whose cells are counted as spent."""

    name: str
    figures: Mapping[str, Series]
    """Column -> figure."""
    paper: Mapping[str, float] = field(default_factory=dict)
    """Column -> what the paper has there."""
    note: str = ""


@dataclass(frozen=True)
class Section:
    """Rows on the same images."""

    title: str
    text: str
    """What all rows share, and every choice that was made for them."""
    columns: Sequence[str]
    rows: Sequence[Row]
    x: str = ""
    """What the columns are values of, where they are numbers: figures are drawn over it."""


@dataclass(frozen=True)
class Difference:
    """The sum of `plus` less the sum of `minus`, divided by `n`, which a claim says is above 0."""

    words: str
    plus: Sequence[Series]
    minus: Sequence[Series]
    n: int = 1


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, and the differences that it says are above 0."""

    sentence: str
    source: str
    differences: Sequence[Difference]
    baseline: Series
    """Where its test predictions are at chance, nothing is said about the claim."""
    best_of: Mapping[str, Series] = field(default_factory=dict)
    """Rows of which the page names the best beside the claim: the one of the highest mean over seeds."""


@dataclass(frozen=True)
class Chosen:
    """A setting that is chosen on validation, and what is stated of it alone."""

    candidates: Mapping[str, Series]
    """Figures on validation; the highest mean over seeds is chosen."""
    state: Callable[[str], tuple[Section, Claim]]
    """From the chosen one's name to its figures on test, from cells that the table has anyway."""


@dataclass(frozen=True)
class Table:
    """Everything that determines a reproduced table."""

    name: str
    title: str
    scale: str
    seeds: Sequence[int]
    sections: Sequence[Section]
    claims: Sequence[Claim]
    notes: Sequence[str] = ()
    chosen: Chosen | None = None
    relations: Sequence[Relation] = ()
    """Stated beside the notes; their cells are those of rows."""
    paper: bool = True
    """Whether the claims are sentences of a paper."""

    def cells(self) -> list[Cell]:
        """Return the cells of all figures."""
        stated = [self.chosen.state(name) for name in self.chosen.candidates] if self.chosen else []
        rows = [row for section in (*self.sections, *(each for each, _ in stated)) for row in section.rows]
        in_rows = [cell for row in rows for series in row.figures.values() for cell in series.cells]
        sides = [side for claim in self.claims for each in claim.differences for side in (*each.plus, *each.minus)]
        return in_rows + [
            cell for series in (*sides, *(claim.baseline for claim in self.claims)) for cell in series.cells
        ]


def report_of(table: Table, grid: Grid, found: Mapping[str, Done], command: str) -> TableReport:
    """Put together what the cells found."""
    names = {cell.identity: f"{cell.words}, seed {cell.seed}" for cell in grid.cells.values()}
    sections, claims = [*table.sections], [*table.claims]
    if table.chosen and (means := _means(table.chosen.candidates, found)):
        section, claim = table.chosen.state(max(means, key=means.__getitem__))
        sections.append(section)
        claims.append(claim)
    return TableReport(
        title=table.title,
        command=command,
        scale=table.scale,
        n_seeds=len(table.seeds),
        sections=[
            TableSection(each.title, each.text, each.columns, [_row(row, found) for row in each.rows], each.x)
            for each in sections
        ],
        claims=judge_all([_statement(claim, grid, found) for claim in claims]),
        failures=[(names[key], done.failure) for key, done in found.items() if done.failure is not None],
        environment=environment_of(grid),
        notes=[*table.notes, *(in_words(each, found) for each in table.relations)],
        paper=table.paper,
    )


def _row(row: Row, found: Mapping[str, Done]) -> TableRow:
    figures = {}
    for column, series in row.figures.items():
        per_seed = _per_seed(series, found)
        ours = t_interval(list(per_seed.values())) if per_seed else None
        figures[column] = TableFigure(ours, per_seed, row.paper.get(column), series.rate)
    return TableRow(row.name, row.note, figures, _spent(next(iter(row.figures.values())), found))


def _per_seed(series: Series, found: Mapping[str, Done]) -> dict[int, float]:
    done = {cell.seed: found[cell.identity].figures for cell in series.cells}
    return {seed: figures[series.figure] for seed, figures in done.items() if series.figure in figures}


def _spent(series: Series, found: Mapping[str, Done]) -> Spent | None:
    """Add up a row's training: its own and that of the networks it starts from. Requests for labels are not counted."""
    runs = []
    for cell in series.cells:
        stages = [found[stage.identity].figures for stage in _stages(cell)]
        if stages and all("images" in stage for stage in stages):
            runs.append(stages)
    if not runs:
        return None
    return Spent(
        labels=mean(stages[-1].get("labels", 0) for stages in runs),
        images=mean(sum(stage["images"] for stage in stages) for stages in runs),
        seconds=mean(sum(stage["train_seconds"] for stage in stages) for stages in runs),
        steps=" + ".join(f"{stage['steps']:,.0f}" for stage in runs[0]),
    )


def _stages(cell: Cell) -> list[Cell]:
    earlier = _stages(cell.start) if cell.start is not None else []
    return [*earlier, cell] if isinstance(cell.work, Train) else earlier


def _statement(claim: Claim, grid: Grid, found: Mapping[str, Done]) -> Statement:
    contrasts = [
        Contrast(
            each.words,
            [_per_seed(series, found) for series in each.plus],
            [_per_seed(series, found) for series in each.minus],
            rate=all(series.rate for series in (*each.plus, *each.minus)),
            n=each.n,
        )
        for each in claim.differences
    ]
    means = _means(claim.best_of, found)
    best = f"; the highest mean of them: {max(means, key=means.__getitem__)}" if means else ""
    return Statement(claim.sentence, claim.source + best, contrasts, at_chance(claim.baseline, grid, found))


def _means(by_name: Mapping[str, Series], found: Mapping[str, Done]) -> dict[str, float]:
    """Return the mean over seeds of those that have a figure."""
    return {name: mean(per_seed.values()) for name, each in by_name.items() if (per_seed := _per_seed(each, found))}


def at_chance(series: Series, grid: Grid, found: Mapping[str, Done]) -> bool:
    """Tell whether, in any seed, test predictions cannot be told from guessing; seeds that failed are left out."""
    for cell in series.cells:
        file = RunFolder(run_folder(grid.folder(cell))).predictions("test")
        if found[cell.identity].failure is None:
            predictions = Predictions.load(file)
            if above_chance(predictions.probs.argmax(1).astype(np.int64), predictions.labels) >= CHANCE_LEVEL:
                return True
    return False


def environment_of(grid: Grid) -> dict[str, str]:
    """Return where the cells ran; values that differ between cells are all named."""
    seen: dict[str, list[str]] = {}
    for cell in grid.cells.values():
        file = run_folder(grid.folder(cell)) / "environment.json"
        if file.exists():
            for name, value in json.loads(file.read_text(encoding="utf-8")).items():
                if value is not None and str(value) not in seen.setdefault(name, []):
                    seen[name].append(str(value))
    return {name: ", ".join(values) for name, values in seen.items()}


def write_table(report: TableReport, out: Path, stem: str) -> dict[str, Any]:
    """Write STEM.html, STEM.md and STEM.json; return what the last holds, and the paths."""
    paths = {ending: out / f"{stem}.{ending}" for ending in ("html", "md", "json")}
    write_page(paths["html"], table_page(report))
    write_text(paths["md"], table_markdown(report))
    result: dict[str, Any] = _plain(report)
    write_json(paths["json"], result)
    return {**result, "markdown": table_markdown(report), "paths": {end: str(path) for end, path in paths.items()}}


def _plain(value: Any) -> Any:
    """Return JSON values; a number that is not finite is null."""
    if isinstance(value, Paired):
        return {**_plain(value.interval), "p": _plain(value.p)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _plain(each) for name, each in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return None if isinstance(value, float) and not math.isfinite(value) else value
