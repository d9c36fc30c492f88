"""The page of one run: figures beside the baseline's, curves, classes, mistakes, and what was set aside."""

import math

from eke.metrics.statistics import Paired
from eke.report.attention_sheet import look_blocks
from eke.report.boxes import box_blocks
from eke.report.charts import Curve, learning_curves, reliability_diagram
from eke.report.classes import class_blocks, class_figures_table
from eke.report.content import METRICS, RunReport
from eke.report.figures import (
    NO_TEST_SET,
    curve_charts,
    figures_table,
    how_to_repeat,
    main_chart,
    problem_table,
    view_sheet,
)
from eke.report.insides import LAYERS_IN_WORDS, embedding_blocks, layer_sheet
from eke.report.page import Block, Cell, Gallery, Page, Picture, Section, Table, Text
from eke.report.predicted import imbalance_blocks, predicted_blocks
from eke.report.words import VERDICT_WORDS, count, difference_cell, ends, percent, points, verdict


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
            Section("Predicted classes", _predicted(report)),
            Section("Predicted too seldom or too often", _imbalances(report)),
            Section("Calibration", _calibration(report)),
            Section("Pseudo-labels", _pseudo_labels(report)),
            Section("What the network sees", view_sheet(report.view_names, report.views)),
            Section("What the layers see", _layers(report)),
            Section("Where it looks", look_blocks(report.look) if report.look else []),
            Section("Maps beside boxes", box_blocks(report.boxes, report.split) if report.boxes else []),
            Section("Embedding map", _embeddings(report)),
            Section("Most confident mistakes", _mistakes(report)),
            Section("Set aside", problem_table(report.problems)),
            Section("How to repeat this", how_to_repeat(report.command, report.environment)),
        ],
    )


def _headline(report: RunReport) -> list[str]:
    percent_level = f"{100 * report.level:g} %"
    images = count(report.n_images, f"{report.split} image")
    figure = report.run.main
    if figure is None:
        return ["No figures yet: this run has not been evaluated."]
    span = ends(figure)
    sure = f" ({percent_level} interval {span})" if span else ""
    right = f"{percent(figure.value)} of {images} right"
    if "accuracy" not in report.run.values:
        right = f"{report.run.metric.title} {percent(figure.value)} on {images}"
    lines = [f"{report.run.name}: {right}{sure}."]
    compared = next((d for d in report.differences if d.values), None)
    if compared is not None:
        lines.append(_difference_in_words(compared.against, next(iter(compared.values.values()))))
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
    if report.run.main is None:
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
            difference_cell(difference.values.get(name), higher_is_better=metric.higher_is_better)
            for name, metric in METRICS.items()
            if name in report.run.values
        ]
        rows.append(cells + [""] * (len(table.columns) - len(cells)))
    blocks.append(Table(table.caption, table.columns, rows))
    blocks.append(Text(_what_intervals_mean(report)))
    blocks += main_chart([report.run, *report.baselines])
    return blocks


def _what_intervals_mean(report: RunReport) -> str:
    words = [IN_WORDS[name] for name in METRICS if name in report.run.values and name in IN_WORDS]
    return (
        f"Small figures are {100 * report.level:g} % intervals over {report.split} images: other images of the same "
        "kind would give such figures. They do not say what another seed would give. Differences are in "
        "percentage points, on the same images; one whose interval contains 0 is reported as “cannot tell”. "
        + " ".join(words)
    )


IN_WORDS = {
    "mean_average_precision": "mAP is the mean over classes of the average precision, whatever the thresholds.",
    "macro_f1": "Macro-F1 is the mean of F1 over classes.",
    "micro_f1": "Micro-F1 is the F1 of all classes' decisions together.",
    "calibration_error": "The calibration error is the gap between confidence and accuracy, less is better.",
}
"""What a metric is, for the page."""


def _classes(report: RunReport) -> list[Block]:
    if report.class_figures:
        return class_figures_table(report.class_figures)
    return [] if report.confusion is None else class_blocks(report.confusion, report.classes, report.level)


def _predicted(report: RunReport) -> list[Block]:
    return predicted_blocks(report.pool, report.confusion, report.classes, report.split, report.level)


def _imbalances(report: RunReport) -> list[Block]:
    if report.confusion is None:
        return []
    examples = report.under_examples, report.over_examples
    return imbalance_blocks(report.confusion, report.classes, report.split, report.level, *examples)


def _layers(report: RunReport) -> list[Block]:
    return [] if report.layers is None else [Text(LAYERS_IN_WORDS), layer_sheet(report.layers)]


def _embeddings(report: RunReport) -> list[Block]:
    if report.embeddings is None or report.confusion is None:
        return []
    return embedding_blocks(report.embeddings, report.confusion, report.classes, report.split)


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
    lines = (("share that counted", pseudo.mask_rate), ("right, of those", pseudo.accuracy))
    curves = [Curve(name, pseudo.steps, values) for name, values in lines if len(values)]
    return [learning_curves("Pseudo-labels over time", curves, rate=True)] if curves else []


def _mistakes(report: RunReport) -> list[Block]:
    pictures = [
        Picture(
            m.image,
            (m.predicted, f"is {m.true}", f"{100 * m.confidence:.1f} % sure", m.path),
            f"Taken for {m.predicted} with {100 * m.confidence:.1f} % confidence, labeled {m.true}: {m.path}",
        )
        for m in report.mistakes
    ]
    caption = f"The {report.split} images that it is surest of and wrong about"
    note = Text("The bold name is what the model said. Some may be wrong labels.")
    return [note, Gallery(caption, pictures)] if pictures else []
