"""Which pairs of an image and a class count when attention is laid beside boxes, and the means over them.

`eke.explain.boxes` gives a figure for each pair. Pairs are (P,2) int64 [image, class], without repetition, sorted by
image and then by class: pure functions on NumPy arrays; CPU tensors without a gradient are taken too.

A network that recognizes more images has more, and harder, true positives, so that two networks' means over each one's
own are of different images. Give the mean over common pairs, or over all labeled ones, beside it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eke.errors import DataError
from eke.metrics.multilabel import DEFAULT_THRESHOLD, predictions
from eke.metrics.statistics import Floats, PerImage

Ints = NDArray[np.int64]

_SHARE = (0.0, 1.0)


class PairMeans(NamedTuple):
    """Means of a figure over pairs. NaN where there is no pair."""

    over_pairs: float
    over_classes: float
    """Mean over classes of each one's mean over its pairs; classes without a pair are left out."""
    n_pairs: int
    n_classes: int
    """Classes that have a pair."""


class BestThreshold(NamedTuple):
    """The one threshold for all images."""

    threshold: float
    overlap: float
    """Mean over pairs."""


def labeled_pairs(targets: ArrayLike) -> Ints:
    """Return every image with each of its classes, whether they are recognized or not.

    Args:
        targets: (N,K) bool or 0 and 1.

    Returns:
        (P,2) int64.
    """
    truth = np.asarray(targets)
    if truth.ndim != 2 or not np.isin(truth, (0, 1)).all():
        raise DataError(f"Targets must be (images, classes) of 0 and 1; got shape {truth.shape}.")
    return np.argwhere(truth).astype(np.int64)


def true_positives(scores: ArrayLike, targets: ArrayLike, thresholds: ArrayLike = DEFAULT_THRESHOLD) -> Ints:
    """Return the labeled pairs that are predicted: those whose maps the paper lays beside boxes.

    Source: Mirzazadeh et al. 2022 (arXiv:2210.09705), section 4.4.

    Args:
        scores: (N,K) probabilities or logits.
        targets: (N,K) bool or 0 and 1.
        thresholds: one for all or (K,), on the scale of `scores`; predicted is what is at least as high.

    Returns:
        (P,2) int64.

    Raises:
        ConfigError: there is not one threshold for each class, or one is NaN.
        DataError: scores are not (N,K) and finite, or targets do not match them.
    """
    given, pairs = predictions(scores, thresholds), labeled_pairs(targets)
    if given.shape != np.shape(targets):
        raise DataError(f"Targets of shape {np.shape(targets)} do not match scores of shape {given.shape}.")
    return pairs[given[pairs[:, 0], pairs[:, 1]]]


def common_pairs(a: ArrayLike, b: ArrayLike) -> Ints:
    """Return the pairs that are in both (P,2) and (Q,2): the ground on which two networks can be compared."""
    each_once = [np.unique(_checked_pairs(pairs), axis=0) for pairs in (a, b)]
    both, counts = np.unique(np.concatenate(each_once), axis=0, return_counts=True)
    return both[counts == 2]


def pair_means(values: ArrayLike, pairs: ArrayLike) -> PairMeans:
    """Average a figure over pairs, and over classes.

    Args:
        values: (P,) of the pairs.
        pairs: (P,2).

    Raises:
        DataError: there is not one value for each pair, or one is not finite.
    """
    v, p = _checked(values, pairs)
    if not len(v):
        return PairMeans(np.nan, np.nan, 0, 0)
    _, which = np.unique(p[:, 1], return_inverse=True)
    by_class = np.bincount(which, v) / np.bincount(which)
    return PairMeans(float(v.mean()), float(by_class.mean()), len(v), len(by_class))


