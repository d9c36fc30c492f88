"""Drawing as small inline SVG that follows the page's colors, light or dark, and keeps its text as text.

Matplotlib draws with placeholder colors; afterwards these become `currentColor` and the CSS variables --grid,
--quiet and --series-1 ... --series-6, and every id gets a prefix of its own, because all charts share one document.
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

N_SERIES = 6
"""Colors in the palette; further series repeat them with another dash."""
WIDTH = 460
"""Pixels of a chart at scale 1; the page scales charts between 360 and 640."""
INK, GRID, QUIET = "#010101", "#010102", "#010103"
SERIES = [f"#0102{i:02x}" for i in range(1, N_SERIES + 1)]

_CSS = {INK: "currentColor", GRID: "var(--grid)", QUIET: "var(--quiet)"} | {
    color: f"var(--series-{i})" for i, color in enumerate(SERIES, 1)
}
_NAME_LENGTH = 24  # letters of a name that fit beside a bar
_LETTER = 6.8  # pixels of an average letter: text widths are the browser's, so this is a guess on the safe side

_BESIDE = [
    (7, 0, "left"), (-7, 0, "right"), (0, 11, "center"), (0, -11, "center"),
    (6, 9, "left"), (-6, 9, "right"), (6, -9, "left"), (-6, -9, "right"),
]  # fmt: skip
"""Where a name may stand beside its dot: pixels to the right and up, and how it is aligned there."""


class Key(NamedTuple):
    """One entry of a legend, which the page writes in HTML beside the drawing."""

    name: str
    series: int
    """1-based number of the CSS color; 0 for the quiet one."""
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


def draw_svg(draw: Callable[[Any], None], height: int, alt: str) -> str:
    """Let `draw` fill a figure of `WIDTH` x `height` pixels and return it as an element for the page."""
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
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
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
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(alt)}">{body}'


def _tag_for_page(tag: str, prefix: str) -> str:
    tag = re.sub(r'<g id="[^"]*"', "<g", tag)  # nothing refers to groups
    tag = re.sub(r'\bid="|#(?=[mp][0-9a-f]{6,})', lambda m: m.group() + prefix, tag)
    tag = re.sub("|".join(_CSS), lambda m: _CSS[m.group()], tag)
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)  # a hundredth of a pixel is enough
    tag = re.sub(r" font-family: [^;\"]*;|\btransform=\"rotate\(-0 [^\"]*\"", "", tag)
    return re.sub(r"\s*\n", " ", tag)


def add_axes(figure: Any, *, left: int, right: int, top: int, bottom: int) -> Any:
    """Add axes at margins in pixels: text widths are the browser's, so no automatic layout is right."""
    width, height = figure.get_size_inches() * 72
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
    axes = figure.add_axes(box)
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=6, labelcolor=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def add_dots(axes: Any, x: Any, y: Any, *, color: str, size: float, alpha: float = 1.0) -> None:
    """Draw round dots of `size` pixels as one path of points: a thousand of them take 30 kB and not 150."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    points = [(float(a), float(b)) for a, b in zip(x, y, strict=True) for _ in range(2)]
    if points:
        path = Path(points, [Path.MOVETO, Path.LINETO] * (len(points) // 2))
        path.should_simplify = False  # or points would be merged away, from 128 on
        axes.add_patch(PathPatch(path, fill=False, ec=color, lw=size, alpha=alpha, capstyle="round"))


def add_names(axes: Any, places: Sequence[tuple[float, float, str]], avoid: Any = ()) -> None:
    """Write names beside their points, in order of importance, where they meet no other and stay inside.

    A name that finds no room is left out.

    Args:
        axes: with its final limits.
        places: x, y in data units and the name.
        avoid: (n, 2) further dots in data units that no name may cover.
    """
    room = axes.get_window_extent()
    points = [axes.transData.transform((x, y)) for x, y, _ in places]
    dots = [*points, *(axes.transData.transform(point) for point in avoid)]
    taken = [(px - 2, py - 2, px + 2, py + 2) for px, py in dots]
    for (x, y, name), (px, py) in zip(places, points, strict=True):
        text = short_name(name)
        width = _LETTER * text_columns(text)
        for dx, dy, align in _BESIDE:
            start = px + dx - {"left": 0, "right": width, "center": width / 2}[align]
            box = (start, py + dy - 7, start + width, py + dy + 7)
            inside = room.x0 <= box[0] and box[2] <= room.x1 and room.y0 <= box[1] and box[3] <= room.y1
            if inside and not any(_overlap(box, other) for other in taken):
                axes.annotate(
                    text, (x, y), (dx, dy), textcoords="offset points", ha=align, va="center", color=INK, size=10.5
                )  # fmt: skip
                taken.append(box)
                break


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def names_on_y(axes: Any, names: Sequence[str]) -> None:
    """Write one name per row, the first at the top."""
    axes.set_yticks(range(len(names)), [short_name(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def name_margin(names: Sequence[str]) -> int:
    """Return the pixels that the longest of the names needs beside a chart."""
    return 22 + math.ceil(_LETTER * max((text_columns(short_name(name)) for name in names), default=0))


def text_columns(text: str) -> int:
    """Count the columns of a text, in which East Asian letters take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def short_name(name: str) -> str:
    """Shorten a name to what fits beside a bar, in its middle: numbered names differ at their ends."""
    line = " ".join(name.split())
    head, tail = line[: math.ceil(len(line) / 2)], line[math.ceil(len(line) / 2) :]
    if text_columns(line) <= _NAME_LENGTH:
        return line
    while text_columns(head + tail) >= _NAME_LENGTH:
        head, tail = head[:-1], tail[1:] if len(tail) >= len(head) else tail
    return f"{head}…{tail}"


def percent_axis(axis: Any) -> None:
    """Print the ticks of an axis of rates as percentages."""
    axis.set_major_formatter(lambda x, _: f"{100 * x:.3g} %")
    axis.get_major_locator().set_params(nbins=6)
