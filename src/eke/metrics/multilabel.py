"""What a classifier of images with several classes each got right: pure functions on NumPy arrays.

Everywhere: `probs` (N,K) finite floats, one probability of its own for each class, `targets` (N,K) bool or 0 and 1,
N >= 1 and K >= 1; CPU tensors without a gradient are taken too. A class is predicted where its probability is at least
its threshold.

Classes without an image cannot be found. Their figure is NaN, every mean over classes leaves them out, and
`n_classes` says how many are left. Micro-F1 counts what was wrongly taken for them.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eke.errors import ConfigError, DataError
from eke.metrics.statistics import Floats, PerImage

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

DEFAULT_THRESHOLD = 0.5

_SHARE = (0.0, 1.0)


class F1Scores(NamedTuple):
    """F1 = 2 TP / (images of the class + predictions of the class)."""

    f1: Floats
    """(K,); NaN of classes without an image."""
    macro: float
    """Mean over classes that have images; NaN where none has."""
    micro: float
    """Of all classes' counts together; NaN where there is neither an image nor a prediction of any."""
    n_classes: int
    """Classes in `macro`."""
    n_images: Ints
    """(K,) images of each class."""
    n_predicted: Ints
    """(K,) predictions of each class."""


class AveragePrecision(NamedTuple):
    """How well each class's probabilities rank its images above the others, whatever the thresholds."""

    ap: Floats
    """(K,); NaN of classes without an image."""
    mean: float
    """mAP: mean over classes that have images; NaN where none has."""
    n_classes: int
    """Classes in `mean`."""


def predictions(probs: ArrayLike, thresholds: ArrayLike = DEFAULT_THRESHOLD) -> Bools:
    """Say which classes are predicted.

    Args:
        probs: (N,K), or logits.
        thresholds: one for all, or (K,), on the scale of `probs`.

    Returns:
        (N,K) bool: `probs` at least its class's threshold.

    Raises:
        ConfigError: there is not one threshold for each class, or one is NaN.
        DataError: `probs` is not (N,K) or not finite.
    """
    p = _checked_probs(probs)
    t = np.asarray(thresholds, dtype=np.float64)
    if t.shape not in {(), p.shape[1:]}:
        raise ConfigError(f"Thresholds of shape {t.shape} for {p.shape[1]} classes: give one for all, or one for each.")
    if np.isnan(t).any():
        raise ConfigError("A threshold is not a number.")
    return np.asarray(p >= t)


def f1_scores(probs: ArrayLike, targets: ArrayLike, thresholds: ArrayLike = DEFAULT_THRESHOLD) -> F1Scores:
    """Return F1 of each class, macro-F1 and micro-F1.

    Args:
        probs: (N,K).
        targets: (N,K).
        thresholds: as of `predictions`.

    Raises:
        ConfigError: as of `predictions`.
        DataError: `probs` or `targets` is not what the module says.
    """
    given, truth = _outcomes(probs, targets, thresholds)
    hits, n_predicted, n_images = (each.sum(0) for each in (given & truth, given, truth))
    there = n_images > 0
    return F1Scores(
        f1=np.where(there, 2 * hits / np.maximum(n_images + n_predicted, 1), np.nan),
        macro=macro_f1_parts(probs, targets, thresholds).value(),
        micro=micro_f1_parts(probs, targets, thresholds).value(),
        n_classes=int(there.sum()),
        n_images=n_images,
        n_predicted=n_predicted,
    )


def average_precision(probs: ArrayLike, targets: ArrayLike) -> AveragePrecision:
    """Return AP of each class and mAP.

    AP = sum over the distinct probabilities, from the highest, of (recall gained) x (precision down to it): equal
    probabilities are one step, whatever their order, and nothing is interpolated. PASCAL VOC's own AP of 2010 and
    later takes the best precision at each recall or above, and is a little higher.

    Args:
        probs: (N,K), or logits.
        targets: (N,K).

    Raises:
        DataError: `probs` or `targets` is not what the module says.
    """
    p, truth = _checked(probs, targets)
    there = truth.any(0)
    ap = np.full(p.shape[1], np.nan)
    for k in np.flatnonzero(there):
        cuts = _cuts(p[:, k], truth[:, k])
        ap[k] = np.diff(cuts.n_hits, prepend=0) @ (cuts.n_hits / cuts.n_predicted) / cuts.n_hits[-1]
    return AveragePrecision(ap, float(ap[there].mean()) if there.any() else np.nan, int(there.sum()))


