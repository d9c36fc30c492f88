"""Does the network decide by what a map marks? Take its hottest pixels away one after the other, or give them first.

    deletion:   p_c(image without its k hottest pixels)            falls early where the map is faithful
    insertion:  p_c(nothing but its k hottest pixels)              rises early where it is

Source: Petsiuk et al. 2018 (RISE, arXiv:1806.07421). Ours: the share of painted pixels is the axis, and
equal places are ranked like those of a random map (`eke.explain.places.ranks`), whose curves are the measure of others.
What is painted instead of pixels decides much: a plain color is an edge that a network may answer to, a blurred image
may still show the object. Compare figures of one kind only.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from eke.errors import ConfigError, DataError
from eke.explain.places import ranks

BLUR_RATE = 5 / 224
"""Of the shorter side: the standard deviation of the blur."""


class Curve(NamedTuple):
    """What becomes of the explained class, on the images' device."""

    painted: Tensor
    """(n_steps + 1,) float64 share of the pixels that are replaced, 0 to 1."""
    probs: Tensor
    """(N, n_steps + 1) float64 probability of the class."""
    area: Tensor
    """(N,) float64 area under each curve, by trapezoids: in [0, 1]."""


def deletion(model: Callable[[Tensor], Tensor], images: Tensor, maps: Tensor, fill: Tensor, n_steps: int = 32) -> Curve:
    """Paint over the hottest pixels of each image, more of them at every step, until none is left.

    Args:
        model: (N, C, H, W) images -> (N,) probability of the class that each row's map explains. It is called n_steps +
            1 times, always with all N rows in their order, without a graph; a network in it must be in evaluation mode.
        images: (N, C, H, W) floats.
        maps: (N, h, w) floats.
        fill: what is painted: (C,) a color, or (N, C, H, W) images, for example `blurred(images)`.
        n_steps: at least 1; each paints the same share of the pixels, cut to whole ones.

    Returns:
        The curve from the whole image to nothing but `fill`. A lower area is better.

    Raises:
        ConfigError: `n_steps` is below 1, or the model does not return one number for each image.
        DataError: images, maps and fill do not belong together, or a map is not finite.
    """
    return _curve(model, images, _painted(images, fill), maps, n_steps)


def insertion(
    model: Callable[[Tensor], Tensor], images: Tensor, maps: Tensor, fill: Tensor, n_steps: int = 32
) -> Curve:
    """Begin with nothing but `fill`, and put the hottest pixels of each image back, more of them at every step.

    Args:
        model: as of `deletion`.
        images: (N, C, H, W) floats.
        maps: (N, h, w) floats.
        fill: as of `deletion`.
        n_steps: as of `deletion`.

    Returns:
        The curve from nothing but `fill` to the whole image. A higher area is better.

    Raises:
        ConfigError: as of `deletion`.
        DataError: as of `deletion`.
    """
    return _curve(model, _painted(images, fill), images, maps, n_steps)


def blurred(images: Tensor) -> Tensor:
    """Blur images by a Gaussian of 5 pixels in 224, to be painted in place of sharp pixels.

    Args:
        images: (N, C, H, W) floats, of 2 x 2 pixels or more.

    Returns:
        Likewise.
    """
    from torchvision.transforms.v2.functional import gaussian_blur

    sigma = BLUR_RATE * min(images.shape[-2:])
    reach = math.ceil(3 * sigma)
    return gaussian_blur(images, [2 * reach + 1] * 2, [sigma] * 2)


def _painted(images: Tensor, fill: Tensor) -> Tensor:
    """Return `fill` as images."""
    fill = fill.to(images)
    if fill.shape == images.shape:
        return fill
    if fill.shape != images.shape[1:2]:
        raise DataError(
            f"The fill has shape {tuple(fill.shape)}, and images {tuple(images.shape)}: a color of {images.shape[1]} "
            "channels or one image for each is needed."
        )
    return fill[:, None, None].expand_as(images)


@torch.no_grad()
def _curve(model: Callable[[Tensor], Tensor], start: Tensor, end: Tensor, maps: Tensor, n_steps: int) -> Curve:
    """Replace the pixels of `start` by those of `end`, the hottest first."""
    if n_steps < 1:
        raise ConfigError(f"n_steps is {n_steps}, and at least 1 is needed.")
    if maps.ndim != 3 or len(maps) != len(start):
        raise DataError(f"Maps of shape {tuple(maps.shape)} do not belong to {len(start)} images: (N, h, w) is needed.")
    rank = ranks(maps.to(start.device), (start.shape[2], start.shape[3]))[:, None]
    n_pixels = start.shape[2] * start.shape[3]
    n_painted = [step * n_pixels // n_steps for step in range(n_steps + 1)]
    probs = torch.stack([_checked(model(torch.where(rank < k, end, start)), len(start)) for k in n_painted], 1)
    painted = torch.tensor(n_painted, dtype=torch.float64, device=start.device) / n_pixels
    return Curve(painted, probs, torch.trapezoid(probs, painted, dim=1))


def _checked(probs: Tensor, n: int) -> Tensor:
    if probs.shape != (n,):
        raise ConfigError(
            f"The model returned {tuple(probs.shape)} for {n} images, and it must be ({n},): the probability of one "
            "class of each, for example probs.gather(1, classes[:, None])[:, 0]."
        )
    return probs.double()
