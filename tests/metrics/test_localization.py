import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from eke.errors import ConfigError, DataError
from eke.metrics.localization import (
    best_threshold,
    class_mean_parts,
    common_pairs,
    labeled_pairs,
    pair_mean_parts,
    pair_means,
    true_positives,
)
from eke.metrics.statistics import bootstrap, compare_images, paired_bootstrap


def drawn(n=30, k=5, seed=0, rate=0.3):
    generator = np.random.default_rng(seed)
    targets = generator.random((n, k)) < rate
    return np.round(generator.random((n, k)), 1), targets


# ------------------------------------------------------------------ pairs


@pytest.mark.parametrize("thresholds", [0.5, [0.1, 0.3, 0.5, 0.7, 0.9]])
def test_true_positives_equal_the_loop(thresholds):
    scores, targets = drawn()
    each = np.broadcast_to(thresholds, 5)
    want = [[i, c] for i in range(30) for c in range(5) if targets[i, c] and scores[i, c] >= each[c]]
    got = true_positives(scores, targets, thresholds)
    assert got.dtype == np.int64
    assert_array_equal(got, want)
    assert 0 < len(want) < targets.sum()


def test_probabilities_and_logits_give_the_same_pairs():
    scores, targets = drawn()
    logits = torch.from_numpy(scores - 0.5) * 10
    assert_array_equal(true_positives(logits, torch.from_numpy(targets), 0.0), true_positives(scores, targets))


def test_labeled_pairs_are_all_of_them():
    scores, targets = drawn()
    pairs = labeled_pairs(targets)
    assert_array_equal(pairs, [[i, c] for i in range(30) for c in range(5) if targets[i, c]])
    assert_array_equal(true_positives(scores, targets, -1.0), pairs)


def test_common_pairs_are_those_of_both_sorted():
    one, other = [[0, 2], [1, 0], [3, 1], [3, 4]], [[3, 4], [1, 1], [0, 2], [2, 0]]
    assert_array_equal(common_pairs(one, other), [[0, 2], [3, 4]])
    assert_array_equal(common_pairs(one, np.concatenate([other, other])), [[0, 2], [3, 4]])
    assert common_pairs(one, [[7, 7]]).shape == (0, 2)
    (scores, targets), (others, _) = drawn(), drawn(seed=1)
    both = common_pairs(true_positives(scores, targets), true_positives(others, targets))
    assert_array_equal(both, true_positives(np.minimum(scores, others), targets))


def test_no_pair_is_a_table_of_no_rows():
    scores, targets = drawn()
    none = true_positives(scores, targets, 2.0)
    assert none.shape == (0, 2)
    assert common_pairs(none, none).shape == (0, 2)
    assert labeled_pairs(np.zeros((3, 2))).shape == (0, 2)


# ------------------------------------------------------------------ means


PAIRS = np.array([[0, 1], [0, 3], [2, 1], [5, 1], [5, 9]])
VALUES = np.array([0.2, 0.9, 0.4, 0.6, 0.1])


def test_means_by_hand():
    got = pair_means(VALUES, PAIRS)
    assert got.over_pairs == pytest.approx(2.2 / 5)
    assert got.over_classes == pytest.approx((0.4 + 0.9 + 0.1) / 3)
    assert (got.n_pairs, got.n_classes) == (5, 3)
    assert pair_mean_parts(VALUES, PAIRS, 7).value() == pytest.approx(got.over_pairs)
    assert class_mean_parts(VALUES, PAIRS, 7).value() == pytest.approx(got.over_classes)


def test_means_of_no_pair_are_nan():
    none = np.zeros((0, 2), int)
    got = pair_means([], none)
    assert math.isnan(got.over_pairs)
    assert math.isnan(got.over_classes)
    assert (got.n_pairs, got.n_classes) == (0, 0)
    for parts in (pair_mean_parts, class_mean_parts):
        assert math.isnan(parts([], none, 4).value())


@pytest.mark.parametrize("parts", [pair_mean_parts, class_mean_parts])
def test_resampled_sums_combine_to_the_means_of_the_resample(parts):
    generator = np.random.default_rng(0)
    pairs = labeled_pairs(generator.random((12, 6)) < 0.2)
    values = generator.random(len(pairs))
    whole = parts(values, pairs, 12)
    assert whole.columns.shape[0] == 12
    counts = np.concatenate([generator.multinomial(12, np.full(12, 1 / 12), size=30), np.eye(12, dtype=int) * 12])
    got = whole.combine(counts.astype(float) @ whole.columns)
    empty = 0
    for row, value in zip(counts, got, strict=True):
        drawn_again = np.repeat(np.arange(len(pairs)), row[pairs[:, 0]])
        means = pair_means(values[drawn_again], pairs[drawn_again])
        want = means.over_pairs if parts is pair_mean_parts else means.over_classes
        assert value == pytest.approx(want, nan_ok=True)
        empty += math.isnan(want)
    assert empty, "some image has no pair"


