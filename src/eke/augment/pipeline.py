"""From uint8 images and draws to views: frame, then operations in their drawn order, then hole, then floats.

The drawn order is kept with few resamplings: photometric operations of slot 1, then one transform that
holds all geometric operations that may happen here, photometric operations of slot 2, and so on. Grey levels
are whole between all of them, as in Pillow. Rows are grouped by operation, so only rows that drew one pay for
it. The groups are decided on the CPU, where the draws come from, so an accelerator is never waited for.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from eke.augment import photometric
from eke.augment.draws import GEOMETRIC, NEIGHBORLY, TABLED, Draws, Op, take, to
from eke.augment.geometry import Geometry, Interpolation, View, chain
from eke.augment.resample import cut_matrix, paint, rectangle, resize_crop, shift, transform

Color = tuple[int, int, int]

BLOCK = 3 * 2**19
"""Values that a CPU works on at once: what it writes in one step is still in its cache in the next."""

TABLES: dict[Op, Callable[[Tensor, Tensor], Tensor]] = {
    Op.AUTOCONTRAST: lambda images, _: photometric.autocontrast(images),
    Op.EQUALIZE: lambda images, _: photometric.equalize(images),
    Op.SOLARIZE: photometric.solarize,
    Op.POSTERIZE: photometric.posterize,
    Op.BRIGHTNESS: photometric.brightness,
    Op.CONTRAST: photometric.contrast,
}
DIRECT: dict[Op, Callable[[Tensor, Tensor], Tensor]] = {
    Op.COLOR: photometric.color,
    Op.SHARPNESS: photometric.sharpness,
    Op.GRAYSCALE: lambda images, _: photometric.grayscale(images),
    Op.HUE: photometric.hue,
}


def make_views(
    images: Tensor,
    draws: Draws,
    *,
    enlarge: bool,
    interpolation: Interpolation,
    border_fill: Color,
    hole_fill: Color | None,
) -> View:
    """Make one view of each image.

    Args:
        images: (N, C, H, W) uint8, C = 1 or 3, on any device.
        draws: of N views, on any device.
        enlarge: frames lie inside the image and are enlarged to its size; otherwise they are of its size and
            may hang over its border, where it is reflected.
        interpolation: of rotation, shear and translation.
        border_fill: RGB of what a transform brings in from outside the frame; for one channel its luma.
        hole_fill: RGB of the hole, likewise; None where there is none.

    Returns:
        Views of the images' size, on the images' device.
    """
    draws = to(draws, images.device)
    height, width = images.shape[2:]
    matrix = cut_matrix(draws.box, draws.flip, width, height)
    for slot in range(draws.ops.shape[1]):
        matrix = chain(matrix, draws.matrices[:, slot])
    paints = torch.tensor((border_fill, hole_fill or border_fill), dtype=torch.uint8)[:, :, None, None]
    if images.shape[1] == 1:
        paints = photometric.grayscale(paints)[:, :1]
    paints = paints.flatten(1).to(images.device, non_blocking=True)

    pixels = torch.empty(images.shape, device=images.device)
    valid = torch.empty(len(images), height, width, dtype=torch.bool, device=images.device)
    n_rows = BLOCK // images.shape[1:].numel() if images.device.type == "cpu" else len(images)
    step = max(1, n_rows)
    for start in range(0, len(images), step):
        rows = slice(start, start + step)
        part = take(draws, start, start + step)
        done, shown = (resize_crop if enlarge else shift)(images[rows], part.box, part.flip)
        passes = passes_of(part.ops)
        for slot in range(part.ops.shape[1]):
            _apply_photometric(done, part.ops[:, slot], part.levels[:, slot])
            mine = passes == slot + 1
            _apply_geometric(done, shown, part.matrices, mine, interpolation, paints[0])
        if hole_fill is not None:
            hole = _mask(part.hole, height, width)
            done, shown = paint(done, hole, paints[1]), shown & ~hole
        pixels[rows].copy_(done).div_(255)
        valid[rows] = shown
    return View(pixels, Geometry(matrix.float(), (height, width), (height, width)), valid)


def passes_of(ops: Tensor) -> Tensor:
    """Return, for ops (n, S), after which slot (1 ... S) each geometric one is carried out; 0 for all others.

    That is after the last photometric operation before it, so neighbors are composed; and after slot 1 at the
    earliest, so views that begin with a geometric operation share a transform with those that end with one.
    """
    slots = torch.arange(1, ops.shape[1] + 1)
    photometric_slots = torch.where(ops >= GEOMETRIC.stop, slots, 0)
    after = photometric_slots.cummax(1).values.clamp(min=1)
    return torch.where((ops >= GEOMETRIC.start) & (ops < GEOMETRIC.stop), after, 0)


def _apply_photometric(images: Tensor, ops: Tensor, levels: Tensor) -> None:
    """Run one photometric operation, in place, on each row that has one."""
    counts = torch.bincount(ops, minlength=len(Op)).tolist()
    first, last = sum(counts[: TABLED.start]), sum(counts[: TABLED.stop])
    if first == len(ops):
        return
    order = ops.argsort(stable=True).to(images.device, non_blocking=True)
    levels = levels.index_select(0, order)

    if first < last:
        tabled = images.index_select(0, order[first:last])
        tables, start = [], 0
        for op in map(Op, TABLED):
            rows = slice(start, start + counts[op])
            if counts[op]:
                tables.append(TABLES[op](tabled[rows], levels[first:][rows]))
            start += counts[op]
        _write(images, order[first:last], photometric.look_up(tabled, torch.cat(tables)))

    for op in map(Op, NEIGHBORLY):
        rows = slice(last, last + counts[op])
        if counts[op]:
            _write(images, order[rows], DIRECT[op](images.index_select(0, order[rows]), levels[rows]))
        last += counts[op]


def _apply_geometric(
    images: Tensor,
    valid: Tensor,
    matrices: Tensor,
    mine: Tensor,
    interpolation: Interpolation,
    fill: Tensor,
) -> None:
    """Run one transform, in place, on each row that has slots in `mine` (n, S), composed of them."""
    n_slots = mine.sum(1)
    used = mine.any(0).nonzero()[:, 0]
    if not len(used):
        return
    n_several, n_moved = int((n_slots > 1).sum()), int((n_slots > 0).sum())
    moved = n_slots.argsort(descending=True)[:n_moved]
    sent = (moved, used, mine[moved][:, used])
    rows, used, chosen = (part.to(images.device, non_blocking=True) for part in sent)
    stages = matrices.index_select(0, rows).index_select(1, used)
    neutral = torch.eye(2, 3, dtype=stages.dtype, device=images.device)
    stages = torch.where(chosen[:, :, None, None], stages, neutral)
    pixels, shown = transform(
        images.index_select(0, rows), valid.index_select(0, rows), stages, n_several, fill, interpolation
    )
    _write(images, rows, pixels)
    _write(valid, rows, shown)


def _write(images: Tensor, rows: Tensor, new: Tensor) -> None:
    """Put `new` into the rows of images, of one byte a value."""
    # eight bytes at a time where a row can be cut so
    unit = torch.int64 if images[0].numel() % 8 == 0 else torch.uint8
    images.flatten(1).view(unit)[rows] = new.flatten(1).view(unit)


def _mask(hole: Tensor, height: int, width: int) -> Tensor:
    """Return (n, H, W) bool: pixels inside the holes (n, 4)."""
    left, top, right, bottom = hole[:, :, None].unbind(1)
    x, y = (torch.arange(size, device=hole.device) for size in (width, height))
    return rectangle((y >= top) & (y < bottom), (x >= left) & (x < right))
