"""What labels bought, and what the next ones would buy, measured on a control sample.

The control images are drawn at random, not chosen, so that the rate of right predictions on them is the accuracy on
the pool; each model is measured on images that it was not trained on. Rounds count as independent draws: where two
models are measured on the same images, the intervals of gains are wider than they need be.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eke.errors import DataError
from eke.metrics.statistics import Interval, wilson
from eke.randomness import mixed_seed

Floats = NDArray[np.float64]

POWERS = np.linspace(0.0, 1.0, 11)
"""Exponents c that are tried. Error falls as n^-c; the exponents of Hestness et al. 2017 (arXiv:1712.00409) lie between
0.07 and 0.5, and c = 1 lets a curve be all but flat."""


class Round(NamedTuple):
    """How a model did on control images."""

    model: str
    """Run path or hash; rounds of one model are pooled."""
    n_labels: int
    """Labels that the model was trained with, at least 1."""
    n_correct: int
    """Control images that it predicted right."""
    n: int
    """Control images that it was measured on."""

    def accuracy(self, level: float = 0.95) -> Interval:
        """Return the accuracy on the control images, a rate, with its Wilson interval."""
        return wilson(self.n_correct, self.n, level)


class Curve(NamedTuple):
    """A learning curve: accuracy(n) = a - b n^-c, written as accuracy + slope (1 - (n / n_labels)^-c) / c.

    In the limit c = 0 it is accuracy + slope log(n / n_labels).
    """

    accuracy: float
    """At the largest number of labels so far."""
    slope: float
    """Growth of accuracy there, per unit of log n; at least 0."""
    power: float
    """c."""
    n_labels: int
    """The largest number of labels so far."""

    @property
    def ceiling(self) -> float:
        """Return what the accuracy tends to (a), at most 1."""
        return min(1.0, self.accuracy + self.slope / self.power) if self.power else 1.0 if self.slope else self.accuracy

    def at(self, n_labels: float) -> float:
        """Return the accuracy with so many labels, in [0, 1]."""
        growth = _growth(np.array([n_labels / self.n_labels]), np.array([self.power])).item()
        return min(1.0, max(0.0, self.accuracy + self.slope * growth))


def pool_rounds(rounds: Sequence[Round]) -> list[Round]:
    """Add up the rounds of each model; returns one round per model, by number of labels.

    Raises:
        DataError: a model has two numbers of labels, or a round is not possible.
    """
    pooled: dict[str, Round] = {}
    for each in rounds:
        if each.n_labels < 1 or not 0 <= each.n_correct <= each.n:
            raise DataError(f"A round needs n_labels >= 1 and 0 <= n_correct <= n; got {each}.")
        sum_ = pooled.get(each.model, each._replace(n_correct=0, n=0))
        if sum_.n_labels != each.n_labels:
            raise DataError(
                f"The model {each.model} was trained with {sum_.n_labels} or {each.n_labels} labels, not both."
            )
        pooled[each.model] = sum_._replace(n_correct=sum_.n_correct + each.n_correct, n=sum_.n + each.n)
    return sorted((each for each in pooled.values() if each.n), key=lambda each: each.n_labels)


def fit_curve(rounds: Sequence[Round]) -> Curve:
    """Fit a learning curve that does not fall and does not pass 1 by weighted least squares.

    A rate k / n has weight n / (p (1 - p)), p = (k + 1) / (n + 2). With two numbers of labels there is no bend to see:
    the curve is the line through the two points over log n.

    Raises:
        DataError: fewer than two numbers of labels were measured.
    """
    pooled = _measured(rounds)
    n_labels, correct, n = (np.array(column, dtype=np.float64) for column in list(zip(*pooled, strict=True))[1:])
    accuracy, slope, power = _fit(n_labels, (correct / n)[None], _weights(correct, n))
    return Curve(accuracy.item(), slope.item(), power.item(), pooled[-1].n_labels)


def expected_gain(
    rounds: Sequence[Round], n_more: int, *, level: float = 0.95, n_resamples: int = 1000, seed: int = 0
) -> Interval:
    """Return how much accuracy the next labels would add, with a bootstrap interval.

    Parametric bootstrap (Efron and Tibshirani 1993, section 6.5): counts are drawn from the fitted curve and the curve
    is fitted to them; the ends are quantiles. A curve does not fall, so no end is below 0.

    Args:
        rounds: so far.
        n_more: labels that would be bought, at least 1.
        level: confidence level in (0, 1).
        n_resamples: how many campaigns are drawn.
        seed: the same seed gives the same interval.

    Returns:
        A difference of rates: 0.01 is one point.

    Raises:
        DataError: fewer than two numbers of labels were measured.
    """
    pooled, curve = _measured(rounds), fit_curve(rounds)
    n_labels, correct, n = (np.array(column, dtype=np.float64) for column in list(zip(*pooled, strict=True))[1:])
    # a rate of exactly 0 or 1 would be drawn without any spread
    rates = np.clip([curve.at(each) for each in n_labels], 0.5 / n, 1 - 0.5 / n)
    generator = np.random.default_rng(mixed_seed(seed, 0, "gain"))
    drawn = generator.binomial(n.astype(np.int64), rates, size=(n_resamples, len(pooled))) / n
    accuracy, slope, power = _fit(n_labels, drawn, _weights(correct, n))
    further = _growth(np.full(n_resamples, 1 + n_more / curve.n_labels), power)
    gains = np.clip(slope * further, 0, np.maximum(0, 1 - accuracy))
    low, high = np.quantile(gains, [(1 - level) / 2, (1 + level) / 2])
    value = curve.at(curve.n_labels + n_more) - curve.at(curve.n_labels)
    return Interval(value, min(float(low), value), max(float(high), value))


def observed_gain(before: Round, after: Round, level: float = 0.95) -> Interval:
    """Return the difference of two accuracies on images of their own, after - before.

    The interval is Newcombe's of Wilson's ends (Statistics in Medicine 1998, method 10).
    """
    old, new = before.accuracy(level), after.accuracy(level)
    difference = new.value - old.value
    down = math.hypot(new.value - new.low, old.high - old.value)
    up = math.hypot(new.high - new.value, old.value - old.low)
    return Interval(difference, difference - down, difference + up)


def paired_gain(before: ArrayLike, after: ArrayLike, level: float = 0.95) -> Interval:
    """Return the difference of two accuracies on the same images, after - before.

    The interval is Newcombe's for paired proportions of Wilson's ends (Statistics in Medicine 1998, 17, page 2635,
    method 10). Unlike a bootstrap it has a width where both models are right on all of a few images.

    Args:
        before: (N,) whether the first model is right.
        after: (N,) whether the second is, on the same images.
        level: confidence level in (0, 1).

    Raises:
        DataError: there are no images, or the two do not match.
    """
    first, second = np.asarray(before, bool), np.asarray(after, bool)
    if first.shape != second.shape or first.ndim != 1 or not first.size:
        raise DataError(f"A paired gain needs the same images twice; got {first.shape} and {second.shape}.")
    n = first.size
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    gained, lost = int((~first & second).sum()), int((first & ~second).sum())
    product = float(both * neither - gained * lost)
    if product > 0:
        product = max(product - n / 2, 0.0)
    margins = (both + gained) * (both + lost) * (neither + gained) * (neither + lost)
    phi = product / math.sqrt(margins) if margins else 0.0
    old, new = wilson(both + lost, n, level), wilson(both + gained, n, level)
    difference = new.value - old.value

    def distance(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    down = distance(new.value - new.low, old.high - old.value)
    up = distance(new.high - new.value, old.value - old.low)
    return Interval(difference, difference - down, difference + up)


def _measured(rounds: Sequence[Round]) -> list[Round]:
    pooled = pool_rounds(rounds)
    sizes = {each.n_labels for each in pooled}
    if len(sizes) < 2:
        raise DataError(
            "A learning curve needs control images of models with at least two numbers of labels; got "
            f"{sorted(sizes)}. Train once more with more labels."
        )
    return pooled


def _weights(correct: Floats, n: Floats) -> Floats:
    rates = (correct + 1) / (n + 2)  # never 0 or 1, so that no weight is infinite
    return n / (rates * (1 - rates))


def _growth(ratio: Floats, power: Floats) -> Floats:
    """Return (1 - ratio^-c) / c, or log ratio where c = 0; shapes are broadcast."""
    log = np.log(ratio)
    return np.where(power > 0, -np.expm1(-power * log) / np.where(power > 0, power, 1), log)


def _fit(n_labels: Floats, rates: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Fit R curves at once: for each power the rest is a line in x, whose best bounded parameters have a closed form.

    Args:
        n_labels: (T,) ascending.
        rates: (R,T).
        weights: (T,).

    Returns:
        (R,) accuracy, slope, power of the curve with the least weighted squares.
    """
    powers = POWERS if len(np.unique(n_labels)) > 2 else POWERS[:1]
    x = _growth(n_labels / n_labels[-1], powers[:, None])  # (C,T)
    reach = np.where(powers > 0, 1 / np.where(powers > 0, powers, 1), 0)  # (C,) x of infinitely many labels
    total, mean_x = weights.sum(), x @ weights / weights.sum()
    mean = (rates @ weights / total)[:, None]  # (R,1)
    slope = (rates * weights) @ (x - mean_x[:, None]).T / ((x - mean_x[:, None]) ** 2 @ weights)  # (R,C)
    free = (mean - slope * mean_x, slope)
    level = (np.broadcast_to(mean, slope.shape), np.zeros_like(slope))  # slope at its bound, 0
    from_one = x - reach[:, None]
    slope_to_one = ((rates - 1) * weights) @ from_one.T / (from_one**2 @ weights)
    to_one = (1 - slope_to_one * reach, slope_to_one)  # ceiling at its bound, 1

    def squares(line: tuple[Floats, Floats]) -> Floats:
        residual = rates[:, None] - line[0][..., None] - line[1][..., None] * x  # (R,C,T)
        return residual**2 @ weights

    possible = (free[1] >= 0) & ((free[0] + free[1] * reach <= 1) | (powers == 0))
    losses = np.stack(
        [np.where(possible, squares(free), np.inf), squares(level), np.where(powers > 0, squares(to_one), np.inf)]
    )  # (3,R,C): a problem with two bounds has its best at a bound, where the free one breaks them
    candidates = [np.stack(parameter) for parameter in zip(free, level, to_one, strict=True)]
    n_powers = len(powers)
    best = losses.transpose(1, 0, 2).reshape(len(rates), -1).argmin(1)
    kind, place, row = best // n_powers, best % n_powers, np.arange(len(rates))
    accuracy, slope = (each[kind, row, place] for each in candidates)
    return accuracy, slope, powers[place]
