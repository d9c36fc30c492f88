import math

import numpy as np
import pytest

from eke.metrics.statistics import Interval
from eke.report.charts import Curve
from eke.report.content import Figures, Problem, ViewRow
from eke.report.page import render
from eke.report.pretrain import PretrainReport, pretrain_page


def report(**changes):
    image = np.zeros((8, 8), np.uint8)
    values = {
        "title": "simclr on <digits>",
        "command": "eke pretrain digits",
        "method": "simclr",
        "model": "small",
        "n_images": 1201,
        "images": 9600,
        "losses": [Curve("loss", [10, 20], [2.0, 1.0])],
        "embedding_std": Curve("embedding std", [10, 20], [0.05, 0.8]),
        "effective_rank": Curve("effective rank", [10, 20], [1.5, 12.25]),
        "knn_accuracy": Curve("kNN", [10, 20], [0.3, 0.85]),
        "probes": [Figures("linear probe", Interval(0.9, 0.8, 0.95))],
        "measured": "596 test images",
        "view_names": ["one"],
        "views": [ViewRow("a.png", [image])],
        "environment": {"seed": "0"},
        "problems": [Problem("b.png", "truncated", "Copy it again.")],
    }
    return PretrainReport(**(values | changes))


def titles(page):
    return [section.title for section in page.sections if section.blocks]


def texts(page, tone):
    return [b.text for s in page.sections for b in s.blocks if b.kind == "text" and b.tone == tone]


def test_what_the_page_says():
    page = pretrain_page(report())
    assert page.headline == [
        "simclr learned from 1,201 images, without labels.",
        "The nearest labeled images name 85.0 % of the validation images rightly.",
        "The embeddings have not collapsed: spread 0.80 of 1, effective rank 12.2.",
    ]
    assert titles(page) == [
        "Probes",
        "Representation",
        "Learning curves",
        "What the network sees",
        "Set aside",
        "How to repeat this",
    ]
    assert texts(page, "warning") == [], "it is the last evaluation that counts"
    html = render(page)
    for words in ("simclr on &lt;digits&gt;", "linear probe", "Measured on 596 test images", "9,600", "kNN accuracy"):
        assert words in html


@pytest.mark.parametrize(
    ("std", "rank", "says", "says_not"),
    [
        (0.0999, 8.0, "spread is 0.100", "rank"),
        (0.5, 1.99, "rank is 1.99", "spread"),
        (0.01, 1.1, "spread is 0.010", "not collapsed"),
    ],
)
def test_a_collapse_is_the_first_thing_said(std, rank, says, says_not):
    page = pretrain_page(
        report(embedding_std=Curve("s", [10, 20], [0.9, std]), effective_rank=Curve("r", [10, 20], [9.0, rank]))
    )
    assert page.headline[0].startswith("The embeddings have collapsed: ")
    assert says in page.headline[0]
    assert says_not not in page.headline[0]
    (warning,) = texts(page, "warning")
    assert warning.startswith(page.headline[0])


def test_at_the_limits_nothing_has_collapsed():
    limits = report(embedding_std=Curve("s", [1], [0.1]), effective_rank=Curve("r", [1], [2.0]))
    assert "not collapsed" in pretrain_page(limits).headline[-1]


def test_what_is_missing_is_left_out():
    page = pretrain_page(PretrainReport("bare", "", "simclr", "small", 1))
    assert page.headline == ["simclr learned from 1 image, without labels."]
    assert titles(page) == []
    unknown = report(embedding_std=Curve("s", [1], [math.nan]), effective_rank=None, knn_accuracy=None, probes=())
    assert pretrain_page(unknown).headline == ["simclr learned from 1,201 images, without labels."]
