"""Photometric operations on uint8 batches, each image with its own strength, in Pillow's own arithmetic.

Images are (R, C, H, W) uint8, C = 1 or 3; strengths are (R,); results are new images. References: Pillow's
ImageOps, ImageEnhance, Blend.c, Filter.c and ConvertMode.c; for the blur torchvision's, as Pillow's is three box
filters in a row.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel to 0 ... 255."""
    flat = images.flatten(2)
    low, high = flat.amin(2, keepdim=True), flat.amax(2, keepdim=True)
    span = (high - low).double().clamp_(min=1)
    # float64 and this order of operations, because Pillow truncates; 255.0 / span would be a reciprocal
    scale = torch.full_like(span, 255).div_(span)
    table = _truncate(_levels(images).double() * scale + -low.double() * scale)
    return _look_up(images, torch.where(high > low, table, _levels(images).to(torch.uint8)))


def equalize(images: Tensor) -> Tensor:
    """Level each channel's histogram."""
    flat = images.flatten(2).long()
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, flat, counts.new_ones(1, 1, 1).expand_as(flat))
    brightest = counts.gather(2, images.flatten(2).amax(2, keepdim=True).long())
    step = (flat.shape[2] - brightest).div(255, rounding_mode="floor")
    before = counts.cumsum(2) - counts
    table = (step.div(2, rounding_mode="floor") + before).div(step.clamp(min=1), rounding_mode="floor")
    table = torch.where(step > 0, table.clamp_(max=255), _levels(images)).to(torch.uint8)
    return table.gather(2, flat).view_as(images)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert grey levels from `threshold` (0 ... 256) up."""
    first = threshold.ceil()[:, None, None, None]
    # on a CPU, comparing bytes with bytes takes a tenth of the time of comparing them with anything else
    bright = (images.maximum(first.clamp(max=255).to(torch.uint8)) == images).view(torch.uint8)
    return bright.mul_(torch.where(first > 255, 0, 255).to(torch.uint8)).bitwise_xor_(images)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the upper `bits` (1 ... 8) of each grey level."""
    return images & (256 - 2 ** (8 - bits.long())).to(torch.uint8)[:, None, None, None]


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Scale grey levels by `factor`."""
    return _truncate(images.float().mul_(factor.float()[:, None, None, None]))


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the distance to the image's mean luma by `factor`."""
    # float32 holds the sum of a line, float64 that of an image
    total = _luma(images).sum(2).double().sum(1)
    mean = (total / images[0, 0].numel() + 0.5).floor().float()[:, None, None, None]
    return _truncate(images.float().sub_(mean).mul_(factor.float()[:, None, None, None]).add_(mean))


def color(images: Tensor, factor: Tensor) -> Tensor:
    """Blend each pixel with its luma: 0 gives grey, 1 the image. Leaves images of one channel as they are."""
    if images.shape[1] == 1:
        return images
    grey = _luma(images)[:, None]
    return _truncate(images.float().sub_(grey).mul_(factor.float()[:, None, None, None]).add_(grey))


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend each image with itself smoothed: 0 gives the smooth one, 1 the image. Outermost pixels stay."""
    height, width = images.shape[2:]
    if min(height, width) < 3:
        return images
    # the batch as one long line makes sums of neighbors fast; they are wrong at the borders, which stay anyway
    line = images.to(torch.int16).flatten()
    columns = (line[:-2] + line[1:-1]).add_(line[2:])
    around = (columns[: -2 * width] + columns[width:-width]).add_(columns[2 * width :])
    around.add_(line[width + 1 : -width - 1], alpha=4)
    smooth = images.float()
    # Pillow's SMOOTH filter: 5 in the center, 1 around; thirteenths never fall on a tie of the rounding
    smooth.view(-1)[width + 1 : -width - 1].copy_(around).mul_(1 / 13).add_(0.5).floor_()
    sharp = _truncate(images.float().sub_(smooth).mul_(factor.float()[:, None, None, None]).add_(smooth))
    for border in (0, -1):
        sharp[:, :, border] = images[:, :, border]
        sharp[..., border] = images[..., border]
    return sharp


def blur_radius(height: int, width: int) -> int:
    """Return how many neighbors a side `gaussian_blur` reads: its kernel is a tenth of the shorter side, odd, >= 3."""
    return max(1, min(height, width) // 20)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Smooth with a Gaussian of `sigma` pixels (above 0); SimCLR (arXiv 2002.05709), appendix A.

    A pixel becomes the sum of w(i) w(j) image(y + i, x + j) over i, j = -r ... r, rounded to the nearest grey level:
    w(k) is exp(-k^2 / (2 sigma^2)), scaled to sum to 1, and r is `blur_radius`. Beyond the border the image is
    reflected, its outermost pixels not repeated. Images with a side of 1 pixel stay.
    """
    n, n_channels, height, width = images.shape
    if min(height, width) < 2:
        return images
    radius = blur_radius(height, width)
    distance = torch.arange(radius + 1, dtype=torch.float64, device=images.device)
    weights = (distance / sigma.double()[:, None]).square_().div_(-2).exp_()
    # all but the central weight, which is 1, are used twice
    weights = weights.div_(2 * weights.sum(1, keepdim=True) - 1).float()

    # each image as one long line, as in `sharpness`: sums of neighbors run over the border, where they are not kept
    line = F.pad(images.float(), (radius,) * 4, mode="reflect").flatten(1)
    padded_w, plane = width + 2 * radius, (height + 2 * radius) * (width + 2 * radius)
    for step in (1, padded_w):  # along x, then along y
        length = line.shape[1] - 2 * radius * step
        smooth = line[:, radius * step :][:, :length] * weights[:, :1]
        for k in range(1, radius + 1):
            before, after = line[:, (radius - k) * step :], line[:, (radius + k) * step :]
            # not fused: one rounding an operation is the same on every device and in any slice of the batch
            smooth.add_((before[:, :length] + after[:, :length]).mul_(weights[:, k : k + 1]))
        line = smooth
    line = line.as_strided((n, n_channels, height, width), (line.shape[1], plane, padded_w, 1))
    return _truncate(line + 0.5)


