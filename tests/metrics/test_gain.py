import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.metrics import cohen_kappa_score

from eke.errors import DataError
from eke.metrics import gain
from eke.metrics.gain import Curve, Round, expected_gain, fit_curve, observed_gain, paired_gain, pool_rounds
from eke.metrics.statistics import Interval, wilson
from eke.metrics.stopping import advise, kappa, stable

N_CAMPAIGNS = 200
MANY = 10**9  # control images that leave no chance


def power_law(a: float, b: float, c: float) -> Callable[[float], float]:
    return lambda n: a - b * n**-c


STEEP, BENDING, FLAT = power_law(0.95, 5.0, 0.5), power_law(0.9, 3.0, 0.6), power_law(0.8, 0.0, 1.0)


def exact(curve: Callable[[float], float], *n_labels: int) -> list[Round]:
    return [Round(f"r{n}", n, round(curve(n) * MANY), MANY) for n in n_labels]


def drawn(curve: Callable[[float], float], n_labels: list[int], n: int, generator: np.random.Generator) -> list[Round]:
    return [Round(f"r{each}", each, int(generator.binomial(n, curve(each))), n) for each in n_labels]


def test_rounds_of_one_model_are_pooled() -> None:
    rounds = [Round("b", 200, 8, 10), Round("a", 100, 3, 10), Round("b", 200, 25, 30), Round("c", 300, 0, 0)]
    assert pool_rounds(rounds) == [Round("a", 100, 3, 10), Round("b", 200, 33, 40)]
    assert pool_rounds(rounds)[1].accuracy(0.9) == wilson(33, 40, 0.9)


def test_rounds_that_cannot_be() -> None:
    with pytest.raises(DataError, match="100 or 200 labels"):
        pool_rounds([Round("a", 100, 3, 10), Round("a", 200, 3, 10)])
    for wrong in (Round("a", 0, 1, 2), Round("a", 1, 3, 2), Round("a", 1, -1, 2)):
        with pytest.raises(DataError, match="n_labels >= 1"):
            pool_rounds([wrong])
    with pytest.raises(DataError, match=r"got \[100\]"):
        fit_curve([Round("a", 100, 3, 10), Round("b", 100, 3, 10)])


@pytest.mark.parametrize("c", [0.3, 0.5, 1.0])
def test_a_power_law_is_found_again(c: float) -> None:
    truth = power_law(0.9, 4.0 * 50 ** (c - 1), c)
    curve = fit_curve(exact(truth, 50, 100, 200, 400))
    assert curve.power == pytest.approx(c)
    assert curve.ceiling == pytest.approx(0.9, abs=1e-6)
    assert [curve.at(n) for n in (70, 400, 5000)] == pytest.approx([truth(n) for n in (70, 400, 5000)], abs=1e-6)
    forecast = expected_gain(exact(truth, 50, 100, 200, 400), 100)
    assert forecast == pytest.approx([truth(500) - truth(400)] * 3, abs=1e-3)


def test_two_points_give_the_line_over_log_n() -> None:
    curve = fit_curve([Round("a", 100, 50, 100), Round("b", 200, 60, 100)])
    assert curve == pytest.approx(Curve(0.6, 0.1 / math.log(2), 0.0, 200))
    assert curve.at(400) == pytest.approx(0.7)
    assert (curve.at(10**9), curve.at(1)) == (1.0, 0.0)
    assert curve.ceiling == 1


def test_a_curve_does_not_fall_and_does_not_pass_one() -> None:
    falling = [Round("a", 100, 90, 100), Round("b", 200, 80, 100), Round("c", 300, 70, 100)]
    curve = fit_curve(falling)
    assert curve.slope == 0
    weights = [100 / (p * (1 - p)) for p in (91 / 102, 81 / 102, 71 / 102)]
    assert curve.ceiling == curve.at(5) == pytest.approx(np.average([0.9, 0.8, 0.7], weights=weights))
    assert expected_gain(falling, 100).value == 0
    rising = [Round("a", 100, 90, 100), Round("b", 200, 95, 100), Round("c", 300, 100, 100)]
    assert fit_curve(rising).at(10**6) <= 1
    full = [Round("a", 100, 50, 50), Round("b", 200, 50, 50), Round("c", 300, 50, 50)]
    assert fit_curve(full).accuracy == 1
    assert expected_gain(full, 100).high < 0.02


