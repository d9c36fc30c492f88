"""Maps beside the boxes that a person drew: figures, with what knows nothing beside them, and some of the images."""

import numpy as np

from eke.report.content import BoxReport
from eke.report.page import Block, Cell, Table, Text
from eke.report.pictures import Image
from eke.report.words import count, difference_cell, percent, rate_cell

COLOR = (0, 230, 118)
"""RGB of a box: a green that neither the heat of a map nor most photographs have."""


def box_blocks(boxes: BoxReport, split: str) -> list[Block]:
    """Say how well maps lie where the objects are, beside a box in the center and random maps, and show some."""
    rows: list[list[Cell | str]] = [
        [
            Cell(row.name, row.note),
            *(rate_cell(each) for each in row.overlap),
            rate_cell(row.pointing[1]),
            rate_cell(row.energy[1]),
        ]
        for row in boxes.rows
    ]
    missed = f" Where its class is missed: {percent(boxes.missed.value)}." if boxes.missed is not None else ""
    blocks: list[Block] = [
        Text(
            f"{count(boxes.n_pairs, 'pair')} of an image and one of its classes with a box, of {split} images; in "
            f"{boxes.n_recognized:,} the class is recognized. Each map explains the class of its pair. Overlap: the "
            "intersection over union of the boxes of the class and of where the map, scaled to [0, 1] and not cut at "
            f"0, is at least 0.5.{missed}"
        ),
        Table(
            f"{boxes.map} beside boxes",
            ["Who marks", "Overlap, recognized", "Overlap, all", "Hottest place on the object, all", "Inside, all"],
            rows,
        ),
        Text(
            "The box in the center is as large as boxes are on average: photographers put objects there. Better "
            "networks recognize more, and harder, pairs, so overlaps of recognized pairs are not of the same images; "
            "common pairs and all pairs are. Inside: the share of what a map says for the class that lies in the boxes."
        ),
    ]
    if boxes.differences:
        cells: list[list[Cell | str]] = [
            [name, f"{n:,}", difference_cell(paired, higher_is_better=True)] for name, paired, n in boxes.differences
        ]
        blocks.append(Table("Overlap, run less baseline, on the same images", ["Pairs", "Number", "Difference"], cells))
    return [*blocks, *boxes.sheets]


def draw_boxes(image: Image, boxes: list[tuple[float, float, float, float]], times: int = 1) -> Image:
    """Draw the outlines of boxes over a copy of an image.

    Args:
        image: (H, W) or (H, W, 3).
        boxes: x0, y0, x1, y1 in pixels from the left upper corner, of the image before it was enlarged.
        times: by which it was enlarged.

    Returns:
        (H, W, 3) uint8.
    """
    drawn = np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image.copy()
    height, width = drawn.shape[:2]
    thick = max(1, round(max(height, width) / 112))
    for box in boxes:
        x0, y0, x1, y1 = (round(each * times) for each in box)
        x0, y0, x1, y1 = max(0, x0), max(0, y0), min(width, x1), min(height, y1)
        for inner in (slice(y0, y0 + thick), slice(max(y0, y1 - thick), y1)):
            drawn[inner, x0:x1] = COLOR
        for inner in (slice(x0, x0 + thick), slice(max(x0, x1 - thick), x1)):
            drawn[y0:y1, inner] = COLOR
    return drawn
