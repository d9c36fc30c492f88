"""The distributions that presets draw from: frames, operations with their levels, holes. All vectorized.

Each function draws for n views of sources of `size` (H, W) from one generator on the CPU, and depends on
nothing else.
"""

import math

import torch
from torch import Generator, Tensor

from eke.augment.draws import GEOMETRIC, Op, reach
from eke.augment.geometry import Size

RANDAUGMENT_OPS = (
    *(Op.IDENTITY, Op.AUTOCONTRAST, Op.EQUALIZE, Op.ROTATE, Op.SOLARIZE, Op.COLOR, Op.CONTRAST),
    *(Op.BRIGHTNESS, Op.SHARPNESS, Op.SHEAR_X, Op.TRANSLATE_X, Op.TRANSLATE_Y, Op.POSTERIZE, Op.SHEAR_Y),
)
"""The 14 operations of FixMatch's RandAugment."""
REFERENCE = 32
"""Side of the images that the sources' pixel counts are meant for; they are scaled to other sizes."""
Strengths = tuple[float, float, float, float]
"""Of a color jitter: brightness, contrast and color up to 1, each a factor of 1 +- as much; hue up to 0.5, a turn."""
HALF_JITTER: Strengths = (0.4, 0.4, 0.4, 0.1)
"""SimCLR's at strength 1/2, which CoMatch uses too."""

# ---------------------------------------------------------------------------------- frames: (n, 4) int64


def whole(n: int, size: Size, generator: Generator) -> Tensor:
    """Return the whole image as frame; draws nothing."""
    height, width = size
    return torch.tensor([[0, 0, width, height]]).repeat(n, 1)


def shifted(n: int, size: Size, generator: Generator) -> Tensor:
    """Draw frames of the image's size, moved by up to `reach` of each side either way."""
    height, width = size
    reach_x, reach_y = reach(width), reach(height)
    u = _uniform(generator, n, 2)
    left = (u[:, 0] * (2 * reach_x + 1)).long() - reach_x
    top = (u[:, 1] * (2 * reach_y + 1)).long() - reach_y
    return torch.stack((left, top, torch.full_like(left, width), torch.full_like(top, height)), 1)


