import math
import re

import numpy as np
import pytest

from eke.metrics.classification import reliability
from eke.metrics.statistics import Interval
from eke.report.charts import (
    Curve,
    class_histogram,
    distribution_bars,
    interval_bars,
    learning_curves,
    reliability_diagram,
)
from eke.report.drawing import N_SERIES
from eke.report.scatter import embedding_map, gain_scatter, share_scatter

NASTY = '<script>alert("1")</script> $x_1$ #010101 1.23456 id="m1" 黑猫'


def some_charts(name="one"):
    generator = np.random.default_rng(0)
    probs = generator.dirichlet(np.ones(3), 100)
    return [
        learning_curves(name, [Curve(name, [0, 10, 20], [0.1, math.nan, 0.9]), Curve("b", [5], [0.5])], rate=True),
        interval_bars(name, [(name, Interval(0.9, 0.8, 0.95)), ("b", Interval(0.5, -math.inf, math.inf))]),
        reliability_diagram(name, reliability(probs, generator.integers(0, 3, 100))),
        distribution_bars(name, [name, "b"], [("pseudo", np.array([0.3, 0.7])), ("given", np.array([0.5, 0.5]))]),
        class_histogram(name, [(name, np.array([0.9, 1.1, math.nan])), ("b", np.array([0.0, 7.0]))]),
        share_scatter(name, "pool", "test", [name, "b"], np.array([0.8, 1.2]), np.array([0.0, 3.0])),
        gain_scatter(
            name, "before", "gain", np.linspace(-1, 1, 9), np.linspace(0.3, -0.3, 9), [(-1, 0, Interval(0.1, 0, 0.2))]
        ),
        embedding_map(
            name, generator.normal(size=(40, 2)), np.arange(40) % 2, np.arange(40) % 3, [name, "b", "c"], [0, 1]
        ),
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


def test_gains_have_a_dot_an_image_and_a_bar_a_group():
    x, y = np.array([-0.5, 0.2, 0.9]), np.array([0.4, 0.0, -0.1])
    groups = [(-0.5, 0.2, Interval(0.2, 0.05, 0.35)), (0.9, 0.9, Interval(-0.1, -0.1, -0.1))]
    chart = gain_scatter("t", "before", "gain", x, y, groups)
    dots = [
        tag for tag in re.findall(r"<path[^>]*>", chart.svg) if "stroke-linecap: round" in tag and "series-1" in tag
    ]
    assert sum(tag.count("M ") for tag in dots) == 3
    assert len(re.findall(r"<path[^>]*series-2[^>]*>", chart.svg)) == 4
    assert "3 images" in chart.alt
    assert "-0.50 to 0.20: +0.200 (+0.050 to +0.350)" in chart.alt


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
    curves, bars, diagram, distribution, histogram, scatter, *_ = some_charts("Accuracy")
    assert "Accuracy: 10.0 % at training step 0, 90.0 % at training step 20" in curves.alt
    assert bars.alt == "Accuracy: Accuracy 90.0 % (80.0 % to 95.0 %); b 50.0 %."
    assert "15 bins" in diagram.alt
    assert "Accuracy 30.0 %, 50.0 %; b 70.0 %, 50.0 %" in distribution.alt
    assert 'aria-label="Accuracy by training step.' in curves.svg
    assert "Accuracy: 2 about 1×; b: 1 about 0×, 1 about 2× or more." in histogram.alt
    assert "Accuracy 0.80×, 0.00×; b 1.20×, 3.00×" in scatter.alt


def test_more_curves_than_colors_differ_by_their_dash():
    curves = [Curve(str(i), [0, 1], [i, i]) for i in range(N_SERIES + 2)]
    keys = learning_curves("t", curves, rate=False).keys
    assert len({(key.series, key.dash) for key in keys}) == len(keys)


def test_each_of_six_runs_ends_in_a_dot_of_its_color_at_its_own_step():
    curves = [Curve(f"run {i}", range(0, 10 * i + 1, 10), [i / 10] * (i + 1)) for i in range(1, 7)]
    curves[2].values[-1] = math.nan
    chart = learning_curves("t", curves, rate=True)
    ends = re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)" style="fill: var\(--series-(\d)', chart.svg)
    assert [int(series) for _, _, series in ends] == [1, 2, 3, 4, 5, 6]
    x = [float(x) for x, _, _ in ends]
    per_step = (x[5] - x[0]) / 5
    assert [round((each - x[0]) / per_step) for each in x] == [0, 1, 1, 3, 4, 5], "the third has no last value"


def test_long_curves_are_thinned_and_keep_their_ends():
    steps = list(range(50_000))
    chart = learning_curves("loss", [Curve("loss", steps, [math.sin(step) for step in steps])], rate=False)
    assert len(chart.svg) < 30_000
    assert f"{math.sin(49_999):.3g} at training step 49,999" in chart.alt


def test_steps_may_be_something_else():
    chart = learning_curves("Accuracy", [Curve("a", [100, 200], [0.5, 0.6])], rate=True, x="number of labels")
    assert "Accuracy by number of labels. a: 50.0 % at number of labels 100" in chart.alt
    assert "training" not in chart.svg


def test_a_curve_without_a_value_is_said_to_have_none():
    assert "c: no values" in learning_curves("t", [Curve("c", [0, 1], [math.nan] * 2)], rate=True).alt


# ------------------------------------------------------------------ one dot per class, one per image


def dots(chart):
    """Return the points (x, y) of every path of dots, path by path."""
    paths = re.findall(r'd="((?:M [-.\d]+ [-.\d]+ L [-.\d]+ [-.\d]+ ?)+)"', " ".join(chart.svg.split()))
    points = [re.findall(r"M ([-.\d]+) ([-.\d]+) L \1 \2", path) for path in paths]
    return [[(float(x), float(y)) for x, y in each] for each in points if each]


def test_a_class_as_often_as_expected_stands_in_the_middle_of_the_histogram():
    chart = class_histogram("t", [("pool", np.array([0.88, 1.0, 1.12, 0.87, 1.13, 0.12, 0.13, 1.87, 1.88]))])
    assert chart.alt.endswith(
        "pool: 1 about 0×, 1 about 0.25×, 1 about 0.75×, 3 about 1×, 1 about 1.25×, 1 about 1.75×, 1 about 2× or more."
    )
    assert "no class" in class_histogram("t", [("pool", np.array([math.nan]))]).alt


def test_every_class_is_a_dot_and_those_without_a_ratio_are_none():
    x = np.linspace(0, 4, 900)
    y = x[::-1].copy()
    y[0] = math.nan
    chart = share_scatter("t", "x", "y", [f"class {i}" for i in range(900)], x, y)
    (points,) = dots(chart)
    assert len(points) == 899
    assert len(chart.svg) < 60_000
    assert "899 classes" in chart.alt


def test_a_dot_stands_where_its_roots_are():
    chart = share_scatter("t", "x", "y", ["a", "b", "c"], np.array([0.0, 1.0, 4.0]), np.array([4.0, 1.0, 0.0]))
    ((x0, y0), (x1, y1), (x2, y2)) = dots(chart)[0]
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.02)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.02)
    assert y0 < y1, "SVG counts downward, so the larger ratio stands above"


