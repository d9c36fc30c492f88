"""Sheets as PNG files, for slides and papers: a canvas in inches, and the feature maps of one image on it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from eke.files import write_atomic
from eke.report.content import LayerReport
from eke.report.insides import image_in_words, row_name

_MAP, _TITLE = 1.0, 0.42  # inches of a map, and of the line above it
_IMAGE = 2.2  # inches of the image, which stands left of the maps
_LEAST_COLUMNS = 4  # so that the lines of words have room
_LETTER = 0.09  # inches of an average bold letter of 9 points
_DPI = 150


class Canvas(NamedTuple):
    """A figure on which places and sizes are in inches from the top left corner."""

    figure: Any
    width: float
    height: float

    def write(self, left: float, top: float, words: str, room: float, *, size: float = 9, **look: Any) -> None:
        """Write a line below `top`, shortened in its middle to `room` inches: a path ends with what tells it apart."""
        n = int(room / (_LETTER * size / 9))
        line = words if len(words) <= n else f"{words[: n // 2 - 1]}…{words[-(n // 2) :]}"
        self.figure.text(left / self.width, 1 - top / self.height, line, va="top", fontsize=size, **look)

    def draw(self, left: float, top: float, size: float, values: Any, **look: Any) -> Any:
        """Draw a picture into a square and return its axes; pixels of small ones show."""
        axes = self.figure.add_axes(
            (left / self.width, 1 - (top + size) / self.height, size / self.width, size / self.height)
        )
        axes.imshow(values, interpolation="nearest" if max(values.shape[:2]) <= 64 else "antialiased", **look)
        axes.set_axis_off()
        return axes


@contextmanager
def canvas(path: Path, width: float, height: float) -> Iterator[Canvas]:
    """Give a canvas of so many inches and write it as PNG afterwards, atomically."""
    import matplotlib
    from matplotlib.figure import Figure

    with warnings.catch_warnings(), matplotlib.rc_context({"text.parse_math": False, "font.size": 9}):
        # letters that matplotlib's own font lacks become boxes; the page beside this file shows them
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure = Figure(figsize=(width, height), dpi=_DPI)
        yield Canvas(figure, width, height)
        write_atomic(path, lambda temporary: figure.savefig(temporary, format="png"))


def write_layer_sheet(path: Path, shown: LayerReport) -> None:
    """Write the image beside one row of maps per layer, each map with the number of its channel above it."""
    n_columns = max(_LEAST_COLUMNS, *(len(row.channels) for row in shown.rows))
    width = _IMAGE + 0.3 + n_columns * (_MAP + 0.08) + 0.1
    height = max(len(shown.rows) * (_MAP + _TITLE), _IMAGE + _TITLE) + 0.5

    with canvas(path, width, height) as sheet:
        sheet.write(0.1, 0.1, image_in_words(shown), width - 0.2, fontweight="bold")
        top = 0.45
        sheet.draw(0.1, top + _TITLE - 0.1, _IMAGE, shown.image, cmap="gray", vmin=0, vmax=255)
        for row in shown.rows:
            left = _IMAGE + 0.4
            sheet.write(left, top + 0.02, row_name(row), width - left, color="#444444")
            for channel, values in zip(row.channels, row.maps, strict=True):
                axes = sheet.draw(left, top + _TITLE - 0.1, _MAP, values, cmap="viridis", vmin=0, vmax=1)
                axes.set_title(f"{channel}", fontsize=7, pad=1.5, color="#666666")
                left += _MAP + 0.08
            top += _MAP + _TITLE
