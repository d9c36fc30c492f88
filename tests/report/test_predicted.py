import numpy as np
import pytest

from eke.report.content import ClassExamples, Mistake, PoolPredictions
from eke.report.page import Gallery, Table, Text
from eke.report.predicted import imbalance_blocks, predicted_blocks


def confusion_with_bias(k, n_per_class, bias, seed=0):
    """Images of which 60 % are right, the others taken for classes by `bias` (K,)."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(k), n_per_class)
    others = generator.choice(k, len(labels), p=bias / bias.sum())
    predicted = np.where(generator.random(len(labels)) < 0.6, labels, others)
    confusion = np.zeros((k, k), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    return confusion


def words(blocks):
    return " ".join(block.text for block in blocks if isinstance(block, Text))


def charts(blocks):
    return [chart for block in blocks for chart in getattr(block, "blocks", [block]) if chart.kind == "chart"]


def names(k):
    return [f"class {i}" for i in range(k)]


def test_a_bias_that_pool_and_test_share_is_said():
    bias = np.exp(np.random.default_rng(1).normal(size=40))
    pool = PoolPredictions(confusion_with_bias(40, 50, bias, 2).sum(0), np.full(40, 4))
    blocks = predicted_blocks(pool, confusion_with_bias(40, 50, bias), names(40), "test", 0.95)
    assert words(blocks).startswith("A class that is predicted too often or too seldom in the pool is so in the test")
    assert "95 % interval 0." in words(blocks)
    histogram, scatter, bars = charts(blocks)
    assert "unlabeled pool:" in histogram.alt
    assert "test images:" in histogram.alt
    assert "40 classes" in scatter.alt
    assert "the 15 of 40 classes that differ most" in bars.title


def test_an_opposite_bias_is_said():
    bias = np.exp(np.random.default_rng(1).normal(size=40))
    pool = PoolPredictions(confusion_with_bias(40, 50, 1 / bias, 2).sum(0), np.full(40, 4))
    blocks = predicted_blocks(pool, confusion_with_bias(40, 50, bias), names(40), "test", 0.95)
    assert "are predicted too seldom in the test images" in words(blocks)
    assert "correlation over classes is −0." in words(blocks)


def test_without_a_common_bias_it_cannot_be_told():
    even = np.ones(40)
    pool = PoolPredictions(confusion_with_bias(40, 50, even, 5).sum(0), np.full(40, 4))
    blocks = predicted_blocks(pool, confusion_with_bias(40, 50, even), names(40), "validation", 0.95)
    assert words(blocks).startswith("Cannot tell whether")
    assert "which contains 0" in words(blocks)


@pytest.mark.parametrize("k", [2, 9])
def test_few_classes_give_no_correlation_but_a_dot_each(k):
    pool = PoolPredictions(np.arange(k) + 20, np.full(k, 4))
    blocks = predicted_blocks(pool, confusion_with_bias(k, 50, np.ones(k)), names(k), "test", 0.95)
    assert words(blocks).startswith("Cannot tell whether")
    assert "at least 10 classes" in words(blocks)
    assert f"{k} classes" in charts(blocks)[1].alt


def test_the_classes_whose_shares_differ_most_are_drawn():
    predicted = np.full(40, 100)
    predicted[[3, 30]] = [0, 200]
    blocks = predicted_blocks(PoolPredictions(predicted, np.full(40, 4)), None, names(40), "test", 0.95)
    _, bars = charts(blocks)
    assert "class 3 0.0 %, 2.5 %" in bars.alt
    assert "class 30 5.0 %, 2.5 %" in bars.alt


def test_what_is_missing_is_left_out():
    assert predicted_blocks(None, None, ["a"], "test", 0.95) == []
    blocks = predicted_blocks(None, np.eye(3, dtype=np.int64), list("abc"), "test", 0.95)
    assert len(charts(blocks)) == 1
    assert "pool" not in words(blocks)


# ------------------------------------------------------------------ too seldom and too often


def examples(name, true, predicted):
    image = np.zeros((8, 8), np.uint8)
    return ClassExamples(name, [Mistake(image, true, predicted, 0.9, "a.png")])


def test_classes_beyond_noise_are_listed_with_what_they_are_taken_for():
    confusion = np.array([[60, 35, 5], [2, 98, 0], [3, 0, 97]])
    seldom, often = examples("a", "a", "b"), examples("b", "a", "b")
    blocks = imbalance_blocks(confusion, list("abc"), "test", 0.95, [seldom], [often])
    under, over = [block for block in blocks if isinstance(block, Table)]
    assert under.caption == "1 class is predicted less often than labeled"
    assert [cell.text for cell in under.cells[0]] == ["a", "100", "65", "0.65×", "40", "5", "p < 0.001"]
    assert under.cells[0][4].detail == "mostly b (35)"
    assert under.cells[0][5].detail == "mostly c (3)"
    assert over.caption == "1 class is predicted more often than labeled"
    assert [cell.text for cell in over.cells[0]][:4] == ["b", "100", "133", "1.33×"]
    missed, taken = [block for block in blocks if isinstance(block, Gallery)]
    assert missed.pictures[0].lines == ("→ b", "a.png")
    assert taken.pictures[0].lines == ("a", "a.png")
    assert "Labeled a, taken for b with 90.0 % confidence: a.png" in missed.pictures[0].alt
    assert "p at most 0.05" in words(blocks)


def test_where_none_is_beyond_noise_the_section_says_so():
    (block,) = imbalance_blocks(np.array([[8, 2], [1, 9]]), ["a", "b"], "test", 0.95, [examples("a", "a", "b")])
    assert block.text.startswith("No class is predicted more or less often in the test images than counting noise")
    assert "20 images in 2 classes" in block.text


def test_a_class_that_no_image_is_of_can_still_be_predicted_too_often():
    confusion = np.array([[50, 0, 30], [0, 60, 30], [0, 0, 0]])
    blocks = imbalance_blocks(confusion, list("abc"), "test", 0.95)
    row = [block for block in blocks if isinstance(block, Table)][-1].cells[0]
    assert [cell.text for cell in row][:4] == ["c", "0", "60", "–"]
    assert row[4].detail == ""
