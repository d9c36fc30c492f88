"""What the report of one run says: figures beside the baseline's, curves, classes, mistakes, and what was set aside."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from eke.metrics.classification import Reliability
from eke.metrics.statistics import Interval, Paired
from eke.report.charts import (
    Chart,
    Curve,
    distribution_bars,
    interval_bars,
    learning_curves,
    reliability_diagram,
)
from eke.report.classes import class_blocks
from eke.report.page import Block, Cell, Charts, Code, Gallery, Page, Picture, Section, Sheet, Table, Text
from eke.report.pictures import Image
from eke.report.words import VERDICT_WORDS, count, difference_cell, ends, percent, points, rate_cell, verdict

_MAX_CLASSES_IN_CHART = 15


@dataclass(frozen=True)
class Budget:
    """The labels a person had to give."""

    train: int
    validation: int

    @property
    def total(self) -> int:
        """Training and validation labels together: both were given."""
        return self.train + self.validation

    def in_words(self) -> str:
        """Print "40 labels = 32 train + 8 validation"."""
        return f"{count(self.total, 'label')} = {self.train:,} train + {self.validation:,} validation"


@dataclass(frozen=True)
class Figures:
    """One row of figures: a model, measured on the images that the report names."""

    name: str
    accuracy: Interval | None = None
    macro_f1: Interval | None = None
    calibration_error: Interval | None = None
    labels: int | None = None
    """Labels it was given, validation included."""
    images: int | None = None
    """Images that went through the network in training, all views counted."""
    note: str = ""
    """A quiet line under the name, such as "same labels, augmentation, labeled batch and steps"."""


@dataclass(frozen=True)
class Differences:
    """This run minus another model, on the same images."""

    against: str
    accuracy: Paired | None = None
    macro_f1: Paired | None = None
    calibration_error: Paired | None = None


@dataclass(frozen=True)
class CurveChart:
    """Several curves that share one chart."""

    title: str
    curves: Sequence[Curve]
    rate: bool = False
    """Whether the values lie in [0, 1] and are printed as percentages."""


@dataclass(frozen=True)
class PseudoLabelReport:
    """What the method believed about the unlabeled images. Any part may be missing."""

    steps: Sequence[float] = ()
    mask_rate: Sequence[float] = ()
    """Per step the share of unlabeled images that counted, in [0, 1]."""
    accuracy: Sequence[float] = ()
    """Per step the share of pseudo-labels that counted and were right, where the truth is known; NaN: none."""
    shares: NDArray[np.float64] | None = None
    """(K,) distribution of the pseudo-labels."""
    label_shares: NDArray[np.float64] | None = None
    """(K,) distribution of the given labels."""


@dataclass(frozen=True)
class ViewRow:
    """One image as the network sees it: the same number of pictures in every row."""

    name: str
    images: Sequence[Image]


@dataclass(frozen=True)
class Mistake:
    """An image that the model was confidently wrong about."""

    image: Image
    true: str
    predicted: str
    confidence: float
    path: str


@dataclass(frozen=True)
class Problem:
    """Something that was set aside, and what to do about it."""

    path: str
    kind: str
    remedy: str


@dataclass(frozen=True)
class RunReport:
    """Everything the report of a run may say; what is empty or None is left out of the page."""

    title: str
    command: str
    method: str
    model: str
    classes: Sequence[str]
    budget: Budget
    split: Literal["test", "validation"]
    """Which images the figures were measured on."""
    n_images: int
    """How many of them."""
    run: Figures
    baselines: Sequence[Figures] = ()
    """The first is the supervised baseline with the same labels."""
    differences: Sequence[Differences] = ()
    """One per baseline that it was compared with; the first decides the headline."""
    level: float = 0.95
    curves: Sequence[CurveChart] = ()
    confusion: NDArray[np.int64] | None = None
    """(K,K) counts, row = label, column = prediction."""
    reliability: Reliability | None = None
    pseudo_labels: PseudoLabelReport | None = None
    view_names: Sequence[str] = ()
    views: Sequence[ViewRow] = ()
    mistakes: Sequence[Mistake] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    """Hardware, versions, commit, seeds ... in the order they are to be printed."""
    problems: Sequence[Problem] = ()
    notes: Sequence[str] = ()
    """Further sentences for the top, such as why there is no baseline."""


def run_page(report: RunReport) -> Page:
    """Lay out the report of one run."""
    facts = [
        ("Labels", report.budget.in_words()),
        ("Method", report.method),
        ("Model", report.model),
        ("Classes", f"{len(report.classes):,}"),
    ]
    if report.run.images is not None:
        facts.append(("Images through the network", f"{report.run.images:,}"))
    return Page(
        title=report.title,
        headline=[*_headline(report), *report.notes],
        facts=facts,
        sections=[
            Section("Figures", _figures(report)),
            Section("Learning curves", _curves(report)),
            Section("Classes", _classes(report)),
            Section("Calibration", _calibration(report)),
            Section("Pseudo-labels", _pseudo_labels(report)),
            Section("What the network sees", _views(report)),
            Section("Most confident mistakes", _mistakes(report)),
            Section("Set aside", _problems(report)),
            Section("How to repeat this", _environment(report)),
        ],
    )


def _headline(report: RunReport) -> list[str]:
    percent_level = f"{100 * report.level:g} %"
    images = count(report.n_images, f"{report.split} image")
    accuracy = report.run.accuracy
    if accuracy is None:
        return ["No figures yet: this run has not been evaluated."]
    span = ends(accuracy)
    sure = f" ({percent_level} interval {span})" if span else ""
    lines = [f"{report.run.name}: {percent(accuracy.value)} of {images} right{sure}."]
    compared = next((d for d in report.differences if d.accuracy is not None), None)
    if compared is not None and compared.accuracy is not None:
        lines.append(_difference_in_words(compared.against, compared.accuracy))
    return lines


def _difference_in_words(against: str, paired: Paired) -> str:
    tone = verdict(paired, higher_is_better=True, p=math.nan, alpha=1.0)
    span = ends(paired.interval, signed=True)
    if tone == "unsure":
        reach = (
            f": the interval of the difference, {span} points, contains 0"
            if span
            else ": one run gives no interval"
        )
        return f"Cannot tell whether it is better than {against}{reach}."
    return (
        f"That is {points(paired.interval.value)} points against {against} ({span}): {VERDICT_WORDS[tone]}."
    )


def _figures(report: RunReport) -> list[Block]:
    blocks: list[Block] = []
    if report.split == "validation":
        blocks.append(
            Text(
                "No test set was named, so test figures are left out. These figures are of the validation images, "
                "which may have helped to choose the model: expect somewhat less on new images. Name a test set "
                "with --test to measure it.",
                "warning",
            )
        )
    table = figures_table(
        [report.run, *report.baselines], f"Measured on {count(report.n_images, f'{report.split} image')}"
    )
    rows = [list(row) for row in table.rows]
    for difference in report.differences:
        cells: list[Cell | str] = [Cell("Difference", f"paired, against {difference.against}")]
        cells += [
            difference_cell(difference.accuracy, higher_is_better=True),
            difference_cell(difference.macro_f1, higher_is_better=True),
            difference_cell(difference.calibration_error, higher_is_better=False),
        ]
        rows.append(cells + [""] * (len(table.columns) - len(cells)))
    blocks.append(Table(table.caption, table.columns, rows))
    blocks.append(Text(_what_intervals_mean(report.level)))
    bars = [(row.name, row.accuracy) for row in (report.run, *report.baselines) if row.accuracy is not None]
    if len(bars) > 1:
        blocks.append(Charts([interval_bars("Accuracy with interval", bars)]))
    return blocks


def _what_intervals_mean(level: float) -> str:
    return (
        f"Small figures are {100 * level:g} % intervals over test images: other images of the same kind would give "
        "such figures. They do not say what another seed would give. Differences are in percentage points, on the "
        "same images; one whose interval contains 0 is reported as “cannot tell”. Macro-F1 is the mean of F1 over "
        "classes; the calibration error is the gap between confidence and accuracy, less is better."
    )


def figures_table(rows: Sequence[Figures], caption: str) -> Table:
    """Put figures of several models into a table; a column that no row fills is left out."""
    optional = {
        "Labels": [row.labels for row in rows],
        "Images through the network": [row.images for row in rows],
    }
    kept = {name: values for name, values in optional.items() if any(value is not None for value in values)}
    cells: list[list[Cell | str]] = [
        [
            Cell(row.name, row.note),
            rate_cell(row.accuracy),
            rate_cell(row.macro_f1),
            rate_cell(row.calibration_error),
            *(f"{values[i]:,}" if values[i] is not None else "\N{EN DASH}" for values in kept.values()),
        ]
        for i, row in enumerate(rows)
    ]
    return Table(caption, ["Model", "Accuracy", "Macro-F1", "Calibration error", *kept], cells)


def _curves(report: RunReport) -> list[Block]:
    return curve_charts(report.curves)


def curve_charts(groups: Sequence[CurveChart]) -> list[Block]:
    """Draw each group that has a point to show."""
    charts: list[Chart] = []
    for group in groups:
        curves = [curve for curve in group.curves if len(curve.steps)]
        if curves:
            charts.append(learning_curves(group.title, curves, rate=group.rate))
    return [Charts(charts)] if charts else []


def _classes(report: RunReport) -> list[Block]:
    return [] if report.confusion is None else class_blocks(report.confusion, report.classes, report.level)


def _calibration(report: RunReport) -> list[Block]:
    table = report.reliability
    if table is None or not table.n_images.any():
        return []
    rows = [
        [
            f"{percent(low)} to {percent(high)}",
            f"{n:,}",
            percent(confidence),
            percent(accuracy),
            points(accuracy - confidence),
        ]
        for low, high, n, confidence, accuracy in zip(*table, strict=True)
        if n
    ]
    return [
        Text(
            "A model that says 80 % should be right 8 times in 10: points on the dashed line. Below the line it is "
            "too confident."
        ),
        Charts([reliability_diagram("Accuracy against confidence", table)]),
        Table(
            f"{len(table.low)} equal bins of confidence; empty ones are left out",
            ["Confidence", "Images", "Mean confidence", "Accuracy", "Gap"],
            rows,
            n_shown=0,
        ),
    ]


def _pseudo_labels(report: RunReport) -> list[Block]:
    pseudo = report.pseudo_labels
    if pseudo is None:
        return []
    charts: list[Chart] = []
    lines = (("share that counted", pseudo.mask_rate), ("right, of those", pseudo.accuracy))
    curves = [Curve(name, pseudo.steps, values) for name, values in lines if len(values)]
    if curves:
        charts.append(learning_curves("Pseudo-labels over time", curves, rate=True))
    note: list[Block] = []
    if pseudo.shares is not None and pseudo.label_shares is not None:
        off = np.abs(pseudo.shares - pseudo.label_shares)
        shown = np.sort(np.argsort(-off, kind="stable")[:_MAX_CLASSES_IN_CHART])
        charts.append(
            distribution_bars(
                "Pseudo-labels against labels",
                [report.classes[i] for i in shown],
                [("pseudo-labels", pseudo.shares[shown]), ("labels", pseudo.label_shares[shown])],
            )
        )
        if len(shown) < len(off):
            note.append(Text(f"The bars show the {len(shown)} of {len(off):,} classes that differ most."))
    return [Charts(charts), *note] if charts else []


def _views(report: RunReport) -> list[Block]:
    rows = [
        (
            row.name,
            [
                Picture(image, (), f"{row.name}, {view}")
                for view, image in zip(report.view_names, row.images, strict=True)
            ],
        )
        for row in report.views
    ]
    return [Sheet("Training images after augmentation", report.view_names, rows)] if rows else []


def _mistakes(report: RunReport) -> list[Block]:
    pictures = [
        Picture(
            m.image,
            (m.predicted, f"is {m.true}", f"{100 * m.confidence:.1f} % sure", m.path),
            f"Taken for {m.predicted} with {100 * m.confidence:.1f} % confidence, labeled {m.true}: {m.path}",
        )
        for m in report.mistakes
    ]
    caption = f"Of the {report.split} images; the bold name is what the model said. Some of these may be wrong labels."
    return [Gallery(caption, pictures)] if pictures else []


def _problems(report: RunReport) -> list[Block]:
    rows = [[p.path, p.kind, p.remedy] for p in report.problems]
    caption = f"{count(len(rows), 'item')} set aside; nothing was deleted"
    return (
        [Table(caption, ["File", "What is wrong", "What to do"], rows, n_text=3, n_shown=20)] if rows else []
    )


def _environment(report: RunReport) -> list[Block]:
    rows = [[name, value] for name, value in report.environment.items()]
    table: list[Block] = [Table("Where it ran", ["", ""], rows, n_text=2)] if rows else []
    return [Code(report.command), *table] if report.command else table
