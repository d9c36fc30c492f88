"""The page of a comparison: runs side by side, curves in one chart, differences with Holm's p."""

from eke.metrics.statistics import holm
from eke.report.content import METRICS, CompareReport, Comparison, Pairing
from eke.report.figures import NO_TEST_SET, curve_charts, figures_table, how_to_repeat, main_chart
from eke.report.page import Block, Cell, Page, Section, Table, Text
from eke.report.words import count, difference_cell, ends, percent, star_in_words, survives

_CAPTIONS: dict[Pairing, str] = {
    "paired": "Paired differences in percentage points",
    "unpaired": "Unpaired differences in percentage points",
}
_UNPAIRED = (
    "Each run's images are taken for draws of their own (pooled two-sample bootstrap). Where all were measured on the "
    "same images, a paired test tells more: --test paired."
)


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
    within = f" ({100 * report.level:g} % interval {span})" if span else ""
    lines = [f"Highest {report.rows[0].metric.words}: {name} with {percent(best.value)}{within}."]
    if report.comparisons:
        adjusted = _adjusted(report)
        sure = [survives(c.paired, p, 1 - report.level) for c, p in zip(report.comparisons, adjusted, strict=True)]
        n, n_sure = len(sure), sum(sure)
        lines.append(f"{count(n_sure, 'difference')} of {n} can be told from chance, {n - n_sure} cannot.")
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
            _CAPTIONS[report.test],
            ["Run", "Against", "Figure", "Difference"],
            rows,
            n_text=3,
        ),
        Text(star_in_words(len(rows), 1 - report.level)),
        *([Text(_UNPAIRED)] if report.test == "unpaired" else []),
    ]


def _difference(comparison: Comparison, p: float, level: float) -> Cell:
    better = METRICS[comparison.metric].higher_is_better
    cell = difference_cell(comparison.paired, higher_is_better=better, p=p, level=level)
    return cell._replace(text=f"{cell.text} *") if survives(comparison.paired, p, 1 - level) else cell
