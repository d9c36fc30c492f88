"""Does a map lie where the object is? Maps beside boxes that a person drew.

Row n of the maps (N, h, w) explains the class whose boxes in image n are `masks[n]`, (N, H, W) bool: one row for each
pair of an image and a class. Maps are enlarged bilinearly to the masks. Figures are per row, in [0, 1], higher where a
map lies better; `eke.metrics.localization` picks the pairs and averages. A flat map has no place, and finds nothing: 0
in every figure. No figure says much alone: lay those of a box in the center (`center_figures`) and of random maps
(`figures(random_maps(...), masks)`) beside it. About 40 bytes a pixel are needed at once, so give rows in batches.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from eke.errors import DataError
from eke.explain.activations import scaled_to_unit
from eke.explain.places import enlarged
from eke.explain.scale import center_box

N_THRESHOLDS = 101
"""Of `threshold_sweep`: 0, 0.01, ... 1."""
TOLERANCE = 15.0
"""Pixels, of images of about 224 x 224 and more."""


class Figures(NamedTuple):
    """How well each map lies, each (N,) float64 in [0, 1]."""

    overlap: Tensor
    pointing: Tensor
    energy: Tensor


def box_mask(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Rasterize the union of boxes. A pixel belongs to a box that its center lies in.

    A box too small or thin for the center of any pixel marks the pixels that its own middle lies in, so that no box is
    lost when an image is made small.

    Args:
        boxes: (M, 4) x0, y0, x1, y1 in pixels from the image's left upper corner: its first pixel is 0, 0, 1, 1. What
            lies outside of the image is cut off. M may be 0.
        size: (H, W) of the image.

    Returns:
        (H, W) bool, on the boxes' device.

    Raises:
        DataError: the boxes are not (M, 4); one is inverted, without area, not finite or all outside of the image.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise DataError(f"Boxes have shape {tuple(boxes.shape)}; (boxes, 4) is needed: x0, y0, x1, y1 of each.")
    h, w = size
    corners = boxes.double()
    limits = torch.tensor([w, h], dtype=torch.float64, device=boxes.device)
    low, high = (each.clamp(min=0).minimum(limits) for each in (corners[:, :2], corners[:, 2:]))
    usable = (low < high).all(1) & corners.isfinite().all(1)
    if not usable.all():
        first = int((~usable).nonzero()[0])
        x0, y0, x1, y1 = corners[first].tolist()
        raise DataError(
            f"Box {first} (x0 {x0:g}, y0 {y0:g}, x1 {x1:g}, y1 {y1:g}) marks nothing of an image of {w} x {h} pixels: "
            "x0 < x1 and y0 < y1 are needed, and some of the box inside the image."
        )
    columns, rows = _covers(w, low[:, 0], high[:, 0]), _covers(h, low[:, 1], high[:, 1])
    return (rows[:, :, None] & columns[:, None, :]).any(0)


def _covers(n: int, low: Tensor, high: Tensor) -> Tensor:
    """Say which of n pixels in a row each interval covers, one at least: (M, n) bool of two (M,)."""
    pixel = torch.arange(n, device=low.device)
    center = pixel + 0.5
    covered = (center >= low[:, None]) & (center < high[:, None])
    middle = pixel == ((low + high) / 2).floor()[:, None]
    return torch.where(covered.any(1, keepdim=True), covered, middle)


def overlap(maps: Tensor, masks: Tensor, relu: bool = False, threshold: float = 0.5) -> Tensor:
    """Measure the intersection over union of what a map marks and of the boxes.

    The enlarged map is brought to [0, 1], its lowest place to 0 and its hottest to 1; it marks where it is at least
    `threshold`.

    Source: Mirzazadeh et al. 2022 (arXiv:2210.09705), section 4.4. The order of the steps, the union of several boxes
    and the flat map are ours.

    Args:
        maps: (N, h, w) floats.
        masks: (N, H, W) bool, each with a pixel.
        relu: cut what is below 0 before enlarging. A map with values of both signs has its 0 elsewhere on the scale
            with it than without it, so that figures of the two are not comparable.
        threshold: in [0, 1].

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        DataError: maps and masks do not belong together, a mask is empty, or a map is not finite.
    """
    return _overlaps(maps, masks, relu, torch.tensor([threshold]))[:, 0]


def threshold_sweep(maps: Tensor, masks: Tensor, relu: bool = False) -> Tensor:
    """Measure the overlap at each threshold 0, 0.01, ... 1, so that no map suffers from a threshold made for others.

    One threshold is then chosen for all images (`eke.metrics.localization.best_threshold`), as MaxBoxAcc does (Choe
    et al. 2020, arXiv:2001.07437), with the mean overlap in place of the rate of boxes found.

    Args:
        maps: (N, h, w) floats.
        masks: (N, H, W) bool, each with a pixel.
        relu: as of `overlap`.

    Returns:
        (N, 101) float64 in [0, 1].

    Raises:
        DataError: as of `overlap`.
    """
    thresholds = torch.arange(N_THRESHOLDS, dtype=torch.float64) / (N_THRESHOLDS - 1)
    return _overlaps(maps, masks, relu, thresholds.float())


@torch.no_grad()
def _overlaps(maps: Tensor, masks: Tensor, relu: bool, thresholds: Tensor) -> Tensor:
    """Return (N, T) overlaps at (T,) ascending thresholds, from one histogram of each map's places."""
    masks = _checked(maps, masks)
    heat = enlarged(maps.clamp(min=0) if relu else maps, (masks.shape[1], masks.shape[2]))
    n_reached = torch.bucketize(scaled_to_unit(heat).flatten(1), thresholds.to(heat.device), right=True)
    n, n_bins = len(maps), len(thresholds) + 1
    row = torch.arange(n, device=heat.device)[:, None]
    bins = (2 * row + masks.flatten(1)) * n_bins + n_reached
    counts = torch.bincount(bins.flatten(), minlength=2 * n * n_bins).view(n, 2, n_bins)
    outside, inside = counts.flip(2).cumsum(2).flip(2)[:, :, 1:].double().unbind(1)
    overlaps = inside / (outside + masks.sum((1, 2))[:, None])
    flat = heat.amax((1, 2)) == heat.amin((1, 2))
    return torch.where(flat[:, None], 0.0, overlaps)