def resized(n: int, size: Size, generator: Generator, *, area: tuple[float, float] = (0.2, 1.0)) -> Tensor:
    """Draw frames as torchvision's RandomResizedCrop does: a share of the area, aspect ratio 3/4 to 4/3.

    The first of ten attempts that fits is taken; if none does, the largest central frame of an allowed ratio.
    """
    height, width = size
    u = _uniform(generator, n, 22)
    part = height * width * (area[0] + (area[1] - area[0]) * u[:, :10])
    ratio = (math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * u[:, 10:20]).exp()
    tries_w, tries_h = (part * ratio).sqrt().round().long(), (part / ratio).sqrt().round().long()
    fits = (tries_w > 0) & (tries_w <= width) & (tries_h > 0) & (tries_h <= height)
    first = fits.byte().argmax(1, keepdim=True)
    central_w, central_h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    found = fits.any(1)
    box_w = torch.where(found, tries_w.gather(1, first)[:, 0], central_w)
    box_h = torch.where(found, tries_h.gather(1, first)[:, 0], central_h)
    left = torch.where(found, (u[:, 20] * (width - box_w + 1)).long(), (width - central_w) // 2)
    top = torch.where(found, (u[:, 21] * (height - box_h + 1)).long(), (height - central_h) // 2)
    return torch.stack((left, top, box_w, box_h), 1)


def trimmed(n: int, size: Size, generator: Generator) -> Tensor:
    """Draw frames that keep, independently, at least three quarters of each side."""
    u = _uniform(generator, n, 4)
    sides, places = [], []
    for i, side in enumerate((size[1], size[0])):
        least = math.ceil(side * 3 / 4)
        length = least + (u[:, i] * (side - least + 1)).long()
        sides.append(length)
        places.append((u[:, 2 + i] * (side - length + 1)).long())
    return torch.stack((*places, *sides), 1)


def cropped(n: int, size: Size, generator: Generator, *, rate: float) -> Tensor:
    """Draw the places of frames that keep `rate` of each side, rounded to whole pixels."""
    u = _uniform(generator, n, 2)
    sides = [max(1, round(side * rate)) for side in (size[1], size[0])]
    free = torch.tensor([whole - side + 1 for whole, side in zip((size[1], size[0]), sides, strict=True)])
    return torch.cat(((u * free).long(), torch.tensor(sides).expand(n, 2)), 1)


# ------------------------------------------------------------ operations: (n, S) ops int64, levels float64


def no_operations(n: int, size: Size, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return views without operations; draws nothing."""
    return torch.empty(n, 0, dtype=torch.int64), torch.empty(n, 0, dtype=torch.float64)


def google(n: int, size: Size, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw FixMatch's RandAugment: 2 of 14 operations, each with probability 1/2, level 1 to 9 of 10."""
    height, width = size
    values: dict[Op, list[float]] = {
        Op.ROTATE: [int(3.0 * level) for level in range(1, 10)],
        Op.SOLARIZE: [256 - int(25.6 * level) for level in range(1, 10)],
        Op.POSTERIZE: [4 - int(0.4 * level) for level in range(1, 10)],
        Op.TRANSLATE_X: [int(level * width / REFERENCE) for level in range(1, 10)],
        Op.TRANSLATE_Y: [int(level * height / REFERENCE) for level in range(1, 10)],
    }
    values |= {op: [0.03 * level for level in range(1, 10)] for op in (Op.SHEAR_X, Op.SHEAR_Y)}
    values |= {op: [0.1 + 0.18 * level for level in range(1, 10)] for op in _ENHANCED}
    return _leveled(n, generator, values, n_levels=9)


def comatch(n: int, size: Size, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw CoMatch's RandAugment: 2 of 14 operations, each with probability 1/2, always at level 10 of 10."""
    height, width = size
    values: dict[Op, list[float]] = {
        Op.ROTATE: [30],
        Op.SOLARIZE: [256],
        Op.POSTERIZE: [4],
        Op.SHEAR_X: [0.3],
        Op.SHEAR_Y: [0.3],
        Op.TRANSLATE_X: [10 * width / REFERENCE],
        Op.TRANSLATE_Y: [10 * height / REFERENCE],
    }
    return _leveled(n, generator, values | {op: [1.9] for op in _ENHANCED}, n_levels=1)


def torchssl(n: int, size: Size, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw TorchSSL's RandAugment: 3 of 14 operations, always applied, each level uniform in its range."""
    height, width = size
    ranges = {
        Op.ROTATE: (-30.0, 30.0),
        Op.SOLARIZE: (0.0, 256.0),
        Op.POSTERIZE: (4.0, 8.0),
        Op.SHEAR_X: (-0.3, 0.3),
        Op.SHEAR_Y: (-0.3, 0.3),
        Op.TRANSLATE_X: (-0.3 * width, 0.3 * width),
        Op.TRANSLATE_Y: (-0.3 * height, 0.3 * height),
    }
    ranges |= dict.fromkeys(_ENHANCED, (0.05, 0.95))
    bounds = torch.tensor([ranges.get(op, (0.0, 0.0)) for op in Op], dtype=torch.float64)
    u = _uniform(generator, n, 6)
    ops = torch.tensor(RANDAUGMENT_OPS)[(u[:, :3] * len(RANDAUGMENT_OPS)).long()]
    low, high = bounds[ops].unbind(-1)
    levels = low + (high - low) * u[:, 3:]
    return ops, torch.where(ops == Op.POSTERIZE, levels.floor(), levels)


def color_distortion(
    n: int,
    size: Size,
    generator: Generator,
    *,
    strengths: Strengths = HALF_JITTER,
    blur_rate: float = 0.0,
    solarize_rate: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Draw a color jitter with probability 0.8, then grey with probability 0.2, then, where asked for, two more.

    Args:
        n: views.
        size: not used.
        generator: on the CPU.
        strengths: of the jitter.
        blur_rate: probability of a Gaussian blur with sigma uniform in 0.1 to 2 pixels; without a slot at 0.
        solarize_rate: probability of inverting grey levels from 128 up, last; without a slot at 0.
    """
    slots = [
        _jitter(n, generator, rate=0.8, strengths=strengths),
        _at_rate(generator, 0.2, Op.GRAYSCALE, torch.zeros(n, 1, dtype=torch.float64)),
    ]
    if blur_rate > 0:
        sigma = 0.1 + (2.0 - 0.1) * _uniform(generator, n, 1)
        slots.append(_at_rate(generator, blur_rate, Op.GAUSSIAN_BLUR, sigma))
    if solarize_rate > 0:
        threshold = torch.full((n, 1), 128, dtype=torch.float64)
        slots.append(_at_rate(generator, solarize_rate, Op.SOLARIZE, threshold))
    ops, levels = zip(*slots, strict=True)
    return torch.cat(ops, 1), torch.cat(levels, 1)


def jitter(n: int, size: Size, generator: Generator, *, strengths: Strengths) -> tuple[Tensor, Tensor]:
    """Draw a color jitter of each view."""
    return _jitter(n, generator, rate=1.0, strengths=strengths)


def quarter_turn_and_jitter(n: int, size: Size, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw one of four quarter turns, then a color jitter of 0.4, 0.4, 0.4, 0.1."""
    turn = (_uniform(generator, n, 1) * 4).floor() * 90
    ops, levels = _jitter(n, generator, rate=1.0, strengths=HALF_JITTER)
    return torch.cat((torch.full((n, 1), int(Op.ROTATE)), ops), 1), torch.cat((turn, levels), 1)


def turned(
    n: int, size: Size, generator: Generator, *, degrees: float, upside_down_rate: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Draw a rotation uniform in -degrees to degrees, and with a probability half a turn more.

    A flip top to bottom is a flip left to right and half a turn. Where flips left to right have rate 1/2, half turns at
    a rate are flips top to bottom at that rate, independent of them, in one and the same resampling.

    Args:
        n: views.
        size: not used.
        generator: on the CPU.
        degrees: of the rotation at most.
        upside_down_rate: probability of the half turn.
    """
    angle = degrees * (2 * _uniform(generator, n, 1) - 1)
    half = 180 * (_uniform(generator, n, 1) < upside_down_rate)
    return torch.full((n, 1), int(Op.ROTATE)), angle + half


_ENHANCED = (Op.COLOR, Op.CONTRAST, Op.BRIGHTNESS, Op.SHARPNESS)


def _leveled(n: int, generator: Generator, values: dict[Op, list[float]], n_levels: int) -> tuple[Tensor, Tensor]:
    """Draw 2 operations with replacement, kept with rate 1/2, a level for each, a sign for what moves."""
    table = torch.tensor([values.get(op, [0.0] * n_levels) for op in Op], dtype=torch.float64)
    u = _uniform(generator, n, 8)
    ops = torch.tensor(RANDAUGMENT_OPS)[(u[:, :2] * len(RANDAUGMENT_OPS)).long()]
    ops = torch.where(u[:, 2:4] < 0.5, ops, int(Op.IDENTITY))
    levels = table[ops, (u[:, 4:6] * n_levels).long()]
    moves = (ops >= GEOMETRIC.start) & (ops < GEOMETRIC.stop)
    return ops, torch.where(moves & (u[:, 6:] < 0.5), -levels, levels)


def _jitter(n: int, generator: Generator, rate: float, strengths: Strengths) -> tuple[Tensor, Tensor]:
    """Draw torchvision's ColorJitter(*strengths): four operations in an order of their own."""
    u = _uniform(generator, n, 9)
    kinds = torch.tensor((Op.BRIGHTNESS, Op.CONTRAST, Op.COLOR, Op.HUE))
    middle = torch.tensor((1.0, 1.0, 1.0, 0.0), dtype=torch.float64)
    spread = torch.tensor(strengths, dtype=torch.float64)
    order = u[:, :4].argsort(1)
    levels = middle[order] + spread[order] * (2 * u[:, 4:8] - 1)
    return torch.where(u[:, 8:] < rate, kinds[order], int(Op.IDENTITY)), levels


def _at_rate(generator: Generator, rate: float, op: Op, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a slot (n, 1) that has the operation with probability `rate`, at the levels (n, 1) given."""
    chosen = _uniform(generator, len(levels), 1) < rate
    return torch.where(chosen, int(op), int(Op.IDENTITY)), levels


# ----------------------------------------------------------------------------------- holes: (n, 4) int64


def no_hole(n: int, size: Size, generator: Generator) -> Tensor:
    """Return empty holes; draws nothing."""
    return torch.zeros(n, 4, dtype=torch.int64)


def half_hole(n: int, size: Size, generator: Generator) -> Tensor:
    """Draw squares of half the shorter side (16 pixels at 32), centered anywhere and clipped by the frame."""
    height, width = size
    half = min(height, width) // 4
    center = (_uniform(generator, n, 2) * torch.tensor((width, height))).long()
    return _corners(center - half, center + half, size)


def torchssl_hole(n: int, size: Size, generator: Generator) -> Tensor:
    """Draw squares with a side uniform in 0 to half the width, clipped, one pixel more right and below.

    The source draws an inclusive rectangle from the clipped upper left corner.
    """
    height, width = size
    u = _uniform(generator, n, 3)
    side = u[:, :1] * (0.5 * width)
    start = (u[:, 1:] * torch.tensor((width, height)) - side / 2).clamp_(min=0).long()
    return _corners(start, (start + side).long() + 1, size)


def _corners(start: Tensor, stop: Tensor, size: Size) -> Tensor:
    limit = torch.tensor((size[1], size[0]))
    return torch.cat((start.clamp(min=0), stop.minimum(limit)), 1)


def _uniform(generator: Generator, *shape: int) -> Tensor:
    """Draw from [0, 1) in float64: times a whole number it never rounds up to that number."""
    return torch.rand(*shape, generator=generator, dtype=torch.float64)
