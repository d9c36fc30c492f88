"""Charts as small inline SVG that follow the page's colors, light or dark, and keep their text as text.

Matplotlib draws with placeholder colors; afterwards these become `currentColor` and the CSS variables --grid
and --series-1 ... --series-6, and every id gets a prefix of its own, because all charts share one document.
"""

import hashlib
import io
import math
import re
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eke.metrics.classification import Reliability
from eke.metrics.statistics import Interval

N_SERIES = 6
"""Colors in the palette; further series repeat them with another dash."""

_INK, _GRID = "#010101", "#010102"
_SERIES = [f"#0102{i:02x}" for i in range(1, N_SERIES + 1)]
_CSS = {_INK: "currentColor", _GRID: "var(--grid)"} | {
    color: f"var(--series-{i})" for i, color in enumerate(_SERIES, 1)
}
_DASHES: list[tuple[float, ...]] = [(), (6, 2.5), (2, 2), (8, 2, 2, 2)]
_MAX_POINTS = 300  # of one curve: more than a chart of this width can show
_WIDTH = 460  # pixels at scale 1; the page scales charts between 360 and 640
_NAME_LENGTH = 24  # letters of a name that fit beside a bar


class Curve(NamedTuple):
    """One line of a learning-curve chart."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    """As long as `steps`; NaN leaves a gap."""


class Key(NamedTuple):
    """One entry of a legend, which the page writes in HTML beside the drawing."""

    name: str
    series: int
    """1-based number of the CSS color."""
    dash: str
    """SVG dash array; empty for a solid line."""
    shape: str
    """"line" or "block"."""


class Chart(NamedTuple):
    """A drawing, what it says in words, and its legend."""

    title: str
    svg: str
    alt: str
    keys: tuple[Key, ...] = ()
    kind: str = "chart"


def learning_curves(title: str, curves: Sequence[Curve], *, rate: bool) -> Chart:
    """Draw values over training steps, one line per curve.

    Args:
        title: what the values are; printed above the chart.
        curves: at least one; longer ones than 300 points are thinned evenly, first and last point kept.
        rate: whether the values lie in [0, 1] and are printed as percentages.
    """
    shown = [_thinned(curve) for curve in curves]

    def draw(figure: Any) -> None:
        axes = _axes(figure, left=52, right=18, top=12, bottom=40)
        for i, curve in enumerate(shown):
            lone = len(curve.steps) == 1
            style = {"dashes": _DASHES[i // N_SERIES % len(_DASHES)]} if i >= N_SERIES else {}
            color = _SERIES[i % N_SERIES]
            axes.plot(curve.steps, curve.values, color=color, lw=2, marker="o" if lone else "", **style)
        axes.set_xlabel("training step", color=_INK)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
        axes.locator_params(axis="x", nbins=6)
        axes.margins(x=0.02)
        if rate:
            _percent(axes.yaxis)
            low, high = axes.get_ylim()
            axes.set_ylim(max(-0.02, low), min(1.02, high))

    def in_words(curve: Curve) -> str:
        pairs = zip(curve.steps, curve.values, strict=True)
        known = [(step, value) for step, value in pairs if math.isfinite(value)]
        if not known:
            return f"{curve.name}: no values"
        first, last = (f"{_number(value, rate)} at step {step:,.0f}" for step, value in (known[0], known[-1]))
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
    alt = f"{title} over training steps. " + "; ".join(map(in_words, shown)) + "."
    return Chart(title, _svg(draw, 280, alt), alt, keys)


def interval_bars(title: str, rows: Sequence[tuple[str, Interval]]) -> Chart:
    """Draw rates in [0, 1] with their intervals, one row per name; the axis spans what is there."""

    def draw(figure: Any) -> None:
        axes = _axes(figure, left=_name_margin([name for name, _ in rows]), right=64, top=6, bottom=30)
        for i, (_, (value, low, high)) in enumerate(rows):
            color = _SERIES[i % N_SERIES]
            if math.isfinite(low) and math.isfinite(high):
                axes.plot([low, high], [i, i], color=color, lw=6, alpha=0.35, solid_capstyle="butt")
            axes.plot([value], [i], color=color, marker="o", ms=8)
            axes.annotate(
                _number(value, True), (1.0, i), (8, 0), xycoords=("axes fraction", "data"), va="center",
                textcoords="offset points", color=_INK, fontweight="bold", annotation_clip=False,
            )  # fmt: skip
        _names_on_y(axes, [name for name, _ in rows])
        axes.margins(x=0.06)
        _percent(axes.xaxis)

    alt = f"{title}: " + "; ".join(f"{name} {_number(each.value, True)}{_ends(each)}" for name, each in rows) + "."
    return Chart(title, _svg(draw, 44 + 34 * len(rows), alt), alt)


def reliability_diagram(title: str, table: Reliability) -> Chart:
    """Draw accuracy against confidence per bin, the diagonal of perfect calibration, and images per bin."""
    full = table.n_images > 0
    centers, width = (table.low + table.high) / 2, table.high[0] - table.low[0]

    def draw(figure: Any) -> None:
        axes = _axes(figure, left=52, right=18, top=12, bottom=112)
        axes.plot([0, 1], [0, 1], color=_INK, lw=1, dashes=(4, 3))
        axes.bar(centers[full], table.accuracy[full], width * 0.9, color=_SERIES[0], alpha=0.4, lw=0)
        axes.plot(table.confidence[full], table.accuracy[full], "o", color=_SERIES[0], ms=5)
        axes.set_ylim(0, 1.02)
        axes.tick_params(labelbottom=False)
        _percent(axes.yaxis)
        below = _axes(figure, left=52, right=18, top=320 - 98, bottom=40)
        below.bar(centers, table.n_images, width * 0.9, color=_SERIES[0], alpha=0.8, lw=0)
        below.set_yticks([int(table.n_images.max())])
        below.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")
        below.set_xlabel("confidence, and images in each bin", color=_INK)
        _percent(below.xaxis)
        for each in (axes, below):
            each.set_xlim(0, 1)

    worst = int(np.nanargmax(np.abs(table.accuracy - table.confidence)))
    alt = (
        f"{title}: accuracy against confidence in {len(centers)} bins, {int(full.sum())} with images. "
        f"The widest gap is in {_number(table.low[worst], True)} to {_number(table.high[worst], True)}: "
        f"mean confidence {_number(table.confidence[worst], True)}, "
        f"accuracy {_number(table.accuracy[worst], True)}."
    )
    return Chart(title, _svg(draw, 320, alt), alt)


def distribution_bars(title: str, classes: Sequence[str], series: Sequence[tuple[str, NDArray[np.float64]]]) -> Chart:
    """Draw the shares (K,) of several distributions over the same classes, one group of bars per class."""
    n, k = len(series), len(classes)
    thick = 0.76 / n

    def draw(figure: Any) -> None:
        axes = _axes(figure, left=_name_margin(classes), right=18, top=6, bottom=30)
        for i, (_, shares) in enumerate(series):
            at = np.arange(k) + (i - (n - 1) / 2) * thick
            axes.barh(at, shares, thick * 0.9, color=_SERIES[i], lw=0)
        _names_on_y(axes, classes)
        axes.set_xlim(left=0)
        _percent(axes.xaxis)

    lines = (
        f"{name} " + ", ".join(_number(float(shares[i]), True) for _, shares in series)
        for i, name in enumerate(classes)
    )
    alt = f"{title}; each: {', '.join(name for name, _ in series)}. " + "; ".join(lines) + "."
    keys = tuple(Key(name, i + 1, "", "block") for i, (name, _) in enumerate(series))
    return Chart(title, _svg(draw, 44 + (14 + 11 * n) * k, alt), alt, keys)


# ------------------------------------------------------------------ drawing and post-processing


def _svg(draw: Callable[[Any], None], height: int, alt: str) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = {
        "svg.fonttype": "none", "svg.hashsalt": "eke", "text.parse_math": False, "font.size": 11.5,
        "axes.unicode_minus": True, "path.simplify": True,
    }  # fmt: skip
    text = io.StringIO()
    with warnings.catch_warnings(), matplotlib.rc_context(settings):
        # the reader's browser has the letters that matplotlib's own font lacks
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure = Figure(figsize=(_WIDTH / 72, height / 72), dpi=72)
        draw(figure)
        empty = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(text, format="svg", transparent=True, metadata=empty)
    return _for_page(text.getvalue(), height, alt)


def _for_page(svg: str, height: int, alt: str) -> str:
    """Strip what only a file of its own needs, and hand colors and fonts over to the page's style sheet."""
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", svg, flags=re.DOTALL)
    body = body[body.index("<svg") :]
    body = body[body.index(">") + 1 :]
    prefix = "c" + hashlib.blake2b((alt + body).encode("utf-8", "replace"), digest_size=4).hexdigest()
    body = re.sub(r"<[^>]*>", lambda tag: _tag_for_page(tag.group(), prefix), body)  # texts stay as they are
    body = re.sub(r"<g/>|<defs>\s*</defs>", "", body)
    body = re.sub(r"\n\s*", "\n", body)
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(alt)}">{body}'


