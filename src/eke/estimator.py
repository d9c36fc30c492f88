"""`EkeClassifier`: eke's methods with scikit-learn's conventions, on arrays in memory.

The one module that imports scikit-learn at its top, because its base classes are scikit-learn's.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags, _safe_indexing
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from eke.data.cache import ResidentPixels
from eke.engine.model_files import ModelCard
from eke.engine.predict import predict_probs
from eke.engine.processes import choose_device
from eke.errors import TrainingError
from eke.tasks.assemble import Pools, assemble, training_steps
from eke.tasks.options import FitOptions, resolve
from eke.tasks.prepare import pixel_statistics


class EkeClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """Classify images of which a few are labeled; y = -1 marks those that are not.

    Every image, labeled or not, serves as an unlabeled one too, as in the papers.

    Args:
        method: one of `eke methods`.
        model: a network by name, as `model.name`; auto chooses by the size of the images.
        steps: training steps.
        batch_size: B, labeled images in a step; None: the method's own.
        mu: unlabeled images for each labeled one; None: the method's own.
        lr: peak learning rate; None: the method's own.
        seed: of weights, batches and views.
        image_shape: (H, W) or (H, W, C) of the images that the rows of a 2-D X hold, in this order of axes.
            None: squares where the number of columns is a square, else images of one line. Not used where X
            is (N, H, W) or (N, H, W, C).
        unlabeled_label: the value in y of images without a label. Where y holds text, also the text of it
            ("-1"), which is what numpy makes of a mixed list.
        views: other presets for the method's views, such as {"weak": "weak-noflip"} for digits.
        options: any other option by its dotted path, such as {"method.tau": 0.9}.
        device: auto, cpu, cuda ...

    Attributes:
        classes_: (K,) the labels that y held, sorted.
        n_features_in_: second axis of X.
        image_shape_: (H, W, C) of the images.
        value_range_: values that became black and white: of the type for uint8 and bool, 0 and 1 for floats
            between them, else the lowest and highest value in X.
        network_: the trained network, its weights averaged over the steps.
        loss_curve_: (steps,) the loss of each step.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> X, y = load_digits(return_X_y=True)
        >>> y[40:] = -1
        >>> EkeClassifier(image_shape=(8, 8), steps=2).fit(X, y).predict(X[:3]).shape
        (3,)

    """

    def __init__(
        self,
        method: str = "fixmatch",
        model: str = "auto",
        steps: int = 1000,
        batch_size: int | None = 16,
        mu: int | None = None,
        lr: float | None = None,
        seed: int = 0,
        image_shape: Sequence[int] | None = None,
        unlabeled_label: Any = -1,
        views: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
        device: str = "auto",
    ) -> None:
        self.method = method
        self.model = model
        self.steps = steps
        self.batch_size = batch_size
        self.mu = mu
        self.lr = lr
        self.seed = seed
        self.image_shape = image_shape
        self.unlabeled_label = unlabeled_label
        self.views = views
        self.options = options
        self.device = device

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        # flips and shifts change the meaning of rows that are no images, such as scikit-learn's blobs
        tags.classifier_tags.poor_score = True
        return tags

    def fit(self, X: Any, y: Any) -> "EkeClassifier":
        """Train on X, (N, H, W[, C]) or (N, columns), and y (N,).

        Raises:
            ValueError: X or y cannot be used: no labels, a single class, a shape that is not one of images.
            ConfigError: an option is unknown or out of range.
            TrainingError: a loss was not finite.

        """
        X, y = validate_data(self, X, y, allow_nd=True)
        options = self._resolve()
        labeled = np.flatnonzero(~_is_unlabeled(y, self.unlabeled_label))
        check_classification_targets(y[labeled])
        self.classes_, labels = np.unique(y[labeled], return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"The labels hold {len(self.classes_)} class(es), {self.classes_.tolist()}; training needs two "
                f"or more. In y, {self.unlabeled_label!r} means unlabeled."
            )
        self.image_shape_ = _image_shape(X, self.image_shape)
        self.value_range_ = _value_range(X)
        pixels = ResidentPixels(self._to_pixels(X))
        device = choose_device(options.compute.device)
        with torch.random.fork_rng(devices=[]):  # training seeds the global generator at every step
            self._train(options, pixels, labeled.tolist(), labels.tolist(), device)
        return self

    def _resolve(self) -> FitOptions:
        words = [f"{path}={json.dumps(value)}" for path, value in (self.options or {}).items()]
        flags = {
            "source": "arrays",
            "steps": self.steps,
            "seed": self.seed,
            "views": self.views,
            "model": {"name": self.model},
            "batch": {"labeled": self.batch_size, "mu": self.mu},
            "optim": {"lr": self.lr},
            "compute": {"device": self.device},
        }
        return resolve(self.method, flags, words)

    def _train(
        self,
        options: FitOptions,
        pixels: ResidentPixels,
        labeled: list[int],
        labels: list[int],
        device: torch.device,
    ) -> None:
        channels, height, width = pixels.shape
        rows = list(range(len(pixels)))
        mean, std = pixel_statistics(pixels, rows)
        card = ModelCard(
            model=options.model,
            classes=tuple(str(name) for name in self.classes_),
            channels=channels,
            size=(height, width),
            fit="stretch",
            mean=mean,
            std=std,
        )
        assembly = assemble(options, Pools(card, pixels, labeled, labels, rows, device))
        reports = training_steps(assembly, options)
        losses = torch.stack([report.result.loss.detach() for report in reports]).cpu()
        if not losses.isfinite().all():
            step = int((~losses.isfinite()).nonzero()[0]) + 1
            raise TrainingError(f"Step {step}: the loss is not finite. Try a lower lr.")
        self.loss_curve_ = losses.double().numpy()
        self.network_ = assembly.average.module.cpu()

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return class probabilities (N, K) of images in the form that `fit` saw."""
        check_is_fitted(self)
        X = validate_data(self, X, allow_nd=True, reset=False)
        shape = _image_shape(X, self.image_shape)
        if shape != self.image_shape_:
            raise ValueError(f"X holds images of shape {shape}; the classifier was trained on {self.image_shape_}.")
        pixels = ResidentPixels(self._to_pixels(X))
        device = choose_device(self._resolve().compute.device)
        probs = predict_probs(self.network_.to(device), pixels.read, range(len(pixels)), device).double().numpy()
        self.network_.cpu()
        return probs / probs.sum(1, keepdims=True)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable class (N,) of each image."""
        probs = self.predict_proba(X)
        return self.classes_[probs.argmax(1)]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy on the labeled rows; those marked unlabeled are skipped."""
        return accuracy_scorer(self, X, y, sample_weight)

    def _to_pixels(self, X: NDArray[Any]) -> torch.Tensor:
        """Scale values to uint8 pixels (N, C, H, W); values outside the range of training are clipped."""
        low, high = self.value_range_
        images = X.reshape(len(X), *self.image_shape_).transpose(0, 3, 1, 2)
        if images.dtype != np.uint8:
            scaled = (images.astype(np.float32) - low) * (255 / (high - low or 1))
            images = np.rint(scaled.clip(0, 255)).astype(np.uint8)
        return torch.from_numpy(np.ascontiguousarray(images))