def best_thresholds(probs: ArrayLike, targets: ArrayLike) -> Floats:
    """Choose each class's threshold by the best F1. On validation: on test it would flatter.

    It lies in the middle between the lowest probability that is predicted and the next lower one. Of thresholds with
    equal F1 it is the highest, which predicts least.

    Args:
        probs: (N,K).
        targets: (N,K).

    Returns:
        (K,); 0.5 of classes without an image, by which nothing can be chosen.

    Raises:
        DataError: `probs` or `targets` is not what the module says.
    """
    p, truth = _checked(probs, targets)
    thresholds = np.full(p.shape[1], DEFAULT_THRESHOLD)
    for k in np.flatnonzero(truth.any(0)):
        cuts = _cuts(p[:, k], truth[:, k])
        best = int((2 * cuts.n_hits / (cuts.n_predicted + cuts.n_hits[-1])).argmax())
        lowest, below = cuts.probs[best], cuts.probs[min(best + 1, len(cuts.probs) - 1)]
        # the middle of neighboring floats is rounded, and must not fall on the lower one
        thresholds[k] = min(lowest, max(below + (lowest - below) / 2, np.nextafter(below, np.inf)))
    return thresholds


# ------------------------------------------------------------------ taken apart, for intervals and tests


def macro_f1_parts(probs: ArrayLike, targets: ArrayLike, thresholds: ArrayLike = DEFAULT_THRESHOLD) -> PerImage:
    """Take macro-F1 apart: columns [TP of class k | predictions of k | images of k], 3K of them and sparse.

    A resample averages over the classes that it has images of, and is NaN where it has none.
    """
    from scipy.sparse import csr_array

    given, truth = _outcomes(probs, targets, thresholds)
    k = given.shape[1]
    columns = csr_array(np.concatenate([given & truth, given, truth], 1).astype(np.float64))

    def combine(sums: Floats) -> Floats:
        hits, n_predicted, n_images = sums[:, :k], sums[:, k : 2 * k], sums[:, 2 * k :]
        total = (2 * hits / np.maximum(n_images + n_predicted, 1)).sum(1)  # without images there are no hits
        n_there = (n_images > 0).sum(1)
        return np.where(n_there > 0, total / np.maximum(n_there, 1), np.nan)

    return PerImage(columns, combine, _SHARE)


def micro_f1_parts(probs: ArrayLike, targets: ArrayLike, thresholds: ArrayLike = DEFAULT_THRESHOLD) -> PerImage:
    """Take micro-F1 apart: columns [TP | images of a class + predictions of a class], of all classes together.

    A resample without any label and prediction is NaN.
    """
    given, truth = _outcomes(probs, targets, thresholds)
    columns = np.stack([(given & truth).sum(1), given.sum(1) + truth.sum(1)], 1).astype(np.float64)

    def combine(sums: Floats) -> Floats:
        return np.where(sums[:, 1] > 0, 2 * sums[:, 0] / np.maximum(sums[:, 1], 1), np.nan)

    return PerImage(columns, combine, _SHARE)


