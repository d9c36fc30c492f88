"""Per-class figures and confusions, readable at 2 and at 800 classes: the worst come first."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eke.metrics.classification import class_scores
from eke.metrics.statistics import wilson
from eke.report.content import ClassFigures
from eke.report.page import Block, Cell, Heatmap, Row, Table, Text
from eke.report.words import count, ends, percent

_WHOLE_MATRIX = 25  # classes up to which the whole matrix is readable
_WORST_CLASSES = 15  # in the matrix of the worst, beyond that
_BESIDE = 10  # classes up to which the matrix fits beside the worst pairs
_PAIRS = 15
_ROWS = 25  # of the per-class table before the rest is folded


def class_blocks(confusion: NDArray[np.int64], classes: Sequence[str], level: float) -> list[Block]:
    """Return the worst pairs, the matrix (whole, or of the worst classes) and the figures per class.

    Args:
        confusion: (K,K) counts, row = label, column = prediction.
        classes: K names.
        level: confidence level of the intervals of recall.
    """
    matrix, table = _matrix(confusion, classes), _per_class(confusion, classes, level)
    pairs = _worst_pairs(confusion, classes)
    return [Row([pairs, matrix]), table] if len(matrix.names) <= _BESIDE else [pairs, matrix, table]


def class_figures_table(figures: Sequence[ClassFigures]) -> list[Block]:
    """Return the figures per class of images with several labels, the worst average precision first."""
    ordered = sorted(figures, key=lambda each: (math.isnan(each.average_precision), each.average_precision))
    rows = [
        [
            each.name,
            f"{each.n:,}",
            f"{each.n_predicted:,}",
            percent(each.average_precision),
            percent(each.f1),
            f"{each.threshold:.3f}",
        ]
        for each in ordered
    ]
    columns = ["Class", "Images", "Predicted", "Average precision", "F1", "Predicted from"]
    return [Table("Each class by itself, the worst first", columns, rows, n_shown=_ROWS)]


def _pairs(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (P,2) label and prediction of all confusions that occurred, the most frequent first."""
    errors = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-errors, axis=None, kind="stable")[: int((errors > 0).sum())]
    return np.stack(np.unravel_index(order, errors.shape), axis=1)


def _worst_pairs(confusion: NDArray[np.int64], classes: Sequence[str]) -> Table | Text:
    pairs = _pairs(confusion)
    if not len(pairs):
        return Text("No image was taken for another class.")
    totals = confusion.sum(1)
    rows = [
        [
            classes[i],
            classes[j],
            f"{confusion[i, j]:,}",
            f"{percent(confusion[i, j] / totals[i])} of {totals[i]:,}",
        ]
        for i, j in pairs[:_PAIRS]
    ]
    left = f"; {count(len(pairs) - len(rows), 'further pair')} not shown" if len(pairs) > len(rows) else ""
    caption = f"What was taken for what most often{left}"
    return Table(caption, ["Label", "Taken for", "Images", "Share of the label"], rows, n_text=2, n_shown=10)


def _matrix(confusion: NDArray[np.int64], classes: Sequence[str]) -> Heatmap:
    totals = confusion.sum(1)
    if len(classes) <= _WHOLE_MATRIX:
        caption = "Confusion matrix: a row is a label, a column a prediction"
        return Heatmap(caption, classes, confusion, totals)
    pairs = _pairs(confusion)
    worst = np.sort(list(dict.fromkeys(pairs.ravel().tolist()))[:_WORST_CLASSES]).astype(np.int64)
    return Heatmap(
        f"Confusion matrix of {len(worst)} of {len(classes):,} classes, those most often confused: a row is "
        "a label, a column a prediction",
        [classes[i] for i in worst],
        confusion[np.ix_(worst, worst)],
        totals[worst],
    )


def _per_class(confusion: NDArray[np.int64], classes: Sequence[str], level: float) -> Table:
    scores = class_scores(confusion)
    hits = np.diag(confusion)
    order = np.argsort(np.nan_to_num(scores.f1, nan=2.0), kind="stable")  # absent classes last
    rows: list[list[Cell | str]] = []
    for i in order:
        recall = wilson(int(hits[i]), int(scores.n_images[i]), level)
        rows.append(
            [
                classes[i],
                _rate(scores.f1[i], bar=True),
                Cell(_rate(scores.recall[i]).text, ends(recall) if scores.n_images[i] else ""),
                _rate(scores.precision[i]),
                f"{scores.n_images[i]:,}",
                f"{scores.n_predicted[i]:,}",
            ]
        )
    return Table(
        "Figures per class, worst F1 first",
        ["Class", "F1", "Recall", "Precision", "Images", "Predicted"],
        rows,
        n_shown=_ROWS,
    )


def _rate(value: float, *, bar: bool = False) -> Cell:
    if np.isnan(value):
        return Cell("\N{EN DASH}")
    return Cell(percent(float(value)), bar=float(value) if bar else None)
