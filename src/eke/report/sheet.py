"""The feature maps of one image as a PNG file of its own, for slides and papers."""

import warnings
from pathlib import Path
from typing import Any

from eke.files import write_atomic
from eke.report.content import LayerReport
from eke.report.insides import image_in_words, row_name

_MAP, _TITLE = 1.0, 0.42  # inches of a map, and of the line above it
_IMAGE = 2.2  # inches of the image, which stands left of the maps
_LEAST_COLUMNS = 4  # so that the lines of words have room
_LETTER = 0.09  # inches of an average bold letter
_DPI = 150


def write_layer_sheet(path: Path, shown: LayerReport) -> None:
    """Write the image beside one row of maps per layer, each map with the number of its channel above it."""
    import matplotlib
    from matplotlib.figure import Figure

    n_columns = max(_LEAST_COLUMNS, *(len(row.channels) for row in shown.rows))
    width = _IMAGE + 0.3 + n_columns * (_MAP + 0.08) + 0.1
    height = max(len(shown.rows) * (_MAP + _TITLE), _IMAGE + _TITLE) + 0.5

    with warnings.catch_warnings(), matplotlib.rc_context({"text.parse_math": False, "font.size": 9}):
        # letters that matplotlib's own font lacks become boxes; the page beside this file shows them
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure = Figure(figsize=(width, height), dpi=_DPI)

        def draw(left: float, top: float, size: float, values: Any, **look: Any) -> Any:
            axes = figure.add_axes((left / width, 1 - (top + size) / height, size / width, size / height))
            axes.imshow(values, interpolation="nearest" if max(values.shape[:2]) <= 64 else "antialiased", **look)
            axes.set_axis_off()
            return axes

        figure.text(
            0.1 / width, 1 - 0.1 / height, _fitting(image_in_words(shown), width - 0.2), va="top", fontweight="bold"
        )
        top = 0.45
        draw(0.1, top + _TITLE - 0.1, _IMAGE, shown.image, cmap="gray", vmin=0, vmax=255)
        for row in shown.rows:
            left = _IMAGE + 0.4
            figure.text(
                left / width,
                1 - (top + 0.02) / height,
                _fitting(row_name(row), width - left),
                va="top",
                color="#444444",
            )
            for channel, values in zip(row.channels, row.maps, strict=True):
                axes = draw(left, top + _TITLE - 0.1, _MAP, values, cmap="viridis", vmin=0, vmax=1)
                axes.set_title(f"{channel}", fontsize=7, pad=1.5, color="#666666")
                left += _MAP + 0.08
            top += _MAP + _TITLE
        write_atomic(path, lambda temporary: figure.savefig(temporary, format="png"))


def _fitting(text: str, inches: float) -> str:
    """Shorten a line in its middle: a path ends with what tells it from others."""
    room = int(inches / _LETTER)
    return text if len(text) <= room else f"{text[: room // 2 - 1]}…{text[-(room // 2) :]}"
