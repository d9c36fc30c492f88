import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import metrics as sk

from eke.errors import ConfigError, DataError
from eke.metrics import statistics
from eke.metrics.multilabel import (
    average_precision,
    best_thresholds,
    f1_scores,
    macro_f1_parts,
    mean_average_precision_parts,
    mean_average_precision_samples,
    micro_f1_parts,
    predictions,
)
from eke.metrics.statistics import bootstrap, compare_images, pooled_bootstrap


def drawn(n=120, k=6, seed=0, n_levels=12, rate=0.3):
    """Probabilities that know something of the targets, with many ties."""
    generator = np.random.default_rng(seed)
    targets = generator.random((n, k)) < rate
    probs = np.clip(0.4 * generator.random((n, k)) + 0.3 * targets + 0.3 * generator.random((n, k)), 0, 1)
    return np.round(probs * n_levels) / n_levels, targets


# ------------------------------------------------------------------ F1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 6, 40])
def test_f1_equals_scikit_learn(k, seed):
    probs, targets = drawn(k=k, seed=seed)
    thresholds = np.random.default_rng(seed).integers(3, 10, k) / 12  # some probabilities are exactly there
    got = f1_scores(probs, targets, thresholds)
    predicted = probs >= thresholds
    average = {"y_true": targets, "y_pred": predicted, "zero_division": np.nan}
    if k == 1:
        average = {name: np.ravel(each) if name != "zero_division" else each for name, each in average.items()}
        want = [sk.f1_score(**average)] * 3
    else:
        want = [sk.f1_score(**average, average=kind) for kind in (None, "macro", "micro")]
    for one, other in zip(got[:3], want, strict=True):
        assert_allclose(one, other)
    assert got.n_classes == k
    assert_array_equal(got.n_images, targets.sum(0))
    assert_array_equal(got.n_predicted, predicted.sum(0))


def test_one_half_is_the_default_and_predicts_at_it():
    probs, targets = np.array([[0.5, 0.49], [0.2, 0.5]]), np.array([[1, 0], [0, 1]])
    assert_array_equal(predictions(probs), [[True, False], [False, True]])
    assert f1_scores(probs, targets).macro == f1_scores(probs, targets).micro == 1


def test_classes_without_an_image_are_left_out_of_macro_and_counted_in_micro():
    # 0: found once of two; 1: not there, never predicted; 2: not there, predicted once; 3: there and never found
    targets = np.array([[1, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0]])
    predicted = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    got = f1_scores(predicted.astype(float), targets)
    assert_array_equal(got.f1, [2 / 3, math.nan, math.nan, 0])
    assert got.macro == pytest.approx(1 / 3)
    assert got.macro == pytest.approx(sk.f1_score(targets, predicted, average="macro", labels=[0, 3]))
    assert got.micro == pytest.approx(2 / 5)
    assert got.micro == pytest.approx(sk.f1_score(targets, predicted, average="micro"))
    assert got.n_classes == 2


def test_nothing_there_and_nothing_predicted_is_nan():
    got = f1_scores(np.zeros((3, 2)), np.zeros((3, 2)))
    assert math.isnan(got.macro)
    assert math.isnan(got.micro)
    assert got.n_classes == 0
    assert np.isnan(got.f1).all()
    assert f1_scores(np.ones((3, 2)), np.zeros((3, 2))).micro == 0


def test_tensors_are_taken():
    probs, targets = drawn()
    tensors = torch.from_numpy(probs), torch.from_numpy(targets)
    assert f1_scores(*tensors).macro == f1_scores(probs, targets).macro
    assert average_precision(*tensors).mean == average_precision(probs, targets).mean


@pytest.mark.parametrize("parts", [macro_f1_parts, micro_f1_parts])
def test_resampled_sums_combine_to_the_figure_of_the_resample(parts):
    probs, targets = drawn(n=25, k=7, rate=0.06)
    thresholds = np.linspace(0.3, 0.7, 7)
    whole = parts(probs, targets, thresholds)
    counts = np.random.default_rng(1).multinomial(25, np.full(25, 1 / 25), size=40).astype(float)
    got = whole.combine(counts @ whole.columns)
    for row, value in zip(counts.astype(int), got, strict=True):
        images = np.repeat(np.arange(25), row)
        scores = f1_scores(probs[images], targets[images], thresholds)
        assert value == pytest.approx(scores.macro if parts is macro_f1_parts else scores.micro)
    assert whole.value() == pytest.approx(
        getattr(f1_scores(probs, targets, thresholds), "macro" if parts is macro_f1_parts else "micro")
    )


def test_a_resample_without_a_label_is_nan():
    probs, targets = np.array([[0.9], [0.1]]), np.array([[1], [0]])
    for parts in (macro_f1_parts(probs, targets), micro_f1_parts(probs, targets)):
        sums = np.array([[0.0, 2.0]]) @ parts.columns
        assert np.isnan(parts.combine(sums)).all()
    wrong = np.array([[0.9], [0.9]])
    sums = np.array([[0.0, 2.0]]) @ micro_f1_parts(wrong, targets).columns
    assert_array_equal(micro_f1_parts(wrong, targets).combine(sums), [0])


