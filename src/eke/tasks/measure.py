"""From predictions to figures: each with its 95 % interval, and the difference of two models on the same images."""

from typing import Any

import numpy as np

from eke.engine.predict import Predictions
from eke.errors import DataError
from eke.metrics.classification import (
    accuracy_parts,
    calibration_parts,
    class_scores,
    confusion_matrix,
    macro_f1_parts,
)
from eke.metrics.statistics import Interval, PerImage, bootstrap, compare_images, wilson

METRICS = {"accuracy": accuracy_parts, "macro_f1": macro_f1_parts, "calibration_error": calibration_parts}
"""Names in results.json -> the metric taken apart per image."""


def labeled_only(predictions: Predictions) -> Predictions:
    """Keep the images whose class is known.

    Raises:
        DataError: none is.
    """
    known = predictions.labels >= 0
    if not known.any():
        raise DataError("None of these images has a label, so nothing can be evaluated. Use `eke predict` instead.")
    return Predictions(predictions.ids[known], predictions.labels[known], predictions.probs[known])


def measure(predictions: Predictions, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return plain values: n, accuracy (Wilson), macro-F1 and calibration error (bootstrap), and figures per class.

    Args:
        predictions: of labeled images.
        classes: class names.
    """
    labels, probs = predictions.labels, predictions.probs
    correct = probs.argmax(1) == labels
    scores = class_scores(confusion_matrix(probs.argmax(1), labels, len(classes)))
    per_class = []
    for k, name in enumerate(classes):
        n = int((labels == k).sum())
        per_class.append(
            {
                "class": name,
                "n": n,
                "recall": plain(wilson(int(correct[labels == k].sum()), n)) if n else None,
                "precision": _number(scores.precision[k]),
                "f1": _number(scores.f1[k]),
            }
        )
    return {
        "n": len(labels),
        "accuracy": plain(wilson(int(correct.sum()), len(labels))),
        "macro_f1": plain(bootstrap(macro_f1_parts(probs, labels))),
        "calibration_error": plain(bootstrap(calibration_parts(probs, labels))),
        "per_class": per_class,
    }


def difference(a: Predictions, b: Predictions) -> dict[str, Any]:
    """Return a - b for each metric on the same images: value, interval, p, and whether the interval excludes 0.

    Raises:
        DataError: the two were not measured on the same labeled images.
    """
    order = {identity: row for row, identity in enumerate(b.ids.tolist())}
    if len(a.ids) != len(b.ids) or any(identity not in order for identity in a.ids.tolist()):
        raise DataError("The two runs were evaluated on different images, so they cannot be compared image by image.")
    rows = np.array([order[identity] for identity in a.ids.tolist()])
    compared: dict[str, Any] = {}
    for name, parts in METRICS.items():
        mine: PerImage = parts(a.probs, a.labels)
        paired = compare_images(mine, parts(b.probs[rows], b.labels[rows]))
        compared[name] = {**plain(paired.interval), "p": paired.p, "decided": paired.decided}
    return compared


def plain(interval: Interval) -> dict[str, float | None]:
    """Return an interval as JSON values."""
    return {name: _number(value) for name, value in interval._asdict().items()}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