def mean_average_precision_parts(targets: ArrayLike, *probs: ArrayLike) -> list[PerImage]:
    """Take mAP of one model apart, or of several that are to be compared on the same images.

    AP is no sum over images, so the columns are the images themselves: what is summed is how often each counts, and
    `combine` ranks them by these counts. Of M models each has N columns of its own, so that images can be swapped
    between models: (N, M N), sparse. A resample averages over the classes that it has images of.

    Args:
        targets: (N,K).
        probs: (N,K) of each of M models.

    Raises:
        DataError: `probs` or `targets` is not what the module says.
    """
    from scipy.sparse import csr_array, eye_array

    checked = [_checked(each, targets) for each in probs]
    p, truth = (np.concatenate(each) for each in zip(*checked, strict=True))
    orders = np.argsort(-p, axis=0, kind="stable")
    ranked = np.take_along_axis(p, orders, 0)
    cuts = [np.flatnonzero(np.append(column[1:] != column[:-1], True)) for column in ranked.T]

    def combine(counts: Floats) -> Floats:
        aps = np.stack([_ap(counts[:, orders[:, k]], truth[orders[:, k], k], cut) for k, cut in enumerate(cuts)], 1)
        there = np.isfinite(aps)
        return np.where(there.any(1), np.nansum(aps, 1) / np.maximum(there.sum(1), 1), np.nan)

    n, places = len(p) // len(probs), csr_array(eye_array(len(p), format="csr"))
    return [PerImage(places[model * n : (model + 1) * n], combine, _SHARE) for model in range(len(probs))]


def mean_average_precision_samples(*samples: tuple[ArrayLike, ArrayLike]) -> list[PerImage]:
    """Take mAP apart for samples of images of their own, so that they can be pooled: columns are the images of all.

    Args:
        samples: probs (N_s,K) and targets (N_s,K) of each.

    Raises:
        DataError: `probs` or `targets` is not what the module says.
    """
    probs, targets = (np.concatenate([np.asarray(each) for each in part]) for part in zip(*samples, strict=True))
    (pooled,) = mean_average_precision_parts(targets, probs)
    ends = np.cumsum([len(np.asarray(each)) for each, _ in samples]).tolist()
    parts = zip([0, *ends[:-1]], ends, strict=True)
    return [pooled._replace(columns=pooled.columns[start:end]) for start, end in parts]


def _ap(counts: Floats, truth: Bools, cuts: Ints) -> Floats:
    """Return AP (R,) where image i, of images from the likeliest, counts (R,N) times; NaN without an image."""
    n_predicted, n_hits = counts.cumsum(1)[:, cuts], (counts * truth).cumsum(1)[:, cuts]
    n_images = n_hits[:, -1]
    gained = (np.diff(n_hits, prepend=0) * n_hits / np.maximum(n_predicted, 1)).sum(1)
    return np.where(n_images > 0, gained / np.maximum(n_images, 1), np.nan)


# ------------------------------------------------------------------ what the functions share


class _Cuts(NamedTuple):
    """What is predicted at each distinct probability, from the highest."""

    probs: Floats
    n_hits: Ints
    n_predicted: Ints


def _cuts(probs: Floats, truth: Bools) -> _Cuts:
    order = np.argsort(-probs)
    ranked = probs[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    return _Cuts(ranked[last], truth[order].cumsum()[last], last + 1)


def _outcomes(probs: ArrayLike, targets: ArrayLike, thresholds: ArrayLike) -> tuple[Bools, Bools]:
    """Return what is predicted and what is true, (N,K) each."""
    p, truth = _checked(probs, targets)
    return predictions(p, thresholds), truth


def _checked(probs: ArrayLike, targets: ArrayLike) -> tuple[Floats, Bools]:
    p, truth = _checked_probs(probs), np.asarray(targets)
    if truth.shape != p.shape:
        raise DataError(f"Targets of shape {truth.shape} do not match probabilities of shape {p.shape}.")
    if not np.isin(truth, (0, 1)).all():
        raise DataError("Targets must be 0 or 1; leave images out whose classes are not known.")
    return p, truth.astype(bool)


def _checked_probs(probs: ArrayLike) -> Floats:
    p = np.asarray(probs, dtype=np.float64)
    if p.ndim != 2 or 0 in p.shape:
        raise DataError(f"Probabilities must be (images, classes), at least one of each; got shape {p.shape}.")
    if not np.isfinite(p).all():
        raise DataError("Some probabilities are not finite; the model's weights are probably damaged.")
    return p