@torch.no_grad()
def pointing_game(maps: Tensor, masks: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Say whether the hottest place of a map lies on the object, or less than `tolerance` pixels beside it.

    Where several places are equally hot, it is the share of them that hit, what one drawn from them can expect: the
    peak of a map enlarged by an even factor is four pixels.

    Source: Zhang et al. 2016 (arXiv:1608.00507), with the circle of TorchRay (Fong et al. 2019, arXiv:1910.08485): the
    distance to the nearest pixel of the mask, from center to center.

    Args:
        maps: (N, h, w) floats.
        masks: (N, H, W) bool, each with a pixel.
        tolerance: pixels of the masks, whatever their size; 0 for hits on the object only. 15 are the custom for images
            of about 224 x 224 and more; smaller images need fewer in proportion, for a map would hit nearly anywhere.

    Returns:
        (N,) float64: 1 a hit, 0 a miss, between them where hottest places differ.

    Raises:
        DataError: as of `overlap`.
    """
    masks = _checked(maps, masks)
    heat = enlarged(maps, (masks.shape[1], masks.shape[2]))
    hottest, coldest = heat.amax((1, 2), keepdim=True), heat.amin((1, 2), keepdim=True)
    return _near_rate((heat == hottest) & (hottest > coldest), masks, tolerance)


def _near_rate(places: Tensor, masks: Tensor, tolerance: float) -> Tensor:
    """Return the share of places (N, H, W) that lie on the mask or less than `tolerance` beside it; 0 of none."""
    from scipy.ndimage import distance_transform_edt

    near = torch.zeros(masks.shape, dtype=torch.bool)
    for row, mask in zip(near, masks.cpu().numpy(), strict=True):
        row[:] = torch.from_numpy(mask | (distance_transform_edt(~mask) < tolerance))
    n_near = (places & near.to(places.device)).sum((1, 2)).double()
    return n_near / places.sum((1, 2)).clamp(min=1)


@torch.no_grad()
def energy_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """Measure the share of a map's positive part that lies inside the boxes: no threshold, and no single hottest place.

    Source: Wang et al. 2020 (Score-CAM, arXiv:1910.01279), section 4.3, here with the union of several boxes.

    Args:
        maps: (N, h, w) floats; what is below 0 is cut before enlarging.
        masks: (N, H, W) bool, each with a pixel.

    Returns:
        (N,) float64 in [0, 1]; a map spread evenly would have the masks' share of the area.

    Raises:
        DataError: as of `overlap`.
    """
    masks = _checked(maps, masks)
    heat = enlarged(maps.clamp(min=0), (masks.shape[1], masks.shape[2])).double()
    total = heat.sum((1, 2))
    return (heat * masks).sum((1, 2)) / torch.where(total > 0, total, 1.0)


def figures(
    maps: Tensor, masks: Tensor, relu: bool = False, threshold: float = 0.5, tolerance: float = TOLERANCE
) -> Figures:
    """Return `overlap`, `pointing_game` and `energy_inside` of maps; see there."""
    return Figures(
        overlap(maps, masks, relu, threshold), pointing_game(maps, masks, tolerance), energy_inside(maps, masks)
    )


@torch.no_grad()
def center_figures(masks: Tensor, area_rate: float, tolerance: float = TOLERANCE) -> Figures:
    """Return the figures of a box in the center, where photographers put objects: what is found without looking.

    The box is no map: its borders fall between pixels, and areas are counted exactly. It points at the middle of the
    image.

    Args:
        masks: (N, H, W) bool, each with a pixel.
        area_rate: the box's share of the area, in (0, 1]. The mean of all masks of a data set, for a figure that
            depends on no network.
        tolerance: as of `pointing_game`.

    Raises:
        ConfigError: `area_rate` is out of range.
        DataError: a mask is empty.
    """
    _, h, w = masks.shape
    masks = _checked(masks, masks)
    box = center_box(h, w, area_rate).double().to(masks.device)
    inside = (box * masks).sum((1, 2))
    middle = torch.zeros_like(masks)
    middle[:, (h - 1) // 2 : h // 2 + 1, (w - 1) // 2 : w // 2 + 1] = True
    return Figures(
        overlap=inside / (box.sum() + masks.sum((1, 2)) - inside),
        pointing=_near_rate(middle, masks, tolerance),
        energy=inside / box.sum(),
    )


def _checked(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the masks on the maps' device."""
    if maps.ndim != 3 or masks.ndim != 3 or len(maps) != len(masks) or masks.dtype != torch.bool:
        raise DataError(
            f"Maps of shape {tuple(maps.shape)} do not belong to masks of shape {tuple(masks.shape)} and type "
            f"{masks.dtype}: (N, h, w) and (N, H, W) torch.bool are needed, one mask for each map."
        )
    if (empty := ~masks.flatten(1).any(1)).any():
        raise DataError(
            f"Mask {int(empty.nonzero()[0])} marks no pixel: leave out pairs of an image and a class that has no box."
        )
    return masks.to(maps.device)
