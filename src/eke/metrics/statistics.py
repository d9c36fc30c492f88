"""Intervals and tests, one module for the whole project.

Two questions are answered, and they are different ones. "Would other TEST IMAGES give this figure?" is
answered from per-image statistics: `wilson` for a rate; for any metric that is a function of sums over images
`bootstrap`, and to compare two models `paired_bootstrap`, `paired_permutation` on the same images,
`unpaired_bootstrap`, `pooled_bootstrap` on others. "Would other SEEDS give it?" is answered from one figure per
run: `t_interval`, `paired_t`.

Resampling never loops over resamples. R resamples are a matrix (R,N) of how often each image was drawn, so
the sums of every resample are one matrix product with the (N,S) per-image columns.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eke.errors import ConfigError, DataError
from eke.randomness import mixed_seed

Floats = NDArray[np.float64]

_CHUNK = 4_000_000  # elements of the (R,N) matrix held at once: 32 MB of float64


class Interval(NamedTuple):
    """A figure and the ends of its confidence interval."""

    value: float
    low: float
    high: float

    def contains(self, x: float) -> bool:
        """Say whether x lies between the two ends, ends included."""
        return self.low <= x <= self.high


class Paired(NamedTuple):
    """A difference between two things, measured on the same images or seeds unless said otherwise."""

    interval: Interval
    """The difference and its interval."""
    p: float
    """Two-sided p-value of "there is no difference"; NaN where there is none to give."""

    @property
    def decided(self) -> bool:
        """Whether the interval excludes 0; otherwise nothing can be said about the sign."""
        return not self.interval.contains(0.0)


class PerImage(NamedTuple):
    """A metric taken apart: sums over images of `columns`, put together by `combine`."""

    columns: Any
    """(N,S) what each image adds: a float array, or a scipy.sparse array where S is large."""
    combine: Callable[[Floats], Floats]
    """(R,S) sums -> (R,) values of the metric. N is the same in every resample."""
    limits: tuple[float, float] = (-math.inf, math.inf)
    """What the metric can be at all; its intervals end there."""

    def value(self) -> float:
        """Return the metric on the images themselves."""
        return float(self.combine(_column_sums(self.columns)[None])[0])


# ------------------------------------------------------------------ rates and means


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Return the Wilson score interval of a rate (Wilson 1927), which stays honest near 0 and 1.

    Args:
        successes: how many of the n; 0 <= successes <= n.
        n: how many there are; with n = 0 the value is NaN and the interval is [0, 1].
        level: confidence level in (0, 1).
    """
    _check_level(level)
    if not 0 <= successes <= n:
        raise DataError(f"A rate needs 0 <= successes <= n; got {successes} of {n}.")
    if n == 0:
        return Interval(math.nan, 0.0, 1.0)
    from scipy.stats import norm

    z = float(norm.ppf(0.5 + level / 2))
    rate = successes / n
    center = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # at 0 and n the formula gives 0 and 1 exactly, but rounding does not
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == n else center + half
    return Interval(rate, low, high)


def t_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Return the mean over seeds with Student's t interval.

    Args:
        values: (n,) one figure per seed. One figure alone has no finite interval: the ends are -inf and inf.
        level: confidence level in (0, 1).
    """
    _check_level(level)
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise DataError(f"An interval over seeds needs a row of figures; got shape {array.shape}.")
    mean = float(array.mean())
    if array.size == 1:
        return Interval(mean, -math.inf, math.inf)
    from scipy.stats import t

    error = float(array.std(ddof=1)) / math.sqrt(array.size)
    half = float(t.ppf(0.5 + level / 2, array.size - 1)) * error
    return Interval(mean, mean - half, mean + half)


def paired_t(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Paired:
    """Compare two methods over the same seeds: the mean of a - b with its t interval and two-sided p.

    Args:
        a: (n,) figures of one method, one per seed.
        b: (n,) figures of the other, in the same order of seeds.
        level: confidence level in (0, 1).
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise DataError(f"Paired figures must match one to one; got shapes {first.shape} and {second.shape}.")
    difference = first - second
    interval = t_interval(difference, level)
    if difference.size == 1:
        return Paired(interval, math.nan)
    from scipy.stats import t

    error = float(difference.std(ddof=1)) / math.sqrt(difference.size)
    if error == 0:  # every seed agrees to the last bit: t is infinite, or 0/0 for no difference at all
        return Paired(interval, 1.0 if interval.value == 0 else 0.0)
    return Paired(interval, float(2 * t.sf(abs(interval.value) / error, difference.size - 1)))


# ------------------------------------------------------------------ resampling of images