def test_the_closed_form_is_the_bounded_least_squares() -> None:
    generator = np.random.default_rng(5)
    n_labels, weights = np.array([50.0, 100, 150, 200]), generator.uniform(50, 300, 4)
    for rates in generator.uniform(0.6, 1.0, (12, 4)):
        accuracy, slope, power = (each.item() for each in gain._fit(n_labels, rates[None], weights))
        assert slope >= 0
        assert power == 0 or accuracy + slope / power <= 1 + 1e-12
        found = sum(weights * (rates - accuracy - slope * gain._growth(n_labels / 200, np.array(power))) ** 2)
        for c in gain.POWERS:
            x = gain._growth(n_labels / 200, c)

            def loss(line: np.ndarray, x: np.ndarray = x, rates: np.ndarray = rates) -> float:
                return float(sum(weights * (rates - line[0] - line[1] * x) ** 2))

            below_one = {"type": "ineq", "fun": lambda line, c=c: 1 - line[0] - line[1] / c if c else 1.0}
            best = minimize(loss, [0.7, 0.01], bounds=[(None, None), (0, None)], constraints=below_one, method="SLSQP")
            assert found <= best.fun + 1e-4


def test_the_gain_between_two_rounds_is_newcombes() -> None:
    # Newcombe 1998, table II, example (a): 56/70 - 48/80, method 10: 0.0524 to 0.3339
    found = observed_gain(Round("a", 1, 48, 80), Round("b", 2, 56, 70))
    assert found == pytest.approx(Interval(0.2, 0.0524, 0.3339), abs=5e-5)


def test_a_paired_gain_by_hand() -> None:
    """Method 10 written out for 20 images: 12 both right, 4 neither, 3 gained, 1 lost."""
    before = [True] * 12 + [False] * 4 + [False] * 3 + [True]
    after = [True] * 12 + [False] * 4 + [True] * 3 + [False]
    phi = (12 * 4 - 3 * 1 - 10) / math.sqrt(15 * 13 * 7 * 5)
    old, new = wilson(13, 20), wilson(15, 20)
    a, b = 0.75 - new.low, old.high - 0.65
    c, d = new.high - 0.75, 0.65 - old.low
    expected = Interval(
        0.1, 0.1 - math.sqrt(a * a - 2 * phi * a * b + b * b), 0.1 + math.sqrt(c * c - 2 * phi * c * d + d * d)
    )
    assert paired_gain(before, after) == pytest.approx(expected)
    unpaired = observed_gain(Round("a", 1, 13, 20), Round("b", 2, 15, 20))
    assert expected.high - expected.low < unpaired.high - unpaired.low


def test_a_paired_gain_has_a_width_where_both_are_always_right_and_holds_the_truth() -> None:
    both = paired_gain([True] * 50, [True] * 50)
    assert both.value == 0
    assert both.low == -both.high < -0.05
    generator, held = np.random.default_rng(3), []
    for _ in range(400):
        kind = generator.choice(4, size=60, p=[0.6, 0.2, 0.15, 0.05])  # both, neither, gained, lost: truth 0.1
        found = paired_gain(np.isin(kind, [0, 3]), np.isin(kind, [0, 2]))
        held.append(found.low <= 0.1 <= found.high)
    assert 0.93 <= np.mean(held) <= 0.99
    with pytest.raises(DataError, match="same images twice"):
        paired_gain([True], [True, False])


class Campaigns(NamedTuple):
    """Means over simulated campaigns."""

    control: float
    """How often the interval of the accuracy holds the truth."""
    forecast: float
    """How often that of the gain does."""
    error: float
    """Root mean square of the forecast's error."""
    gain: float
    """The true gain."""


def simulate(curve: Callable[[float], float], n: int) -> Campaigns:
    generator, n_labels = np.random.default_rng(11), [100, 200, 300, 400, 500]
    control, forecast, errors = [], [], []
    truth = curve(600) - curve(500)
    for seed in range(N_CAMPAIGNS):
        rounds = drawn(curve, n_labels, n, generator)
        control += [each.accuracy().contains(curve(each.n_labels)) for each in rounds]
        found = expected_gain(rounds, 100, n_resamples=200, seed=seed)
        forecast.append(found.low - 1e-9 <= truth <= found.high)
        errors.append(found.value - truth)
    rms = math.sqrt(np.mean(np.square(errors)))
    return Campaigns(float(np.mean(control)), float(np.mean(forecast)), rms, truth)


