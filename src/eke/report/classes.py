"""Per-class figures and confusions, readable at 2 and at 800 classes: the worst come first."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eke.metrics.classification import class_scores
from eke.metrics.statistics import wilson
from eke.report.page import Block, Cell, Heatmap, Table, Text
from eke.report.words import count, ends, percent

_WHOLE_MATRIX = 25  # classes up to which the whole matrix is readable
_WORST_CLASSES = 15  # in the matrix of the worst, beyond that
_PAIRS = 15
_ROWS = 25  # of the per-class table before the rest is folded


def class_blocks(confusion: NDArray[np.int64], classes: Sequence[str], level: float) -> list[Block]:
    """Return the worst pairs, the matrix (whole, or of the worst classes) and the figures per class.

    Args:
        confusion: (K,K) counts, row = label, column = prediction.
        classes: K names.
        level: confidence level of the intervals of recall.
    """
    return [
        *_worst_pairs(confusion, classes),
        _matrix(confusion, classes),
        _per_class(confusion, classes, level),
    ]


def _worst_pairs(confusion: NDArray[np.int64], classes: Sequence[str]) -> list[Block]:
    errors = confusion - np.diag(np.diag(confusion))
    n_pairs = int((errors > 0).sum())
    if not n_pairs:
        return [Text("No image was taken for another class.")]
    order = np.argsort(-errors, axis=None, kind="stable")[: min(_PAIRS, n_pairs)]
    totals = confusion.sum(1)
    rows = [
        [classes[i], classes[j], f"{errors[i, j]:,}", f"{percent(errors[i, j] / totals[i])} of {totals[i]:,}"]
        for i, j in zip(*np.unravel_index(order, errors.shape), strict=True)
    ]
    left = f"; {count(n_pairs - len(rows), 'further pair')} not shown" if n_pairs > len(rows) else ""
    caption = f"What was taken for what most often{left}"
    return [Table(caption, ["Label", "Taken for", "Images", "Share of the label"], rows, n_text=2, n_shown=8)]


def _matrix(confusion: NDArray[np.int64], classes: Sequence[str]) -> Heatmap:
    totals = confusion.sum(1)
    if len(classes) <= _WHOLE_MATRIX:
        return Heatmap(
            "Confusion matrix: rows are labels, columns are predictions", classes, confusion, totals
        )
    errors = confusion - np.diag(np.diag(confusion))
    involved = errors.sum(0) + errors.sum(1)
    worst = np.sort(np.argsort(-involved, kind="stable")[:_WORST_CLASSES])
    return Heatmap(
        f"Confusion matrix of the {len(worst)} classes with most errors, of {len(classes):,}: rows are labels, "
        "columns are predictions",
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
