"""From uint8 images and draws to views: frame, then operations in their drawn order, then hole, then floats.

The drawn order is kept with few resamplings: photometric operations of slot 1, then one transform that
holds all geometric operations that may happen here, photometric operations of slot 2, and so on. Grey levels
are whole between all of them, as in Pillow. Rows are grouped by operation, so only rows that drew one pay for
it. The groups are decided on the CPU, where the draws come from, so an accelerator is never waited for.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from eke.augment import photometric
from eke.augment.draws import GEOMETRIC, SLIDING, Draws, Op, send, to
from eke.augment.geometry import Geometry, Interpolation, View, chain
from eke.augment.resample import cut_matrix, paint, rectangle, resize_crop, shift, slide, transform

Color = tuple[int, int, int]

BLOCK = 2**20
"""Values that a CPU works on at once: what it writes in one step is still in its cache in the next."""

PHOTOMETRIC: dict[Op, Callable[[Tensor, Tensor], Tensor]] = {
    Op.AUTOCONTRAST: lambda images, _: photometric.autocontrast(images),
    Op.EQUALIZE: lambda images, _: photometric.equalize(images),
    Op.SOLARIZE: photometric.solarize,
    Op.POSTERIZE: photometric.posterize,
    Op.BRIGHTNESS: photometric.brightness,
    Op.CONTRAST: photometric.contrast,
    Op.COLOR: photometric.color,
    Op.SHARPNESS: photometric.sharpness,
    Op.GRAYSCALE: lambda images, _: photometric.grayscale(images),
    Op.HUE: photometric.hue,
    Op.GAUSSIAN_BLUR: photometric.gaussian_blur,
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
        images: (N, C, H, W) uint8, C = 1 or 3, on any device; or clips (N, C, T, H, W), whose frames share one draw.
        draws: of N views, on any device.
        enlarge: frames lie inside the image and are enlarged to its size; otherwise they are of its size and
            may hang over its border, where it is reflected.
        interpolation: of rotation, shear and translation.
        border_fill: RGB of what a transform brings in from outside the frame; for one channel its luma.
        hole_fill: RGB of the hole, likewise; None where there is none.

    Returns:
        Views of the images' size, on the images' device.
    """
    if images.ndim == 5:
        T = images.shape[2]
        frames = make_views(
            images.transpose(1, 2).flatten(0, 1),
            Draws(*(part.repeat_interleave(T, 0) for part in draws)),
            enlarge=enlarge,
            interpolation=interpolation,
            border_fill=border_fill,
            hole_fill=hole_fill,
        )
        geometry = frames.geometry._replace(matrix=frames.geometry.matrix[::T])
        return View(frames.pixels.unflatten(0, (-1, T)).transpose(1, 2), geometry, frames.valid[::T])
    draws = to(draws, images.device)
    height, width = images.shape[2:]
    matrix = cut_matrix(draws.box, draws.flip, width, height)
    for slot in range(draws.ops.shape[1]):
        matrix = chain(matrix, draws.matrices[:, slot])
    paints = torch.tensor((border_fill, hole_fill or border_fill), dtype=torch.uint8)[:, :, None, None]
    if images.shape[1] == 1:
        paints = photometric.grayscale(paints)[:, :1]
    paints = send(paints.flatten(1), images.device)

    done = torch.empty_like(images, memory_format=torch.contiguous_format)
    valid = torch.empty(len(images), height, width, dtype=torch.bool, device=images.device)
    for rows in _blocks(images, len(images)):
        done[rows], valid[rows] = (resize_crop if enlarge else shift)(images[rows], draws.box[rows], draws.flip[rows])
    passes = passes_of(draws.ops)
    for slot in range(draws.ops.shape[1]):
        _apply_photometric(done, draws.ops[:, slot], draws.levels[:, slot])
        _apply_geometric(done, valid, draws, passes == slot + 1, interpolation, paints[0])
    pixels = torch.empty(images.shape, device=images.device)
    for rows in _blocks(images, len(images)):
        view = done[rows]
        if hole_fill is not None:
            hole = _mask(draws.hole[rows], height, width)
            view = paint(view, hole, paints[1])
            valid[rows] &= ~hole
        pixels[rows].copy_(view).div_(255)
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