@pytest.mark.parametrize("n", [20, 100])
@pytest.mark.parametrize("curve", [STEEP, BENDING, FLAT], ids=["steep", "bending", "flat"])
def test_intervals_cover_the_truth(
    curve: Callable[[float], float], n: int, record_property: Callable[[str, object], None]
) -> None:
    found = simulate(curve, n)
    record_property("campaigns", str(found))
    print(f"{n} control images a round: {found}")
    assert found.control >= 0.9, found
    assert found.forecast >= 0.88, found
    accuracy = curve(500)
    noise = math.sqrt(2 * accuracy * (1 - accuracy) / n)  # of the difference of the last two rounds, the plain forecast
    assert found.error <= noise / 3, found


def share_of_stops(curve: Callable[[float], float], n: int, n_labels: list[int]) -> float:
    generator = np.random.default_rng(12)
    return float(np.mean([advise(drawn(curve, n_labels, n, generator), 100, 0.01).stop for _ in range(60)]))


def test_a_pool_with_nothing_to_gain_is_left_and_a_steep_curve_is_not() -> None:
    assert share_of_stops(FLAT, 100, [100, 200, 300, 400, 500, 600]) >= 0.8
    assert share_of_stops(STEEP, 100, [100, 200, 300]) <= 0.05
    assert share_of_stops(STEEP, 20, [100, 200, 300]) <= 0.1


def test_advice_in_words() -> None:
    early = advise([Round("a", 100, 70, 100)], 100, 0.01)
    assert (early.stop, early.forecast) == (False, None)
    assert early.signs[0].sentence.startswith("Go on: a forecast needs control images of two models")

    flat = advise(exact(FLAT, 100, 200, 300), 100, 0.01)
    assert flat.stop
    assert [sign.stop for sign in flat.signs] == [True, True]
    assert flat.signs[0].sentence == (
        "Stop: the next 100 labels are expected to add 0.0 points (0.0 to 0.0), less than the 1.0 that they should."
    )
    assert flat.signs[1].sentence == (
        "Stop: from 100 to 300 labels brought 0.0 points (-0.0 to 0.0), which cannot be told from 0, and the curve is "
        "flat."
    )
    steep = advise(exact(STEEP, 100, 200, 300), 100, 0.01)
    assert [sign.sentence.split(":")[0] for sign in steep.signs] == ["Go on", "Go on"]
    assert not steep.stop
    few = advise([Round("a", 100, 7, 10), Round("b", 200, 7, 10), Round("c", 300, 7, 10)], 100, 0.01)
    assert [sign.sentence.split(":")[0] for sign in few.signs] == ["Go on", "Undecided"], "ten images cannot tell"
    falling = advise(exact(lambda n: 0.9 - n / 1000, 100, 200, 300), 100, 0.01)
    assert falling.signs[1].sentence.startswith("Look: from 100 to 300 labels brought -20.0 points")


def test_kappa_is_cohens() -> None:
    generator = np.random.default_rng(3)
    a = generator.integers(0, 5, 400)
    b = np.where(generator.random(400) < 0.8, a, generator.integers(0, 6, 400))
    assert kappa(a, b) == pytest.approx(cohen_kappa_score(a, b))
    assert kappa([2, 2], [2, 2]) == 1
    assert kappa([0, 1], [1, 0]) == -1
    with pytest.raises(DataError, match="same images"):
        kappa([0, 1], [0])
    with pytest.raises(DataError, match="same images"):
        kappa([], [])


def test_stable_predictions_are_a_sign_without_labels() -> None:
    assert stable([0.5, 0.985, 0.99, 0.996])
    assert not stable([0.999, 0.999]), "two agreements are too few"
    assert not stable([1.0, 1.0, 1.0, 0.98, 0.98, 0.99])
    rounds = exact(STEEP, 100, 200)
    assert len(advise(rounds, 100, 0.01, [1.0, 1.0]).signs) == 1
    advice = advise(rounds, 100, 0.01, [0.99, 1.0, 1.0])
    assert advice.stop
    assert advice.signs[-1].sentence == (
        "Stop: successive models agree with a mean kappa of 0.997 over the last 3 rounds, so predictions are stable."
    )
    assert not advise(rounds, 100, 0.01, [0.9, 1.0, 1.0]).stop
