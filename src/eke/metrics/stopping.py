"""When to stop labeling: two signs from the control sample and one that needs no labels, each with a sentence."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from eke.errors import DataError
from eke.metrics.gain import Round, expected_gain, observed_gain, pool_rounds
from eke.metrics.statistics import Interval

WINDOW = 3
"""Models, or agreements of models, that a sign looks back on."""
STABLE = 0.99
"""Agreement at which predictions count as stable."""


class Sign(NamedTuple):
    """Something that speaks for stopping, or does not."""

    stop: bool
    sentence: str


class Advice(NamedTuple):
    """Whether to go on labeling."""

    signs: tuple[Sign, ...]
    forecast: Interval | None
    """Expected gain in accuracy of the next labels; None before two models were measured."""

    @property
    def stop(self) -> bool:
        """Whether any sign says so."""
        return any(sign.stop for sign in self.signs)


def advise(
    rounds: Sequence[Round],
    n_more: int,
    threshold: float,
    agreements: Sequence[float] = (),
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Advice:
    """Say whether the next labels are worth their price.

    Stop where the upper end of the expected gain is below the threshold; where the gain of the last three models
    cannot be told from 0 and the curve is flat (the expected gain is below the threshold, and its upper end below
    three times that: with few control images a steep curve can look flat too); or where predictions are stable.

    Args:
        rounds: so far, in any order.
        n_more: labels that would be bought next, at least 1.
        threshold: gain in accuracy that they would be worth: 0.01 is one point.
        agreements: `kappa` of successive models, in their order; none leaves that sign out.
        level: confidence level of all intervals, in (0, 1).
        seed: of the forecast's interval.
    """
    pooled = pool_rounds(rounds)
    forecast = None
    signs: list[Sign] = []
    if len({each.n_labels for each in pooled}) < 2:
        signs.append(
            Sign(False, "Go on: a forecast needs control images of two models with different numbers of labels.")
        )
    else:
        forecast = expected_gain(pooled, n_more, level=level, seed=seed)
        signs.append(_forecast_sign(forecast, n_more, threshold))
        if len(pooled) >= WINDOW:
            signs.append(_flat_sign(pooled[-WINDOW], pooled[-1], forecast, threshold, level))
    if len(agreements) >= WINDOW:
        signs.append(_stable_sign(agreements))
    return Advice(tuple(signs), forecast)


def kappa(a: ArrayLike, b: ArrayLike) -> float:
    """Return how far two models agree beyond chance (Cohen 1960); 1 = everywhere.

    Args:
        a: (N,) predicted classes of one model.
        b: (N,) those of the other, for the same images; they need no labels.

    Raises:
        DataError: there are no images, or the two do not match.
    """
    first, second = np.asarray(a), np.asarray(b)
    if first.shape != second.shape or first.ndim != 1 or not first.size:
        raise DataError(
            f"Agreement needs two rows of classes for the same images; got {first.shape} and {second.shape}."
        )
    classes = np.unique(np.concatenate([first, second]))
    observed = float((first == second).mean())
    chance = float(sum((first == each).mean() * (second == each).mean() for each in classes))
    return 1.0 if chance == 1 else (observed - chance) / (1 - chance)  # chance 1: both name one and the same class


def stable(agreements: Sequence[float]) -> bool:
    """Tell whether predictions no longer change: the mean of the last three agreements is at least 0.99.

    Source: Bloodgood and Vijay-Shanker 2009, "A method for stopping active learning based on stabilizing predictions
    and the need for user-adjustable stopping" (arXiv:1409.5165).
    """
    return len(agreements) >= WINDOW and float(np.mean(agreements[-WINDOW:])) >= STABLE


def _forecast_sign(gain: Interval, n_more: int, threshold: float) -> Sign:
    stop = gain.high < threshold
    expected = f"the next {n_more:,} labels are expected to add {_points(gain.value)} points ({_between(gain)})"
    if stop:
        return Sign(True, f"Stop: {expected}, less than the {_points(threshold)} that they should.")
    if gain.low >= threshold:
        return Sign(False, f"Go on: {expected}, at least the {_points(threshold)} that they should.")
    return Sign(False, f"Go on: {expected}; the {_points(threshold)} that they should are not ruled out.")


def _flat_sign(before: Round, after: Round, forecast: Interval, threshold: float, level: float) -> Sign:
    gain = observed_gain(before, after, level)
    since = (
        f"from {before.n_labels:,} to {after.n_labels:,} labels brought {_points(gain.value)} points ({_between(gain)})"
    )
    flat = forecast.value < threshold and forecast.high < 3 * threshold
    if gain.low > 0:
        return Sign(False, f"Go on: {since}, which is a gain.")
    if gain.high < 0:
        return Sign(False, f"Look: {since}, which is a loss; something else than labels has changed.")
    if flat:
        return Sign(True, f"Stop: {since}, which cannot be told from 0, and the curve is flat.")
    return Sign(False, f"Undecided: {since}, which cannot be told from 0, and the curve may still rise.")


def _stable_sign(agreements: Sequence[float]) -> Sign:
    mean = float(np.mean(agreements[-WINDOW:]))
    said = f"successive models agree with a mean kappa of {mean:.3f} over the last {WINDOW} rounds"
    if stable(agreements):
        return Sign(True, f"Stop: {said}, so predictions are stable.")
    return Sign(False, f"Go on: {said}, below {STABLE}, so predictions still change.")


def _points(rate: float) -> str:
    return f"{100 * rate:.1f}"


def _between(gain: Interval) -> str:
    return f"{_points(gain.low)} to {_points(gain.high)}"