def accuracy_scorer(estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
    """Score a fitted classifier, or a pipeline that ends in one, on the labeled rows: for `scoring=`.

    Rows marked -1, or as the classifier's own `unlabeled_label` says, are skipped.

    Raises:
        ValueError: every row is marked.

    """
    final = estimator[-1] if isinstance(estimator, Pipeline) else estimator
    kept = np.flatnonzero(~_is_unlabeled(np.asarray(y), getattr(final, "unlabeled_label", -1)))
    if not len(kept):
        raise ValueError("Every row of y is marked unlabeled, so there is nothing to score.")
    X, y, sample_weight = (None if values is None else _safe_indexing(values, kept) for values in (X, y, sample_weight))
    return float(accuracy_score(y, estimator.predict(X), sample_weight=sample_weight))


def _is_unlabeled(y: NDArray[Any], marker: Any) -> NDArray[np.bool_]:
    if y.dtype.kind in "OUS":
        return np.array([value == marker or value == str(marker) for value in y.tolist()], dtype=bool)
    return np.asarray(y == marker) if not isinstance(marker, str) else np.zeros(len(y), dtype=bool)


def _image_shape(X: NDArray[Any], given: Sequence[int] | None) -> tuple[int, int, int]:
    """Return (H, W, C) of the images that X holds."""
    if X.ndim > 2:
        shape = X.shape[1:]
    elif given is not None:
        shape = tuple(given)
        if math.prod(shape) != X.shape[1]:
            raise ValueError(f"image_shape = {shape} has {math.prod(shape)} values, and rows of X have {X.shape[1]}.")
    else:
        side = math.isqrt(X.shape[1])
        shape = (side, side) if side**2 == X.shape[1] else (1, X.shape[1])
    shape = shape if len(shape) == 3 else (*shape, 1)
    if len(shape) != 3 or shape[2] not in {1, 3}:
        raise ValueError(f"Images must be (H, W), (H, W, 1) or (H, W, 3), and these are {shape}.")
    return (shape[0], shape[1], shape[2])


def _value_range(X: NDArray[Any]) -> tuple[float, float]:
    if X.dtype == np.uint8:
        return 0.0, 255.0
    low, high = float(X.min()), float(X.max())
    return (0.0, 1.0) if X.dtype == np.bool_ or (X.dtype.kind == "f" and low >= 0 and high <= 1) else (low, high)
