"""The charts of a page: learning curves, intervals, calibration, distributions."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eke.metrics.classification import Reliability
from eke.metrics.statistics import Interval
from eke.report.drawing import (
    INK,
    N_SERIES,
    SERIES,
    Chart,
    Key,
    add_axes,
    draw_svg,
    name_margin,
    names_on_y,
    percent_axis,
)

_DASHES: list[tuple[float, ...]] = [(), (6, 2.5), (2, 2), (8, 2, 2, 2)]
_MAX_POINTS = 300  # of one curve: more than a chart of this width can show


class Curve(NamedTuple):
    """One line of a learning-curve chart."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    """As long as `steps`; NaN leaves a gap."""


def learning_curves(title: str, curves: Sequence[Curve], *, rate: bool, x: str = "training step") -> Chart:
    """Draw values over training steps, or over `x`; one line per curve, a dot where it ends: runs may differ in length.

    Args:
        title: what the values are; printed above the chart.
        curves: at least one; longer ones than 300 points are thinned evenly, first and last point kept.
        rate: whether the values lie in [0, 1] and are printed as percentages.
        x: what the steps of the curves are, in the singular.
    """
    shown = [_thinned(curve) for curve in curves]

    def draw(figure: Any) -> None:
        axes = add_axes(figure, left=52, right=18, top=12, bottom=40)
        for i, curve in enumerate(shown):
            ends = [j for j, value in enumerate(curve.values) if math.isfinite(value)][-1:]
            style = {"dashes": _DASHES[i // N_SERIES % len(_DASHES)]} if i >= N_SERIES else {}
            color = SERIES[i % N_SERIES]
            axes.plot(curve.steps, curve.values, color=color, lw=2, marker="o", ms=5, markevery=ends, **style)
        axes.set_xlabel(x, color=INK)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
        axes.locator_params(axis="x", nbins=6)
        axes.margins(x=0.02)
        if rate:
            percent_axis(axes.yaxis)
            low, high = axes.get_ylim()
            axes.set_ylim(max(-0.02, low), min(1.02, high))

    def in_words(curve: Curve) -> str:
        pairs = zip(curve.steps, curve.values, strict=True)
        known = [(step, value) for step, value in pairs if math.isfinite(value)]
        if not known:
            return f"{curve.name}: no values"
        first, last = (f"{_number(value, rate)} at {x} {step:,.0f}" for step, value in (known[0], known[-1]))
        return f"{curve.name}: {first}, {last}"

    keys = tuple(
        Key(
            c.name,
            i % N_SERIES + 1,
            " ".join(f"{d:g}" for d in _DASHES[i // N_SERIES % len(_DASHES)]),
            "line",
        )
        for i, c in enumerate(shown)
    )
    alt = f"{title} by {x}. " + "; ".join(map(in_words, shown)) + "."
    return Chart(title, draw_svg(draw, 280, alt), alt, keys)


def interval_bars(title: str, rows: Sequence[tuple[str, Interval]]) -> Chart:
    """Draw rates in [0, 1] with their intervals, one row per name; the axis spans what is there."""

    def draw(figure: Any) -> None:
        axes = add_axes(figure, left=name_margin([name for name, _ in rows]), right=64, top=6, bottom=30)
        for i, (_, (value, low, high)) in enumerate(rows):
            color = SERIES[i % N_SERIES]
            if math.isfinite(low) and math.isfinite(high):
                axes.plot([low, high], [i, i], color=color, lw=6, alpha=0.35, solid_capstyle="butt")
            axes.plot([value], [i], color=color, marker="o", ms=8)
            axes.annotate(
                _number(value, True), (1.0, i), (8, 0), xycoords=("axes fraction", "data"), va="center",
                textcoords="offset points", color=INK, fontweight="bold", annotation_clip=False,
            )  # fmt: skip
        names_on_y(axes, [name for name, _ in rows])
        axes.margins(x=0.06)
        percent_axis(axes.xaxis)

    alt = f"{title}: " + "; ".join(f"{name} {_number(each.value, True)}{_ends(each)}" for name, each in rows) + "."
    return Chart(title, draw_svg(draw, 44 + 34 * len(rows), alt), alt)


def interval_curves(title: str, x: str, curves: Sequence[tuple[str, Sequence[tuple[float, Interval]]]]) -> Chart:
    """Draw rates in [0, 1] over a quantity, one line per name, each point with its interval.

    Args:
        title: printed above the chart.
        x: what the quantity is; printed under its axis, which has a tick at each of its values.
        curves: names, and points in the order of the quantity. Curves are moved apart by a hundredth of the axis, so
            that intervals at one value do not hide each other.
    """
    values = sorted({at for _, points in curves for at, _ in points})
    apart = (values[-1] - values[0]) / 100

    def draw(figure: Any) -> None:
        axes = add_axes(figure, left=52, right=18, top=12, bottom=40)
        for i, (_, points) in enumerate(curves):
            color, dashes = SERIES[i % N_SERIES], _DASHES[i // N_SERIES % len(_DASHES)]
            at = [value + (i - (len(curves) - 1) / 2) * apart for value, _ in points]
            style = {"dashes": dashes} if dashes else {}
            axes.plot(at, [each.value for _, each in points], color=color, lw=2, marker="o", ms=6, **style)
            for place, (_, (_, low, high)) in zip(at, points, strict=True):
                if math.isfinite(low) and math.isfinite(high):
                    axes.plot([place, place], [low, high], color=color, lw=4, alpha=0.35, solid_capstyle="butt")
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.set_xlabel(x, color=INK)
        percent_axis(axes.yaxis)

    def in_words(name: str, points: Sequence[tuple[float, Interval]]) -> str:
        return f"{name}: " + ", ".join(f"{_number(each.value, True)}{_ends(each)} at {at:g}" for at, each in points)

    keys = tuple(
        Key(name, i % N_SERIES + 1, " ".join(f"{d:g}" for d in _DASHES[i // N_SERIES % len(_DASHES)]), "line")
        for i, (name, _) in enumerate(curves)
    )
    alt = f"{title}, over {x}. " + "; ".join(in_words(*curve) for curve in curves) + "."
    return Chart(title, draw_svg(draw, 320, alt), alt, keys)


def reliability_diagram(title: str, table: Reliability) -> Chart:
    """Draw accuracy against confidence per bin, the diagonal of perfect calibration, and images per bin."""
    full = table.n_images > 0
    centers, width = (table.low + table.high) / 2, table.high[0] - table.low[0]

    def draw(figure: Any) -> None:
        axes = add_axes(figure, left=52, right=18, top=12, bottom=112)
        axes.plot([0, 1], [0, 1], color=INK, lw=1, dashes=(4, 3))
        axes.bar(centers[full], table.accuracy[full], width * 0.9, color=SERIES[0], alpha=0.4, lw=0)
        axes.plot(table.confidence[full], table.accuracy[full], "o", color=SERIES[0], ms=5)
        axes.set_ylim(0, 1.02)
        axes.tick_params(labelbottom=False)
        percent_axis(axes.yaxis)
        below = add_axes(figure, left=52, right=18, top=320 - 98, bottom=40)
        below.bar(centers, table.n_images, width * 0.9, color=SERIES[0], alpha=0.8, lw=0)
        below.set_yticks([int(table.n_images.max())])
        below.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")
        below.set_xlabel("confidence, and images in each bin", color=INK)
        percent_axis(below.xaxis)
        for each in (axes, below):
            each.set_xlim(0, 1)

    worst = int(np.nanargmax(np.abs(table.accuracy - table.confidence)))
    alt = (
        f"{title}: accuracy against confidence in {len(centers)} bins, {int(full.sum())} with images. "
        f"The widest gap is in {_number(table.low[worst], True)} to {_number(table.high[worst], True)}: "
        f"mean confidence {_number(table.confidence[worst], True)}, "
        f"accuracy {_number(table.accuracy[worst], True)}."
    )
    return Chart(title, draw_svg(draw, 320, alt), alt)


def distribution_bars(title: str, classes: Sequence[str], series: Sequence[tuple[str, NDArray[np.float64]]]) -> Chart:
    """Draw the shares (K,) of several distributions over the same classes, one group of bars per class."""
    n, k = len(series), len(classes)
    thick = 0.76 / n

    def draw(figure: Any) -> None:
        axes = add_axes(figure, left=name_margin(classes), right=18, top=6, bottom=30)
        for i, (_, shares) in enumerate(series):
            at = np.arange(k) + (i - (n - 1) / 2) * thick
            axes.barh(at, shares, thick * 0.9, color=SERIES[i], lw=0)
        names_on_y(axes, classes)
        axes.set_xlim(left=0)
        percent_axis(axes.xaxis)

    lines = (
        f"{name} " + ", ".join(_number(float(shares[i]), True) for _, shares in series)
        for i, name in enumerate(classes)
    )
    alt = f"{title}; each: {', '.join(name for name, _ in series)}. " + "; ".join(lines) + "."
    keys = tuple(Key(name, i + 1, "", "block") for i, (name, _) in enumerate(series))
    return Chart(title, draw_svg(draw, 44 + (14 + 11 * n) * k, alt), alt, keys)


def class_histogram(title: str, series: Sequence[tuple[str, NDArray[np.float64]]]) -> Chart:
    """Draw how many classes were predicted how often, relative to what was expected of them.

    Args:
        title: printed above the chart.
        series: names and (K,) ratios >= 0, 1 = as often as expected; NaN is left out. Bars stand for a quarter of the
            expected number each, the last for all beyond.
    """
    counts = [np.bincount(_histogram_bins(ratios), minlength=_N_BINS) for _, ratios in series]
    thick = 0.8 / len(series)

    def draw(figure: Any) -> None:
        axes = add_axes(figure, left=52, right=18, top=12, bottom=40)
        for i, heights in enumerate(counts):
            at = np.arange(_N_BINS) + (i - (len(series) - 1) / 2) * thick
            axes.bar(at, heights, thick * 0.92, color=SERIES[i], lw=0)
        axes.axvline(_N_BINS // 2, color=INK, lw=1, dashes=(4, 3))
        axes.set_xticks(range(0, _N_BINS, 2), [_bin_name(i) for i in range(0, _N_BINS, 2)])
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("predicted so many times as often as expected", color=INK)
        axes.set_ylabel("classes", color=INK)
        axes.yaxis.get_major_locator().set_params(integer=True, nbins=5)
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")

    def in_words(name: str, heights: NDArray[np.int64]) -> str:
        filled = [f"{n:,} about {_bin_name(i)}" for i, n in enumerate(heights.tolist()) if n]
        return f"{name}: " + (", ".join(filled) or "no class")

    lines = (in_words(name, heights) for (name, _), heights in zip(series, counts, strict=True))
    alt = f"{title}, in times the expected number. " + "; ".join(lines) + "."
    keys = tuple(Key(name, i + 1, "", "block") for i, (name, _) in enumerate(series))
    return Chart(title, draw_svg(draw, 280, alt), alt, keys)


_N_BINS = 9  # quarters around 0, 0.25, ... 1.75, and everything from 1.875 on


def _histogram_bins(ratios: NDArray[np.float64]) -> NDArray[np.int64]:
    known = ratios[np.isfinite(ratios)]
    return np.minimum(np.floor(4 * known + 0.5), _N_BINS - 1).astype(np.int64)


def _bin_name(i: int) -> str:
    return f"{i / 4:g}×" if i < _N_BINS - 1 else f"{i / 4:g}× or more"


# ------------------------------------------------------------------ words and thinning


def _number(value: float, rate: bool) -> str:
    if not math.isfinite(value):
        return "unknown"
    return f"{100 * value:.1f} %" if rate else f"{value:.3g}"


def _ends(interval: Interval) -> str:
    finite = math.isfinite(interval.low) and math.isfinite(interval.high)
    return f" ({_number(interval.low, True)} to {_number(interval.high, True)})" if finite else ""


def _thinned(curve: Curve) -> Curve:
    n = len(curve.steps)
    if n <= _MAX_POINTS:
        return curve
    keep = np.linspace(0, n - 1, _MAX_POINTS).round().astype(int)
    return Curve(curve.name, [curve.steps[i] for i in keep], [curve.values[i] for i in keep])
