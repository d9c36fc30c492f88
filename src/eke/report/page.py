"""One HTML file that opens anywhere, offline, in light and dark: blocks in, a page out.

A page is a plain value. What a run or a comparison says is decided in `run.py` and `compare.py`; how a table,
a chart or a row of pictures looks is decided in `page.html`, `blocks.html` and `page.css`, and everything is
escaped there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from eke.files import write_atomic
from eke.report.drawing import Chart
from eke.report.pictures import Image, data_uri, is_small
from eke.version import __version__

Tone: TypeAlias = Literal["", "better", "worse", "unsure"]


class Cell(NamedTuple):
    """One cell of a table."""

    text: str
    detail: str = ""
    """Quieter lines under it, parted by line ends: an interval, a p-value."""
    tone: Tone = ""
    bar: float | None = None
    """In [0, 1]: a bar behind the figure."""


@dataclass(frozen=True)
class Text:
    """A paragraph; a "note" stands out quietly, a "warning" clearly."""

    text: str
    tone: Literal["plain", "note", "warning"] = "plain"
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Code:
    """Words for the command line, printed as they are."""

    text: str
    kind: ClassVar[str] = "code"


@dataclass(frozen=True)
class Table:
    """Rows under named columns; the first `n_text` columns are words and wrap, the others figures and do not.

    Rows after `n_shown` are folded away until they are asked for.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    n_text: int = 1
    n_shown: int | None = None
    kind: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.caption!r} has {len(self.columns)} columns, but a row of {len(row)}")

    @property
    def cells(self) -> list[list[Cell]]:
        """All rows with every cell as a `Cell`."""
        return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]


@dataclass(frozen=True)
class Heatmap:
    """A square matrix of counts, row = label, column = prediction; shaded by the share of the row."""

    caption: str
    names: Sequence[str]
    counts: NDArray[np.int64]
    row_totals: NDArray[np.int64]
    """(K,) what a full row adds up to; more than the row's sum where columns were left out."""
    kind: ClassVar[str] = "heatmap"

    @property
    def upright(self) -> bool:
        """Whether the names are short enough to stand upright over their columns."""
        return max(map(len, self.names)) <= 4

    @property
    def rows(self) -> list[tuple[str, list[tuple[int, float]]]]:
        """Per row its name and (count, share of the row) per column."""
        shares = self.counts / np.maximum(self.row_totals, 1)[:, None]
        return [
            (name, list(zip(counts.tolist(), share.tolist(), strict=True)))
            for name, counts, share in zip(self.names, self.counts, shares, strict=True)
        ]


@dataclass(frozen=True)
class Picture:
    """An image with the lines under it; the first line is the most prominent."""

    image: Image
    lines: Sequence[str]
    alt: str
    kind: ClassVar[str] = "picture"

    @property
    def source(self) -> str:
        """The image as a data URI."""
        return data_uri(self.image)

    @property
    def small(self) -> bool:
        """Whether its pixels should show when it is scaled up."""
        return is_small(self.image)


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side."""

    caption: str
    pictures: Sequence[Picture]
    kind: ClassVar[str] = "gallery"


@dataclass(frozen=True)
class Sheet:
    """Pictures in rows with names, such as images by views; without `columns`, these have none, and rows need none."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Picture]]]
    kind: ClassVar[str] = "sheet"


@dataclass(frozen=True)
class Row:
    """Blocks that stand side by side where there is room, and below each other where there is not."""

    blocks: Sequence["Block"]
    kind: ClassVar[str] = "row"


Block: TypeAlias = Text | Code | Table | Heatmap | Gallery | Sheet | Chart | Row


@dataclass(frozen=True)
class Section:
    """A titled part of a page. One without blocks is left out."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """What one HTML file says."""

    title: str
    headline: Sequence[str]
    """Sentences that stand at the top; the first is the largest."""
    facts: Sequence[tuple[str, str]]
    """Short pairs of name and value under the headline."""
    sections: Sequence[Section]


def render(page: Page) -> str:
    """Return the page as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawing"] = Markup  # charts escape their own texts
    sections = [section for section in page.sections if section.blocks]
    return environment.get_template("page.html").render(page=page, sections=sections, version=__version__)


def write_page(path: Path, page: Page) -> None:
    """Write the page as one self-contained UTF-8 file, atomically: a reader never meets half of it.

    Letters that UTF-8 cannot hold (undecodable bytes of a file name) are written as their escapes.
    """
    text = render(page).encode("utf-8", "backslashreplace")
    write_atomic(path, lambda temporary: temporary.write_bytes(text))
