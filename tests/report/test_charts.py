import math
import re

import numpy as np
import pytest

from eke.metrics.classification import reliability
from eke.metrics.statistics import Interval
from eke.report.charts import (
    N_SERIES,
    Curve,
    distribution_bars,
    interval_bars,
    learning_curves,
    reliability_diagram,
)

NASTY = '<script>alert("1")</script> $x_1$ #010101 1.23456 id="m1" 黑猫'


def some_charts(name="one"):
    generator = np.random.default_rng(0)
    probs = generator.dirichlet(np.ones(3), 100)
    return [
        learning_curves(name, [Curve(name, [0, 10, 20], [0.1, math.nan, 0.9]), Curve("b", [5], [0.5])], rate=True),
        interval_bars(name, [(name, Interval(0.9, 0.8, 0.95)), ("b", Interval(0.5, -math.inf, math.inf))]),
        reliability_diagram(name, reliability(probs, generator.integers(0, 3, 100))),
        distribution_bars(name, [name, "b"], [("pseudo", np.array([0.3, 0.7])), ("given", np.array([0.5, 0.5]))]),
    ]


@pytest.mark.parametrize("chart", some_charts(NASTY), ids=lambda chart: chart.alt[-12:])
def test_names_are_text_and_colors_are_the_pages(chart):
    assert "<script" not in chart.svg
    assert "<text" in chart.svg
    assert "<style" not in chart.svg, "a style element would reach beyond its own drawing"
    assert "<image" not in chart.svg
    tags = " ".join(re.findall(r"<[^>]*>", chart.svg))
    assert not re.search(r"(?:fill|stroke): #[0-9a-f]{6}", tags), "a fixed color is wrong in light or in dark"
    assert "currentColor" in tags
    assert "var(--series-1)" in tags
    assert "font-family" not in tags
    assert len(chart.svg) < 30_000
    assert chart.alt.startswith(NASTY)


def test_a_name_is_drawn_as_it_is():
    for name in ("#010101 1.23456 id=", "$x_1$"):
        assert f">{name}<" in interval_bars("t", [(name, Interval(0.5, 0.4, 0.6))]).svg


def test_long_names_keep_both_ends():
    chart = interval_bars("t", [("a" * 40 + " 17", Interval(0.5, 0.4, 0.6))])
    assert re.search(r">a{8,}…a+ 17<", chart.svg)


def test_drawings_share_no_ids_and_are_the_same_every_time():
    charts = [*some_charts("x"), some_charts("y")[0]]  # two of one size have the same clip path
    ids = [name for chart in charts for name in set(re.findall(r'\bid="([^"]+)"', chart.svg))]
    assert len(ids) == len(set(ids))
    for chart, again in zip(charts, some_charts("x"), strict=False):
        assert chart.svg == again.svg
        used = re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", chart.svg)
        assert set(used) <= set(re.findall(r'\bid="([^"]+)"', chart.svg))


def test_the_alternative_text_says_what_is_drawn():
    curves, bars, diagram, distribution = some_charts("Accuracy")
    assert "Accuracy: 10.0 % at step 0, 90.0 % at step 20" in curves.alt
    assert bars.alt == "Accuracy: Accuracy 90.0 % (80.0 % to 95.0 %); b 50.0 %."
    assert "15 bins" in diagram.alt
    assert "Accuracy 30.0 %, 50.0 %; b 70.0 %, 50.0 %" in distribution.alt
    assert 'aria-label="Accuracy over training steps.' in curves.svg


def test_more_curves_than_colors_differ_by_their_dash():
    curves = [Curve(str(i), [0, 1], [i, i]) for i in range(N_SERIES + 2)]
    keys = learning_curves("t", curves, rate=False).keys
    assert len({(key.series, key.dash) for key in keys}) == len(keys)


def test_long_curves_are_thinned_and_keep_their_ends():
    steps = list(range(50_000))
    chart = learning_curves("loss", [Curve("loss", steps, [math.sin(step) for step in steps])], rate=False)
    assert len(chart.svg) < 30_000
    assert f"{math.sin(49_999):.3g} at step 49,999" in chart.alt


def test_a_curve_without_a_value_is_said_to_have_none():
    assert "c: no values" in learning_curves("t", [Curve("c", [0, 1], [math.nan] * 2)], rate=True).alt