@pytest.mark.parametrize("parts", [macro_f1_parts, micro_f1_parts])
def test_two_models_are_compared_on_the_same_images(parts):
    probs, targets = drawn(n=200)
    worse = np.clip(probs + np.random.default_rng(9).normal(0, 0.3, probs.shape), 0, 1)
    interval = bootstrap(parts(probs, targets), n_resamples=200)
    assert 0 <= interval.low < interval.value < interval.high <= 1
    compared = compare_images(parts(probs, targets), parts(worse, targets), n_resamples=200)
    assert compared.interval.low > 0
    assert compared.p < 0.05


# ------------------------------------------------------------------ average precision


@pytest.mark.parametrize("n_levels", [1, 3, 12, 10**6])
@pytest.mark.parametrize("seed", range(4))
def test_average_precision_equals_scikit_learn(seed, n_levels):
    probs, targets = drawn(seed=seed, n_levels=n_levels)
    got = average_precision(probs, targets)
    assert_allclose(got.ap, sk.average_precision_score(targets, probs, average=None))
    assert got.mean == pytest.approx(sk.average_precision_score(targets, probs, average="macro"))
    assert got.n_classes == 6


def test_average_precision_by_hand():
    # from the highest: hit 1 of 1; a tie of one hit and one miss, 2 of 3; the last hit, 3 of 5
    probs, targets = [[0.9], [0.5], [0.5], [0.3], [0.2]], [[1], [0], [1], [0], [1]]
    assert average_precision(probs, targets).ap == pytest.approx([(1 + 2 / 3 + 3 / 5) / 3])
    assert average_precision(probs[::-1], targets[::-1]).ap == pytest.approx([(1 + 2 / 3 + 3 / 5) / 3])


def test_average_precision_leaves_out_classes_without_an_image():
    probs, targets = drawn()
    targets[:, [1, 4]] = False
    got = average_precision(probs, targets)
    there = [0, 2, 3, 5]
    assert_array_equal(np.isnan(got.ap), [False, True, False, False, True, False])
    assert got.mean == pytest.approx(sk.average_precision_score(targets[:, there], probs[:, there], average="macro"))
    assert got.n_classes == 4
    nothing = average_precision(probs, np.zeros_like(targets))
    assert math.isnan(nothing.mean)
    assert nothing.n_classes == 0


def test_average_precision_reads_the_order_only():
    probs, targets = drawn()
    assert_array_equal(average_precision(np.log(probs + 1) * 9 - 5, targets).ap, average_precision(probs, targets).ap)


# ------------------------------------------------------------------ thresholds


def slow_best(probs, targets):
    """Try every distinct probability as the lowest one that is predicted, from the highest."""
    best, chosen = -1.0, (0.0, 0.0)
    levels = sorted(set(probs.tolist()), reverse=True)
    for i, level in enumerate(levels):
        value = sk.f1_score(targets, probs >= level)
        if value > best:
            best, chosen = value, (level, levels[min(i + 1, len(levels) - 1)])
    return best, (chosen[0] + chosen[1]) / 2


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_levels", [2, 12, 10**6])
def test_best_thresholds_equal_the_loop(n_levels, seed):
    probs, targets = drawn(seed=seed, n_levels=n_levels, n=60)
    got = best_thresholds(probs, targets)
    f1 = f1_scores(probs, targets, got).f1
    for k in range(6):
        value, threshold = slow_best(probs[:, k], targets[:, k])
        assert f1[k] == pytest.approx(value)
        assert got[k] == pytest.approx(threshold)


def test_of_equal_f1_the_highest_threshold_is_taken():
    # predicting 1, or 4, of which 2 are right: F1 2/3 both
    probs, targets = np.array([[0.8], [0.6], [0.4], [0.2], [0.1]]), np.array([[1], [0], [0], [1], [0]])
    assert_allclose(best_thresholds(probs, targets), [0.7])
    order = [3, 1, 4, 0, 2]
    assert_allclose(best_thresholds(probs[order], targets[order]), [0.7])


def test_all_predicted_is_the_lowest_probability():
    assert_array_equal(best_thresholds([[0.3], [0.2]], [[1], [1]]), [0.2])


def test_a_threshold_between_neighboring_floats_does_not_take_the_lower_one():
    for high in (0.7, np.nextafter(0.7, 1), 0.3, np.nextafter(0.3, 1)):
        probs, targets = np.array([[high], [np.nextafter(high, 0)]]), np.array([[1], [0]])
        assert_array_equal(predictions(probs, best_thresholds(probs, targets)), [[True], [False]])


