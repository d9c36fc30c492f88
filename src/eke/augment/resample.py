"""Moving pixels of uint8 batches, each image its own way: shifts, resized crops, affine transforms.

Pixels and validity move together: a pixel is valid as long as it shows its own place of the source image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from eke.augment.draws import reach
from eke.augment.geometry import Interpolation, chain


def cut_matrix(box: Tensor, flip: Tensor, width: int, height: int) -> Tensor:
    """Return the (N, 2, 3) float64 matrices of cutting `box` out, mirrored where `flip`, to width x height.

    Args:
        box: (N, 4) left, top, width, height in pixels of the source.
        flip: (N,) bool.
        width: of the output.
        height: of the output.
    """
    left, top, box_w, box_h = box.double().unbind(1)
    zero = torch.zeros_like(left)
    scale_x = torch.where(flip, -box_w, box_w) / width
    x = torch.stack((scale_x, zero, torch.where(flip, left + box_w, left)), 1)
    y = torch.stack((zero, box_h / height, top), 1)
    return torch.stack((x, y), 1)


def shift(images: Tensor, box: Tensor, flip: Tensor) -> tuple[Tensor, Tensor]:
    """Cut boxes of the images' own size, which may hang over the border: there the image is reflected. Exact.

    Args:
        images: (N, C, H, W) uint8.
        box: (N, 4) of size W x H, off by at most `reach` of each side.
        flip: (N,) bool.

    Returns:
        Pixels (N, C, H, W) uint8 and valid (N, H, W): False in the reflected border.
    """
    n, n_channels, height, width = images.shape
    pad, full = reach(width), width + 2 * reach(width)
    # every image with a reflected border left and right, then the mirror images of these
    wide = images.new_empty(2, n * n_channels, height, full)
    wide[0, ..., pad : pad + width] = images.flatten(0, 1)
    wide[0, ..., :pad] = wide[0, ..., pad + 1 : 2 * pad + 1].flip(2)
    wide[0, ..., pad + width :] = wide[0, ..., width - 1 : pad + width - 1].flip(2)
    wide[1] = wide[0].flip(2)
    # a line of the output is W bytes in a row of `wide`: copying it is 10 times as fast as gathering its pixels
    x = torch.where(flip, -box[:, 0], box[:, 0])[:, None] + pad
    y = box[:, 1:2] + torch.arange(height, device=images.device)
    rows = y.abs().minimum(2 * (height - 1) - y) + (flip * (n * n_channels * height))[:, None]
    planes = torch.arange(n * n_channels, device=images.device).view(n, n_channels, 1) * height
    starts = (planes + rows[:, None]) * full + x[..., None]
    lines = wide.as_strided((wide.numel() - width + 1, width), (1, 1))
    pixels = lines.index_select(0, starts.flatten()).view_as(images)

    x = box[:, :1] + torch.arange(width, device=images.device)
    x = torch.where(flip[:, None], x.flip(1), x)
    return pixels, rectangle((y >= 0) & (y < height), (x >= 0) & (x < width))


def resize_crop(images: Tensor, box: Tensor, flip: Tensor) -> tuple[Tensor, Tensor]:
    """Cut boxes inside the images and enlarge them to the images' size, bilinear.

    A box is never larger than the image, so nothing is shrunk and no filter against aliasing is needed. At
    its edges the box's own border is continued, not what lies beyond it: that is Pillow's crop, then resize.
    """
    n, n_channels, height, width = images.shape
    left, top, box_w, box_h = (column[:, None] for column in box.unbind(1))
    step_x, step_y = (torch.arange(size, device=images.device) for size in (width, height))
    step_x = torch.where(flip[:, None], width - 1 - step_x, step_x)

    lines = images.reshape(n, n_channels * height, width)
    before, after, weights = _neighbors(step_x, box_w, width)
    two = (lines.gather(2, (left + x)[:, None].expand_as(lines)) for x in (before, after))
    # along x, rounded, then along y, as Pillow
    lines = _between(*two, *(weight[:, None] for weight in weights)).view(-1, width)

    planes = torch.arange(n * n_channels, device=images.device).view(n, n_channels, 1) * height
    before, after, weights = _neighbors(step_y.expand(n, -1), box_h, height)
    rows = ((planes + (top + y)[:, None]).flatten() for y in (before, after))
    two = (lines.index_select(0, row).view_as(images) for row in rows)
    pixels = _between(*two, *(weight[:, None, :, None] for weight in weights))
    return pixels, torch.ones(n, height, width, dtype=torch.bool, device=images.device)


def transform(
    images: Tensor, valid: Tensor, stages: Tensor, n_several: int, fill: Tensor, interpolation: Interpolation
) -> tuple[Tensor, Tensor]:
    """Carry out several affine transforms one after the other, with one resampling.

    Args:
        images: (R, C, H, W) uint8.
        valid: (R, H, W) bool.
        stages: (R, S, 2, 3) float64: output to input, in the order in which they happen.
        n_several: the first so many rows have more than one stage that is not the identity: there a pixel
            that leaves the frame at any stage is fill, as where each stage is resampled.
        fill: (C,) uint8, for pixels from outside the frame.
        interpolation: nearest (as Pillow, in 16.16 fixed point) or bilinear.
    """
    height, width = images.shape[2:]
    total = stages[:, -1]
    inside_several = torch.ones(n_several, height, width, dtype=torch.bool, device=images.device)
    for stage in range(stages.shape[1] - 2, -1, -1):
        if n_several:
            inside_several &= _look_up(total[:n_several], height, width, interpolation)[1]
        total = chain(stages[:, stage], total)

    index, inside = _look_up(total, height, width, interpolation)
    inside[:n_several] &= inside_several
    if interpolation == "nearest":
        pixels = images.flatten(2).gather(2, index[:, None].expand(-1, images.shape[1], -1)).view_as(images)
    else:
        pixels = _bilinear(images, *_places(total, height, width))
    shown = valid.flatten(1).gather(1, index).view_as(valid) & inside
    return paint(pixels, ~inside, fill), shown


def paint(images: Tensor, where: Tensor, fill: Tensor) -> Tensor:
    """Set the pixels `where` (R, H, W) bool to `fill` (C,) uint8."""
    # with bits: on a CPU torch.where and masked_fill take 20 times as long for a mask that all channels share
    keep = (where.to(torch.uint8) - 1)[:, None]
    return (images & keep).bitwise_or_(fill[:, None, None] & ~keep)


def rectangle(rows: Tensor, columns: Tensor) -> Tensor:
    """Return (N, H, W) bool: where both the row (N, H) bool and the column (N, W) bool are True."""
    # as bytes: on a CPU, `and` of bools takes three times as long
    return (rows.view(torch.uint8)[:, :, None] & columns.view(torch.uint8)[:, None, :]).view(torch.bool)


def _look_up(matrix: Tensor, height: int, width: int, interpolation: Interpolation) -> tuple[Tensor, Tensor]:
    """Return the flat index (R, H * W) of the pixel that each output center falls on, and whether there is one."""
    if interpolation == "nearest":
        x, y = (place >> 16 for place in _fixed_places(matrix, height, width))
    else:
        x, y = (place.floor().int() for place in _places(matrix, height, width))
    nearest_x, nearest_y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    inside = (x == nearest_x) & (y == nearest_y)
    return nearest_y.mul_(width).add_(nearest_x).flatten(1).long(), inside


def _places(matrix: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return where the centers of output pixels come from, x and y (R, H, W) float64."""
    a, b, c = matrix[..., None, None].unbind(2)
    step_x, step_y = (torch.arange(size, device=matrix.device) + 0.5 for size in (width, height))
    x, y = (a[:, i] * step_x + b[:, i] * step_y[:, None] + c[:, i] for i in (0, 1))
    return x, y


