import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from eke.errors import ConfigError, DataError
from eke.metrics import statistics
from eke.metrics.classification import calibration_parts, macro_f1_parts
from eke.metrics.statistics import (
    Interval,
    bootstrap,
    compare_images,
    compare_samples,
    holm,
    paired_bootstrap,
    paired_permutation,
    paired_t,
    per_image_mean,
    pooled_bootstrap,
    t_interval,
    unpaired_bootstrap,
    wilson,
)


def some_predictions(n, k, seed, sharpness=1.5):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, k, n)
    logits = generator.normal(size=(n, k)) + sharpness * np.eye(k)[labels]
    probs = np.exp(logits)
    return probs / probs.sum(1, keepdims=True), labels


def draws_as_indices(n, n_resamples, seed, **how):
    """The same multinomial draws as the matrix, spelled as the list of images in each resample."""
    for counts in statistics._draw_counts(n, n_resamples, seed, **how):
        for row in counts:
            yield np.repeat(np.arange(n), row.astype(int))


# ---------------------------------------------------------------- rates and means


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (873, 1000), (1, 1)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_equals_scipy(k, n, level):
    theirs = stats.binomtest(k, n).proportion_ci(level, method="wilson")
    ours = wilson(k, n, level)
    assert_allclose(ours, (k / n, theirs.low, theirs.high), atol=1e-12)
    assert ours.low <= ours.value <= ours.high


def test_wilson_without_trials_says_nothing():
    value, low, high = wilson(0, 0)
    assert math.isnan(value)
    assert (low, high) == (0, 1)
    with pytest.raises(DataError, match="3 of 2"):
        wilson(3, 2)


def test_wilson_covers_on_average():
    generator = np.random.default_rng(0)
    rates = generator.uniform(0.02, 0.98, 4000)
    hits = generator.binomial(40, rates)
    covered = np.mean([wilson(int(k), 40).contains(p) for k, p in zip(hits, rates, strict=True)])
    assert 0.94 < covered < 0.965


def test_t_interval_equals_scipy_and_covers():
    generator = np.random.default_rng(1)
    samples = generator.normal(3, 2, (2000, 5))
    theirs = stats.t.interval(0.9, 4, samples[0].mean(), stats.sem(samples[0]))
    assert_allclose(t_interval(samples[0], 0.9)[1:], theirs)
    covered = np.mean([t_interval(row, 0.9).contains(3) for row in samples])
    assert abs(covered - 0.9) < 0.02


def test_one_seed_has_no_finite_interval():
    assert t_interval([0.7]) == Interval(0.7, -math.inf, math.inf)
    lonely = paired_t([0.7], [0.5])
    assert math.isnan(lonely.p)
    assert not lonely.decided


def test_paired_t_equals_scipy():
    generator = np.random.default_rng(2)
    a, b = generator.normal(size=8), generator.normal(size=8)
    theirs = stats.ttest_rel(a, b)
    ours = paired_t(a, b, 0.99)
    assert_allclose(ours.p, theirs.pvalue)
    assert_allclose(ours.interval[1:], theirs.confidence_interval(0.99))


def test_paired_t_without_spread():
    assert paired_t([1.0, 2.0], [1.0, 2.0]).p == 1
    assert paired_t([1.5, 2.5], [1.0, 2.0]).p == 0
    with pytest.raises(DataError, match="one to one"):
        paired_t([1.0], [1.0, 2.0])


@pytest.mark.parametrize("level", [0, 1, 95])
def test_a_level_is_a_fraction(level):
    with pytest.raises(ConfigError, match=r"0\.95"):
        wilson(1, 2, level)


# ---------------------------------------------------------------- resampling against slow loops


def test_bootstrap_of_a_mean_equals_the_loop():
    values = np.random.default_rng(3).normal(size=60)
    means = [values[index].mean() for index in draws_as_indices(60, 300, seed=5)]
    ours = bootstrap(per_image_mean(values), level=0.8, n_resamples=300, seed=5)
    half = np.quantile(np.abs(np.array(means) - values.mean()), 0.8)
    assert_allclose(ours, (values.mean(), values.mean() - half, values.mean() + half))


