import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import metrics as sk

from eke.errors import DataError
from eke.metrics.classification import (
    accuracy,
    accuracy_parts,
    calibration_error,
    calibration_interval,
    calibration_parts,
    class_scores,
    confusion_matrix,
    macro_f1,
    macro_f1_parts,
    negative_log_likelihood,
    reliability,
)


def predictions(n=300, k=5, seed=0, temperature=1.0, noise=1.0):
    """Labels drawn from the probabilities, so that temperature 1 is perfectly calibrated."""
    generator = np.random.default_rng(seed)
    logits = noise * generator.normal(size=(n, k))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (generator.random((n, 1)) > probs.cumsum(1)).sum(1).clip(max=k - 1)
    sharp = probs ** (1 / temperature)
    return sharp / sharp.sum(1, keepdims=True), labels


@pytest.mark.parametrize("k", [2, 5, 40])
def test_equal_to_scikit_learn(k):
    probs, labels = predictions(k=k)
    predicted = probs.argmax(1)
    assert accuracy(probs, labels) == sk.accuracy_score(labels, predicted)
    assert macro_f1(probs, labels) == pytest.approx(sk.f1_score(labels, predicted, average="macro"))
    assert_allclose(negative_log_likelihood(probs, labels), sk.log_loss(labels, probs, labels=range(k)))
    confusion = confusion_matrix(predicted, labels, k)
    assert_array_equal(confusion, sk.confusion_matrix(labels, predicted, labels=range(k)))
    ours = class_scores(confusion)
    theirs = sk.precision_recall_fscore_support(labels, predicted, labels=range(k), zero_division=np.nan)
    for one, other in zip(ours[:4], theirs, strict=True):
        assert_allclose(one, other)
    assert_array_equal(ours.n_predicted, np.bincount(predicted, minlength=k))


def test_absent_classes_are_as_documented():
    # 0: found, 1: there and never found, 2: predicted and not there, 3: neither
    labels, predicted = np.array([0, 0, 1]), np.array([0, 0, 2])
    scores = class_scores(confusion_matrix(predicted, labels, 4))
    assert_array_equal(scores.f1, [1, 0, 0, math.nan])
    assert_array_equal(scores.precision, [1, math.nan, 0, math.nan])
    assert_array_equal(scores.recall, [1, 0, math.nan, math.nan])
    probs = np.eye(4)[predicted]
    assert macro_f1(probs, labels) == pytest.approx(1 / 3)
    assert macro_f1(probs, labels) == pytest.approx(sk.f1_score(labels, predicted, average="macro"))


def test_a_tie_goes_to_the_first_class():
    assert accuracy([[0.5, 0.5]], [0]) == 1


def test_nll_of_a_probability_rounded_to_zero_is_finite():
    assert negative_log_likelihood([[1.0, 0.0]], [1]) == pytest.approx(87.34, abs=0.01)


@pytest.mark.parametrize("n_bins", [1, 7, 15])
def test_calibration_error_equals_the_loop(n_bins):
    probs, labels = predictions(200, 4, temperature=0.5)
    confidence, hit = probs.max(1), probs.argmax(1) == labels
    error = 0.0
    table = reliability(probs, labels, n_bins)
    for m in range(n_bins):
        inside = [i for i in range(200) if m / n_bins < confidence[i] <= (m + 1) / n_bins]
        assert table.n_images[m] == len(inside)
        assert_allclose([table.low[m], table.high[m]], [m / n_bins, (m + 1) / n_bins])
        if not inside:
            assert np.isnan([table.accuracy[m], table.confidence[m]]).all()
            continue
        gap = sum(hit[i] for i in inside) / len(inside) - sum(confidence[i] for i in inside) / len(inside)
        assert table.accuracy[m] - table.confidence[m] == pytest.approx(gap)
        error += len(inside) / 200 * abs(gap)
    assert calibration_error(probs, labels, n_bins) == pytest.approx(error)


def test_confidences_on_an_edge_and_above_one():
    table = reliability(np.array([[0.25, 0.75], [0.0, 1.0000001], [0.0, 1.0]]), [1, 1, 0], 4)
    assert_array_equal(table.n_images, [0, 0, 1, 2])
    assert table.accuracy[-1] == 0.5


def test_parts_give_the_whole():
    probs, labels = predictions(k=30)
    for parts, whole in (
        (accuracy_parts, accuracy),
        (macro_f1_parts, macro_f1),
        (calibration_parts, calibration_error),
    ):
        assert parts(probs, labels).value() == pytest.approx(whole(probs, labels))


def test_calibration_interval_covers_calibrated_and_overconfident_models():
    for temperature in (1.0, 0.5):
        truth = calibration_error(*predictions(100_000, 4, 99, temperature))
        intervals = [
            calibration_interval(*predictions(200, 4, seed, temperature), n_resamples=200) for seed in range(100)
        ]
        assert np.mean([interval.contains(truth) for interval in intervals]) >= 0.94
        assert all(interval.low <= interval.value <= interval.high for interval in intervals)
        if temperature == 0.5:  # cautious, yet it still finds an overconfident model out
            assert np.mean([interval.low > 0 for interval in intervals]) > 0.9


def test_tensors_are_taken():
    probs, labels = predictions()
    assert accuracy(torch.from_numpy(probs), torch.from_numpy(labels)) == accuracy(probs, labels)


@pytest.mark.parametrize(
    ("probs", "labels", "words"),
    [
        ([[0.5, 0.5]], [2], r"0\.\.1"),
        ([[0.5, 0.5]], [-1], "unlabeled"),
        ([[0.5, 0.5]], [0, 1], "1 rows"),
        ([[0.5, 0.5]], [0.0], "float64"),
        ([[math.nan, 0.5]], [0], "finite"),
        (np.zeros((0, 2)), [], "shape"),
        ([0.5, 0.5], [0], "shape"),
    ],
)
def test_what_cannot_be_scored_is_said(probs, labels, words):
    with pytest.raises(DataError, match=words):
        macro_f1(probs, labels)
    with pytest.raises(DataError, match=words):
        calibration_error(probs, labels)


def test_confusion_needs_pairs():
    with pytest.raises(DataError, match="1 predictions"):
        confusion_matrix([0], [0, 1], 2)
