import math
from itertools import combinations

import numpy as np
import pytest

from eke.report.balance import MIN_CLASSES, imbalances, most_confused, rank_correlation, relative_shares


def test_relative_shares_are_shares_divided():
    counts, reference = np.array([10, 0, 30, 5]), np.array([2, 4, 2, 0])
    shares = relative_shares(counts, reference)
    for k in range(3):
        assert shares[k] == pytest.approx((counts[k] / 45) / (reference[k] / 8), abs=1e-9)
    assert math.isnan(shares[3])
    assert np.isnan(relative_shares([0, 0], [1, 1])).all()


def slow_ranks(values):
    return [sum(w < v for w in values) + (sum(w == v for w in values) + 1) / 2 for v in values]


def test_the_rank_correlation_is_spearmans_with_its_interval():
    generator = np.random.default_rng(0)
    a = generator.integers(0, 9, 40).astype(float)
    b = a + generator.integers(0, 9, 40)
    ranks_a, ranks_b = slow_ranks(a), slow_ranks(b)
    mean = 41 / 2
    covariance = sum((x - mean) * (y - mean) for x, y in zip(ranks_a, ranks_b, strict=True))
    r = covariance / math.sqrt(sum((x - mean) ** 2 for x in ranks_a) * sum((y - mean) ** 2 for y in ranks_b))
    half = 1.959963984540054 * math.sqrt((1 + r * r / 2) / 37)
    z = 0.5 * math.log((1 + r) / (1 - r))
    expected = (r, *((math.exp(2 * e) - 1) / (math.exp(2 * e) + 1) for e in (z - half, z + half)))
    assert rank_correlation(a, b) == pytest.approx(expected, abs=1e-9)


def test_classes_without_a_ratio_do_not_count():
    a = np.arange(30.0)
    b = np.where(np.arange(30) % 3 == 0, np.nan, a + np.array([0, 3, -3] * 10))
    kept = np.isfinite(b)
    assert rank_correlation(a, b) == rank_correlation(a[kept], b[kept])


@pytest.mark.parametrize("values", [np.arange(MIN_CLASSES - 1.0), np.ones(50), np.full(50, np.nan)])
def test_there_is_no_correlation_of_few_classes_or_of_a_constant(values):
    assert rank_correlation(values, np.arange(float(len(values)))) is None


def test_perfect_agreement_is_one():
    a = np.arange(20.0)
    value, low, high = rank_correlation(a, a**3)
    assert (value, low, high) == pytest.approx((1, 1, 1), abs=1e-6)
    assert rank_correlation(a, -a).high < 0


def test_the_interval_covers_what_it_says():
    # bivariate normal: Spearman's rho is 6/pi asin(r/2)
    generator = np.random.default_rng(0)
    truth = 6 / math.pi * math.asin(0.5 / 2)
    hits = 0
    for _ in range(400):
        x = generator.normal(size=60)
        y = 0.5 * x + math.sqrt(0.75) * generator.normal(size=60)
        hits += rank_correlation(x, y).contains(truth)
    assert 0.92 <= hits / 400 <= 0.98


# ------------------------------------------------------------------ too seldom and too often


def slow_p(out, into):
    """Sum the probabilities of all divisions of the errors that are no likelier than this one."""
    n = out + into
    mine = math.comb(n, out)
    return sum(math.comb(n, i) for i in range(n + 1) if math.comb(n, i) <= mine) / 2**n


def confusion_of(pairs, k, hits=50):
    confusion = np.diag([hits] * k)
    for (label, predicted), n in pairs.items():
        confusion[label, predicted] = n
    return confusion


def test_the_p_of_a_class_is_mcnemars_corrected_by_holm():
    confusion = confusion_of({(0, 1): 30, (1, 0): 4, (2, 3): 5, (3, 2): 4, (2, 1): 1}, 4)
    under, over = imbalances(confusion)
    assert [each.label for each in under] == [0]
    assert [each.label for each in over] == [1]
    p = [slow_p(30, 4), slow_p(4, 31), slow_p(6, 4), slow_p(4, 5)]
    ordered = sorted(p)
    assert over[0].p == pytest.approx(4 * ordered[0], rel=1e-9)
    assert under[0].p == pytest.approx(3 * ordered[1], rel=1e-9)
    assert under[0][1:5] == (80, 54, 30, 4)
    assert over[0][1:5] == (54, 81, 4, 31)


def test_a_deviation_that_is_chance_is_not_listed():
    generator = np.random.default_rng(0)
    found = 0
    for _ in range(60):
        labels = generator.integers(0, 10, 1000)
        predicted = np.where(generator.random(1000) < 0.6, labels, generator.integers(0, 10, 1000))
        confusion = np.zeros((10, 10), np.int64)
        np.add.at(confusion, (labels, predicted), 1)
        found += bool(sum(map(len, imbalances(confusion))))
    assert found <= 6


def test_the_surest_come_first():
    confusion = confusion_of({(0, 3): 15, (1, 3): 60, (2, 3): 30}, 4, hits=100)
    under, over = imbalances(confusion)
    assert [each.label for each in under] == [1, 2, 0]
    assert [each.label for each in over] == [3]


def test_no_errors_no_imbalance():
    assert imbalances(np.diag([5, 0, 7])) == ([], [])


def test_the_level_decides():
    confusion = confusion_of({(0, 1): 9, (1, 0): 1}, 2)
    assert imbalances(confusion, 0.95)[0]
    assert not imbalances(confusion, 0.99)[0]


def test_the_most_confused_classes_come_in_pairs():
    confusion = confusion_of({(7, 2): 9, (2, 7): 3, (4, 5): 10, (1, 2): 2}, 8)
    assert most_confused(confusion, 2) == [2, 7], "12 either way are more than 10"
    assert most_confused(confusion, 4) == [2, 4, 5, 7]
    assert most_confused(confusion, 6) == [1, 2, 4, 5, 7]
    assert most_confused(np.diag([1, 2]), 6) == []
    # 3 classes: the second pair has no room, so the third completes the first
    assert most_confused(confusion, 3) == [1, 2, 7]


def test_pairs_are_the_most_frequent_ones():
    generator = np.random.default_rng(0)
    confusion = generator.integers(0, 100, (9, 9))
    pairs = sorted(combinations(range(9), 2), key=lambda pair: -(confusion[pair] + confusion[pair[::-1]]))
    assert set(pairs[0]) <= set(most_confused(confusion, 5))
