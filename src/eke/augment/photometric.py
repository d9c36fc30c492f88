"""Photometric operations on uint8 batches, each image with its own strength, in Pillow's own arithmetic.

Images are (R, C, H, W) uint8, C = 1 or 3; strengths are (R,). An operation that maps grey levels to grey
levels is a table (R, C, 256) uint8 for each image; `look_up` carries out the tables of a batch at once,
whatever their operations. References: Pillow's ImageOps, ImageEnhance, Blend.c, Filter.c and ConvertMode.c.
"""

import torch
from torch import Tensor


def look_up(images: Tensor, table: Tensor) -> Tensor:
    """Replace each grey level by its entry in the image's table (R, C, 256)."""
    return table.gather(2, images.flatten(2).long()).view_as(images)


def autocontrast(images: Tensor) -> Tensor:
    """Make the tables that stretch each channel to 0 ... 255."""
    flat = images.flatten(2)
    low, high = flat.amin(2, keepdim=True), flat.amax(2, keepdim=True)
    span = (high - low).double().clamp_(min=1)
    # float64 and this order of operations, because Pillow truncates; 255.0 / span would be a reciprocal
    scale = torch.full_like(span, 255).div_(span)
    table = _truncate(_levels(images).double() * scale + -low.double() * scale)
    return torch.where(high > low, table, _levels(images).to(torch.uint8))


def equalize(images: Tensor) -> Tensor:
    """Make the tables that level each channel's histogram."""
    flat = images.flatten(2).long()
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, flat, counts.new_ones(1, 1, 1).expand_as(flat))
    brightest = counts.gather(2, flat.amax(2, keepdim=True))
    step = (flat.shape[2] - brightest).div(255, rounding_mode="floor")
    before = counts.cumsum(2) - counts
    table = (step.div(2, rounding_mode="floor") + before).div(step.clamp(min=1), rounding_mode="floor")
    return torch.where(step > 0, table.clamp_(max=255), _levels(images)).to(torch.uint8)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Make the tables that invert grey levels from `threshold` (0 ... 256) up."""
    levels = _levels(images)
    table = torch.where(levels < threshold[:, None, None], levels, 255 - levels)
    return table.to(torch.uint8).expand(-1, images.shape[1], -1)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Make the tables that keep the upper `bits` (1 ... 8) of each grey level."""
    dropped = 2 ** (8 - bits.long())[:, None, None] - 1
    return (_levels(images) & ~dropped).to(torch.uint8).expand(-1, images.shape[1], -1)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Make the tables that scale grey levels by `factor`."""
    table = _truncate(_levels(images).float() * factor.float()[:, None, None])
    return table.expand(-1, images.shape[1], -1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Make the tables that scale the distance to the image's mean luma by `factor`."""
    mean = (_luma(images).flatten(1).double().mean(1) + 0.5).floor()[:, None, None].float()
    table = _truncate(mean + (_levels(images) - mean) * factor.float()[:, None, None])
    return table.expand(-1, images.shape[1], -1)


def color(images: Tensor, factor: Tensor) -> Tensor:
    """Blend each pixel with its luma: 0 gives grey, 1 the image. Leaves images of one channel as they are."""
    if images.shape[1] == 1:
        return images
    grey = _luma(images)[:, None].float()
    return _truncate((images.float() - grey).mul_(factor.float()[:, None, None, None]).add_(grey))


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend each image with itself smoothed: 0 gives the smooth one, 1 the image. Outermost pixels stay."""
    if min(images.shape[2:]) < 3:
        return images
    x = images.float()
    columns = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
    around = columns[..., :-2] + columns[..., 1:-1] + columns[..., 2:]
    inner = x[:, :, 1:-1, 1:-1]
    # Pillow's SMOOTH filter: 5 in the center, 1 around; thirteenths never fall on a tie of the rounding
    smooth = around.add_(inner, alpha=4).div_(13).add_(0.5).floor_()
    sharp = images.clone()
    weight = factor.float()[:, None, None, None]
    sharp[:, :, 1:-1, 1:-1] = _truncate((inner - smooth).mul_(weight).add_(smooth))
    return sharp


def grayscale(images: Tensor) -> Tensor:
    """Replace all channels by the luma."""
    if images.shape[1] == 1:
        return images
    return _luma(images)[:, None].to(torch.uint8).expand_as(images).contiguous()


def hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue by `turn`, -0.5 to 0.5 of the circle, in Pillow's 8-bit HSV; one channel stays."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    high, low = red.maximum(green).maximum(blue), red.minimum(green).minimum(blue)
    value, span = high.float(), (high - low).float()
    # float32 and float64 where Pillow's C has them: it truncates its 8-bit hue, and one level more is visible
    far_r, far_g, far_b = (value[:, None] - images).div_(span.clamp(min=1)[:, None]).unbind(1)
    sector = torch.where(green == high, 2.0 + far_r.double() - far_b, 4.0 + far_g.double() - far_r)
    sector = torch.where(red == high, (far_b - far_g).double(), sector).float().double()
    circle = sector.div_(6.0).add_(1.0)
    angle = (circle - circle.floor()).float().double().mul_(255.0).int()
    angle = torch.where(span > 0, angle, 0) + (turn.double() * 255).int()[:, None, None]
    saturation = (span / value.clamp(min=1)).mul_(255.0).floor_().div_(255.0)

    # each channel falls, stays low and rises over the circle of 6; red, green and blue start at 5, 3 and 1
    start = torch.tensor((5.0, 3.0, 1.0), device=images.device)[:, None, None]
    place = ((angle & 255).float() * 6.0 / 255.0)[:, None] + start
    place = place.where(place < 6, place - 6)
    lack = place.minimum(4 - place).clamp_(0, 1).mul_(saturation[:, None])
    return lack.neg_().add_(1).mul_(value[:, None]).add_(0.5).to(torch.uint8)


def _levels(images: Tensor) -> Tensor:
    return torch.arange(256, device=images.device).expand(len(images), 1, 256)


def _luma(images: Tensor) -> Tensor:
    """Return Pillow's "L" (R, H, W) int32, in its own fixed-point arithmetic."""
    if images.shape[1] == 1:
        return images[:, 0].int()
    red, green, blue = images.int().unbind(1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _truncate(values: Tensor) -> Tensor:
    """Clip and cut off the fraction, as Pillow's blend does."""
    return values.clamp_(0, 255).to(torch.uint8)
