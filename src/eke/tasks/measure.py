"""From predictions to figures: each with its 95 % interval, and the difference of two models on the same images."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from eke.engine.predict import Predictions
from eke.errors import DataError
from eke.metrics import multilabel
from eke.metrics.classification import (
    accuracy_parts,
    calibration_parts,
    class_scores,
    confusion_matrix,
    macro_f1_parts,
)
from eke.metrics.statistics import Interval, PerImage, bootstrap, compare_images, wilson

Metric = Callable[..., list[PerImage]]
"""One model's predictions, or two of the same images -> the metric of each taken apart per image."""


def _each(parts: Callable[[Predictions], PerImage]) -> Metric:
    return lambda *predictions: [parts(each) for each in predictions]


ONE_LABEL: Mapping[str, Metric] = {
    "accuracy": _each(lambda p: accuracy_parts(p.probs, p.labels)),
    "macro_f1": _each(lambda p: macro_f1_parts(p.probs, p.labels)),
    "calibration_error": _each(lambda p: calibration_parts(p.probs, p.labels)),
}
SEVERAL_LABELS: Mapping[str, Metric] = {
    "mean_average_precision": lambda *predictions: multilabel.mean_average_precision_parts(
        predictions[0].labels, *(each.probs for each in predictions)
    ),
    "macro_f1": _each(lambda p: multilabel.macro_f1_parts(p.probs, p.labels, p.thresholds)),
    "micro_f1": _each(lambda p: multilabel.micro_f1_parts(p.probs, p.labels, p.thresholds)),
}
"""Names in results.json -> metrics. The first of each is the one that is spoken of."""


def metrics_of(figures: Mapping[str, Any]) -> list[str]:
    """Return the names of the metrics that measured figures hold, the one that is spoken of first."""
    return list(SEVERAL_LABELS if next(iter(SEVERAL_LABELS)) in figures else ONE_LABEL)


def metric_of_run(*, several: bool) -> str:
    """Return the name of the metric that is spoken of."""
    return next(iter(SEVERAL_LABELS if several else ONE_LABEL))


def labeled_only(predictions: Predictions) -> Predictions:
    """Keep the images whose class is known.

    Raises:
        DataError: none is.
    """
    known = predictions.known
    if not known.any():
        raise DataError("None of these images has a label, so nothing can be evaluated. Use `eke predict` instead.")
    return predictions.select(known)


def measure(predictions: Predictions, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return plain values: n, each metric with its interval (accuracy: Wilson; else bootstrap), figures per class.

    Args:
        predictions: of labeled images.
        classes: class names.
    """
    metrics = SEVERAL_LABELS if predictions.several else ONE_LABEL
    found = {name: plain(bootstrap(*parts(predictions))) for name, parts in metrics.items() if name != "accuracy"}
    if not predictions.several:
        correct = predictions.probs.argmax(1) == predictions.labels
        found = {"accuracy": plain(wilson(int(correct.sum()), len(correct))), **found}
    per_class = _per_class_of_several if predictions.several else _per_class
    return {"n": len(predictions.labels), **found, "per_class": per_class(predictions, classes)}


def main_figure(predictions: Predictions) -> float:
    """Return the metric that is spoken of: accuracy, or mAP of images with several labels; NaN where there is none."""
    if predictions.several:
        return multilabel.average_precision(predictions.probs, predictions.labels).mean
    return float((predictions.probs.argmax(1) == predictions.labels).mean())


def _per_class(predictions: Predictions, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    labels, predicted = predictions.labels, predictions.probs.argmax(1)
    correct = predicted == labels
    scores = class_scores(confusion_matrix(predicted, labels, len(classes)))
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
    return per_class


def _per_class_of_several(predictions: Predictions, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    probs, labels, thresholds = predictions.probs, predictions.labels, predictions.thresholds
    f1 = multilabel.f1_scores(probs, labels, thresholds)
    ranked = multilabel.average_precision(probs, labels)
    return [
        {
            "class": name,
            "n": int(f1.n_images[k]),
            "n_predicted": int(f1.n_predicted[k]),
            "average_precision": _number(ranked.ap[k]),
            "f1": _number(f1.f1[k]),
            "threshold": float(thresholds[k]),
        }
        for k, name in enumerate(classes)
    ]


def difference(a: Predictions, b: Predictions) -> dict[str, Any]:
    """Return a - b for each metric on the same images: value, interval, p, and whether the interval excludes 0.

    Raises:
        DataError: the two were not measured on the same labeled images.
    """
    order = {identity: row for row, identity in enumerate(b.ids.tolist())}
    if len(a.ids) != len(b.ids) or any(identity not in order for identity in a.ids.tolist()):
        raise DataError("The two runs were evaluated on different images, so they cannot be compared image by image.")
    if a.labels.shape != b.labels.shape:
        raise DataError("One of the two runs gives an image one label and the other several, so nothing compares them.")
    other = b.select(np.array([order[identity] for identity in a.ids.tolist()]))
    compared: dict[str, Any] = {}
    for name, parts in (SEVERAL_LABELS if a.several else ONE_LABEL).items():
        paired = compare_images(*parts(a, other))
        compared[name] = {**plain(paired.interval), "p": paired.p, "decided": paired.decided}
    return compared


def plain(interval: Interval) -> dict[str, float | None]:
    """Return an interval as JSON values."""
    return {name: _number(value) for name, value in interval._asdict().items()}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