def _fixed_places(matrix: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the same in 1/65536 pixels, int32: Pillow's arithmetic for nearest, and the same on every device."""
    a, b, c = matrix.unbind(2)
    a, b, c = ((part * 65536 + 0.5).floor().int()[..., None, None] for part in (a, b, c + 0.5 * a + 0.5 * b))
    step_x, step_y = (torch.arange(size, device=matrix.device, dtype=torch.int32) for size in (width, height))
    x, y = (a[:, i] * step_x + c[:, i] + b[:, i] * step_y[:, None] for i in (0, 1))
    return x, y


def _bilinear(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Sample at pixel-edge coordinates (R, H, W), the border continued, cut off to grey levels."""
    height, width = images.shape[2:]
    grid = torch.stack((x * (2 / width) - 1, y * (2 / height) - 1), -1).float()
    sampled = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    # Pillow's transform truncates, in float64: the nudge keeps whole levels whole in float32
    return sampled.add_(1 / 2048).to(torch.uint8)


def _neighbors(step: Tensor, length: Tensor, size: int) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Return, for pixels `step` (N, size) of a box enlarged to `size`, the two it lies between and their weights."""
    last = length - 1
    place = ((step.double() + 0.5) * (length.double() / size) - 0.5).clamp_(min=0).minimum(last.double())
    before = place.long()
    part = place - before
    # 22-bit fixed point, as in Pillow: with floats, ties would be rounded now this way and now that
    weights = ((1 - part).mul_(1 << 22).round_().int(), part.mul_(1 << 22).round_().int())
    return before, (before + 1).minimum(last), weights


def _between(before: Tensor, after: Tensor, weight_before: Tensor, weight_after: Tensor) -> Tensor:
    total = (before.int() * weight_before).add_(after.int() * weight_after).add_(1 << 21)
    return (total >> 22).to(torch.uint8)
