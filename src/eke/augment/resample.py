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
    pad, n_lines = reach(width), n * n_channels * height
    # every line with a reflected border left and right; then all this backwards: mirrored, the last line first
    wide = images.new_empty(2, n, n_channels, height, width + 2 * pad)
    wide[0, ..., pad : pad + width] = images
    wide[0, ..., :pad] = wide[0, ..., pad + 1 : 2 * pad + 1].flip(3)
    wide[0, ..., pad + width :] = wide[0, ..., width - 1 : pad + width - 1].flip(3)
    wide[1].view(-1).copy_(wide[0].view(-1).flip(0))
    # a line of the output is W bytes of `wide`: copying it is 10 times as fast as gathering its pixels
    x = torch.where(flip, -box[:, 0], box[:, 0]) + pad
    y = box[:, 1:2] + torch.arange(height, device=images.device)
    planes = torch.arange(n * n_channels, device=images.device).view(n, n_channels, 1) * height
    rows = planes + y.abs().minimum(2 * (height - 1) - y)[:, None]
    rows = torch.where(flip[:, None, None], 2 * n_lines - 1 - rows, rows)
    starts = rows * (width + 2 * pad) + x[:, None, None]
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
    before, after, part = _neighbors(step_x, box_w, width)
    near, far = (lines.gather(2, (left + x)[:, None].expand_as(lines)) for x in (before, after))
    # along x, rounded, then along y, as Pillow
    lines = _between(near, far, part[:, None]).view(-1, width)

    planes = torch.arange(n * n_channels, device=images.device).view(n, n_channels, 1) * height
    before, after, part = _neighbors(step_y.expand(n, -1), box_h, height)
    rows = ((planes + (top + y)[:, None]).flatten() for y in (before, after))
    near, far = (lines.index_select(0, row).view_as(images) for row in rows)
    pixels = _between(near, far, part[:, None, :, None])
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
    # the images get a frame of one pixel of fill: what lies outside is looked up there
    inside = F.pad(images.new_ones(height, width), (1, 1, 1, 1)).flatten()
    inside_several = images.new_ones(n_several, height * width)
    for stage in range(stages.shape[1] - 2, -1, -1):
        if n_several:
            index = _look_up(*_places(total[:n_several], height, width, interpolation))
            inside_several &= inside.index_select(0, index.flatten()).view_as(index)
        total = chain(stages[:, stage], total)

    x, y = _places(total, height, width, interpolation)
    index = _look_up(x, y)
    index[:n_several] *= inside_several  # 0 is a corner of the frame
    shown = F.pad(valid, (1, 1, 1, 1)).flatten(1).gather(1, index).view_as(valid)
    if interpolation == "nearest":
        framed = fill[:, None, None].repeat(len(images), 1, height + 2, width + 2)
        framed[..., 1:-1, 1:-1] = images
        return framed.flatten(2).gather(2, index[:, None].expand(-1, images.shape[1], -1)).view_as(images), shown
    outside = inside.index_select(0, index.flatten()).view_as(valid) == 0
    return paint(_bilinear(images, x, y), outside, fill), shown


def slide(images: Tensor, valid: Tensor, matrix: Tensor, fill: Tensor) -> tuple[Tensor, Tensor]:
    """Do, several times as fast, what `transform` does with nearest and one stage that only moves whole lines.

    Args:
        images: (R, C, H, W) uint8.
        valid: (R, H, W) bool.
        matrix: (R, 2, 3) float64: of `SLIDING` operations, ((1, b, c), (0, 1, f)).
        fill: (C,) uint8, for pixels from outside the frame.
    """
    n, n_channels, height, width = images.shape
    matrix = _fixed(matrix)
    step = torch.arange(height, device=images.device, dtype=torch.int32)
    x, y = ((matrix[:, i, 1:2] * step + matrix[:, i, 2:]) >> 16 for i in (0, 1))
    # each line with fill left and right of it, and each of `valid` with False: a line of the output is W bytes of one
    wide = F.pad(fill, (0, 1))[:, None, None].repeat(n, 1, height, 3 * width)
    wide[:, :-1, :, width : 2 * width] = images
    wide[:, -1, :, width : 2 * width] = valid.view(torch.uint8)
    inside = (y >= 0) & (y < height)
    x = torch.where(inside, x.clamp(-width, width), -width) + width
    planes = torch.arange(n * (n_channels + 1), device=images.device).view(n, -1, 1) * height
    starts = (planes + y.clamp(0, height - 1)[:, None]) * (3 * width) + x[:, None]
    lines = wide.as_strided((wide.numel() - width + 1, width), (1, 1))
    moved = lines.index_select(0, starts.flatten()).view(n, -1, height, width)
    return moved[:, :-1], moved[:, -1].view(torch.bool)