def bootstrap(
    metric: PerImage,
    *,
    level: float = 0.95,
    n_resamples: int = 5000,
    seed: int = 0,
    ends: Literal["symmetric", "percentile"] = "symmetric",
) -> Interval:
    """Return a metric with its bootstrap interval over images, by default the symmetric one (Hall 1992, section 3.6).

    The half-width is the `level` quantile of |resampled value - value|, the stand-in for |value - truth|.
    Unlike the percentile interval it holds the value itself and makes room for the bias of metrics that are
    not means: macro-F1 over 100 classes of 7 images each is covered in 92 % of samples (percentile: 53 %).
    Below about 5 images per class macro-F1 is too biased for any of them. Where every image agrees (an
    accuracy of 1) the interval has no width; `wilson` is better for rates.

    Args:
        metric: the per-image columns and how their sums combine.
        level: confidence level in (0, 1).
        n_resamples: R.
        seed: the same seed gives the same interval.
        ends: "percentile" cuts the resampled values off at both ends (Efron 1979); with level 0.9 that is the 5 % to
            95 % interval of Harmonizing Attention's code.
    """
    _check_level(level)
    values = _resampled(metric, _n_images(metric), n_resamples, seed, "bootstrap")
    if ends == "symmetric":
        interval = _symmetric(metric.value(), values, level)
    else:
        interval = Interval(metric.value(), *np.quantile(values, [(1 - level) / 2, (1 + level) / 2]).tolist())
    low, high = metric.limits
    return Interval(interval.value, max(low, interval.low), min(high, interval.high))


def paired_bootstrap(
    a: PerImage, b: PerImage, *, level: float = 0.95, n_resamples: int = 5000, seed: int = 0
) -> Interval:
    """Return the difference a - b of a metric on the same images, with its symmetric bootstrap interval.

    Both models are seen through the same resamples, so what makes images hard for both cancels.

    Args:
        a: one model's metric; row i belongs to image i.
        b: the other model's, for the same images in the same order.
        level: confidence level in (0, 1).
        n_resamples: R.
        seed: the same seed gives the same interval.
    """
    _check_level(level)
    _check_paired(a, b)
    draws = _draw_counts(_n_images(a), n_resamples, seed)
    values = [a.combine(counts @ a.columns) - b.combine(counts @ b.columns) for counts in draws]
    return _symmetric(a.value() - b.value(), np.concatenate(values), level)


def paired_permutation(a: PerImage, b: PerImage, *, n_resamples: int = 5000, seed: int = 0) -> float:
    """Return the two-sided p-value of "it does not matter which of the two models saw an image".

    Each resample swaps the models on images drawn by a fair coin; p = (1 + #{|T*| >= |T|}) / (1 + R), which
    is never 0 and never too small (Phipson and Smyth 2010).

    Args:
        a: one model's metric; row i belongs to image i.
        b: the other model's, with the same columns for the same images.
        n_resamples: R.
        seed: the same seed gives the same p.
    """
    _check_paired(a, b)
    if a.columns.shape != b.columns.shape:
        raise DataError(f"Swapping needs the same columns on both sides; got {a.columns.shape} and {b.columns.shape}.")
    n, generator = _n_images(a), _generator(seed, "permutation")
    step = b.columns - a.columns
    sums_a, sums_b = _column_sums(a.columns), _column_sums(b.columns)
    differences = []
    for size in _chunks(n_resamples, n):
        swapped = generator.integers(0, 2, size=(size, n), dtype=np.int8).astype(np.float64)
        moved = swapped @ step
        differences.append(a.combine(sums_a + moved) - b.combine(sums_b - moved))
    return _two_sided_p(np.concatenate(differences), a.value() - b.value())


def compare_images(a: PerImage, b: PerImage, *, level: float = 0.95, n_resamples: int = 5000, seed: int = 0) -> Paired:
    """Return a - b on the same images, with the interval of `paired_bootstrap`, p of `paired_permutation`."""
    interval = paired_bootstrap(a, b, level=level, n_resamples=n_resamples, seed=seed)
    return Paired(interval, paired_permutation(a, b, n_resamples=n_resamples, seed=seed))


def unpaired_bootstrap(
    a: PerImage, b: PerImage, *, level: float = 0.95, n_resamples: int = 5000, seed: int = 0
) -> Interval:
    """Return the difference a - b of a metric on images of their own, with its symmetric bootstrap interval.

    Each side is resampled by itself: also where the images are the same, what makes them hard for both does not
    cancel, so that the interval is wider than that of `paired_bootstrap`.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 8.3.

    Args:
        a: one model's metric, of N images.
        b: the other model's, of M images.
        level: confidence level in (0, 1).
        n_resamples: R.
        seed: the same seed gives the same interval.
    """
    _check_level(level)
    values = [
        _resampled(each, _n_images(each), n_resamples, seed, f"bootstrap {side}") for side, each in (("a", a), ("b", b))
    ]
    return _symmetric(a.value() - b.value(), values[0] - values[1], level)


