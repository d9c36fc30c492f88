import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from eke.engine.predict import Predictions
from eke.losses.kinds import ONE
from eke.report.balance import imbalances
from eke.tasks import report as task
from eke.tasks.report import Evaluated, write_report
from eke.tasks.train import pool_distribution


@pytest.fixture(scope="module")
def page(finished_run):
    return write_report(finished_run).read_text()


def section(page, title):
    (found,) = re.findall(rf"<section[^>]*>\s*<h2[^>]*>{title}</h2>.*?</section>", page, re.DOTALL)
    return found


def test_the_page_answers_what_is_asked_of_a_run(page):
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    for title in ("Predicted classes", "Predicted too seldom or too often", "What the layers see", "Embedding map"):
        assert title in titles
    assert len(page) < 10_000_000


def test_the_pool_stands_beside_the_test_images(page, finished_run):
    results = json.loads((finished_run / "results.json").read_text())
    words = section(page, "Predicted classes")
    assert f"In the pool ({results['pool']['n']:,} images)" in words
    assert f"{results['labels']['train']} training labels" in words
    assert f"In the test images ({results['evaluations']['test']['n']:,})" in words
    assert words.count("<figure>") == 3


def test_one_image_goes_through_four_layers(page):
    words = section(page, "What the layers see")
    assert words.count("<img") == 1 + 4 * 8
    assert words.count('scope="row"') == 1 + 4


def test_the_map_holds_every_test_image(page, finished_run):
    n = json.loads((finished_run / "results.json").read_text())["evaluations"]["test"]["n"]
    words = section(page, "Embedding map")
    assert f"an image, {n} test images" in words
    assert "% of the variance" in words
    assert f"(PCA): {n} images, " in words


def test_a_sample_is_mapped_where_there_are_many(finished_run, monkeypatch):
    monkeypatch.setattr(task, "N_EMBEDDED", 50)
    words = section(write_report(finished_run).read_text(), "Embedding map")
    assert "a sample of 50 of" in words


# ------------------------------------------------------------------ pictures of mistakes


@pytest.fixture
def evaluated():
    """40 images of 3 classes, of which class 0 is mostly taken for class 1; each image is a number."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [20, 10, 10])
    predicted = labels.copy()
    predicted[:15] = 1
    predicted[[20, 35]] = [2, 0]
    confidence = generator.uniform(0.5, 0.99, 40)
    probs = np.zeros((40, 3))
    probs[np.arange(40), predicted] = confidence
    probs[probs == 0] = 0.001
    order = generator.permutation(40)
    images = SimpleNamespace(
        ids=[f"id{row}" for row in range(40)],
        paths=[f"{row}.png" for row in range(40)],
        label_words=lambda row: "abc"[labels[row]],
    )
    pixels = SimpleNamespace(
        read=lambda rows: torch.tensor(rows, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    )
    part = SimpleNamespace(images=images, pixels=pixels, rows=list(range(40)))
    card = SimpleNamespace(classes=("a", "b", "c"))
    material = SimpleNamespace(part=lambda name: part, pools=SimpleNamespace(card=card, device=torch.device("cpu")))
    ids = np.array([f"id{row}" for row in order])
    return (
        Evaluated(Predictions(ids, labels[order], probs[order].astype(np.float32)), material, "test"),
        labels,
        predicted,
        confidence,
    )


def test_examples_are_the_surest_mistakes_of_a_class(evaluated):
    shown, labels, predicted, confidence = evaluated
    confusion = np.array([[5, 15, 0], [0, 9, 1], [1, 0, 9]])
    under, over = task._examples(shown, confusion)
    assert [each.label for each in imbalances(confusion)[0]] == [0]
    (seldom,), (often,) = under, over
    for examples, side, name in ((seldom, labels, "a"), (often, predicted, "b")):
        wrong = [i for i in range(40) if labels[i] != predicted[i] and "abc"[side[i]] == name]
        surest = sorted(wrong, key=lambda i: -confidence[i])[:8]
        assert examples.name == name
        assert [m.path for m in examples.mistakes] == [f"{i}.png" for i in surest]
        for m, i in zip(examples.mistakes, surest, strict=True):
            assert (m.true, m.predicted) == ("abc"[labels[i]], "abc"[predicted[i]])
            assert m.image.shape == (4, 4)
            assert (m.image == i).all(), "the picture is of the image that the path names"
            assert m.confidence == pytest.approx(confidence[i], abs=1e-6)


# ------------------------------------------------------------------ the sample of the pool


class FirstPixel(nn.Module):
    """Takes an image for the class that its only pixel names."""

    kind = ONE

    def __init__(self, n_classes):
        super().__init__()
        self.n_classes = n_classes

    def forward(self, images):
        place = images.flatten(1)[:, 0].mul(255).round().long()
        return SimpleNamespace(logits=torch.nn.functional.one_hot(place, self.n_classes).float())


@pytest.mark.parametrize(("n_classes", "n_pool", "n"), [(10, 5000, 2000), (100, 5000, 2500), (100, 2300, 2300)])
def test_the_pool_is_sampled_by_the_number_of_classes(n_classes, n_pool, n):
    read = []

    def pixels(rows):
        read.extend(rows)
        return torch.tensor([row % n_classes for row in rows], dtype=torch.uint8).view(-1, 1, 1, 1)

    pools = SimpleNamespace(
        unlabeled=list(range(100, 100 + n_pool)),
        labels=[0, 0, 1],
        pixels=SimpleNamespace(read=pixels),
        device=torch.device("cpu"),
        card=SimpleNamespace(classes=tuple(map(str, range(n_classes))), several=False),
    )
    truth = torch.full((n_pool,), -1)
    counted = pool_distribution(FirstPixel(n_classes), SimpleNamespace(pools=pools, truth=truth), seed=0)
    assert counted["n"] == n == sum(counted["predicted"])
    assert len(set(read)) == n, "an image is counted once"
    expected = [sum(row % n_classes == k for row in set(read)) for k in range(n_classes)]
    assert counted["predicted"] == expected
    assert counted["labeled"][:2] == [2, 1]
    assert counted["accuracy_where_known"] is None
