"""What is drawn for a batch before any pixel is read: numbers on the CPU, for the global batch."""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from eke.augment.geometry import Size


class Op(IntEnum):
    """An operation of a view, and what its level means. Kinds are contiguous, so batches sort by kind."""

    IDENTITY = 0
    ROTATE = 1  # degrees, counterclockwise, about the center
    SHEAR_X = 2  # source x = x + level * y
    SHEAR_Y = 3  # source y = y + level * x
    TRANSLATE_X = 4  # source x = x + level, in pixels
    TRANSLATE_Y = 5
    AUTOCONTRAST = 6
    EQUALIZE = 7
    SOLARIZE = 8  # threshold, 0 to 256
    POSTERIZE = 9  # bits kept, 1 to 8
    BRIGHTNESS = 10  # factor; 1 is the image itself, for the four below too
    CONTRAST = 11
    COLOR = 12
    SHARPNESS = 13
    GRAYSCALE = 14
    HUE = 15  # fraction of the circle, -0.5 to 0.5
    GAUSSIAN_BLUR = 16  # standard deviation in pixels, above 0


GEOMETRIC = range(Op.ROTATE, Op.AUTOCONTRAST)
"""Operations that move pixels."""
SLIDING = torch.tensor((Op.SHEAR_X, Op.TRANSLATE_X, Op.TRANSLATE_Y))
"""Those that move whole lines of pixels."""
COLORFUL = (Op.COLOR, Op.GRAYSCALE, Op.HUE)
"""Operations that do nothing to an image of one channel."""


class Draws(NamedTuple):
    """The parameters of n views; slice them with `take`, send them with `to`."""

    box: Tensor
    """(n, 4) int64: left, top, width, height of the frame in the source."""
    flip: Tensor
    """(n,) bool: the frame is mirrored, left to right."""
    ops: Tensor
    """(n, S) int64: the `Op`s of each view in order. Always on the CPU: it decides which rows run what."""
    levels: Tensor
    """(n, S) float64: their strengths."""
    matrices: Tensor
    """(n, S, 2, 3) float64: their maps of output to input coordinates; identity for what is photometric."""
    hole: Tensor
    """(n, 4) int64: left, top, right, bottom of the cutout; empty where right <= left."""


def take(draws: Draws, start: int, stop: int) -> Draws:
    """Return the draws of the views `start` to `stop` of the batch: what one of several processes makes."""
    return Draws(*(part[start:stop] for part in draws))


def join(parts: Sequence[Draws]) -> Draws:
    """Put the draws of several batches one after the other."""
    return Draws(*map(torch.cat, zip(*parts, strict=True)))


def send(x: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU to a device without waiting for it: an accelerator reads from pinned memory."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def to(draws: Draws, device: torch.device | str) -> Draws:
    """Send what the device needs in one transfer; `ops` stays on the CPU."""
    device = torch.device(device)
    if draws.levels.device == device:
        return draws
    sent = [draws.box, draws.flip[:, None], draws.levels, draws.matrices.flatten(1), draws.hole]
    widths = [part.shape[1] for part in sent]
    # float64 holds every one of these numbers exactly
    table = send(torch.cat([part.double() for part in sent], 1), device)
    box, flip, levels, matrices, hole = table.split(widths, 1)
    return Draws(box.long(), flip[:, 0].bool(), draws.ops, levels, matrices.reshape(draws.matrices.shape), hole.long())


def reach(side: int) -> int:
    """Return how far a weak crop moves at most: an eighth of the side, 4 pixels at 32."""
    return int(side / 8 + 0.5)


def matrices(ops: Tensor, levels: Tensor, size: Size) -> Tensor:
    """Return the maps of output to input coordinates, (n, S, 2, 3) float64, of operations as Pillow has them.

    Args:
        ops: (n, S) `Op`s; the identity is returned for those that do not move pixels.
        levels: (n, S).
        size: (H, W) of the images.
    """

    def level_of(op: Op, otherwise: float = 0.0) -> Tensor:
        return torch.where(ops == op, levels.double(), otherwise)

    height, width = size
    angle = -level_of(Op.ROTATE).deg2rad()
    # rounded as Pillow does, so that quarter turns are exact
    cos, sin = angle.cos().round(decimals=15), angle.sin().round(decimals=15)
    shift_x = width / 2 * (1 - cos) - height / 2 * sin + level_of(Op.TRANSLATE_X)
    shift_y = height / 2 * (1 - cos) + width / 2 * sin + level_of(Op.TRANSLATE_Y)
    x = torch.stack((cos, sin + level_of(Op.SHEAR_X), shift_x), -1)
    y = torch.stack((-sin + level_of(Op.SHEAR_Y), cos, shift_y), -1)
    return torch.stack((x, y), -2)
