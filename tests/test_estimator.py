"""EkeClassifier keeps scikit-learn's conventions and learns from images without labels."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from eke.errors import ConfigError, TrainingError
from eke.estimator import EkeClassifier, accuracy_scorer

TINY = {"model": "small", "steps": 3, "batch_size": 8, "mu": 2}
NO_FLIP = {"weak": "weak-noflip"}


@parametrize_with_checks(
    [EkeClassifier(**TINY)],
    expected_failed_checks=lambda estimator: {"check_classifiers_classes": "its class -1 means unlabeled here"},
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    """400 real digits as rows of 64 values from 0 to 16; the first 50 have their labels."""
    X, y = load_digits(return_X_y=True)
    X, y = X[:400], y[:400]
    few = y.copy()
    few[50:] = -1
    return X, y, few


def test_learns_digits_from_few_labels(digits):
    X, y, few = digits
    classifier = EkeClassifier(steps=40, mu=2, image_shape=(8, 8), views=NO_FLIP, lr=0.1).fit(X, few)
    assert classifier.loss_curve_.shape == (40,)
    assert (classifier.predict(X[50:]) == y[50:]).mean() > 0.6
    assert np.array_equal(classifier.classes_, np.arange(10))
    assert classifier.value_range_ == (0.0, 16.0)


def test_every_form_of_the_same_images_trains_the_same_network(digits):
    X, _, few = digits
    rows = EkeClassifier(**TINY, image_shape=(8, 8)).fit(X, few)
    square = EkeClassifier(**TINY).fit(X, few)
    maps = EkeClassifier(**TINY).fit(X.reshape(-1, 8, 8), few)
    one_channel = EkeClassifier(**TINY, image_shape=(8, 8)).fit(X.reshape(-1, 8, 8, 1), few)
    expected = rows.predict_proba(X[:20])
    for other, images in ((square, X), (maps, X.reshape(-1, 8, 8)), (one_channel, X.reshape(-1, 8, 8, 1))):
        assert other.image_shape_ == (8, 8, 1)
        assert np.array_equal(other.predict_proba(images[:20]), expected)


def test_color_images_keep_their_axes():
    X = np.zeros((20, 6, 8, 3), np.uint8)
    X[:, 2, 5, 1] = 200
    classifier = EkeClassifier(**TINY)
    classifier.fit(X + np.arange(20, dtype=np.uint8)[:, None, None, None], np.arange(20) % 2)
    pixels = classifier._to_pixels(X)
    assert pixels.shape == (20, 3, 6, 8)
    assert pixels[0, 1, 2, 5] == 200
    assert int(pixels.sum()) == 20 * 200


def test_values_are_scaled_by_the_range_of_training_and_clipped(digits):
    X, _, few = digits
    classifier = EkeClassifier(**TINY).fit(X, few)
    values = np.full((1, 64), 8.0)
    values[0, :3] = -5, 16, 99
    assert classifier._to_pixels(values).flatten()[:4].tolist() == [0, 255, 255, 128]
    unit = EkeClassifier(**TINY).fit(X / 32, few)
    assert unit.value_range_ == (0.0, 1.0)
    assert EkeClassifier(**TINY).fit(X > 8, few).value_range_ == (0.0, 1.0)


def test_unlabeled_images_count(digits):
    X, _, few = digits
    options = {"method.tau": 0.0}
    with_all = EkeClassifier(**TINY, options=options).fit(X, few).predict_proba(X[:5])
    changed = X.copy()
    changed[50:] = changed[50:][:, ::-1]
    assert not np.array_equal(with_all, EkeClassifier(**TINY, options=options).fit(changed, few).predict_proba(X[:5]))


@pytest.mark.parametrize("marker", [-1, "unlabeled"])
def test_text_classes_with_a_marker(digits, marker):
    X, y, few = digits
    names = np.array([f"digit {label}" for label in y], dtype=object)
    names[few == -1] = marker
    by_name = EkeClassifier(**TINY, unlabeled_label=marker).fit(X, names)
    assert by_name.classes_.tolist() == [f"digit {label}" for label in range(10)]
    as_text = EkeClassifier(**TINY, unlabeled_label=marker).fit(X, names.astype(str))
    assert as_text.classes_.tolist() == by_name.classes_.tolist()
    assert set(by_name.predict(X)) <= set(names[few != -1])


def test_scores_skip_unlabeled_rows(digits):
    X, y, few = digits
    classifier = EkeClassifier(**TINY).fit(X, few)
    expected = (classifier.predict(X[:50]) == y[:50]).mean()
    assert classifier.score(X, few) == expected
    assert accuracy_scorer(classifier, X, few) == expected
    assert classifier.score(X.tolist(), few.tolist()) == expected
    weight = np.r_[1.0, np.zeros(399)]
    assert classifier.score(X, few, weight) == float(classifier.predict(X[:1])[0] == y[0])
    other = LogisticRegression(max_iter=1000).fit(X[:50], y[:50])
    assert accuracy_scorer(other, X, few) == other.score(X[:50], y[:50])
    with pytest.raises(ValueError, match="Every row of y is marked unlabeled"):
        classifier.score(X[50:], few[50:])


def test_pipeline_and_cross_validation(digits):
    X, _, few = digits
    pipeline = make_pipeline(FunctionTransformer(), EkeClassifier(**TINY, image_shape=(8, 8)))
    folds = StratifiedKFold(2)
    scores = cross_val_score(pipeline, X, few, cv=folds, error_score="raise")
    assert np.array_equal(cross_val_score(pipeline, X, few, cv=folds, scoring=accuracy_scorer), scores)
    assert all(0 <= score <= 1 for score in scores)


def test_pipeline_is_scored_by_the_marker_of_its_last_step(digits):
    X, _, few = digits
    names = np.where(few == -1, "?", few.astype(str))
    pipeline = make_pipeline(FunctionTransformer(), EkeClassifier(**TINY, unlabeled_label="?")).fit(X, names)
    assert accuracy_scorer(pipeline, X, names) == pipeline.score(X[:50], names[:50])


def test_parameters_are_stored_as_given_and_cloned():
    given = {"views": {"weak": "none"}, "options": {"method.tau": 0.5}, "image_shape": [4, 4], "lr": 0.01}
    classifier = EkeClassifier(**given)
    assert all(getattr(classifier, name) is value for name, value in given.items())
    assert clone(classifier).get_params() == classifier.get_params()


def test_options_reach_training(digits):
    X, _, few = digits
    base = EkeClassifier(**TINY).fit(X, few).loss_curve_
    for change in ({"lr": 0.3}, {"seed": 1}, {"method": "supervised"}, {"views": NO_FLIP}):
        assert not np.array_equal(EkeClassifier(**TINY, **change).fit(X, few).loss_curve_, base), change
    undecayed = EkeClassifier(**TINY, options={"optim.weight_decay": 0.0}).fit(X, few).loss_curve_
    assert not np.array_equal(undecayed, base)
    assert np.array_equal(EkeClassifier(**TINY).fit(X, few).loss_curve_, base)


def test_fit_leaves_the_global_generator_alone(digits):
    X, _, few = digits
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    EkeClassifier(**TINY).fit(X, few)
    assert torch.equal(torch.rand(2), expected)


def test_errors_say_what_to_do(digits):
    X, y, few = digits
    with pytest.raises(ValueError, match=r"image_shape = \(5, 8\) has 40 values, and rows of X have 64"):
        EkeClassifier(**TINY, image_shape=(5, 8)).fit(X, few)
    with pytest.raises(ValueError, match=r"\(H, W, 3\), and these are \(2, 4, 8\)"):
        EkeClassifier(**TINY).fit(X.reshape(-1, 2, 4, 8), few)
    with pytest.raises(ValueError, match=r"-1 means unlabeled"):
        EkeClassifier(**TINY).fit(X, np.full(len(X), -1))
    with pytest.raises(ValueError, match=r"1 class\(es\), \[3\]"):
        EkeClassifier(**TINY).fit(X, np.where(y == 3, 3, -1))
    with pytest.raises(ConfigError, match="Did you mean 'fixmatch'"):
        EkeClassifier(method="fixmach").fit(X, few)
    with pytest.raises(ConfigError, match="Did you mean 'tau'"):
        EkeClassifier(options={"method.taus": 0.5}).fit(X, few)
    with pytest.raises(ValueError, match=r"shape \(8, 4, 1\); the classifier was trained on \(8, 8, 1\)"):
        EkeClassifier(**TINY).fit(X.reshape(-1, 8, 8), few).predict(X.reshape(-1, 8, 8)[:, :, :4])
    with pytest.raises(TrainingError, match=r"Step \d+: the loss is not finite"):
        EkeClassifier(**{**TINY, "steps": 20}, lr=1e30).fit(X, few)
