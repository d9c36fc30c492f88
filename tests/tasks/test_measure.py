import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from eke.data.stream import Batch
from eke.engine.loop import StepReport
from eke.engine.predict import Predictions
from eke.errors import DataError
from eke.methods.contract import PseudoLabels, StepResult
from eke.tasks.measure import difference, labeled_only, main_figure, measure, metric_of_run, metrics_of
from eke.tasks.train import known_truth


def predictions(n_right: int, n: int = 40, seed: int = 0) -> Predictions:
    """Two classes; the first `n_right` images are right with 90 % confidence, the others wrong."""
    labels = np.random.default_rng(seed).integers(0, 2, n)
    predicted = np.where(np.arange(n) < n_right, labels, 1 - labels)
    probs = np.full((n, 2), 0.1, np.float32)
    probs[np.arange(n), predicted] = 0.9
    return Predictions(np.array([f"id{i}" for i in range(n)]), labels, probs)


def test_figures_are_what_was_predicted() -> None:
    figures = measure(predictions(30), ("a", "b"))
    assert (figures["n"], figures["accuracy"]["value"]) == (40, 0.75)
    assert figures["accuracy"]["low"] < 0.75 < figures["accuracy"]["high"]
    assert figures["calibration_error"]["value"] == pytest.approx(0.15, abs=1e-6)
    assert sum(row["n"] for row in figures["per_class"]) == 40


def test_a_class_without_images_has_no_recall() -> None:
    figures = measure(predictions(30), ("a", "b"))
    assert figures["per_class"][0]["recall"] is not None
    wide = predictions(30)._replace(probs=np.pad(predictions(30).probs, ((0, 0), (0, 1))))
    assert measure(wide, ("a", "b", "c"))["per_class"][2] == {
        "class": "c",
        "n": 0,
        "recall": None,
        "precision": None,
        "f1": None,
    }


def test_differences_are_paired_by_id_whatever_the_order() -> None:
    a, b = predictions(36), predictions(20)
    turned = Predictions(b.ids[::-1], b.labels[::-1], b.probs[::-1])
    straight, reversed_ = difference(a, b), difference(a, turned)
    assert straight == reversed_
    assert straight["accuracy"]["value"] == pytest.approx(0.4)
    assert straight["accuracy"]["decided"]
    assert not difference(a, a)["accuracy"]["decided"]


def test_other_images_cannot_be_compared() -> None:
    other = predictions(30)._replace(ids=np.array([f"other{i}" for i in range(40)]))
    with pytest.raises(DataError, match="different images"):
        difference(predictions(30), other)


def test_images_without_label_are_left_out_and_none_at_all_is_an_error() -> None:
    some = predictions(30)
    some.labels[:10] = -1
    assert len(labeled_only(some).labels) == 30
    some.labels[:] = -1
    with pytest.raises(DataError, match="eke predict"):
        labeled_only(some)


def test_pseudo_labels_are_checked_only_where_used_and_known() -> None:
    pseudo = PseudoLabels(torch.tensor([0, 1, 1, 2]), torch.tensor([1.0, 1.0, 0.0, 1.0]))
    batch = Batch({}, torch.empty(0), {}, torch.empty(0), torch.tensor([4, 3, 2, 0]), 0)
    report = StepReport(1, StepResult(torch.tensor(0.0), {}, pseudo), batch, 0.1)
    truth = torch.tensor([-1, 0, 1, 0, 0])  # of the pool: image 4 is 0, 3 is 0, 2 is 1, 0 is unknown
    assert known_truth(report, truth)["known_pseudo_label_accuracy"] == 0.5
    assert known_truth(report, torch.full((5,), -1))["known_pseudo_label_accuracy"].isnan()


def of_several(seed: int = 0, n: int = 60, k: int = 3) -> Predictions:
    generator = np.random.default_rng(seed)
    labels = (np.random.default_rng(99).random((n, k)) < 0.4).astype(np.int64)
    probs = np.clip(0.5 * labels + 0.6 * generator.random((n, k)), 0, 1).astype(np.float32)
    return Predictions(np.array([f"id{i}" for i in range(n)]), labels, probs, np.array([0.3, 0.6, 0.8])[:k])


def test_figures_of_several_labels_are_what_was_predicted() -> None:
    said = of_several()
    figures = measure(said, ("a", "b", "c"))
    predicted = said.probs >= said.thresholds
    f1 = [sk.f1_score(said.labels[:, k], predicted[:, k]) for k in range(3)]
    ap = [sk.average_precision_score(said.labels[:, k], said.probs[:, k]) for k in range(3)]
    rows = figures["per_class"]
    assert [row["class"] for row in rows] == ["a", "b", "c"]
    assert [row["n"] for row in rows] == said.labels.sum(0).tolist()
    assert [row["n_predicted"] for row in rows] == predicted.sum(0).tolist() != said.labels.sum(0).tolist()
    assert [row["threshold"] for row in rows] == [0.3, 0.6, 0.8]
    assert [row["f1"] for row in rows] == pytest.approx(f1)
    assert [row["average_precision"] for row in rows] == pytest.approx(ap)
    assert figures["macro_f1"]["value"] == pytest.approx(np.mean(f1))
    assert figures["micro_f1"]["value"] == pytest.approx(sk.f1_score(said.labels, predicted, average="micro"))
    assert figures["mean_average_precision"]["value"] == main_figure(said) == pytest.approx(np.mean(ap))
    assert metrics_of(figures)[0] == metric_of_run(several=True) == "mean_average_precision"


def test_differences_of_several_labels_are_paired_by_id() -> None:
    a, b = of_several(0), of_several(1)
    turned = b.select(np.arange(60)[::-1])
    found = difference(a, turned)
    one, other = measure(a, ("a", "b", "c")), measure(b, ("a", "b", "c"))
    for name in ("mean_average_precision", "macro_f1", "micro_f1"):
        assert found[name]["value"] == pytest.approx(one[name]["value"] - other[name]["value"])
        assert found[name]["value"] != 0
    assert found == difference(a, b)


def test_one_label_and_several_cannot_be_compared() -> None:
    one = predictions(30, n=60)
    with pytest.raises(DataError, match="one label and the other several"):
        difference(one, of_several(k=2))
    with pytest.raises(DataError, match="one label and the other several"):
        difference(of_several(k=2), one)