def test_two_networks_with_different_pairs_are_compared_on_the_same_images():
    generator = np.random.default_rng(0)
    pairs = labeled_pairs(generator.random((80, 6)) < 0.4)
    values = generator.uniform(0.3, 0.6, len(pairs))
    fewer = generator.random(len(pairs)) < 0.7
    a, b = pair_mean_parts(values + 0.2, pairs, 80), pair_mean_parts(values[fewer], pairs[fewer], 80)
    assert paired_bootstrap(a, b, n_resamples=200).contains(0.2)
    same = class_mean_parts(values, pairs, 80)
    compared = compare_images(class_mean_parts(values + 0.2, pairs, 80), same, n_resamples=200)
    assert compared.interval.value == pytest.approx(0.2)
    assert compared.decided
    interval = bootstrap(same, n_resamples=200)
    assert 0 <= interval.low < interval.value < interval.high <= 1


def test_pairs_of_one_image_are_resampled_together():
    """Ten equal pairs in each image say no more than one."""
    values = np.random.default_rng(0).random(50)
    one = pair_mean_parts(values, np.stack([np.arange(50), np.zeros(50, int)], 1), 50)
    pairs = np.stack([np.repeat(np.arange(50), 10), np.tile(np.arange(10), 50)], 1)
    ten = pair_mean_parts(np.repeat(values, 10), pairs, 50)
    assert_allclose(bootstrap(one, n_resamples=100), bootstrap(ten, n_resamples=100))


# ------------------------------------------------------------------ one threshold for all


def test_the_best_threshold_is_that_of_the_highest_mean():
    overlaps = np.array([[0.1, 0.5, 0.2, 0.0, 0.0], [0.1, 0.3, 0.7, 0.1, 0.0]])
    got = best_threshold(overlaps)
    assert got.threshold == 0.5
    assert got.overlap == pytest.approx(0.45)
    assert best_threshold(torch.from_numpy(overlaps)) == got


def test_of_equal_thresholds_the_lowest_is_taken():
    assert best_threshold([[0.1, 0.4, 0.4, 0.4, 0.1]]) == (0.25, 0.4)


# ------------------------------------------------------------------ refusals


def test_wrong_input_is_refused():
    scores, targets = drawn()
    with pytest.raises(DataError, match="do not match scores"):
        true_positives(scores, targets[:, :3])
    with pytest.raises(DataError, match="do not match scores"):
        true_positives(scores[:5], targets)
    with pytest.raises(ConfigError, match="for 5 classes"):
        true_positives(scores, targets, [0.5, 0.5])
    for wrong in (np.array([0, 1]), np.array([[0, -1]])):
        with pytest.raises(DataError, match="of 0 and 1"):
            labeled_pairs(wrong)
    for wrong in (np.zeros((2, 3), int), np.zeros((2, 2)), np.array([[0, -1]]), np.zeros(2, int)):
        with pytest.raises(DataError, match="integers"):
            common_pairs(wrong, PAIRS)
        with pytest.raises(DataError, match="integers"):
            pair_means(VALUES[:2], wrong)
    for measure in (pair_means, lambda v, p: pair_mean_parts(v, p, 9), lambda v, p: class_mean_parts(v, p, 9)):
        with pytest.raises(DataError, match="one to one"):
            measure(VALUES[:4], PAIRS)
        with pytest.raises(DataError, match="value of pair 2 is not finite"):
            measure(np.where(VALUES == 0.4, np.nan, VALUES), PAIRS)
    for parts in (pair_mean_parts, class_mean_parts):
        with pytest.raises(DataError, match="of image 5, and there are 5 images"):
            parts(VALUES, PAIRS, 5)
        for n_images in (6, 9):
            assert parts(VALUES, PAIRS, n_images).columns.shape[0] == n_images, "with those that have no pair"
    for wrong in (np.zeros((0, 101)), np.zeros((3, 1)), np.zeros(3)):
        with pytest.raises(DataError, match="pairs, thresholds"):
            best_threshold(wrong)
