"""Parts that the pages of a run, of a pretraining and of a comparison share."""

from collections.abc import Mapping, Sequence

from eke.report.charts import interval_bars, learning_curves
from eke.report.content import METRICS, CurveChart, Figures, Problem, ViewRow
from eke.report.drawing import Chart
from eke.report.page import Block, Cell, Code, Picture, Row, Sheet, Table, Text
from eke.report.words import count, rate_cell

NO_TEST_SET = Text(
    "No test set was named, so test figures are left out. These figures are of validation images, which may "
    "have helped to choose the model: expect somewhat less on new images. Name a test set with --test.",
    "warning",
)


def figures_table(rows: Sequence[Figures], caption: str) -> Table:
    """Put figures of several models into a table; a column that no row fills is left out."""
    optional = {
        "Labels": [row.labels for row in rows],
        "Images through the network": [row.images for row in rows],
    }
    kept = {name: values for name, values in optional.items() if any(value is not None for value in values)}
    names = [name for name in METRICS if any(name in row.values for row in rows)]
    cells: list[list[Cell | str]] = [
        [
            Cell(row.name, row.note),
            *(rate_cell(row.values.get(name)) for name in names),
            *(f"{values[i]:,}" if values[i] is not None else "\N{EN DASH}" for values in kept.values()),
        ]
        for i, row in enumerate(rows)
    ]
    return Table(caption, ["Model", *(METRICS[name].title for name in names), *kept], cells)


def main_chart(rows: Sequence[Figures]) -> list[Block]:
    """Draw accuracies, or what is spoken of in their place, with intervals, where there are at least two."""
    bars = [(row.name, row.main) for row in rows if row.main is not None]
    return [interval_bars(f"{rows[0].metric.title} with interval", bars)] if len(bars) > 1 else []


def curve_charts(groups: Sequence[CurveChart]) -> list[Block]:
    """Draw each group that has a point to show."""
    charts: list[Chart] = []
    for group in groups:
        curves = [curve for curve in group.curves if len(curve.steps)]
        if curves:
            charts.append(learning_curves(group.title, curves, rate=group.rate))
    return [Row(charts)] if charts else []


def view_sheet(names: Sequence[str], views: Sequence[ViewRow]) -> list[Block]:
    """Show images as the network sees them in training: a row is an image, a column a view."""
    rows = [
        (
            row.name,
            [Picture(image, (), f"{row.name}, {view}") for view, image in zip(names, row.images, strict=True)],
        )
        for row in views
    ]
    return [Sheet("Training images after augmentation", names, rows)] if rows else []


def problem_table(problems: Sequence[Problem]) -> list[Block]:
    """List what was set aside, and what to do about it."""
    rows = [[p.path, p.kind, p.remedy] for p in problems]
    caption = f"{count(len(rows), 'item')} set aside; nothing was deleted"
    return [Table(caption, ["File", "What is wrong", "What to do"], rows, n_text=3, n_shown=20)] if rows else []


def how_to_repeat(command: str, environment: Mapping[str, str]) -> list[Block]:
    """Print the command and where it ran."""
    rows = [[name, value] for name, value in environment.items()]
    table: list[Block] = [Table("Where it ran", ["", ""], rows, n_text=2)] if rows else []
    return [Code(command), *table] if command else table
