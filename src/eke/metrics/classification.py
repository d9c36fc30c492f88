"""What a single-label classifier got right, from its probabilities: pure functions on NumPy arrays.

Everywhere: `probs` (N,K) floats in [0,1], `labels` (N,) integers in [0,K), N >= 1; CPU tensors without a
gradient are taken too. The prediction is the first class of the highest probability.

Absent classes. F1 of class k is 2 TP / (images of k + predictions of k), so it is 0 for a class that is there
and never found, and for one that is predicted and not there; where both counts are 0 it is NaN and the macro
mean leaves the class out. That is scikit-learn's macro-F1 over the classes it meets.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eke.errors import DataError
from eke.metrics.statistics import Floats, Interval, PerImage, bootstrap, per_image_mean

Ints = NDArray[np.int64]

N_BINS = 15
"""Equal-width confidence bins of the calibration error (Guo et al. 2017)."""


_SHARE = (0.0, 1.0)


class ClassScores(NamedTuple):
    """Figures per class, each (K,). NaN where a figure has no denominator."""

    precision: Floats
    """TP / predictions of the class."""
    recall: Floats
    """TP / images of the class."""
    f1: Floats
    n_images: Ints
    """Images that are of the class."""
    n_predicted: Ints
    """Images that were taken for it."""


class Reliability(NamedTuple):
    """The reliability table, each column (n_bins,). Bin m holds the confidences in (edge[m], edge[m+1]]."""

    low: Floats
    high: Floats
    n_images: Ints
    confidence: Floats
    """Mean confidence of the bin; NaN in an empty bin."""
    accuracy: Floats
    """Share of correct predictions of the bin; NaN in an empty bin."""


def accuracy(probs: ArrayLike, labels: ArrayLike) -> float:
    """Return the share of images whose most probable class is their label."""
    p, y = _checked(probs, labels)
    return float((p.argmax(1) == y).mean())


def macro_f1(probs: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean of F1 over the classes that occur as a label or as a prediction."""
    return macro_f1_parts(probs, labels).value()


def calibration_error(probs: ArrayLike, labels: ArrayLike, n_bins: int = N_BINS) -> float:
    """Return the expected calibration error: sum over bins of (count / N) |accuracy - confidence|.

    Guo et al. 2017, equation 3, with `n_bins` equal-width bins of the highest probability.
    """
    return calibration_parts(probs, labels, n_bins).value()


