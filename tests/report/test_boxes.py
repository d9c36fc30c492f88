import math

import numpy as np
import pytest

from eke.metrics.statistics import Interval, Paired
from eke.report.boxes import COLOR, box_blocks, draw_boxes
from eke.report.content import BoxReport, BoxRow
from eke.report.page import Sheet, Table, Text


def outline(shape, box, thick=1):
    """(H, W) bool: pixels of a box x0, y0, x1, y1 that are less than `thick` from its edge, one by one."""
    x0, y0, x1, y1 = box
    marked = np.zeros(shape, bool)
    for y in range(max(0, y0), min(shape[0], y1)):
        for x in range(max(0, x0), min(shape[1], x1)):
            inner = min(x - max(0, x0), min(shape[1], x1) - 1 - x, y - max(0, y0), min(shape[0], y1) - 1 - y)
            marked[y, x] = inner < thick
    return marked


def marked(drawn):
    return (drawn == COLOR).all(-1)


@pytest.mark.parametrize(
    "box",
    [
        (2, 3, 9, 8),
        (0, 0, 20, 12),
        (4, 5, 5, 6),
        (3, 2, 4, 9),
        (-4, -2, 6, 5),
        (15, 8, 30, 40),
        (-5, -5, 50, 50),
    ],
)
def test_the_outline_lies_inside_the_box_and_the_image(box):
    image = np.full((12, 20, 3), 77, np.uint8)
    drawn = draw_boxes(image, [box])
    wanted = outline((12, 20), box)
    assert (marked(drawn) == wanted).all()
    assert (drawn[~wanted] == 77).all()


def test_boxes_are_in_pixels_of_the_image_before_it_was_enlarged():
    image = np.zeros((24, 36, 3), np.uint8)
    drawn = draw_boxes(image, [(1.4, 2, 5.3, 6), (7, 1, 40, 4)], times=3)
    assert (marked(drawn) == outline((24, 36), (4, 6, 16, 18)) | outline((24, 36), (21, 3, 120, 12))).all()


def test_lines_are_thicker_on_larger_images_by_their_longer_side():
    box = (10, 20, 60, 80)
    for shape, thick in (((90, 224), 2), ((336, 100), 3), ((112, 112), 1)):
        assert (marked(draw_boxes(np.zeros((*shape, 3), np.uint8), [box])) == outline(shape, box, thick)).all()
    thin = draw_boxes(np.zeros((224, 224, 3), np.uint8), [(0, 0, 1, 50), (100, 0, 150, 1)])
    assert not marked(thin)[:, -10:].any(), "what is thinner than its line does not wrap around"
    assert not marked(thin)[-10:].any()
    inner = draw_boxes(np.zeros((224, 224, 3), np.uint8), [(100, 80, 101, 81)])
    assert np.argwhere(marked(inner)).min(0).tolist() == [80, 100], "nor does it begin before its box"


def test_a_gray_image_becomes_a_colored_one_and_the_original_is_untouched():
    gray = np.arange(48, dtype=np.uint8).reshape(6, 8)
    drawn = draw_boxes(gray, [(1, 1, 4, 4)])
    assert drawn.shape == (6, 8, 3)
    assert drawn.dtype == np.uint8
    outside = ~outline((6, 8), (1, 1, 4, 4))
    assert (drawn[outside] == gray[outside][:, None]).all()
    colored = np.zeros((6, 8, 3), np.uint8)
    draw_boxes(colored, [(1, 1, 4, 4)])
    assert not colored.any()
    assert (draw_boxes(colored, []) == colored).all()


# ------------------------------------------------------------------ what the page says


def interval(percent):
    return Interval(percent / 100, percent / 100 - 0.01, percent / 100 + 0.01)


def report(**changes):
    rows = [
        BoxRow(name, note, (interval(n), interval(n + 1)), (None, interval(n + 2)), (None, interval(n + 3)))
        for name, note, n in (("baseline", "", 20), ("run", "ours", 30), ("random maps", "", 10))
    ]
    values = {"map": "gradcam@layer4", "n_pairs": 1234, "n_recognized": 1001, "missed": interval(7), "rows": rows}
    return BoxReport(**(values | changes))


def words(blocks):
    return " ".join(block.text for block in blocks if isinstance(block, Text))


def tables(blocks):
    return [block for block in blocks if isinstance(block, Table)]


def test_pairs_and_who_marks_them_are_said():
    blocks = box_blocks(report(), "test")
    said = words(blocks)
    for each in ("1,234 pairs", "of test images", "in 1,001 the class is recognized", "is missed: 7.0 %"):
        assert each in said
    (table,) = tables(blocks)
    assert table.caption == "gradcam@layer4 beside boxes"
    assert [row[0] for row in table.rows] == [
        ("baseline", "", "", None),
        ("run", "ours", "", None),
        ("random maps", "", "", None),
    ]
    assert [cell.text for cell in table.rows[1][1:]] == ["30.0 %", "31.0 %", "32.0 %", "33.0 %"]
    assert table.rows[1][1].detail == "29.0 to 31.0"


def test_what_was_not_measured_is_a_dash_or_left_out():
    nothing = BoxRow("run", "", (None, interval(5)), (None, None), (None, None))
    single = BoxRow("one run", "", (Interval(0.4, math.nan, math.nan), interval(5)), (None, None), (None, None))
    blocks = box_blocks(report(n_pairs=1, n_recognized=0, missed=None, rows=[nothing, single]), "validation")
    assert "1 pair of" in words(blocks)
    assert "is missed" not in words(blocks)
    (table,) = tables(blocks)
    assert [cell.text for cell in table.rows[0][1:]] == ["–", "5.0 %", "–", "–"]
    assert (table.rows[1][1].text, table.rows[1][1].detail) == ("40.0 %", "no interval from one run")


def test_differences_and_pictures_follow():
    better = Paired(Interval(0.05, 0.02, 0.08), 0.004)
    worse = Paired(Interval(-0.05, -0.08, -0.02), 0.004)
    sheets = [Sheet("one", (), []), Sheet("two", (), [])]
    blocks = box_blocks(report(differences=[("all", better, 1200), ("recognized", worse, 9)], sheets=sheets), "test")
    assert blocks[-2:] == sheets
    _, table = tables(blocks)
    assert [row[:2] for row in table.rows] == [["all", "1,200"], ["recognized", "9"]]
    assert [row[2].tone for row in table.rows] == ["better", "worse"]
    assert table.rows[0][2].detail == "+2.0 to +8.0\np = 0.004"