def pooled_bootstrap(a: PerImage, b: PerImage, *, n_resamples: int = 5000, seed: int = 0) -> float:
    """Return the two-sided p-value of "both models' images are draws from one and the same population".

    Each resample draws N and M rows, with replacement, from the N + M rows of both;
    p = (1 + #{|T*| >= |T|}) / (1 + R), T = a - b.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), algorithm 16.1, two-sided as in the code of
    Harmonizing Attention, which has no 1 + (a p of 0 claims more than R resamples can tell).

    Args:
        a: one model's metric, of N images.
        b: the other model's, of M images, with the same columns.
        n_resamples: R.
        seed: the same seed gives the same p.
    """
    if a.columns.shape[1] != b.columns.shape[1]:
        raise DataError(f"Pooling needs the same columns on both sides; got {a.columns.shape} and {b.columns.shape}.")
    sizes = _n_images(a), _n_images(b)
    pooled = _stacked(a.columns, b.columns)
    values = [
        _resampled(PerImage(pooled, each.combine), n, n_resamples, seed, f"pooled {side}")
        for side, each, n in zip("ab", (a, b), sizes, strict=True)
    ]
    return _two_sided_p(values[0] - values[1], a.value() - b.value())


def compare_samples(a: PerImage, b: PerImage, *, level: float = 0.95, n_resamples: int = 5000, seed: int = 0) -> Paired:
    """Return a - b on images of their own, with the interval of `unpaired_bootstrap`, p of `pooled_bootstrap`."""
    interval = unpaired_bootstrap(a, b, level=level, n_resamples=n_resamples, seed=seed)
    return Paired(interval, pooled_bootstrap(a, b, n_resamples=n_resamples, seed=seed))


def per_image_mean(values: ArrayLike, limits: tuple[float, float] = (-math.inf, math.inf)) -> PerImage:
    """Take the mean of (N,) per-image values apart, for the functions above."""
    column = np.asarray(values, dtype=np.float64)[:, None]
    n = len(column)
    return PerImage(column, lambda sums: sums[:, 0] / n, limits)


# ------------------------------------------------------------------ several comparisons


def holm(p: Sequence[float] | Floats) -> Floats:
    """Return p-values adjusted for being several (Holm 1979): compare them with 1 - level as they are.

    Args:
        p: (m,) p-values in any order; NaN (no test was possible) stays NaN and does not count.

    Returns:
        (m,) adjusted p-values in the given order, at most 1.
    """
    given = np.asarray(p, dtype=np.float64)
    adjusted = np.full_like(given, np.nan)
    tested = np.flatnonzero(~np.isnan(given))
    order = tested[np.argsort(given[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(given[order] * factors))
    return adjusted


# ------------------------------------------------------------------ what the functions share


def _resampled(metric: PerImage, n_drawn: int, n_resamples: int, seed: int, stream: str) -> Floats:
    """Return (R,) values of a metric, each over `n_drawn` of its N images, drawn with replacement."""
    draws = _draw_counts(_n_images(metric), n_resamples, seed, n_drawn=n_drawn, stream=stream)
    return np.concatenate([metric.combine(counts @ metric.columns) for counts in draws])


def _draw_counts(
    n: int, n_resamples: int, seed: int, *, n_drawn: int | None = None, stream: str = "bootstrap"
) -> Iterator[Floats]:
    """Yield (r,N) chunks of how often each image was drawn; a row is one resample, multinomial, of sum N or n_drawn."""
    generator = _generator(seed, stream)
    for size in _chunks(n_resamples, n):
        drawn = generator.integers(0, n, size=(size, n_drawn or n))
        drawn += np.arange(size)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _chunks(n_resamples: int, n: int) -> Iterator[int]:
    if n_resamples < 1:
        raise ConfigError(f"n_resamples = {n_resamples}: resampling needs at least 1; 5000 is a good number.")
    size = max(1, _CHUNK // n)
    for start in range(0, n_resamples, size):
        yield min(size, n_resamples - start)


def _symmetric(value: float, resampled: Floats, level: float) -> Interval:
    half = float(np.quantile(np.abs(resampled - value), level))
    return Interval(value, value - half, value + half)


def _two_sided_p(resampled: Floats, observed: float) -> float:
    """Return (1 + how often |T*| >= |T|) / (1 + R)."""
    # equal differences must count as reached although their sums were rounded in another order
    reached = np.abs(resampled) >= abs(observed) - 1e-12 * max(1.0, abs(observed))
    return (1 + int(reached.sum())) / (1 + len(resampled))


def _stacked(a: Any, b: Any) -> Any:
    """Return the rows of both, sparse where one of them is."""
    from scipy import sparse

    return sparse.vstack([a, b], format="csr") if sparse.issparse(a) or sparse.issparse(b) else np.concatenate([a, b])


def _generator(seed: int, stream: str) -> np.random.Generator:
    return np.random.default_rng(mixed_seed(seed, 0, stream))


def _column_sums(columns: Any) -> Floats:
    return np.asarray(columns.sum(axis=0), dtype=np.float64).ravel()


def _n_images(metric: PerImage) -> int:
    n = int(metric.columns.shape[0])
    if n == 0:
        raise DataError("There are no images to resample.")
    return n


def _check_paired(a: PerImage, b: PerImage) -> None:
    if a.columns.shape[0] != b.columns.shape[0]:
        raise DataError(
            f"A paired comparison needs the same images on both sides; got {a.columns.shape[0]} and "
            f"{b.columns.shape[0]}."
        )


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"level = {level}: a confidence level lies between 0 and 1, for example 0.95.")
