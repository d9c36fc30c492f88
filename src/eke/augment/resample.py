"""Moving pixels of uint8 batches, each image its own way: shifts, resized crops, affine transforms as in Pillow.

Every function returns pixels and validity together: a pixel is valid as long as it shows its own place of the source
image, through all steps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

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

    Returns:
        Pixels (N, C, H, W) uint8 and valid (N, H, W): False in the reflected border.
    """
    n, n_channels, height, width = images.shape
    step_x, step_y = (torch.arange(size, device=images.device) for size in (width, height))
    x = box[:, :1] + torch.where(flip[:, None], width - 1 - step_x, step_x)
    y = box[:, 1:2] + step_y
    valid = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    # whole rows are copied first, then only the gather along x needs an index for each pixel
    planes = torch.arange(n * n_channels, device=images.device).view(n, n_channels, 1) * height
    rows = (planes + _reflect(y, height)[:, None]).flatten()
    lines = images.reshape(-1, width).index_select(0, rows).view(n, n_channels * height, width)
    pixels = lines.gather(2, _reflect(x, width)[:, None].expand_as(lines))
    return pixels.view_as(images), valid


def resize_crop(images: Tensor, box: Tensor, flip: Tensor) -> tuple[Tensor, Tensor]:
    """Cut boxes inside the images and enlarge them to the images' size, bilinear.

    A box is never larger than the image, so it is never shrunk and needs no filter against aliasing; it is the box's
    own border, not what lies beyond it, that is continued at the edge.
    """
    n, _, height, width = images.shape
    left, top, box_w, box_h = (column[:, None].float() for column in box.unbind(1))
    step_x, step_y = (torch.arange(size, device=images.device) for size in (width, height))
    step_x = torch.where(flip[:, None], width - 1 - step_x, step_x)
    x = left + ((step_x + 0.5) * (box_w / width)).clamp_(min=0.5).minimum(box_w - 0.5)
    y = top + ((step_y + 0.5) * (box_h / height)).clamp_(min=0.5).minimum(box_h - 0.5)
    pixels = _bilinear(images, x[:, None, :].expand(n, height, width), y[:, :, None].expand(n, height, width))
    return pixels, torch.ones(n, height, width, dtype=torch.bool, device=images.device)


def transform(
    images: Tensor, valid: Tensor, stages: Tensor, n_several: int, fill: Tensor, interpolation: Interpolation
) -> tuple[Tensor, Tensor]:
    """Carry out several affine transforms one after the other, with one resampling.

    Args:
        images: (R, C, H, W) uint8.
        valid: (R, H, W) bool.
        stages: (R, S, 2, 3) float64: output to input, in the order in which they happen.
        n_several: the first so many rows have more than one stage that is not the identity: there a pixel that
            leaves the frame after any stage is fill, as it is where each stage is resampled.
        fill: (C,) uint8, for pixels from outside the frame.
        interpolation: nearest (as Pillow, in 16.16 fixed point) or bilinear.
    """
    height, width = images.shape[2:]
    total = stages[:, -1]
    inside_several = torch.ones(n_several, height, width, dtype=torch.bool, device=images.device)
    for stage in range(stages.shape[1] - 2, -1, -1):
        if n_several:
            x, y = _places(total[:n_several], height, width, interpolation)
            inside_several &= _inside(x, y, height, width)
        total = chain(stages[:, stage], total)

    x, y = _places(total, height, width, interpolation)
    inside = _inside(x, y, height, width)
    inside[:n_several] &= inside_several
    whole_x, whole_y = (x >> 16, y >> 16) if interpolation == "nearest" else (x.floor(), y.floor())
    index = (whole_y.long().clamp_(0, height - 1) * width + whole_x.long().clamp_(0, width - 1)).flatten(1)
    if interpolation == "nearest":
        pixels = images.flatten(2).gather(2, index[:, None].expand(-1, images.shape[1], -1)).view_as(images)
    else:
        pixels = _bilinear(images, x, y)
    shown = valid.flatten(1).gather(1, index).view_as(valid) & inside
    return paint(pixels, ~inside, fill), shown


def paint(images: Tensor, where: Tensor, fill: Tensor) -> Tensor:
    """Set the pixels `where` (R, H, W) bool to `fill` (C,) uint8."""
    # with bits: on a CPU torch.where and masked_fill take 20 times as long for a mask that all channels share
    keep = (where.to(torch.uint8) - 1)[:, None]
    return (images & keep).bitwise_or_(fill[:, None, None] & ~keep)


def _reflect(place: Tensor, size: int) -> Tensor:
    place = place.abs()
    return torch.where(place >= size, 2 * (size - 1) - place, place)


def _places(matrix: Tensor, height: int, width: int, interpolation: Interpolation) -> tuple[Tensor, Tensor]:
    """Return where the centers of output pixels come from: float64, or int32 in 1/65536 pixels for nearest."""
    a, b, c = matrix.unbind(-1)
    c = c + 0.5 * a + 0.5 * b
    kind = torch.float64
    if interpolation == "nearest":
        # Pillow steps through an image in this arithmetic; integers also make CPU and GPU agree
        a, b, c = ((entry * 65536 + 0.5).floor() for entry in (a, b, c))
        kind = torch.int32
    step_x = torch.arange(width, device=matrix.device, dtype=kind)
    step_y = torch.arange(height, device=matrix.device, dtype=kind)[:, None]
    a, b, c = (entry.to(kind)[..., None, None] for entry in (a, b, c))
    x, y = ((a[:, i] * step_x + c[:, i]) + b[:, i] * step_y for i in (0, 1))
    return x, y


def _inside(x: Tensor, y: Tensor, height: int, width: int) -> Tensor:
    unit = 1 if x.is_floating_point() else 65536
    return (x >= 0) & (x < width * unit) & (y >= 0) & (y < height * unit)


def _bilinear(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Sample at pixel-edge coordinates (R, H, W), the border continued, rounded to grey levels."""
    height, width = images.shape[2:]
    grid = torch.stack((x * (2 / width) - 1, y * (2 / height) - 1), -1).float()
    sampled = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return sampled.add_(0.5).to(torch.uint8)