@pytest.mark.parametrize("parts", [macro_f1_parts, calibration_parts])
def test_paired_bootstrap_of_counts_equals_the_loop(parts):
    a, labels = some_predictions(50, 4, 0)
    b, _ = some_predictions(50, 4, 1)
    loop = [
        parts(a[index], labels[index]).value() - parts(b[index], labels[index]).value()
        for index in draws_as_indices(50, 200, seed=9)
    ]
    ours = paired_bootstrap(parts(a, labels), parts(b, labels), n_resamples=200, seed=9)
    observed = parts(a, labels).value() - parts(b, labels).value()
    half = np.quantile(np.abs(np.array(loop) - observed), 0.95)
    assert_allclose(ours, (observed, observed - half, observed + half), atol=1e-12)


def test_the_percentile_interval_equals_the_loop():
    values = np.random.default_rng(3).exponential(size=40)
    means = [values[index].mean() for index in draws_as_indices(40, 300, seed=5)]
    ours = bootstrap(per_image_mean(values), level=0.9, n_resamples=300, seed=5, ends="percentile")
    assert_allclose(ours, (values.mean(), *np.quantile(means, [0.05, 0.95])))


@pytest.mark.parametrize("parts", [macro_f1_parts, calibration_parts])
def test_unpaired_bootstrap_equals_the_loop(parts):
    a, labels_a = some_predictions(50, 4, 0)
    b, labels_b = some_predictions(35, 4, 1)
    loop = [
        parts(a[one], labels_a[one]).value() - parts(b[other], labels_b[other]).value()
        for one, other in zip(
            draws_as_indices(50, 200, seed=9, stream="bootstrap a"),
            draws_as_indices(35, 200, seed=9, stream="bootstrap b"),
            strict=True,
        )
    ]
    ours = unpaired_bootstrap(parts(a, labels_a), parts(b, labels_b), n_resamples=200, seed=9)
    observed = parts(a, labels_a).value() - parts(b, labels_b).value()
    half = np.quantile(np.abs(np.array(loop) - observed), 0.95)
    assert_allclose(ours, (observed, observed - half, observed + half), atol=1e-12)


@pytest.mark.parametrize("parts", [macro_f1_parts, calibration_parts])
def test_pooled_bootstrap_equals_the_loop_of_algorithm_16_1(parts):
    a, labels_a = some_predictions(40, 3, 0, 1.0)
    b, labels_b = some_predictions(25, 3, 1, 0.6)
    probs, labels = np.concatenate([a, b]), np.concatenate([labels_a, labels_b])
    observed = abs(parts(a, labels_a).value() - parts(b, labels_b).value())
    reached = 0
    for first, rest in zip(
        draws_as_indices(65, 250, seed=4, n_drawn=40, stream="pooled a"),
        draws_as_indices(65, 250, seed=4, n_drawn=25, stream="pooled b"),
        strict=True,
    ):
        assert (len(first), len(rest)) == (40, 25)
        difference = abs(parts(probs[first], labels[first]).value() - parts(probs[rest], labels[rest]).value())
        reached += bool(difference >= observed - 1e-12)
    ours = pooled_bootstrap(parts(a, labels_a), parts(b, labels_b), n_resamples=250, seed=4)
    assert ours == (1 + reached) / 251
    assert 1 < reached < 250


def test_the_draws_are_the_multinomial(monkeypatch):
    counts = np.concatenate(list(statistics._draw_counts(6, 20_000, 0)))
    assert (counts.sum(1) == 6).all()
    assert_allclose(counts.mean(0), 1, atol=0.02)
    expected = 6 * (np.eye(6) / 6 - 1 / 36)  # n (diag(p) - p p')
    assert_allclose(np.cov(counts.T), expected, atol=0.02)
    monkeypatch.setattr(statistics, "_CHUNK", 100)
    assert (np.concatenate(list(statistics._draw_counts(6, 20_000, 0))) == counts).all()


