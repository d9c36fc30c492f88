"""The page of a reproduced table: paper / ours with intervals, what was spent, and each sentence of the paper, judged.

The same as Markdown, to paste into documentation.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import stdev
from typing import Literal, NamedTuple, get_args

from eke.metrics.statistics import Interval, Paired
from eke.report.charts import interval_bars, interval_curves
from eke.report.drawing import Chart
from eke.report.figures import how_to_repeat
from eke.report.page import Block, Cell, Page, Section, Table, Text, Tone
from eke.report.words import count, ends, p_value, percent, points

Verdict = Literal["agrees", "does not agree", "cannot tell", "at chance: no statement", "not measured"]

_TONES: dict[Verdict, Tone] = {"agrees": "better", "does not agree": "worse"}
_DASH = "\N{EN DASH}"


class TableFigure(NamedTuple):
    """One figure of a row, over seeds."""

    ours: Interval | None
    """Mean with its t interval; None where no seed has the figure."""
    per_seed: Mapping[int, float]
    paper: float | None = None
    rate: bool = True
    """Whether it lies in [0, 1] and is printed as a percentage."""


class Spent(NamedTuple):
    """What a row took, mean over seeds."""

    labels: float
    images: float
    """Through the network, all views counted."""
    seconds: float
    """Of training, without evaluating and reporting."""
    steps: str
    """Of each stage: "234 + 600"."""


@dataclass(frozen=True)
class TableRow:
    """One row of a table."""

    name: str
    note: str
    figures: Mapping[str, TableFigure]
    """Column -> figure."""
    spent: Spent | None


@dataclass(frozen=True)
class TableSection:
    """Rows on the same images."""

    title: str
    text: str
    """What all rows share."""
    columns: Sequence[str]
    rows: Sequence[TableRow]
    x: str = ""
    """What the columns are values of, where they are numbers."""


class Judged(NamedTuple):
    """One difference that a sentence says is above 0, judged."""

    words: str
    paired: Paired | None
    p_holm: float
    """Corrected for all differences of the table; NaN where there is no p."""
    verdict: Verdict
    rate: bool = True


class JudgedClaim(NamedTuple):
    """A sentence of the paper, and what is said about it."""

    sentence: str
    source: str
    verdict: Verdict
    parts: tuple[Judged, ...]


@dataclass(frozen=True)
class TableReport:
    """Everything the page of a table says."""

    title: str
    command: str
    scale: str
    n_seeds: int
    sections: Sequence[TableSection]
    claims: Sequence[JudgedClaim]
    failures: Sequence[tuple[str, str]] = ()
    """What failed, and its message."""
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    paper: bool = True
    """Whether the sentences are those of a paper, and figures stand beside it."""


def table_page(report: TableReport) -> Page:
    """Lay a table out as a page."""
    return Page(
        title=report.title,
        headline=[_headline(report), *report.notes],
        facts=[("Scale", report.scale), ("Seeds", f"{report.n_seeds}"), ("Failed cells", f"{len(report.failures)}")],
        sections=[
            Section("Failed", _failures(report.failures)),
            *(Section(section.title, _section(section, _reading(report))) for section in report.sections),
            Section(_judged(report), _claims(report.claims)),
            Section("How to repeat this", how_to_repeat(report.command, report.environment)),
        ],
    )


def _judged(report: TableReport) -> str:
    return "What the paper says" if report.paper else "What is better"


def _reading(report: TableReport) -> str:
    return f"{READING} {BESIDE_THE_PAPER}" if report.paper else READING


def _headline(report: TableReport) -> str:
    claims = report.claims
    if not claims:
        return "Figures without a sentence to judge."
    n = {verdict: sum(claim.verdict == verdict for claim in claims) for verdict in get_args(Verdict)}
    silent = n["at chance: no statement"] + n["not measured"]
    rest = f", of {silent} nothing can be said" if silent else ""
    return (
        f"Of {count(len(claims), 'sentence')}{' of the paper' * report.paper}, {n['agrees']} agree with these figures, "
        f"{n['does not agree']} do not, {n['cannot tell']} cannot be told{rest}."
    )


SPENT_COLUMNS = ("Labels", "Images through the network", "Images/s", "Seconds of training", "Steps")
READING = "Figures are means over seeds with the 95 % t interval and the standard deviation (SD) under them."
BESIDE_THE_PAPER = (
    "Paper / ours: other images, another network and far fewer steps unless the text above says otherwise, so only "
    "signs and orders can be compared."
)
JUDGING = (
    "A sentence is put as differences that it says are above 0. Each is the mean over seeds of paired differences: "
    "the two sides of a seed have the same first labels. It agrees where the 95 % t interval lies above 0, does not "
    "agree where it lies below, and cannot be told where it contains 0. A sentence of several differences says all of "
    "them. p is corrected for all differences of this page by Holm's method and decides nothing here. Where the "
    "baseline's test predictions cannot be told from guessing (permuted labels, p of 0.05 or more in any seed), no "
    "statement is made."
)


def _failures(failures: Sequence[tuple[str, str]]) -> list[Block]:
    if not failures:
        return []
    return [
        Table("Cells without a figure", ["Cell", "Why"], [[words, why] for words, why in failures], n_text=2),
        Text("The same command tries them again.", "warning"),
    ]


def _section(section: TableSection, reading: str) -> list[Block]:
    rows: list[list[Cell | str]] = [
        [Cell(row.name, row.note), *(_figure(row.figures.get(column)) for column in section.columns)]
        for row in section.rows
    ]
    published = any(figure.paper is not None for row in section.rows for figure in row.figures.values())
    spent: list[list[Cell | str]] = [[row.name, *_spent(row.spent)] for row in section.rows]
    blocks: list[Block] = [
        Text(section.text),
        Table("Paper / ours" if published else "Figures", ["", *section.columns], rows),
        Text(reading),
        Table("What a row took, mean over seeds", ["", *SPENT_COLUMNS], spent),
    ]
    if section.x:
        return [*blocks, _curves(section)]
    first = section.columns[0]
    shown = [(row.name, row.figures[first]) for row in section.rows if first in row.figures]
    bars = [(name, figure.ours) for name, figure in shown if figure.ours is not None and figure.rate]
    if len(bars) > 1:
        blocks.append(interval_bars(f"{first}: mean over seeds with 95 % t interval", bars))
    return blocks


def _curves(section: TableSection) -> Chart:
    curves = []
    for row in section.rows:
        points = [(float(x), row.figures[x].ours) for x in section.columns if x in row.figures]
        curves.append((row.name, [(x, ours) for x, ours in points if ours is not None]))
    return interval_curves("Mean over seeds with 95 % t interval", section.x, curves)


def _figure(figure: TableFigure | None) -> Cell:
    if figure is None:
        return Cell(_DASH)
    n = f"n = {len(figure.per_seed)}"
    if len(figure.per_seed) > 1:
        n += f", SD {_spread(figure)}"
    return Cell(figure_text(figure), f"{_ends(figure)}\n{n}" if _ends(figure) else n)


def figure_text(figure: TableFigure) -> str:
    """Print "paper / ours", or ours alone where the paper has no such figure."""
    ours = "none" if figure.ours is None else _value(figure.ours.value, figure.rate)
    if figure.paper is None:
        return ours
    return f"{100 * figure.paper:g} % / {ours}" if figure.rate else f"{figure.paper:g} / {ours}"


def _value(value: float, rate: bool) -> str:
    return percent(value) if rate else f"{value:.3g}"


def _spread(figure: TableFigure) -> str:
    """Print the standard deviation over seeds."""
    deviation = stdev(figure.per_seed.values())
    return f"{100 * deviation:.1f}" if figure.rate else f"{deviation:.3g}"


def _ends(figure: TableFigure) -> str:
    if figure.ours is None or not math.isfinite(figure.ours.low):
        return ""
    return ends(figure.ours) if figure.rate else f"{figure.ours.low:.3g} to {figure.ours.high:.3g}"


def _spent(spent: Spent | None) -> list[str]:
    if spent is None:
        return [_DASH] * 5
    rate = f"{spent.images / spent.seconds:,.0f}" if spent.seconds else _DASH
    return [f"{spent.labels:,.0f}", f"{spent.images:,.0f}", rate, f"{spent.seconds:,.1f}", spent.steps]


def _claims(claims: Sequence[JudgedClaim]) -> list[Block]:
    if not claims:
        return []
    rows: list[list[Cell | str]] = []
    for claim in claims:
        rows.append([Cell(claim.sentence, claim.source), "", Cell(claim.verdict, tone=_tone(claim.verdict))])
        rows += [
            [Cell("", part.words), Cell(*_difference(part)), Cell(part.verdict, tone=_tone(part.verdict))]
            for part in claim.parts
        ]
    table = Table("Sentences and differences", ["Sentence", "Difference", "Verdict"], rows)
    return [table, Text(JUDGING)]


def _tone(verdict: Verdict) -> Tone:
    return _TONES.get(verdict, "unsure")


def _difference(part: Judged) -> tuple[str, str]:
    """Return the difference and, for under it, its interval and p."""
    if part.paired is None:
        return _DASH, ""
    interval = part.paired.interval
    if not math.isfinite(interval.low):
        return _amount(interval.value, part.rate), "one seed: no interval"
    low, high = _amount(interval.low, part.rate), _amount(interval.high, part.rate)
    p = p_value(part.p_holm)
    return _amount(interval.value, part.rate), f"{low} to {high}" + (f"\n{p} (Holm)" if p else "")


def _amount(value: float, rate: bool) -> str:
    return points(value) if rate else f"{value:+.3g}"


# ------------------------------------------------------------------ the same as text


def table_markdown(report: TableReport) -> str:
    """Write a table as Markdown."""
    lines = [f"# {report.title}", "", _headline(report), *report.notes, ""]
    for section in report.sections:
        lines += [f"## {section.title}", "", section.text, "", *_markdown_rows(section), "", _reading(report), ""]
    if report.claims:
        lines += [f"## {_judged(report)}", "", "| sentence | difference | verdict |", "|---|---|---|"]
        for claim in report.claims:
            lines.append(f"| **{_escaped(claim.sentence)}** ({_escaped(claim.source)}) | | **{claim.verdict}** |")
            for part in claim.parts:
                value, detail = _difference(part)
                said = f"{value} [{detail.replace(chr(10), '; ')}]" if detail else value
                lines.append(f"| {_escaped(part.words)} | {said} | {part.verdict} |")
        lines += ["", JUDGING, ""]
    if report.failures:
        lines += ["## Failed", "", *(f"- {words}: {why}" for words, why in report.failures), ""]
    lines += ["## How to repeat this", "", f"    {report.command}", ""]
    lines += [f"- {name}: {value}" for name, value in report.environment.items()]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_rows(section: TableSection) -> list[str]:
    columns = ["", *section.columns, *SPENT_COLUMNS]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in section.rows:
        cells = [row.figures.get(column) for column in section.columns]
        figures = [_DASH if figure is None else _with_ends(figure) for figure in cells]
        lines.append("| " + " | ".join([_escaped(row.name), *figures, *_spent(row.spent)]) + " |")
    return lines


def _with_ends(figure: TableFigure) -> str:
    span = _ends(figure)
    n = f"n = {len(figure.per_seed)}, SD {_spread(figure)}" if span else ""
    return f"{figure_text(figure)} [{span}] ({n})" if span else figure_text(figure)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
