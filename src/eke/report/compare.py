"""What a comparison of several runs says: figures side by side, curves in one chart, differences with Holm's p."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from eke.metrics.statistics import Paired, holm
from eke.report.charts import interval_bars
from eke.report.page import Block, Cell, Charts, Code, Page, Section, Table, Text
from eke.report.run import CurveChart, Figures, curve_charts, figures_table
from eke.report.words import count, difference_cell, ends, percent

Metric = Literal["accuracy", "macro_f1", "calibration_error"]

_METRIC_NAMES: dict[Metric, str] = {
    "accuracy": "Accuracy",
    "macro_f1": "Macro-F1",
    "calibration_error": "Calibration error",
}


@dataclass(frozen=True)
class Comparison:
    """One paired difference, `name` minus `against`."""

    name: str
    against: str
    metric: Metric
    paired: Paired


@dataclass(frozen=True)
class CompareReport:
    """Several runs side by side; what is empty is left out of the page."""

    title: str
    command: str
    split: Literal["test", "validation"]
    measured: str
    """What the intervals are over: "2,000 test images" or "5 seeds, 2,000 test images each"."""
    rows: Sequence[Figures]
    comparisons: Sequence[Comparison] = ()
    """All of them are one family: Holm's correction is made here, over all."""
    curves: Sequence[CurveChart] = ()
    level: float = 0.95
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def compare_page(report: CompareReport) -> Page:
    """Lay out a comparison."""
    return Page(
        title=report.title,
        headline=[*_headline(report), *report.notes],
        facts=[("Runs", f"{len(report.rows)}"), ("Measured on", report.measured)],
        sections=[
            Section("Figures", _figures(report)),
            Section("Differences", _differences(report)),
            Section("Learning curves", curve_charts(report.curves)),
            Section("How to repeat this", _environment(report)),
        ],
    )


def _headline(report: CompareReport) -> list[str]:
    measured = [(row.name, row.accuracy) for row in report.rows if row.accuracy is not None]
    if not measured:
        return ["No figures yet: none of these runs has been evaluated."]
    name, best = max(measured, key=lambda row: row[1].value)
    span = ends(best)
    sure = f" ({100 * report.level:g} % interval {span})" if span else ""
    lines = [f"Highest accuracy: {name} with {percent(best.value)}{sure}."]
    if report.comparisons:
        adjusted = _adjusted(report)
        unsure = sum(
            not c.paired.decided or p > 1 - report.level
            for c, p in zip(report.comparisons, adjusted, strict=True)
        )
        n = len(report.comparisons)
        lines.append(f"{count(n - unsure, 'difference')} of {n} can be told from chance, {unsure} cannot.")
    return lines


def _adjusted(report: CompareReport) -> list[float]:
    return holm([comparison.paired.p for comparison in report.comparisons]).tolist()


def _figures(report: CompareReport) -> list[Block]:
    blocks: list[Block] = []
    if report.split == "validation":
        blocks.append(
            Text(
                "No test set was named, so test figures are left out. These are figures of validation images, which "
                "may have helped to choose the models.",
                "warning",
            )
        )
    blocks.append(figures_table(report.rows, f"Measured on {report.measured}"))
    blocks.append(Text(f"Small figures are {100 * report.level:g} % intervals over {report.measured}."))
    bars = [(row.name, row.accuracy) for row in report.rows if row.accuracy is not None]
    if len(bars) > 1:
        blocks.append(Charts([interval_bars("Accuracy with interval", bars)]))
    return blocks


def _differences(report: CompareReport) -> list[Block]:
    if not report.comparisons:
        return []
    rows = [
        [
            c.name,
            c.against,
            _METRIC_NAMES[c.metric],
            _difference(c, p, report.level),
        ]
        for c, p in zip(report.comparisons, _adjusted(report), strict=True)
    ]
    return [
        Table(
            "Paired differences in percentage points",
            ["Run", "Against", "Figure", "Difference"],
            rows,
            n_text=3,
        ),
        Text(
            f"p is corrected for {count(len(rows), 'comparison')} by Holm's method. A difference whose interval "
            f"contains 0, or whose corrected p is above {1 - report.level:.2g}, is reported as “cannot tell”."
        ),
    ]


def _difference(comparison: Comparison, p: float, level: float) -> Cell:
    better = comparison.metric != "calibration_error"
    return difference_cell(comparison.paired, higher_is_better=better, p=p, level=level)


def _environment(report: CompareReport) -> list[Block]:
    rows = [[name, value] for name, value in report.environment.items()]
    table: list[Block] = [Table("Where it ran", ["", ""], rows, n_text=2)] if rows else []
    return [Code(report.command), *table] if report.command else table
