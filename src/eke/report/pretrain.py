"""The page of a pretraining run: what the embeddings are like, and whether they have collapsed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from eke.report.charts import Curve
from eke.report.content import CurveChart, Figures, Problem, ViewRow
from eke.report.figures import curve_charts, figures_table, how_to_repeat, problem_table, view_sheet
from eke.report.page import Block, Page, Section, Text
from eke.report.words import count, percent

COLLAPSED_STD = 0.1
"""Spread of the embeddings below which they are nearly one point; 1 = as on a uniform sphere."""
COLLAPSED_RANK = 2.0
"""Effective rank below which they lie nearly on one line."""


@dataclass(frozen=True)
class PretrainReport:
    """Everything the report of a pretraining may say; what is empty or None is left out of the page."""

    title: str
    command: str
    method: str
    model: str
    n_images: int
    """Images that it learned from, without their labels."""
    images: int | None = None
    """Images that went through the network, all views counted."""
    losses: Sequence[Curve] = ()
    """The loss and its terms over steps; each gets a chart of its own, since their scales differ."""
    embedding_std: Curve | None = None
    """Spread of the embeddings over steps, in [0, 1]; see `eke.metrics.representation.embedding_std`."""
    effective_rank: Curve | None = None
    """Dimensions that they use, over steps, at least 1."""
    knn_accuracy: Curve | None = None
    """Accuracy on validation of the nearest labeled images over steps, in [0, 1]."""
    probes: Sequence[Figures] = ()
    """Classifiers on the frozen embeddings."""
    measured: str = ""
    """What the probes were measured on: "2,000 test images"."""
    view_names: Sequence[str] = ()
    views: Sequence[ViewRow] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    """Hardware, versions, commit, seeds ... in the order they are to be printed."""
    problems: Sequence[Problem] = ()
    notes: Sequence[str] = ()
    """Further sentences for the top."""


def pretrain_page(report: PretrainReport) -> Page:
    """Lay out the report of a pretraining run."""
    facts = [
        ("Labels", "none used"),
        ("Method", report.method),
        ("Model", report.model),
        ("Images", f"{report.n_images:,}"),
    ]
    if report.images is not None:
        facts.append(("Images through the network", f"{report.images:,}"))
    return Page(
        title=report.title,
        headline=[*_headline(report), *report.notes],
        facts=facts,
        sections=[
            Section("Probes", _probes(report)),
            Section("Representation", _representation(report)),
            Section("Learning curves", curve_charts([CurveChart(each.name, [each]) for each in report.losses])),
            Section("What the network sees", view_sheet(report.view_names, report.views)),
            Section("Set aside", problem_table(report.problems)),
            Section("How to repeat this", how_to_repeat(report.command, report.environment)),
        ],
    )


def _headline(report: PretrainReport) -> list[str]:
    learned = f"{report.method} learned from {count(report.n_images, 'image')}, without labels."
    std, rank, knn = map(_last, (report.embedding_std, report.effective_rank, report.knn_accuracy))
    figures = []
    if math.isfinite(knn):
        figures.append(f"The nearest labeled images name {percent(knn)} of the validation images rightly.")
    if collapse := _collapse(std, rank):
        return [collapse, learned, *figures]
    if math.isfinite(std) and math.isfinite(rank):
        figures.append(f"The embeddings have not collapsed: spread {std:.2f} of 1, effective rank {rank:.1f}.")
    return [learned, *figures]


def _last(curve: Curve | None) -> float:
    return float(curve.values[-1]) if curve is not None and len(curve.values) else math.nan


def _collapse(std: float, rank: float) -> str:
    """Say that the embeddings of the last evaluation have collapsed, where they have; NaN is not known."""
    signs = []
    if std < COLLAPSED_STD:
        signs.append(f"their spread is {std:.3f} of 1, so all images look nearly alike to it")
    if rank < COLLAPSED_RANK:
        signs.append(f"their effective rank is {rank:.2f}, so they lie nearly on a line")
    return f"The embeddings have collapsed: {'; '.join(signs)}." if signs else ""


def _representation(report: PretrainReport) -> list[Block]:
    groups = [
        CurveChart(title, [curve], rate)
        for title, curve, rate in (
            ("kNN accuracy on validation", report.knn_accuracy, True),
            ("Spread of the embeddings (1 = uniform)", report.embedding_std, False),
            ("Effective rank of the embeddings", report.effective_rank, False),
        )
        if curve is not None
    ]
    charts = curve_charts(groups)
    if not charts:
        return []
    blocks: list[Block] = []
    if collapse := _collapse(_last(report.embedding_std), _last(report.effective_rank)):
        remedy = (
            "A classifier cannot tell classes apart by them. Try a lower optim.lr, a larger batch or another method."
        )
        blocks.append(Text(f"{collapse} {remedy}", "warning"))
    what = (
        "The spread is 1 where embeddings cover the sphere evenly and 0 where all are one point; the effective rank is "
        "the number of directions that they use. Both are of the averaged network, on images of the pool."
    )
    return [*blocks, Text(what), *charts]


def _probes(report: PretrainReport) -> list[Block]:
    if not report.probes:
        return []
    how = "Classifiers on the network’s embeddings, which stay as they are; small figures are 95 % intervals."
    return [figures_table(report.probes, f"Measured on {report.measured}"), Text(how)]