def grayscale(images: Tensor) -> Tensor:
    """Replace all channels by the luma."""
    if images.shape[1] == 1:
        return images
    return _luma(images)[:, None].to(torch.uint8).expand_as(images).contiguous()


def hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue by `turn`, -0.5 to 0.5 of the circle, in Pillow's 8-bit HSV; one channel stays."""
    if images.shape[1] == 1:
        return images
    hues, lacks = _hue_tables(images.device)
    red, green, blue = images.unbind(1)
    place = red.int().mul_(512).add_(green, alpha=-513).add_(blue).add_(256 * 513)
    # unsigned bytes wrap around, as the circle does
    angle = (
        hues.index_select(0, place.flatten()).view_as(red) + (turn.double() * 255).int().to(torch.uint8)[:, None, None]
    )
    lack = lacks.expand(len(images), -1, -1).gather(2, angle.flatten(1).long()[:, None].expand(-1, 3, -1))

    high, low = red.maximum(green).maximum(blue), red.minimum(green).minimum(blue)
    value = high.float()
    saturation = (high - low).float().div_(high.clamp(min=1)).mul_(255.0).floor_().div_(255.0)
    out = lack.view(images.shape).mul_(saturation[:, None]).add_(1).mul_(value[:, None]).add_(0.5)
    return _truncate(out)


@cache
def _hue_tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return Pillow's 8-bit hue of all colors, and what full saturation takes from each channel at each hue.

    A hue depends on red - green and blue - green alone: it is at 512 (red - green + 256) + blue - green + 256.
    The second table is (3, 256), 0 to -1.
    """
    red, blue = torch.meshgrid(torch.arange(-256.0, 256), torch.arange(-256.0, 256), indexing="ij")
    colors = torch.stack((red, torch.zeros_like(red), blue))
    high, span = colors.amax(0), colors.amax(0) - colors.amin(0)
    # float32 and float64 where Pillow's C has them: it truncates its 8-bit hue, and one level more is visible
    far_r, far_g, far_b = (high - colors).div_(span.clamp(min=1)).unbind()
    sector = torch.where(high == 0, 2.0 + far_r.double() - far_b, 4.0 + far_g.double() - far_r)
    sector = torch.where(red == high, (far_b - far_g).double(), sector).float().double()
    circle = sector.div_(6.0).add_(1.0)
    angle = (circle - circle.floor()).float().double().mul_(255.0).to(torch.uint8)

    # each channel falls, stays low and rises over the circle of 6; red, green and blue start at 5, 3 and 1
    place = torch.arange(256) * 6.0 / 255.0 + torch.tensor((5.0, 3.0, 1.0))[:, None]
    place = place.where(place < 6, place - 6)
    lack = place.minimum(4 - place).clamp_(0, 1)
    return angle.where(span > 0, 0).flatten().to(device), lack.neg_().to(device)


def _look_up(images: Tensor, table: Tensor) -> Tensor:
    """Replace each grey level by its entry in the image's table (R, C, 256)."""
    return table.gather(2, images.flatten(2).long()).view_as(images)


def _levels(images: Tensor) -> Tensor:
    return torch.arange(256, device=images.device).expand(len(images), 1, 256)


def _luma(images: Tensor) -> Tensor:
    """Return Pillow's "L" (R, H, W), whole numbers in float32: its fixed-point arithmetic has less than 24 bits."""
    if images.shape[1] == 1:
        return images[:, 0].float()
    red, green, blue = images.unbind(1)
    total = red.float().mul_(19595).add_(green, alpha=38470).add_(blue, alpha=7471)
    return total.add_(0x8000).mul_(1 / 0x10000).floor_()


def _truncate(values: Tensor) -> Tensor:
    """Clip and cut off the fraction, in place, as Pillow's blend does."""
    # by way of int16: on a CPU that takes a third of the time
    return values.clamp_(0, 255).to(torch.int16).to(torch.uint8)