def negative_log_likelihood(probs: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean of -log p(label), natural logarithm.

    A probability of 0 counts as the smallest normal float32 (1.2e-38, a loss of 87.3), so that one image
    whose softmax was rounded to 0 does not make the mean infinite.
    """
    return negative_log_likelihood_parts(probs, labels).value()


def confusion_matrix(predicted: ArrayLike, labels: ArrayLike, n_classes: int) -> Ints:
    """Count images by what they are and what they were taken for.

    Args:
        predicted: (N,) integers in [0,K).
        labels: (N,) integers in [0,K).
        n_classes: K.

    Returns:
        (K,K) int64; row = label, column = prediction.
    """
    given, truth = _checked_classes(predicted, n_classes), _checked_classes(labels, n_classes)
    if given.shape != truth.shape:
        raise DataError(f"{len(given)} predictions do not match {len(truth)} labels one to one.")
    counts = np.bincount(truth * n_classes + given, minlength=n_classes * n_classes)
    return counts.reshape(n_classes, n_classes).astype(np.int64)


def class_scores(confusion: ArrayLike) -> ClassScores:
    """Return precision, recall and F1 of each class from a (K,K) confusion matrix (row = label)."""
    matrix = np.asarray(confusion, dtype=np.int64)
    hits, images, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    return ClassScores(
        precision=_ratio(hits, predicted),
        recall=_ratio(hits, images),
        f1=_ratio(2 * hits, images + predicted),
        n_images=images,
        n_predicted=predicted,
    )


def reliability(probs: ArrayLike, labels: ArrayLike, n_bins: int = N_BINS) -> Reliability:
    """Bin the predictions by confidence and compare confidence with accuracy in each bin."""
    p, y = _checked(probs, labels)
    confidence, bins = _confidence_bins(p, n_bins)
    count = np.bincount(bins, minlength=n_bins).astype(np.int64)
    edges = np.linspace(0, 1, n_bins + 1)
    return Reliability(
        low=edges[:-1],
        high=edges[1:],
        n_images=count,
        confidence=_ratio(np.bincount(bins, confidence, n_bins), count),
        accuracy=_ratio(np.bincount(bins, p.argmax(1) == y, n_bins), count),
    )


# ------------------------------------------------------------------ taken apart, for intervals and tests


def accuracy_parts(probs: ArrayLike, labels: ArrayLike) -> PerImage:
    """Take the accuracy apart into per-image hits."""
    p, y = _checked(probs, labels)
    return per_image_mean(p.argmax(1) == y, _SHARE)


def negative_log_likelihood_parts(probs: ArrayLike, labels: ArrayLike) -> PerImage:
    """Take the negative log likelihood apart into its per-image terms."""
    p, y = _checked(probs, labels)
    floor = np.finfo(np.float32).tiny
    return per_image_mean(-np.log(np.maximum(p[np.arange(len(y)), y], floor)), (0.0, np.inf))


def macro_f1_parts(probs: ArrayLike, labels: ArrayLike) -> PerImage:
    """Take macro-F1 apart: columns [TP of class k | images of k + predictions of k], 2K of them and sparse.

    A resample that misses a class altogether (no image, no prediction) averages over the others.
    """
    from scipy.sparse import csr_array

    p, y = _checked(probs, labels)
    n, k = p.shape
    predicted, rows = p.argmax(1), np.arange(n)
    hit = predicted == y
    where = np.concatenate([rows[hit], rows, rows])
    which = np.concatenate([y[hit], k + y, k + predicted])  # a hit adds 2 to its class: entries are summed
    columns = csr_array((np.ones(len(where)), (where, which)), shape=(n, 2 * k))

    def combine(sums: Floats) -> Floats:
        f1 = _ratio(2 * sums[:, :k], sums[:, k:])
        return np.nanmean(f1, axis=1)  # every image has a label, so no row is all NaN

    return PerImage(columns, combine, _SHARE)


def calibration_parts(probs: ArrayLike, labels: ArrayLike, n_bins: int = N_BINS) -> PerImage:
    """Take the calibration error apart: column m holds (confidence - hit) of the images in bin m."""
    p, y = _checked(probs, labels)
    confidence, bins = _confidence_bins(p, n_bins)
    n = len(y)
    columns = np.zeros((n, n_bins))
    columns[np.arange(n), bins] = confidence - (p.argmax(1) == y)
    return PerImage(columns, lambda sums: np.abs(sums).sum(1) / n, _SHARE)


def calibration_interval(
    probs: ArrayLike,
    labels: ArrayLike,
    n_bins: int = N_BINS,
    *,
    level: float = 0.95,
    n_resamples: int = 5000,
    seed: int = 0,
) -> Interval:
    """Return the calibration error with an interval that covers `level` at least, for calibrated models too.

    Absolute values make the measured error too large, by the noise of the bins, and a resample doubles that
    noise: a calibrated model's resamples lie wholly above the truth. So only the high end is the ordinary
    bootstrap's. The low end is the measured error less the distance that noise alone can explain: the
    quantile of sum |resampled bin - bin|, never too small by the triangle inequality. It is cautious and
    reaches 0 where the model may be calibrated.
    """
    parts = calibration_parts(probs, labels, n_bins)
    observed, n = parts.columns.sum(0), len(parts.columns)
    noise = PerImage(parts.columns, lambda sums: np.abs(sums - observed).sum(1) / n)
    plain = bootstrap(parts, level=level, n_resamples=n_resamples, seed=seed)
    distance = bootstrap(noise, level=level, n_resamples=n_resamples, seed=seed).high
    return Interval(plain.value, max(0.0, plain.value - distance), plain.high)


# ------------------------------------------------------------------ what the functions share


def _checked(probs: ArrayLike, labels: ArrayLike) -> tuple[Floats, Ints]:
    p = np.asarray(probs, dtype=np.float64)
    if p.ndim != 2 or 0 in p.shape:
        raise DataError(f"Probabilities must be (images, classes), at least one of each; got shape {p.shape}.")
    y = _checked_classes(labels, p.shape[1])
    if len(y) != len(p):
        raise DataError(f"{len(p)} rows of probabilities do not match {len(y)} labels one to one.")
    if not np.isfinite(p).all():
        raise DataError("Some probabilities are not finite; the model's weights are probably damaged.")
    return p, y


def _checked_classes(values: ArrayLike, n_classes: int) -> Ints:
    classes = np.asarray(values)
    if classes.ndim != 1 or not (np.issubdtype(classes.dtype, np.integer) or classes.size == 0):
        raise DataError(f"Labels must be one integer per image; got {classes.dtype} of shape {classes.shape}.")
    if classes.size and not 0 <= int(classes.min()) <= int(classes.max()) < n_classes:
        raise DataError(
            f"Labels must lie in 0..{n_classes - 1}; got {classes.min()}..{classes.max()}. "
            "Leave unlabeled images (-1) out before scoring."
        )
    return classes.astype(np.int64)


def _confidence_bins(p: Floats, n_bins: int) -> tuple[Floats, Ints]:
    confidence = p.max(1)
    inner = np.linspace(0, 1, n_bins + 1)[1:-1]  # only inner edges: float32 softmax may give 1.0000001
    return confidence, np.searchsorted(inner, confidence, side="left").astype(np.int64)


def _ratio(above: ArrayLike, below: ArrayLike) -> Floats:
    """Divide elementwise; NaN where the denominator is 0."""
    a, b = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    return np.divide(a, b, out=np.full(b.shape, np.nan), where=b != 0)
