"""Which classes are predicted too often or too seldom, and whether the pool and the evaluated images agree on it.

Pure functions on counts per class (K,).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eke.metrics.statistics import Interval, holm

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MIN_CLASSES = 10
"""Classes from which on a rank correlation over classes is given: with fewer, its interval is not to be trusted."""


class Imbalance(NamedTuple):
    """A class that the evaluated images are taken for more or less often than they are of it."""

    label: int
    n_images: int
    """Images that are of the class."""
    n_predicted: int
    """Images that were taken for it."""
    n_missed: int
    """Images of the class that were taken for others."""
    n_false: int
    """Images of others that were taken for it."""
    p: float
    """That so lopsided a division of its errors is chance, corrected for all classes."""


def relative_shares(counts: ArrayLike, reference: ArrayLike) -> Floats:
    """Divide the share of each class in `counts` (K,) by its share in `reference` (K,).

    1 = as often as in the reference; NaN where the class is not in the reference, or where nothing was counted.
    """
    given, expected = np.asarray(counts, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    n = given.sum()
    above = given * expected.sum()
    return np.divide(above, expected * n, out=np.full(given.shape, np.nan), where=(expected > 0) & (n > 0))


def rank_correlation(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Interval | None:
    """Return Spearman's rank correlation of two columns (n,) with its interval, or None where it cannot be given.

    The interval is Fisher's z with the variance (1 + r^2 / 2) / (n - 3) of Bonett and Wright (2000).
    Rows in which either value is not finite are left out. There is none for fewer than `MIN_CLASSES` rows or where
    one column is constant.

    Args:
        a: one value per class.
        b: the other.
        level: confidence level in (0, 1).
    """
    from scipy.stats import norm, rankdata

    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    known = np.isfinite(first) & np.isfinite(second)
    n = int(known.sum())
    if n < MIN_CLASSES or np.ptp(first[known]) == 0 or np.ptp(second[known]) == 0:
        return None
    r = float(np.corrcoef(rankdata(first[known]), rankdata(second[known]))[0, 1])
    bounded = min(max(r, -1 + 1e-15), 1 - 1e-15)  # the ends of perfect agreement are 1 and 1
    half = float(norm.ppf(0.5 + level / 2)) * math.sqrt((1 + r * r / 2) / (n - 3))
    return Interval(r, math.tanh(math.atanh(bounded) - half), math.tanh(math.atanh(bounded) + half))


def imbalances(confusion: ArrayLike, level: float = 0.95) -> tuple[list[Imbalance], list[Imbalance]]:
    """Return the classes predicted too seldom and those predicted too often, beyond what counting explains.

    A class is predicted as often as it occurs when as many of its images are taken for others as images of others
    for it. If both are equally likely, the one is binomial of both with 1/2 (the exact test of McNemar 1947). Its
    p, corrected over all classes that had an error by Holm's method, must be at most 1 - level.

    Args:
        confusion: (K,K) counts, row = label, column = prediction.
        level: confidence level in (0, 1).

    Returns:
        Two lists, the surest first.
    """
    from scipy.stats import binomtest

    matrix = np.asarray(confusion, dtype=np.int64)
    hits, images, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    missed, false = images - hits, predicted - hits
    p = [
        binomtest(int(out), int(out + into)).pvalue if out + into else math.nan
        for out, into in zip(missed, false, strict=True)
    ]
    adjusted = holm(p)
    order = sorted(np.flatnonzero(adjusted <= 1 - level), key=lambda k: (p[k], -abs(missed[k] - false[k]), k))
    found = [
        Imbalance(int(k), int(images[k]), int(predicted[k]), int(missed[k]), int(false[k]), float(adjusted[k]))
        for k in order
    ]
    return [c for c in found if c.n_predicted < c.n_images], [c for c in found if c.n_predicted > c.n_images]


def most_confused(confusion: ArrayLike, n: int) -> list[int]:
    """Return up to `n` classes in ascending order: those of the pairs that are most often confused, either way.

    Args:
        confusion: (K,K) counts, row = label, column = prediction.
        n: how many classes at most.
    """
    matrix = np.asarray(confusion, dtype=np.int64)
    both = np.triu(matrix + matrix.T, 1)
    order = np.argsort(-both, axis=None, kind="stable")[: int((both > 0).sum())]
    pairs: Sequence[tuple[int, int]] = np.stack(np.unravel_index(order, both.shape), axis=1).tolist()
    chosen: list[int] = []
    for pair in pairs:
        new = [k for k in pair if k not in chosen]
        if len(chosen) + len(new) <= n:
            chosen += new
        if len(chosen) == n:
            break
    return sorted(chosen)