def test_a_class_without_an_image_keeps_one_half():
    probs, targets = drawn()
    targets[:, 2] = False
    assert best_thresholds(probs, targets)[2] == 0.5


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize("measure", [f1_scores, average_precision, best_thresholds, macro_f1_parts, micro_f1_parts])
def test_wrong_input_is_refused(measure):
    probs, targets = drawn()
    with pytest.raises(DataError, match="do not match"):
        measure(probs, targets[:, :3])
    with pytest.raises(DataError, match="0 or 1"):
        measure(probs, targets - 1 * (targets == 0))
    with pytest.raises(DataError, match="not finite"):
        measure(np.where(probs > 0.5, np.nan, probs), targets)
    for shape in ((0, 3), (3, 0), (3,)):
        with pytest.raises(DataError, match="at least one of each"):
            measure(np.zeros(shape), np.zeros(shape))


def test_wrong_thresholds_are_refused():
    probs, targets = drawn()
    for thresholds in ([0.5] * 5, np.full((120, 6), 0.5), [0.5]):
        with pytest.raises(ConfigError, match="for 6 classes"):
            f1_scores(probs, targets, thresholds)
    with pytest.raises(ConfigError, match="not a number"):
        f1_scores(probs, targets, [0.5] * 5 + [math.nan])


def test_samples_of_their_own_images_are_pooled_as_in_a_loop():
    generator = np.random.default_rng(0)
    sizes = (30, 20)
    samples = [(generator.random((n, 3)).round(1), generator.integers(0, 2, (n, 3))) for n in sizes]
    parts = mean_average_precision_samples(*samples)
    observed = [average_precision(*each).mean for each in samples]
    np.testing.assert_allclose([each.value() for each in parts], observed)
    probs, targets = (np.concatenate(each) for each in zip(*samples, strict=True))
    counts = [
        np.concatenate(list(statistics._draw_counts(50, 100, 3, n_drawn=n, stream=f"pooled {side}")))
        for side, n in zip("ab", sizes, strict=True)
    ]
    reached = 0
    for drawn in zip(*counts, strict=True):
        rows = [np.repeat(np.arange(50), each.astype(int)) for each in drawn]
        a, b = (average_precision(probs[each], targets[each]).mean for each in rows)
        reached += abs(a - b) >= abs(observed[0] - observed[1]) - 1e-12
    assert pooled_bootstrap(*parts, n_resamples=100, seed=3) == (1 + reached) / 101
    assert 1 < reached < 100


# ------------------------------------------------------------------ mAP taken apart


def resampled_map(probs, targets, counts):
    """scikit-learn's mAP of images that are written down as often as they count."""
    rows = np.repeat(np.arange(len(probs)), counts.astype(int))
    aps = [
        sk.average_precision_score(targets[rows, k], probs[rows, k])
        for k in range(targets.shape[1])
        if targets[rows, k].any()
    ]
    return np.mean(aps)


@pytest.mark.parametrize("n_levels", [4, 1000])
def test_a_resample_of_map_equals_scikit_learn_on_the_drawn_images(n_levels):
    probs, targets = drawn(n=40, k=5, n_levels=n_levels, rate=0.1)
    (parts,) = mean_average_precision_parts(targets, probs)
    assert_allclose(parts.value(), average_precision(probs, targets).mean)
    generator = np.random.default_rng(0)
    counts = generator.multinomial(40, np.full(40, 1 / 40), size=20).astype(float)
    values = parts.combine(counts @ parts.columns)
    assert_allclose(values, [resampled_map(probs, targets, row) for row in counts])


def test_swapping_images_between_models_mixes_their_probabilities():
    a, targets = drawn(n=30, k=3, seed=1)
    b = np.clip(a + np.random.default_rng(2).normal(0, 0.3, a.shape), 0, 1)
    first, second = mean_average_precision_parts(targets, a, b)
    assert_allclose((first.value(), second.value()), [average_precision(p, targets).mean for p in (a, b)])
    swapped = np.random.default_rng(3).random(30) < 0.5
    mixed = np.where(swapped[:, None], b, a)
    sums = first.columns.sum(0) + swapped @ (second.columns - first.columns)
    assert_allclose(first.combine(np.asarray(sums)[None])[0], average_precision(mixed, targets).mean)


def test_map_of_two_models_is_compared():
    a, targets = drawn(n=200, k=4, seed=5)
    better = np.clip(0.3 * a + 0.7 * targets, 0, 1)
    paired = compare_images(*mean_average_precision_parts(targets, better, a), n_resamples=400)
    assert paired.decided
    assert paired.interval.value > 0
    assert paired.p < 0.01
    same = compare_images(*mean_average_precision_parts(targets, a, a), n_resamples=100)
    assert same.interval.value == 0
    assert same.p == 1


def test_a_resample_of_map_without_a_label_is_nan():
    targets = np.array([[1, 0], [0, 0]])
    (parts,) = mean_average_precision_parts(targets, np.array([[0.9, 0.1], [0.2, 0.3]]))
    assert math.isnan(parts.combine(np.array([[0.0, 2.0]]))[0])
