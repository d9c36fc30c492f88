"""Attention maps laid over images: several maps of one image side by side, or runs before and after training."""

from pathlib import Path

from eke.report.agreement import gain_blocks
from eke.report.content import AttentionMap, AttentionReport, ConsistencyReport, ConsistencyRow, Decision, LookReport
from eke.report.page import Block, Cell, Picture, Sheet, Table, Text
from eke.report.sheet import canvas
from eke.report.words import MINUS, count, difference_cell, percent

N_COLUMNS = 6
"""Maps beside the image; where there are more, further rows follow."""

ATTENTION_IN_WORDS = (
    "Each picture is the image below one map: the hotter a place, the more it speaks for the explained class; where "
    "nothing is laid over the image, nothing does. Integrated gradients show in red what speaks for the class and in "
    "blue what speaks against it. Each map has a scale of its own: compare where maps are hot, not how hot."
)
CONSISTENCY_IN_WORDS = (
    "Each row is a run, the first one before, the others after. A consistent network looks at the same place of an "
    "image however it is cut, turned and colored: then the last two pictures of a row are alike. The last is the map "
    "of the original, cut as the augmented view was cut. Agreement is the cosine of these two maps, each around its "
    "mean: 1 where they are proportional, 0 where they have nothing in common. Each map has a scale of its own."
)

_SIDE, _GAP = 1.6, 0.12  # inches of a picture, and between two
_LINE = 0.17  # inches of a line under a picture
_COLUMNS = ("original", "its map", "augmented", "its map", "original’s map, cut")


def attention_sheet(shown: AttentionReport) -> Sheet:
    """Return the image beside each of its maps, in rows of `N_COLUMNS` maps that each begin with the image."""
    original = Picture(shown.image, ("the image",), f"The image itself: {shown.path}")
    pictures = [map_picture(each) for each in shown.maps]
    rows = [pictures[start : start + N_COLUMNS] for start in range(0, len(pictures), N_COLUMNS)]
    words = (named(shown.path, shown.true), *in_words(shown.decision))
    return Sheet(", ".join(words), (), [("", [original, *row]) for row in rows])


def consistency_sheet(shown: ConsistencyReport) -> Sheet:
    """Return a row per run: image, its map, augmented view, its map, and the image's map cut as the view was cut."""
    rows = [(row.name, run_pictures(shown, row)) for row in shown.rows]
    return Sheet(named(shown.path, shown.true), _COLUMNS, rows)


def look_blocks(look: LookReport) -> list[Block]:
    """Say whether attention follows the image and marks what counts, and show it before and after."""
    images = count(look.n_images, f"{look.split} image")
    area = f"{100 * look.area_rate:g} %"
    rows: list[list[Cell | str]] = [
        [
            Cell(row.map, "collapsed" if row.collapsed else ""),
            percent(row.whole),
            percent(row.marked),
            percent(row.box),
            difference_cell(row.difference, higher_is_better=True),
        ]
        for row in look.kept
    ]
    return [
        Text(
            f"Of {images}, without their labels: agreement of the maps of an image and of an augmented view "
            f"{look.agreement:.2f}, flat maps {percent(look.flat_rate)}, variance between images "
            f"{percent(look.spread)} of all variance of the maps (0 where every image has the same map), entropy "
            f"{look.entropy:.2f} nats."
        ),
        Table(
            "Probability of the predicted class where a part of the image is kept",
            ["Map", "Whole image", f"Hottest {area}", "Box in the center", "Difference"],
            rows,
        ),
        Text(
            f"The rest is painted in the mean color. The box has the same area, {area} of the image. A map that is not "
            "seen to be better than the box has not found what the network decides by, however well two views agree."
        ),
        *(gain_blocks(look.agreement_gain) if look.agreement_gain else []),
        *([Text(ATTENTION_IN_WORDS)] if look.explanations else []),
        *look.explanations,
        Text(CONSISTENCY_IN_WORDS),
        *(consistency_sheet(sheet) for sheet in look.sheets),
    ]


def map_picture(shown: AttentionMap) -> Picture:
    """Return a map with its name, its layer and size, and why nothing is seen where that is so."""
    h, w = shown.size
    lines = (shown.map, f"{shown.layer}, {h}×{w}", *filter(None, [shown.remark]))
    return Picture(shown.image, lines, f"{shown.map} of {shown.layer}")


def run_pictures(shown: ConsistencyReport, row: ConsistencyRow) -> list[Picture]:
    """Return the five pictures of a run; under the image stands what it is taken for, under the last the agreement."""
    agreement = "none: a map is flat" if row.agreement is None else f"{row.agreement:.2f}".replace("-", MINUS)
    lines = (row.map, row.map, f"agreement {agreement}")
    of = ("the image", "the augmented view", "the image, cut as the view")
    maps = [
        Picture(image, (line, *filter(None, [remark])), f"{row.map} of {what}, {row.name}")
        for (image, remark), line, what in zip(row.maps, lines, of, strict=True)
    ]
    original = Picture(shown.image, in_words(row.decision), f"The image itself: {shown.path}")
    return [original, maps[0], Picture(shown.augmented, (), "Its augmented view"), *maps[1:]]


def named(path: str, true: str | None) -> str:
    """Print "a.png, labeled cat", or the path alone where no label is known."""
    return path if true is None else f"{path}, labeled {true}"


def in_words(decision: Decision) -> tuple[str, ...]:
    """Print "taken for dog (83.0 %)" and "explained: cat (12.0 %)"."""
    same = decision.explained == decision.predicted
    explained = "" if same else f" ({percent(decision.explained_probability)})"
    taken = f"taken for {decision.predicted} ({percent(decision.probability)})"
    return taken, f"explained: {decision.explained}{explained}"


def write_sheet(path: Path, sheet: Sheet) -> None:
    """Write a sheet as a PNG file: its caption, the names of columns, and each row with its name above."""
    n_columns = max(len(pictures) for _, pictures in sheet.rows)
    width = max(4, n_columns) * (_SIDE + _GAP) + 0.1
    heading = 0.42 + (_LINE if sheet.columns else 0)
    heights = [
        (0.24 if name else 0) + _SIDE + _LINE * max(len(picture.lines) for picture in pictures) + _GAP
        for name, pictures in sheet.rows
    ]
    with canvas(path, width, heading + sum(heights)) as figure:
        figure.write(0.1, 0.1, sheet.caption, width - 0.2, fontweight="bold")
        for column, name in enumerate(sheet.columns):
            figure.write(_left(column), 0.38, name, _SIDE + _GAP, size=8, color="#666666")
        top = heading
        for (name, pictures), height in zip(sheet.rows, heights, strict=True):
            if name:
                figure.write(0.1, top, name, width - 0.2)
            above = top + (0.24 if name else 0)
            for column, picture in enumerate(pictures):
                figure.draw(_left(column), above, _SIDE, picture.image, cmap="gray", vmin=0, vmax=255)
                for number, line in enumerate(picture.lines):
                    below = above + _SIDE + 0.04 + number * _LINE
                    figure.write(_left(column), below, line, _SIDE + _GAP, size=8, color=_ink(number))
            top += height


def _left(column: int) -> float:
    return 0.1 + column * (_SIDE + _GAP)


def _ink(line: int) -> str:
    return "#666666" if line else "#111111"