def _tag_for_page(tag: str, prefix: str) -> str:
    tag = re.sub(r'<g id="[^"]*"', "<g", tag)  # nothing refers to groups
    tag = re.sub(r'\bid="|#(?=[mp][0-9a-f]{6,})', lambda m: m.group() + prefix, tag)
    tag = re.sub("|".join(_CSS), lambda m: _CSS[m.group()], tag)
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)  # a hundredth of a pixel is enough
    tag = re.sub(r" font-family: [^;\"]*;|\btransform=\"rotate\(-0 [^\"]*\"", "", tag)
    return re.sub(r"\s*\n", " ", tag)


def _axes(figure: Any, *, left: int, right: int, top: int, bottom: int) -> Any:
    """Add axes at margins in pixels: text widths are the browser's, so no automatic layout is right."""
    width, height = figure.get_size_inches() * 72
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
    axes = figure.add_axes(box)
    axes.grid(color=_GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=6, labelcolor=_INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _names_on_y(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [_short(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def _name_margin(names: Sequence[str]) -> int:
    return 22 + math.ceil(6.8 * max((_columns(_short(name)) for name in names), default=0))


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _short(name: str) -> str:
    line = " ".join(name.split())
    head, tail = line[: math.ceil(len(line) / 2)], line[math.ceil(len(line) / 2) :]
    if _columns(line) <= _NAME_LENGTH:
        return line
    while _columns(head + tail) >= _NAME_LENGTH:  # from the middle: numbered names differ at their ends
        head, tail = head[:-1], tail[1:] if len(tail) >= len(head) else tail
    return f"{head}…{tail}"


def _percent(axis: Any) -> None:
    axis.set_major_formatter(lambda x, _: f"{100 * x:.3g} %")
    axis.get_major_locator().set_params(nbins=6)


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
