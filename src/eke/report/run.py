"""The page of one run: figures beside the baseline's, curves, classes, mistakes, and what was set aside."""

import math

import numpy as np

from eke.metrics.statistics import Paired
from eke.report.charts import Chart, Curve, distribution_bars, learning_curves, reliability_diagram
from eke.report.classes import class_blocks
from eke.report.content import RunReport
from eke.report.figures import NO_TEST_SET, accuracy_chart, curve_charts, figures_table, how_to_repeat
from eke.report.page import Block, Cell, Gallery, Page, Picture, Row, Section, Sheet, Table, Text
from eke.report.words import VERDICT_WORDS, count, difference_cell, ends, percent, points, verdict

_MAX_CLASSES_IN_CHART = 15


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
            Section("Learning curves", curve_charts(report.curves)),
            Section("Classes", _classes(report)),
            Section("Calibration", _calibration(report)),
            Section("Pseudo-labels", _pseudo_labels(report)),
            Section("What the network sees", _views(report)),
            Section("Most confident mistakes", _mistakes(report)),
            Section("Set aside", _problems(report)),
            Section("How to repeat this", how_to_repeat(report.command, report.environment)),
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
            f": the interval of the difference, {span} points, contains 0" if span else ": one run gives no interval"
        )
        return f"Cannot tell whether it is better than {against}{reach}."
    return f"Against {against}: {points(paired.interval.value)} points ({span}), {VERDICT_WORDS[tone]}."


def _figures(report: RunReport) -> list[Block]:
    if report.run.accuracy is None:
        return []
    blocks: list[Block] = []
    if report.split == "validation":
        blocks.append(NO_TEST_SET)
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
    blocks.append(Text(_what_intervals_mean(report.level, report.split)))
    blocks += accuracy_chart([report.run, *report.baselines])
    return blocks


def _what_intervals_mean(level: float, split: str) -> str:
    return (
        f"Small figures are {100 * level:g} % intervals over {split} images: other images of the same kind "
        "would give such figures. They do not say what another seed would give. Differences are in "
        "percentage points, on the same images; one whose interval contains 0 is reported as “cannot tell”. "
        "Macro-F1 is the mean of F1 over classes; the calibration error is the gap between confidence and "
        "accuracy, less is better."
    )


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
            "A model that says 80 % should be right 8 times in 10: points on the dashed line. Below the line "
            "it is too confident."
        ),
        reliability_diagram("Accuracy against confidence", table),
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
                "Predicted classes of the pool against labels",
                [report.classes[i] for i in shown],
                [("predicted in the unlabeled pool", pseudo.shares[shown]), ("labels", pseudo.label_shares[shown])],
            )
        )
        if len(shown) < len(off):
            note.append(Text(f"The bars show the {len(shown)} of {len(off):,} classes that differ most."))
    return [Row(charts), *note] if charts else []


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
    caption = f"Of the {report.split} images; the bold name is what the model said. Some may be wrong labels."
    return [Gallery(caption, pictures)] if pictures else []


def _problems(report: RunReport) -> list[Block]:
    rows = [[p.path, p.kind, p.remedy] for p in report.problems]
    caption = f"{count(len(rows), 'item')} set aside; nothing was deleted"
    return [Table(caption, ["File", "What is wrong", "What to do"], rows, n_text=3, n_shown=20)] if rows else []