@pytest.mark.parametrize("parts", [macro_f1_parts, calibration_parts])
def test_permutation_equals_the_loop(parts):
    a, labels = some_predictions(40, 3, 0, 1.0)
    b, _ = some_predictions(40, 3, 1, 0.6)
    first, second = parts(a, labels), parts(b, labels)
    generator = statistics._generator(4, "permutation")
    swaps = generator.integers(0, 2, size=(250, 40), dtype=np.int8).astype(bool)
    observed = abs(first.value() - second.value())
    reached = 0
    for swap in swaps:
        one, other = np.where(swap[:, None], b, a), np.where(swap[:, None], a, b)
        difference = abs(parts(one, labels).value() - parts(other, labels).value())
        reached += bool(difference >= observed - 1e-12)
    assert paired_permutation(first, second, n_resamples=250, seed=4) == (1 + reached) / 251
    assert 1 < reached < 250


def test_permutation_equals_the_exact_test_on_all_swaps():
    differences = np.array([0.3, 0.5, -0.1, 0.4, 0.2, 0.6, -0.2, 0.3])
    signs = 1 - 2 * ((np.arange(256)[:, None] >> np.arange(8)) & 1)
    exact = np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12)
    ours = paired_permutation(per_image_mean(differences), per_image_mean(np.zeros(8)), n_resamples=40_000)
    assert ours == pytest.approx(exact, abs=0.004)


def test_a_tie_counts_although_rounding_differs():
    differences = np.array([0.1, 0.2, 0.3, 0.7, 1.1])  # only "swap all" and "swap none" reach the observed sum
    p = paired_permutation(per_image_mean(differences), per_image_mean(np.zeros(5)), n_resamples=20_000)
    assert p == pytest.approx(2 / 32, abs=0.005)


def test_pooled_bootstrap_of_a_mean_is_about_the_z_test():
    """By the central limit theorem: p = 2 Phi(-|T| / s), s^2 = pooled variance (1/N + 1/M)."""
    generator = np.random.default_rng(8)
    a, b = generator.normal(size=90), generator.normal(size=60)
    b += a.mean() - b.mean() + 0.2
    error = np.concatenate([a, b]).std() * math.sqrt(1 / 90 + 1 / 60)
    expected = 2 * stats.norm.sf(abs(a.mean() - b.mean()) / error)
    ours = compare_samples(per_image_mean(a), per_image_mean(b), n_resamples=20_000)
    assert ours.p == pytest.approx(expected, abs=0.01)
    assert ours.interval.value == pytest.approx(-0.2)
    assert ours.interval == unpaired_bootstrap(per_image_mean(a), per_image_mean(b), n_resamples=20_000)


def test_equal_models_cannot_be_told_apart():
    probs, labels = some_predictions(30, 3, 0)
    same = compare_images(macro_f1_parts(probs, labels), macro_f1_parts(probs, labels), n_resamples=50)
    assert same.p == 1
    assert same.interval == (0, 0, 0)
    assert not same.decided


def test_the_seed_decides():
    metric = per_image_mean(np.random.default_rng(0).normal(size=30))
    assert bootstrap(metric, seed=1) == bootstrap(metric, seed=1) != bootstrap(metric, seed=2)


def test_unequal_images_are_refused():
    with pytest.raises(DataError, match="3 and 4"):
        paired_bootstrap(per_image_mean(np.ones(3)), per_image_mean(np.ones(4)))
    with pytest.raises(DataError, match="same columns"):
        paired_permutation(per_image_mean(np.ones(3)), statistics.PerImage(np.ones((3, 2)), lambda s: s[:, 0]))
    with pytest.raises(DataError, match="Pooling needs the same columns"):
        pooled_bootstrap(per_image_mean(np.ones(3)), statistics.PerImage(np.ones((4, 2)), lambda s: s[:, 0]))
    with pytest.raises(DataError, match="no images"):
        pooled_bootstrap(per_image_mean(np.ones(3)), per_image_mean([]))
    with pytest.raises(DataError, match="no images"):
        bootstrap(per_image_mean([]))
    with pytest.raises(ConfigError, match="n_resamples"):
        bootstrap(per_image_mean([1.0]), n_resamples=0)