def paint(images: Tensor, where: Tensor, fill: Tensor) -> Tensor:
    """Set the pixels `where` (R, H, W) bool to `fill` (C,) uint8."""
    # with bits: on a CPU torch.where and masked_fill take 20 times as long for a mask that all channels share
    chosen = where.view(torch.uint8).neg()[:, None]
    return (images ^ fill[:, None, None]).bitwise_and_(chosen).bitwise_xor_(images)


def rectangle(rows: Tensor, columns: Tensor) -> Tensor:
    """Return (N, H, W) bool: where both the row (N, H) bool and the column (N, W) bool are True."""
    n, width = columns.shape
    # copies of whole lines: on a CPU, `and` takes three times as long
    lines = torch.cat((columns, columns.new_zeros(1, width)))
    line = torch.where(rows, torch.arange(n, device=rows.device)[:, None], n)
    return lines.index_select(0, line.flatten()).view(n, -1, width)


def _look_up(x: Tensor, y: Tensor) -> Tensor:
    """Return the flat index (R, H * W) of whole coordinates in an image with a frame of one pixel around it.

    Args:
        x: (R, H, W), int32 or float64, rounded down; what lies outside is looked up in the frame. int32 is changed.
        y: likewise.
    """
    height, width = x.shape[1:]
    if x.dtype == torch.int32:
        x, y = x.bitwise_right_shift_(16), y.bitwise_right_shift_(16)
    else:
        x, y = x.floor().int(), y.floor().int()
    x, y = x.clamp_(-1, width), y.clamp_(-1, height)
    return y.mul_(width + 2).add_(x).add_(width + 3).flatten(1).long()


def _places(matrix: Tensor, height: int, width: int, interpolation: Interpolation) -> tuple[Tensor, Tensor]:
    """Return where the centers of output pixels come from, x and y (R, H, W).

    For bilinear in pixels, float64; for nearest in 1/65536 pixels, int32.
    """
    step_x, step_y = (torch.arange(size, device=matrix.device, dtype=torch.int32) for size in (width, height))
    if interpolation == "nearest":
        matrix = _fixed(matrix)
    else:
        step_x, step_y = step_x + 0.5, step_y + 0.5
    a, b, c = matrix[..., None, None].unbind(2)
    x, y = ((a[:, i] * step_x + b[:, i] * step_y[:, None]).add_(c[:, i]) for i in (0, 1))
    return x, y


def _fixed(matrix: Tensor) -> Tensor:
    """Return maps of whole output coordinates to the source in 1/65536 pixels, int32: Pillow's for nearest."""
    a, b, c = matrix.unbind(2)
    return (torch.stack((a, b, c + 0.5 * a + 0.5 * b), 2) * 65536 + 0.5).floor().int()


def _bilinear(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Sample at pixel-edge coordinates (R, H, W), which are changed; the border continued, cut off to levels."""
    height, width = images.shape[2:]
    grid = torch.empty(*x.shape, 2, device=images.device)
    grid[..., 0], grid[..., 1] = x.mul_(2 / width).sub_(1), y.mul_(2 / height).sub_(1)
    sampled = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    # Pillow's transform truncates, in float64: the nudge keeps whole levels whole in float32
    return sampled.add_(1 / 2048).to(torch.int16).to(torch.uint8)


def _neighbors(step: Tensor, length: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for pixels `step` (N, size) of a box enlarged to `size`, the two they lie between, and where.

    0 is at the first of the two, 2^22 at the second: fixed point, as in Pillow. With floats, ties would be rounded
    now this way and now that.
    """
    last = length - 1
    place = ((step.double() + 0.5) * (length.double() / size) - 0.5).clamp_(min=0).minimum(last.double())
    before = place.long()
    return before, (before + 1).minimum(last), (place - before).mul_(1 << 22).round_().int()


def _between(before: Tensor, after: Tensor, part: Tensor) -> Tensor:
    """Interpolate between bytes, rounded; `part` is what `_neighbors` returns."""
    change = after.int().sub_(before).mul_(part).add_(1 << 21).bitwise_right_shift_(22)
    # unsigned bytes wrap around, so a negative change is right too
    return change.to(torch.uint8).add_(before)