def _blocks(images: Tensor, n: int) -> list[slice]:
    """Cut `n` rows as large as those of `images` into blocks; into one where there is no small cache."""
    step = max(1, BLOCK // images.shape[1:].numel() if images.device.type == "cpu" else n)
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def _apply_photometric(images: Tensor, ops: Tensor, levels: Tensor) -> None:
    """Run one photometric operation, in place, on each row that has one."""
    counts = torch.bincount(ops, minlength=len(Op)).tolist()
    order = send(ops.argsort(stable=True), images.device)
    start = sum(counts[: GEOMETRIC.stop])
    for op, operation in PHOTOMETRIC.items():
        for block in _blocks(images, counts[op]):
            rows = order[start + block.start : start + block.stop]
            _write(images, rows, operation(images.index_select(0, rows), levels.index_select(0, rows)))
        start += counts[op]


def _apply_geometric(
    images: Tensor, valid: Tensor, draws: Draws, mine: Tensor, interpolation: Interpolation, fill: Tensor
) -> None:
    """Run one transform, in place, on each row that has slots in `mine` (n, S), composed of them."""
    n_slots = mine.sum(1)
    # most rows only slide their lines, which is fast: they come last, the slow ones with several slots first
    slides = (n_slots == 1) & (mine & torch.isin(draws.ops, SLIDING)).any(1) & (interpolation == "nearest")
    n_several, n_slides, n_moved = int((n_slots > 1).sum()), int(slides.sum()), int((n_slots > 0).sum())
    if not n_moved:
        return
    moved = (2 * n_slots - slides.long()).argsort(descending=True)[:n_moved]
    depths = n_slots[moved].tolist()
    # the slots of each row in their order, at the end
    chosen, slots = mine[moved].sort(dim=1, stable=True)
    chosen, slots = chosen[:, -depths[0] :], slots[:, -depths[0] :]
    rows, slots, chosen = (send(part, images.device) for part in (moved, slots, chosen))
    stages = draws.matrices[rows[:, None], slots]
    neutral = torch.eye(2, 3, dtype=stages.dtype, device=images.device)
    stages = torch.where(chosen[:, :, None, None], stages, neutral)

    n_free = n_moved - n_slides
    for block in _blocks(images, n_free):
        n = min(max(n_several - block.start, 0), block.stop - block.start)
        deepest = stages[block, -depths[block.start] :]
        how = partial(transform, stages=deepest, n_several=n, fill=fill, interpolation=interpolation)
        _move(images, valid, rows[block], how)
    for block in _blocks(images, n_slides):
        how = partial(slide, matrix=stages[n_free:, -1][block], fill=fill)
        _move(images, valid, rows[n_free:][block], how)


def _move(images: Tensor, valid: Tensor, rows: Tensor, how: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    """Replace rows of pixels and of `valid` by what `how` makes of them."""
    pixels, shown = how(images.index_select(0, rows), valid.index_select(0, rows))
    _write(images, rows, pixels)
    _write(valid, rows, shown)


def _write(images: Tensor, rows: Tensor, new: Tensor) -> None:
    """Put `new` into the rows of images, of one byte a value."""
    # eight bytes at a time where a row can be cut so
    unit = torch.int64 if images[0].numel() % 8 == 0 else torch.uint8
    images.flatten(1).view(unit).index_copy_(0, rows, new.flatten(1).view(unit))


def _mask(hole: Tensor, height: int, width: int) -> Tensor:
    """Return (n, H, W) bool: pixels inside the holes (n, 4)."""
    left, top, right, bottom = hole[:, :, None].unbind(1)
    x, y = (torch.arange(size, device=hole.device) for size in (width, height))
    return rectangle((y >= top) & (y < bottom), (x >= left) & (x < right))