# ---------------------------------------------------------------- coverage


def test_bootstrap_of_a_mean_covers():
    generator = np.random.default_rng(0)
    covered = [
        bootstrap(per_image_mean(generator.exponential(size=100)), n_resamples=400, seed=trial).contains(1)
        for trial in range(400)
    ]
    assert 0.91 < np.mean(covered) < 0.97


def test_bootstrap_of_macro_f1_covers():
    truth = macro_f1_parts(*some_predictions(400_000, 4, 0)).value()
    covered = [
        bootstrap(macro_f1_parts(*some_predictions(200, 4, 1 + trial)), n_resamples=400).contains(truth)
        for trial in range(300)
    ]
    assert 0.91 < np.mean(covered) < 0.98


def test_bootstrap_of_macro_f1_covers_many_small_classes():
    """The percentile interval covers half of these, and often not even the value."""
    truth = macro_f1_parts(*some_predictions(400_000, 60, 0, 4.0)).value()
    intervals = [
        bootstrap(macro_f1_parts(*some_predictions(480, 60, 1 + trial, 4.0)), n_resamples=300) for trial in range(150)
    ]
    assert np.mean([interval.contains(truth) for interval in intervals]) > 0.89
    assert all(interval.contains(interval.value) for interval in intervals)


def test_intervals_end_where_the_metric_does():
    hits = np.arange(40) > 0
    interval = bootstrap(per_image_mean(hits, (0, 1)))
    assert interval.value < interval.high == 1
    assert bootstrap(per_image_mean(hits)).high > 1


def test_paired_bootstrap_covers_and_permutation_keeps_its_level():
    generator = np.random.default_rng(0)
    covered, rejected = [], []
    for trial in range(300):
        hard = generator.normal(size=80)  # what both models share must cancel
        a, b = hard + generator.normal(size=80), hard + generator.normal(size=80)
        shifted = paired_bootstrap(per_image_mean(a + 0.5), per_image_mean(b), n_resamples=400, seed=trial)
        covered.append(shifted.contains(0.5))
        p = paired_permutation(per_image_mean(a), per_image_mean(b), n_resamples=199, seed=trial)
        rejected.append(p <= 0.05)
    assert 0.91 < np.mean(covered) < 0.97
    assert 0.02 < np.mean(rejected) < 0.09


def test_unpaired_bootstrap_covers_and_pooled_bootstrap_keeps_its_level():
    generator = np.random.default_rng(0)
    covered, rejected = [], []
    for trial in range(300):
        a, b = generator.normal(size=80), generator.normal(size=50)
        shifted = unpaired_bootstrap(per_image_mean(a + 0.5), per_image_mean(b), n_resamples=400, seed=trial)
        covered.append(shifted.contains(0.5))
        rejected.append(pooled_bootstrap(per_image_mean(a), per_image_mean(b), n_resamples=199, seed=trial) <= 0.05)
    assert 0.91 < np.mean(covered) < 0.97
    assert 0.02 < np.mean(rejected) < 0.09


def test_on_the_same_images_the_paired_interval_is_narrower():
    generator = np.random.default_rng(0)
    hard = generator.normal(size=200)
    a, b = (per_image_mean(hard + 0.1 * generator.normal(size=200)) for _ in range(2))
    assert _width(paired_bootstrap(a, b)) < 0.3 * _width(unpaired_bootstrap(a, b))


def _width(interval):
    return interval.high - interval.low


# ---------------------------------------------------------------- Holm


def test_holm_equals_the_definition():
    p = [0.01, 0.04, 0.03, 0.005]
    assert_allclose(holm(p), [0.03, 0.06, 0.06, 0.02])
    assert_allclose(holm([0.6, 0.9]), [1, 1])
    assert_allclose(holm([0.02, math.nan, 0.01]), [0.02, math.nan, 0.02])
    assert holm([]).shape == (0,)


def test_holm_keeps_the_family_level():
    generator = np.random.default_rng(0)
    p = generator.uniform(size=(4000, 5))
    assert abs(np.mean([holm(row).min() <= 0.05 for row in p]) - 0.05) < 0.012