def test_outliers_of_all_kinds_are_named_and_the_crowd_is_not():
    generator = np.random.default_rng(0)
    x, y = generator.uniform(0.9, 1.1, (2, 100))
    x[3], y[3] = 0.2, 0.1
    x[50], y[50] = 4.0, 5.0
    x[70], y[70] = 0.3, 2.1  # off the diagonal, in the middle along it
    chart = share_scatter("t", "x", "y", [f"class {i}" for i in range(100)], x, y)
    drawn = set(re.findall(r">class (\d+)<", chart.svg))
    assert {"3", "50", "70"} <= drawn
    assert len(drawn) <= 8


def test_names_do_not_cover_each_other():
    same = np.ones(6)
    chart = share_scatter("t", "x", "y", [f"one of the classes {i}" for i in range(6)], same, same)
    tops = [
        float(y) for y in re.findall(r'<text[^>]*?y="([-.\d]+)"[^>]*>one of the classes', " ".join(chart.svg.split()))
    ]
    tops += [float(y) for y in re.findall(r"translate\([-.\d]+ ([-.\d]+)\)[^>]*>one of the classes", chart.svg)]
    assert 1 <= len(tops) < 6


def test_right_images_are_dots_and_wrong_ones_crosses():
    points = np.random.default_rng(0).normal(size=(200, 2))
    labels = np.arange(200) % 4
    predicted = labels.copy()
    predicted[:10] = (labels[:10] + 1) % 4
    chart = embedding_map("t", points, labels, predicted, list("abcd"), [1, 3])
    assert sorted(map(len, dots(chart))) == [47, 48, 95]
    assert len(re.findall(r"<use ", chart.svg)) == 10
    assert [(key.name, key.series) for key in chart.keys] == [("b", 1), ("d", 2), ("the other 2 classes", 0)]
    assert "10 of them taken for another class" in chart.alt


def test_a_map_of_one_image_can_be_drawn():
    one = np.zeros((1, 2)), np.zeros(1, np.int64), np.zeros(1, np.int64)
    assert "1 image, 0 of them" in embedding_map("t", *one, ["a"], [0]).alt
