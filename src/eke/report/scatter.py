"""Charts of dots: one per class, or one per image."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eke.metrics.statistics import Interval
from eke.report.drawing import INK, QUIET, SERIES, Chart, Key, add_axes, add_dots, add_names, draw_svg
from eke.report.words import count

Floats = NDArray[np.float64]

_N_ENDS, _N_OFF = 3, 2  # classes that get their name: at each end, and off the diagonal
_TICKS = (0, 0.1, 0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 512)


def share_scatter(title: str, x_name: str, y_name: str, classes: Sequence[str], x: Floats, y: Floats) -> Chart:
    """Draw one dot per class at two ratios; name those with the least, with the most, and with the least like two.

    Both axes show square roots, on which the noise of counting is equally wide everywhere and 0 has a place.

    Args:
        title: printed above the chart.
        x_name: what x is.
        y_name: what y is.
        classes: K names.
        x: (K,) ratios >= 0, 1 = as expected; a class with a value that is not finite is left out.
        y: likewise.
    """
    shown = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    roots_x, roots_y = np.sqrt(x[shown]), np.sqrt(y[shown])
    far = _outliers(roots_x, roots_y)
    top = 1.08 * max(1.5, float(np.max(np.concatenate([roots_x, roots_y]), initial=0)))

    def draw(figure: Any) -> None:
        axes = add_axes(figure, left=58, right=18, top=12, bottom=46)
        axes.set_xlim(-0.04 * top, top)
        axes.set_ylim(-0.04 * top, top)
        axes.axvline(1, color=INK, lw=1, dashes=(4, 3))
        axes.axhline(1, color=INK, lw=1, dashes=(4, 3))
        few = len(shown) <= 50
        add_dots(axes, roots_x, roots_y, color=SERIES[0], size=8 if few else 5, alpha=0.9 if few else 0.55)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks([math.sqrt(tick) for tick in _shown_ticks(top)], [f"{t:g}×" for t in _shown_ticks(top)])
        axes.set_xlabel(x_name, color=INK)
        axes.set_ylabel(y_name, color=INK)
        add_names(
            axes,
            [(float(roots_x[i]), float(roots_y[i]), classes[shown[i]]) for i in far],
            np.stack([roots_x, roots_y], 1),
        )

    named = "; ".join(f"{classes[shown[i]]} {x[shown[i]]:.2f}×, {y[shown[i]]:.2f}×" for i in far)
    alt = f"{title}: {len(shown):,} classes. {x_name} and {y_name} of the outliers: {named}."
    return Chart(title, draw_svg(draw, 420, alt), alt)


def gain_scatter(
    title: str, x_name: str, y_name: str, x: Floats, y: Floats, groups: Sequence[tuple[float, float, Interval]]
) -> Chart:
    """Draw one dot per image at a value and its gain, and over them the mean gain of groups of images.

    Args:
        title: printed above the chart.
        x_name: what x is.
        y_name: what y is.
        x: (N,).
        y: (N,).
        groups: the ends of a group on the x axis, and its mean y with the interval.
    """

    def draw(figure: Any) -> None:
        axes = add_axes(figure, left=58, right=18, top=12, bottom=46)
        axes.axhline(0, color=INK, lw=1, dashes=(4, 3))
        for axis_of, values in ((axes.set_xlim, x), (axes.set_ylim, np.append(y, 0.0))):
            reach = 0.05 * max(float(np.ptp(values)), 0.1)
            axis_of(float(values.min()) - reach, float(values.max()) + reach)
        add_dots(axes, x, y, color=SERIES[0], size=6 if len(x) <= 300 else 4, alpha=0.5)
        for low, high, (value, least, most) in groups:
            axes.plot([low, high], [value, value], color=SERIES[1], lw=2.5, solid_capstyle="butt")
            axes.plot([(low + high) / 2] * 2, [least, most], color=SERIES[1], lw=6, alpha=0.4, solid_capstyle="butt")
        axes.set_xlabel(x_name, color=INK)
        axes.set_ylabel(y_name, color=INK)

    said = "; ".join(
        f"{low:.2f} to {high:.2f}: {value:+.3f} ({least:+.3f} to {most:+.3f})"
        for low, high, (value, least, most) in groups
    )
    alt = f"{title}: {count(len(x), 'image')}. {y_name} by {x_name}: {said}."
    keys = (Key("an image", 1, "", "block"), Key("mean of a quarter of them, with interval", 2, "", "line"))
    return Chart(title, draw_svg(draw, 320, alt), alt, keys)


def _outliers(x: Floats, y: Floats) -> list[int]:
    """Return the dots at the lower left, at the upper right and farthest from the diagonal, each once."""
    along = np.argsort(x + y, kind="stable").tolist()
    across = np.argsort(-np.abs(x - y), kind="stable").tolist()
    return list(dict.fromkeys([*along[:_N_ENDS], *reversed(along[-_N_ENDS:]), *across[:_N_OFF]]))


def _shown_ticks(top: float) -> list[float]:
    """Choose ticks at least a tenth of the axis apart, 1 among them."""
    shown: list[float] = [1]
    for tick in (*_TICKS[_TICKS.index(1) + 1 :], *reversed(_TICKS[: _TICKS.index(1)])):
        root = math.sqrt(tick)
        if root < top and min(abs(root - math.sqrt(other)) for other in shown) > 0.1 * top:
            shown.append(tick)
    return sorted(shown)


def embedding_map(
    title: str,
    points: Floats,
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    classes: Sequence[str],
    colored: Sequence[int],
) -> Chart:
    """Draw one dot per image, in the color of its class; a cross where it was taken for another.

    Args:
        title: printed above the chart.
        points: (n, 2), one per image.
        labels: (n,) classes.
        predicted: (n,) likewise.
        classes: K names.
        colored: the classes that get a color and their name on the map, at most six; the others are grey.
    """
    wrong = labels != predicted
    size = 6.0 if len(points) <= 300 else 4.0
    groups = [(QUIET, 0.35, ~np.isin(labels, colored))]
    groups += [(SERIES[i], 0.75, labels == k) for i, k in enumerate(colored)]

    def draw(figure: Any) -> None:
        axes = add_axes(figure, left=8, right=8, top=8, bottom=8)
        axes.set_xticks([])
        axes.set_yticks([])
        low, high = points.min(0), points.max(0)
        middle, half = (low + high) / 2, 0.53 * max(1e-9, float((high - low).max()))
        axes.set_xlim(middle[0] - half, middle[0] + half)
        axes.set_ylim(middle[1] - half, middle[1] + half)
        for color, alpha, members in groups:
            right, missed = points[members & ~wrong], points[members & wrong]
            add_dots(axes, *right.T, color=color, size=size, alpha=alpha)
            axes.plot(*missed.T, "x", color=color, ms=size + 1.5, mew=1.4, alpha=min(1.0, alpha + 0.25))
        middles = [(k, np.median(points[labels == k], axis=0)) for k in colored if (labels == k).any()]
        add_names(axes, [(float(x), float(y), classes[k]) for k, (x, y) in middles])

    keys = [Key(classes[k], i, "", "block") for i, k in enumerate(colored, 1)]
    if len(colored) < len(classes):
        keys.append(Key(f"the other {len(classes) - len(colored):,} classes", 0, "", "block"))
    alt = (
        f"{title}: {count(len(points), 'image')}, {int(wrong.sum()):,} of them taken for another class, drawn as "
        f"crosses. In color: {', '.join(classes[k] for k in colored) or 'none'}."
    )
    return Chart(title, draw_svg(draw, 440, alt), alt, tuple(keys))