def best_threshold(overlaps: ArrayLike) -> BestThreshold:
    """Choose the one threshold of all images that has the highest mean overlap; the lowest of equals.

    Chosen on the images that it is reported of it flatters, a map and a baseline alike: choose on validation.

    Args:
        overlaps: (P,T) from `eke.explain.boxes.threshold_sweep`, at T thresholds evenly from 0 to 1.

    Raises:
        DataError: there is no pair, or there are less than two thresholds.
    """
    table = np.asarray(overlaps, dtype=np.float64)
    if table.ndim != 2 or not len(table) or table.shape[1] < 2:
        raise DataError(f"Overlaps must be (pairs, thresholds), 1 and 2 at least; got shape {table.shape}.")
    means = table.mean(0)
    best = int(means.argmax())
    return BestThreshold(best / (table.shape[1] - 1), float(means[best]))


# ------------------------------------------------------------------ taken apart, for intervals and tests


def pair_mean_parts(values: ArrayLike, pairs: ArrayLike, n_images: int) -> PerImage:
    """Take the mean over pairs apart, by images, because the pairs of one image are not independent.

    Two networks on the same images can be compared so, even if their pairs differ.

    Args:
        values: (P,) in [0, 1].
        pairs: (P,2).
        n_images: N, with those that have no pair. A resample without a pair is NaN, as are then the ends of an
            interval: too few images have one.

    Raises:
        DataError: there is not one value for each pair, one is not finite, or a pair is of no image.
    """
    v, p = _checked(values, pairs, n_images)
    columns = np.stack([np.bincount(p[:, 0], each, n_images) for each in (v, np.ones_like(v))], 1)
    return PerImage(columns, lambda sums: _mean_of_means(sums[:, :1], sums[:, 1:]), _SHARE)


def class_mean_parts(values: ArrayLike, pairs: ArrayLike, n_images: int) -> PerImage:
    """Take the mean over classes apart: columns [sum of class k | pairs of k], sparse.

    A resample averages over the classes that it has pairs of.

    Args:
        values: (P,) in [0, 1].
        pairs: (P,2).
        n_images: as of `pair_mean_parts`.

    Raises:
        DataError: as of `pair_mean_parts`.
    """
    from scipy.sparse import csr_array

    v, p = _checked(values, pairs, n_images)
    classes, which = np.unique(p[:, 1], return_inverse=True)
    k = len(classes)
    entries = np.concatenate([v, np.ones_like(v)])
    where = (np.tile(p[:, 0], 2), np.concatenate([which, k + which]))
    columns = csr_array((entries, where), shape=(n_images, 2 * k))
    return PerImage(columns, lambda sums: _mean_of_means(sums[:, :k], sums[:, k:]), _SHARE)


# ------------------------------------------------------------------ what the functions share


def _mean_of_means(sums: Floats, counts: Floats) -> Floats:
    """Return the mean over (R,K) of sums / counts where there are counts; NaN in a row without any."""
    total, n = (sums / np.maximum(counts, 1)).sum(1), (counts > 0).sum(1)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def _checked(values: ArrayLike, pairs: ArrayLike, n_images: int | None = None) -> tuple[Floats, Ints]:
    v, p = np.asarray(values, dtype=np.float64), _checked_pairs(pairs)
    if v.shape != (len(p),):
        raise DataError(f"Values of shape {v.shape} do not match {len(p)} pairs one to one.")
    if not np.isfinite(v).all():
        raise DataError(f"The value of pair {int(np.flatnonzero(~np.isfinite(v))[0])} is not finite.")
    if n_images is not None and len(p) and p[:, 0].max() >= n_images:
        raise DataError(f"A pair is of image {p[:, 0].max()}, and there are {n_images} images.")
    return v, p


def _checked_pairs(pairs: ArrayLike) -> Ints:
    p = np.asarray(pairs)
    if p.ndim != 2 or p.shape[1] != 2 or not np.issubdtype(p.dtype, np.integer) or (p < 0).any():
        raise DataError(f"Pairs must be (pairs, 2) integers [image, class] from 0; got {p.dtype} of shape {p.shape}.")
    return p.astype(np.int64)
