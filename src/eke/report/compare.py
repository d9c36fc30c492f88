"""The page of a comparison: runs side by side, curves in one chart, differences with Holm's p."""

from eke.metrics.statistics import holm
from eke.report.content import METRICS, CompareReport, Comparison
from eke.report.figures import NO_TEST_SET, curve_charts, figures_table, how_to_repeat, main_chart
from eke.report.page import Block, Cell, Page, Section, Table, Text
from eke.report.words import count, difference_cell, ends, percent


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
            Section("How to repeat this", how_to_repeat(report.command, report.environment)),
        ],
    )


def _headline(report: CompareReport) -> list[str]:
    measured = [(row.name, row.main) for row in report.rows if row.main is not None]
    if not measured:
        return ["No figures yet: none of these runs has been evaluated."]
    name, best = max(measured, key=lambda row: row[1].value)
    span = ends(best)
    sure = f" ({100 * report.level:g} % interval {span})" if span else ""
    lines = [f"Highest {report.rows[0].metric.words}: {name} with {percent(best.value)}{sure}."]
    if report.comparisons:
        adjusted = _adjusted(report)
        unsure = sum(
            not c.paired.decided or p > 1 - report.level for c, p in zip(report.comparisons, adjusted, strict=True)
        )
        n = len(report.comparisons)
        lines.append(f"{count(n - unsure, 'difference')} of {n} can be told from chance, {unsure} cannot.")
    return lines


def _adjusted(report: CompareReport) -> list[float]:
    return holm([comparison.paired.p for comparison in report.comparisons]).tolist()


def _figures(report: CompareReport) -> list[Block]:
    blocks: list[Block] = []
    if report.split == "validation":
        blocks.append(NO_TEST_SET)
    blocks.append(figures_table(report.rows, f"Measured on {report.measured}"))
    blocks.append(Text(f"Small figures are {100 * report.level:g} % intervals over {report.measured}."))
    blocks += main_chart(report.rows)
    return blocks


def _differences(report: CompareReport) -> list[Block]:
    if not report.comparisons:
        return []
    rows: list[list[Cell | str]] = [
        [
            c.name,
            c.against,
            METRICS[c.metric].title,
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
            f"p is corrected for {count(len(rows), 'comparison')} by Holm's method. A difference whose "
            f"interval contains 0, or whose corrected p is above {1 - report.level:.2g}, is reported as "
            "“cannot tell”."
        ),
    ]


def _difference(comparison: Comparison, p: float, level: float) -> Cell:
    better = METRICS[comparison.metric].higher_is_better
    return difference_cell(comparison.paired, higher_is_better=better, p=p, level=level)
