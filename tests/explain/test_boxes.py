"""Figures of maps beside boxes: equal to loops over pixels, and what is known beforehand comes out."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from eke.errors import ConfigError, DataError
from eke.explain.boxes import (
    box_mask,
    center_figures,
    energy_inside,
    figures,
    overlap,
    pointing_game,
    threshold_sweep,
)
from eke.explain.places import enlarged, random_maps
from eke.explain.scale import center_box

SIZE = (24, 30)


def some_masks(n: int, size: tuple[int, int] = SIZE, seed: int = 0) -> Tensor:
    generator = np.random.default_rng(seed)
    masks = []
    for _ in range(n):
        corners = generator.uniform(0, 1, (generator.integers(1, 4), 2, 2)) * [size[1], size[0]]
        low = np.minimum(corners.min(1), [size[1] - 2, size[0] - 2])
        masks.append(box_mask(torch.from_numpy(np.concatenate([low, np.maximum(corners.max(1), low + 1)], 1)), size))
    return torch.stack(masks)


# ------------------------------------------------------------------ boxes


def slow_mask(boxes: list[tuple[float, ...]], size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, bool)
    for y, x in np.ndindex(size):
        mask[y, x] = any(x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1 for x0, y0, x1, y1 in boxes)
    return mask


@pytest.mark.parametrize(
    "boxes",
    [
        [(0, 0, 30, 24)],
        [(2, 3, 9, 5)],
        [(2, 3, 9, 5), (7, 4, 12, 20), (25, 0, 26, 1)],
        [(1.5, 2.5, 8.5, 9.5)],
        [(1.4, 2.6, 8.51, 9.49)],
        [(-7, -3, 4, 5), (28.2, 20, 99, 99)],
        [(-1e9, 3, 1e9, 4)],
    ],
)
def test_the_mask_is_the_union_of_the_boxes(boxes: list[tuple[float, ...]]) -> None:
    mask = box_mask(torch.tensor(boxes), SIZE)
    assert mask.dtype == torch.bool
    np.testing.assert_array_equal(mask.numpy(), slow_mask(boxes, SIZE))


def test_whole_pixels_and_their_number() -> None:
    mask = box_mask(torch.tensor([[2, 3, 9, 5]]), SIZE)
    assert mask.sum() == 7 * 2
    assert mask[3:5, 2:9].all()


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ((4.6, 7.7, 4.9, 7.8), {(7, 4)}),
        ((4.6, 7.0, 5.4, 9.0), {(7, 5), (8, 5)}),
        ((29.9, 23.99, 55, 66), {(23, 29)}),
        ((4, 7.2, 7, 7.3), {(7, 4), (7, 5), (7, 6)}),
        ((2.5, 1.5, 3.5, 2.5), {(1, 2)}),
    ],
)
def test_a_box_without_a_center_of_a_pixel_marks_where_its_middle_is(box, pixels) -> None:
    mask = box_mask(torch.tensor([box]), SIZE)
    assert {tuple(place) for place in mask.nonzero().tolist()} == pixels


def test_no_box_marks_nothing() -> None:
    mask = box_mask(torch.zeros(0, 4), SIZE)
    assert mask.shape == SIZE
    assert not mask.any()


@pytest.mark.parametrize(
    "box",
    [
        (9, 3, 2, 5),
        (2, 5, 9, 3),
        (2, 3, 2, 5),
        (2, 3, 9, 3),
        (30, 3, 35, 5),
        (-5, 3, 0, 5),
        (2, 24, 9, 30),
        (2, -9, 9, 0),
        (2, 3, math.nan, 5),
        (2, 3, math.inf, 5),
    ],
)
def test_a_box_that_marks_nothing_is_named(box: tuple[float, ...]) -> None:
    boxes = torch.tensor([(0, 0, 1, 1), box, (9, 9, 8, 8)], dtype=torch.float32)
    with pytest.raises(DataError, match=rf"Box 1 \(x0 {box[0]:g}, y0 {box[1]:g}.* of 30 x 24 pixels"):
        box_mask(boxes, SIZE)


@pytest.mark.parametrize("shape", [(4,), (2, 5), (1, 2, 4)])
def test_boxes_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"\(boxes, 4\) is needed"):
        box_mask(torch.zeros(shape), SIZE)


# ------------------------------------------------------------------ overlap


def slow_overlap(map_: Tensor, mask: Tensor, relu: bool, threshold: float) -> float:
    heat = enlarged((map_.clamp(min=0) if relu else map_)[None], (mask.shape[0], mask.shape[1]))[0].double()
    if heat.max() == heat.min():
        return 0.0
    both = either = 0
    for y, x in np.ndindex(*mask.shape):
        unit = np.float32((heat[y, x] - heat.min()) / (heat.max() - heat.min()))
        marked, inside = bool(unit >= np.float32(threshold)), bool(mask[y, x])
        both += marked and inside
        either += marked or inside
    return both / either


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
def test_overlap_equals_the_pixel_loop(threshold: float, relu: bool) -> None:
    maps, masks = torch.randn(4, 3, 4) - 0.2, some_masks(4)
    want = [slow_overlap(*pair, relu, threshold) for pair in zip(maps, masks, strict=True)]
    assert overlap(maps, masks, relu, threshold).tolist() == pytest.approx(want, rel=1e-12)


def test_one_half_is_the_default_threshold_and_a_place_exactly_at_it_counts() -> None:
    maps = torch.tensor([[[0.0, 1.0], [2.0, 0.9]]])
    masks = torch.tensor([[[False, True], [True, True]]])
    assert overlap(maps, masks).tolist() == [2 / 3]


def test_a_perfect_map_overlaps_wholly() -> None:
    masks = some_masks(5)
    assert overlap(masks.float() * 3 - 1, masks).tolist() == [1] * 5


@pytest.mark.parametrize("shift", [0, 1, 3, 6, 9])
def test_a_shifted_box_overlaps_by_what_is_left(shift: int) -> None:
    drawn, marked = (box_mask(torch.tensor([[x, 4, x + 6, 10]]), SIZE)[None] for x in (5, 5 + shift))
    left = max(0, 6 - shift)
    assert overlap(marked.float(), drawn).tolist() == [pytest.approx(left / (12 - left))]


def test_relu_moves_the_zero_of_the_scale() -> None:
    maps = torch.tensor([[[-4.0, 1.0, 2.0, 0.5]]])
    masks = torch.tensor([[[False, True, True, False]]])
    assert overlap(maps, masks).tolist() == [2 / 3], "from -4 to 2 the middle is -1"
    assert overlap(maps, masks, relu=True).tolist() == [1], "from 0 to 2 it is 1"


def test_an_image_has_a_scale_of_its_own() -> None:
    maps, masks = torch.randn(3, 4, 4), some_masks(3)
    scaled = maps * torch.tensor([1.0, 1e-6, 1e6])[:, None, None] + torch.tensor([0.0, 0.0, 1e6])[:, None, None]
    torch.testing.assert_close(overlap(scaled, masks), overlap(maps, masks), rtol=0, atol=0.02)


@pytest.mark.parametrize("maps", [torch.full((1, 3, 3), 0.4), torch.zeros(1, 3, 3)])
def test_a_flat_map_finds_nothing(maps: Tensor) -> None:
    masks = some_masks(1)
    assert overlap(maps, masks, threshold=0.0).tolist() == [0]
    assert not threshold_sweep(maps, masks).any()
    assert [each.tolist() for each in figures(maps, masks)] == [[0], [0], [0]]


def test_a_map_below_zero_everywhere_is_flat_with_relu() -> None:
    maps, masks = -torch.rand(2, 3, 3) - 0.1, some_masks(2)
    assert overlap(maps, masks, relu=True).tolist() == [0, 0]
    assert overlap(maps, masks).all()
    assert energy_inside(maps, masks).tolist() == [0, 0]


@pytest.mark.parametrize("relu", [False, True])
def test_the_sweep_is_the_overlap_at_each_threshold(relu: bool) -> None:
    maps, masks = torch.randn(3, 4, 5), some_masks(3)
    sweep = threshold_sweep(maps, masks, relu)
    assert sweep.shape == (3, 101)
    for j in (0, 1, 7, 29, 50, 57, 58, 99, 100):
        assert torch.equal(sweep[:, j], overlap(maps, masks, relu, j / 100)), j
    assert sweep[:, 0].tolist() == pytest.approx(masks.float().mean((1, 2)).tolist()), "0 marks everything"


def test_the_sweep_of_places_exactly_at_thresholds() -> None:
    maps = torch.arange(101).float().view(1, 1, 101) / 100
    masks = torch.ones(1, 1, 101, dtype=torch.bool)
    assert threshold_sweep(maps, masks)[0].tolist() == pytest.approx([(101 - j) / 101 for j in range(101)])


# ------------------------------------------------------------------ pointing game, energy


def slow_pointing(map_: Tensor, mask: Tensor, tolerance: float) -> float:
    heat = enlarged(map_[None], (mask.shape[0], mask.shape[1]))[0]
    hits = []
    for y, x in (heat == heat.max()).nonzero().tolist():
        nearest = min(math.dist((y, x), place) for place in mask.nonzero().tolist())
        hits.append(nearest == 0 or nearest < tolerance)
    return sum(hits) / len(hits)


@pytest.mark.parametrize("tolerance", [0, 1, 2.5, 5, 15])
def test_the_pointing_game_equals_the_pixel_loop(tolerance: float) -> None:
    maps, masks = torch.randn(40, 4, 5), some_masks(40)
    masks &= torch.rand(masks.shape) < (0.4 if tolerance < 2 else 0.05)
    keep = masks.any(2).any(1)
    maps, masks = maps[keep], masks[keep]
    want = [slow_pointing(*pair, tolerance) for pair in zip(maps, masks, strict=True)]
    got = pointing_game(maps, masks, tolerance)
    assert got.tolist() == pytest.approx(want)
    assert tolerance == 15 or 0 < float(got.mean()) < 1


def test_a_hit_is_a_circle_around_the_place() -> None:
    maps = torch.zeros(1, 21, 21)
    maps[0, 10, 10] = 1
    for (y, x), distance in {(10, 10): 0, (13, 14): 5, (10, 15): 5, (6, 6): math.sqrt(32)}.items():
        mask = torch.zeros(1, 21, 21, dtype=torch.bool)
        mask[0, y, x] = True
        assert pointing_game(maps, mask, distance + 0.01).tolist() == [1]
        assert pointing_game(maps, mask, distance).tolist() == [float(distance == 0)]


def test_fifteen_pixels_are_the_default_tolerance() -> None:
    maps = torch.zeros(2, 1, 40)
    maps[:, 0, 5] = 1
    masks = torch.zeros(2, 1, 40, dtype=torch.bool)
    masks[0, 0, 19] = masks[1, 0, 20] = True
    assert pointing_game(maps, masks).tolist() == [1, 0]


def test_equally_hot_places_share_the_hit() -> None:
    maps = torch.zeros(1, 4, 4)
    maps[0, 0, 0] = maps[0, 3, 3] = maps[0, 0, 3] = maps[0, 3, 0] = 2
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 3, 3] = True
    assert pointing_game(maps, mask, tolerance=0).tolist() == [0.25]


@pytest.mark.parametrize("axis", [1, 2])
def test_figures_do_not_depend_on_which_side_is_left(axis: int) -> None:
    maps, masks = torch.randn(30, 3, 5), some_masks(30)
    for one, other in zip(
        figures(maps, masks, tolerance=2), figures(maps.flip(axis), masks.flip(axis), tolerance=2), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_energy_equals_the_pixel_loop(dtype: torch.dtype) -> None:
    maps, masks = torch.randn(4, 3, 4).to(dtype), some_masks(4)
    got = energy_inside(maps, masks)
    for map_, mask, share in zip(maps, masks, got, strict=True):
        heat = enlarged(map_.clamp(min=0)[None], SIZE)[0].double()
        inside = sum(float(heat[y, x]) for y, x in mask.nonzero().tolist())
        assert float(share) == pytest.approx(inside / float(heat.sum()))


def test_energy_of_a_map_inside_the_boxes_is_one_and_outside_zero() -> None:
    masks = some_masks(4)
    assert energy_inside(masks.float(), masks).tolist() == [1] * 4
    assert energy_inside((~masks).float() - 2.0 * masks, masks).tolist() == [0] * 4


# ------------------------------------------------------------------ baselines


def test_the_center_box_is_exact() -> None:
    masks = torch.zeros(2, 10, 20, dtype=torch.bool)
    masks[0, 3:7, 6:14] = True  # 32 of 200 pixels in the middle
    masks[1, :, :10] = True
    got = center_figures(masks, 0.16, tolerance=0)
    assert got.overlap.tolist() == pytest.approx([1, 16 / (100 + 32 - 16)])
    assert got.energy.tolist() == pytest.approx([1, 0.5])
    assert got.pointing.tolist() == [1, 0.5], "the middle is four pixels"


@pytest.mark.parametrize("area_rate", [0.001, 0.1, 0.37, 0.9, 1.0])
@pytest.mark.parametrize("size", [(7, 5), (8, 12)])
def test_the_center_box_equals_areas_counted_on_a_fine_grid(size: tuple[int, int], area_rate: float) -> None:
    masks = some_masks(3, size)
    got = center_figures(masks, area_rate)
    for i, mask in enumerate(masks):
        inside = sum(float(center_box(*size, area_rate)[y, x]) for y, x in mask.nonzero().tolist())
        area = area_rate * mask.numel()
        assert float(got.overlap[i]) == pytest.approx(inside / (area + int(mask.sum()) - inside), rel=1e-5)
        assert float(got.energy[i]) == pytest.approx(inside / area, rel=1e-5)


def test_the_center_points_at_the_middle() -> None:
    masks = torch.zeros(1, 9, 9, dtype=torch.bool)
    masks[0, 4, 7] = True
    assert center_figures(masks, 0.1, tolerance=3).pointing.tolist() == [0]
    assert center_figures(masks, 0.1, tolerance=3.1).pointing.tolist() == [1]


@pytest.mark.parametrize(("y", "x"), [(1, 3), (1, 4), (2, 3), (2, 4)])
def test_the_middle_of_an_even_image_is_four_pixels(y: int, x: int) -> None:
    masks = torch.zeros(1, 4, 8, dtype=torch.bool)
    masks[0, y, x] = True
    assert center_figures(masks, 0.1, tolerance=0).pointing.tolist() == [0.25]


def test_a_map_that_knows_beats_the_center_and_the_center_beats_chance() -> None:
    size = (32, 32)
    generator = np.random.default_rng(0)
    middle = 16 + generator.normal(0, 4, (100, 2))
    boxes = torch.from_numpy(np.concatenate([middle - 6, middle + 6], 1))
    masks = torch.stack([box_mask(box[None], size) for box in boxes])
    knowing = torch.nn.functional.avg_pool2d(masks.float()[:, None], 4)[:, 0]
    chance = figures(random_maps(100, (8, 8), seed=0), masks, tolerance=2)
    center = center_figures(masks, float(masks.float().mean()), tolerance=2)
    known = figures(knowing, masks, tolerance=2)
    for worse, better in pairwise((chance, center, known)):
        for one, other in zip(worse, better, strict=True):
            assert one.mean() + 0.02 < other.mean()
    assert float(chance.energy.mean()) == pytest.approx(float(masks.float().mean()), abs=0.01)


def test_figures_are_the_three() -> None:
    maps, masks = torch.randn(4, 3, 3), some_masks(4)
    got = figures(maps, masks, relu=True, threshold=0.3, tolerance=1)
    assert torch.equal(got.overlap, overlap(maps, masks, True, 0.3))
    assert torch.equal(got.pointing, pointing_game(maps, masks, 1))
    assert torch.equal(got.energy, energy_inside(maps, masks))
    assert all(each.dtype == torch.float64 and each.shape == (4,) for each in got)


@pytest.mark.parametrize("area_rate", [0.0, 1.1])
def test_a_center_box_of_no_area_is_refused(area_rate: float) -> None:
    with pytest.raises(ConfigError, match="area_rate"):
        center_figures(some_masks(1), area_rate)


# ------------------------------------------------------------------ what does not belong together


@pytest.mark.parametrize("measure", [overlap, threshold_sweep, pointing_game, energy_inside])
def test_wrong_maps_and_masks_are_refused(measure) -> None:
    masks = some_masks(3)
    for maps in (torch.randn(2, 3, 3), torch.randn(3, 1, 3, 3)):
        with pytest.raises(DataError, match="one mask for each map"):
            measure(maps, masks)
    with pytest.raises(DataError, match=r"torch\.bool"):
        measure(torch.randn(3, 3, 3), masks.float())
    masks[1] = False
    with pytest.raises(DataError, match="Mask 1 marks no pixel"):
        measure(torch.randn(3, 3, 3), masks)
    masks[1] = True
    with pytest.raises(DataError, match="Map 2 is not finite"):
        measure(torch.tensor([0.0, 1.0, math.nan])[:, None, None].repeat(1, 3, 3), masks)


def test_no_pair_at_all_is_fine() -> None:
    maps, masks = torch.zeros(0, 3, 3), torch.zeros(0, *SIZE, dtype=torch.bool)
    assert [each.shape for each in figures(maps, masks)] == [(0,)] * 3
    assert threshold_sweep(maps, masks).shape == (0, 101)


def test_maps_in_a_graph_are_measured_without_one() -> None:
    maps, masks = torch.randn(2, 3, 3, requires_grad=True), some_masks(2)
    assert not any(each.requires_grad for each in figures(maps, masks))
